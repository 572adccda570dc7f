//! Which store takes metrics: a section of a configuration file, and variables that win over it.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

/// What organisation and bucket are called when nobody says.
const USUAL: &str = "groundswell";

/// A store with the interface of InfluxDB 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// The organisation. Some stores ignore it.
    pub org: String,
    /// The bucket. Some stores ignore it.
    pub bucket: String,
    /// What the store wants to see; absent is for one that lets everybody in.
    pub token: Option<StoreToken>,
}

/// The token of a store. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreToken(String);

impl StoreToken {
    /// The token itself.
    #[must_use]
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StoreToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreToken(…)")
    }
}

/// The section `[metrics]` of a configuration file. Without a URL, here and in the environment, nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// `http://host:port` or `https://host:port`. `GROUNDSWELL_INFLUX_URL` wins over it.
    pub url: Option<String>,
    /// The organisation; `groundswell` without this line. `GROUNDSWELL_INFLUX_ORG` wins over it.
    pub org: Option<String>,
    /// The bucket; `groundswell` without this line. `GROUNDSWELL_INFLUX_BUCKET` wins over it.
    pub bucket: Option<String>,
    /// The file with the token. `GROUNDSWELL_INFLUX_TOKEN_FILE` wins over it, and so does a token in
    /// `GROUNDSWELL_INFLUX_TOKEN`.
    pub token_file: Option<PathBuf>,
}

/// A store for metrics that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The URL is not one.
    #[error("`{url}` is not the URL of a store for metrics: {why}")]
    Url {
        /// What it is.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is everything but a URL.
    #[error(
        "metrics are to go to a store without a URL: write `url` into `[metrics]`, or set GROUNDSWELL_INFLUX_URL"
    )]
    NoUrl,
    /// The token's file cannot be read.
    #[error("failed to read the token of the store for metrics, `{path}`")]
    TokenFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token is empty, or has characters that cannot be sent.
    #[error("{place} does not have the token of a store for metrics")]
    Token {
        /// Where it is from.
        place: String,
    },
    /// There is no client.
    #[error("failed to make a client for the store for metrics: {0}")]
    Client(String),
}

impl MetricsSection {
    /// Puts the section and the environment of this process together; `None` when metrics go nowhere.
    ///
    /// # Errors
    /// When what is said cannot be used.
    pub fn resolve(self) -> Result<Option<MetricsConfig>, MetricsError> {
        self.resolve_with(|name| std::env::var(name).ok())
    }

    /// As [`MetricsSection::resolve`], with another environment.
    ///
    /// # Errors
    /// When what is said cannot be used.
    pub fn resolve_with(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<MetricsConfig>, MetricsError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let said = self != Self::default();
        let Some(url) = set("GROUNDSWELL_INFLUX_URL").or(self.url) else {
            return if said { Err(MetricsError::NoUrl) } else { Ok(None) };
        };
        check_url(&url)?;
        let file = set("GROUNDSWELL_INFLUX_TOKEN_FILE").map(PathBuf::from).or(self.token_file);
        let token = match (set("GROUNDSWELL_INFLUX_TOKEN"), file) {
            (Some(token), _) => Some(token_of(&token, "GROUNDSWELL_INFLUX_TOKEN")?),
            (None, Some(file)) => Some(read_token(&file)?),
            (None, None) => None,
        };
        let named = |name: &str, said: Option<String>| {
            set(name).or(said).unwrap_or_else(|| USUAL.to_owned())
        };
        Ok(Some(MetricsConfig {
            url,
            org: named("GROUNDSWELL_INFLUX_ORG", self.org),
            bucket: named("GROUNDSWELL_INFLUX_BUCKET", self.bucket),
            token,
        }))
    }
}

/// The client takes the host only and panics about what is no URL at all.
fn check_url(text: &str) -> Result<(), MetricsError> {
    let wrong = |why: &str| MetricsError::Url { url: without_secret(text), why: why.to_owned() };
    let url = Url::parse(text).map_err(|err| wrong(&err.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("write http://host:8086 or https://host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("credentials do not belong into it, a token has a file of its own"));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(wrong("metrics go to /api/v2/write of the host, so leave out what follows it"));
    }
    Ok(())
}

/// The text without what is before an `@`, which may be a password.
fn without_secret(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"))
}

fn read_token(path: &Path) -> Result<StoreToken, MetricsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| MetricsError::TokenFile { path: path.to_owned(), source })?;
    token_of(&text, &format!("`{}`", path.display()))
}

fn token_of(text: &str, place: &str) -> Result<StoreToken, MetricsError> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(MetricsError::Token { place: place.to_owned() });
    }
    Ok(StoreToken(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn resolved(
        section: &str,
        variables: &[(&str, &str)],
    ) -> Result<Option<MetricsConfig>, MetricsError> {
        let section: MetricsSection = toml::from_str(section).expect("a section");
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        section.resolve_with(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn nothing_said_sends_nothing_and_a_variable_wins_over_the_file() {
        assert_eq!(resolved("", &[]).expect("fine"), None);
        assert_eq!(resolved("", &[("GROUNDSWELL_INFLUX_URL", "")]).expect("fine"), None);
        let file = "url = \"http://a:8086\"\norg = \"lab\"";
        let config = resolved(file, &[("GROUNDSWELL_INFLUX_URL", "https://b")]).expect("fine");
        let config = config.expect("a store");
        assert_eq!((config.url.as_str(), config.org.as_str()), ("https://b", "lab"));
        assert_eq!((config.bucket.as_str(), config.token), ("groundswell", None));
    }

    #[test]
    fn a_token_comes_from_a_file_or_a_variable_and_is_not_printed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\n").expect("written");
        let file = format!("url = \"http://a\"\ntoken_file = \"{}\"", path.display());
        let config = resolved(&file, &[]).expect("fine").expect("a store");
        assert_eq!(config.token.as_ref().map(StoreToken::secret), Some("s3cret"));
        assert!(!format!("{config:?}").contains("s3cret"));
        let other = resolved(&file, &[("GROUNDSWELL_INFLUX_TOKEN", "other")]).expect("fine");
        assert_eq!(other.expect("a store").token.as_ref().map(StoreToken::secret), Some("other"));
        std::fs::write(&path, " \n").expect("written");
        assert!(matches!(resolved(&file, &[]), Err(MetricsError::Token { .. })));
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(resolved(&file, &[]), Err(MetricsError::TokenFile { .. })));
    }

    #[test]
    fn what_is_no_store_is_refused_and_a_password_is_not_repeated() {
        for (url, says) in [
            ("lab", "relative URL"),
            ("ftp://lab", "http://host:8086"),
            ("http://ana:pw@lab", "credentials"),
            ("http://lab/influx", "leave out"),
            ("http://lab?token=x", "leave out"),
        ] {
            let refused = resolved(&format!("url = \"{url}\""), &[]).expect_err(url).to_string();
            assert!(refused.contains(says) && !refused.contains("pw"), "{refused}");
        }
        assert!(matches!(resolved("org = \"lab\"", &[]), Err(MetricsError::NoUrl)));
        let unknown = toml::from_str::<MetricsSection>("token = \"x\"").expect_err("no such field");
        assert!(unknown.to_string().contains("token"), "{unknown}");
    }
}
