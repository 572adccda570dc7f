//! Writes to a store with the interface of InfluxDB 2, through the crate `influxdb2`, and says what came of it.
//!
//! The crate keeps the headers of an answer to itself. How long to wait after a 429 or 503 is therefore asked with a
//! write of nothing, which is answered with the same header while the store is busy.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use influxdb2::{Client, ClientBuilder, RequestError};
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::config::{MetricsConfig, MetricsError, StoreToken};
use super::queue::{Entry, Limits};
use crate::chain::Chain;

/// How much of what a store says is repeated.
const REPEATED: usize = 300;
/// How long each question of [`check`] may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is stored.
    Stored,
    /// There are too many bytes in it; and what the store says.
    TooLarge(String),
    /// It is not taken, and would not be the next time; why.
    Refused(String),
    /// It may be taken later.
    Later {
        /// Why not yet.
        why: String,
        /// How long the store wants to be left alone.
        wait: Option<Duration>,
    },
}

/// The client of one store.
#[derive(Debug)]
pub(super) struct Store {
    client: Client,
    /// For what the other one cannot ask.
    plain: Plain,
    org: String,
    bucket: String,
}

impl Store {
    /// # Errors
    /// When TLS does not work here.
    pub(super) fn new(config: &MetricsConfig, limits: &Limits) -> Result<Self, MetricsError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let builder = builder(limits.request).default_headers(headers);
        let token = config.token.as_ref().map(StoreToken::secret).unwrap_or_default();
        let client = ClientBuilder::with_builder(builder, &config.url, &config.org, token)
            .build()
            .map_err(|err| MetricsError::Client(Chain(&err).to_string()))?;
        let plain = Plain::new(config, limits.request)?;
        Ok(Self { client, plain, org: config.org.clone(), bucket: config.bucket.clone() })
    }

    /// Writes a batch.
    pub(super) async fn write(&self, batch: &[Entry]) -> Answer {
        let written = self.client.write_line_protocol(&self.org, &self.bucket, zipped(batch)).await;
        let (status, text) = match written {
            Ok(()) => return Answer::Stored,
            Err(RequestError::Http { status, text }) => (status, text),
            Err(RequestError::ReqwestProcessing { source }) => {
                return Answer::Later { why: silence(source), wait: None };
            }
            Err(err @ (RequestError::Serializing { .. } | RequestError::Deserializing { .. })) => {
                return Answer::Refused(Chain(&err).to_string());
            }
        };
        let said = said(status, &text, batch);
        match status {
            // The crate takes 204 for the only good answer.
            good if good.is_success() => Answer::Stored,
            StatusCode::PAYLOAD_TOO_LARGE => Answer::TooLarge(said),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Answer::Later { why: said, wait: self.plain.wait().await }
            }
            StatusCode::REQUEST_TIMEOUT => Answer::Later { why: said, wait: None },
            bad if bad.is_server_error() => Answer::Later { why: said, wait: None },
            _ => Answer::Refused(said),
        }
    }
}

/// Asks what the crate cannot.
#[derive(Debug)]
struct Plain {
    client: reqwest::Client,
    base: Url,
    write: Url,
    token: Option<StoreToken>,
}

impl Plain {
    fn new(config: &MetricsConfig, patience: Duration) -> Result<Self, MetricsError> {
        let client = builder(patience)
            .build()
            .map_err(|err| MetricsError::Client(Chain(&err).to_string()))?;
        let base = Url::parse(&config.url)
            .map_err(|err| MetricsError::Url { url: config.url.clone(), why: err.to_string() })?;
        let mut write = base.clone();
        write.set_path("/api/v2/write");
        let parameters =
            [("org", config.org.as_str()), ("bucket", &config.bucket), ("precision", "ns")];
        write.query_pairs_mut().extend_pairs(parameters);
        Ok(Self { client, base, write, token: config.token.clone() })
    }

    /// How long the store wants to be left alone.
    async fn wait(&self) -> Option<Duration> {
        let answer = self.write_nothing().await.ok()?;
        let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
        seconds.trim().parse().ok().map(Duration::from_secs)
    }

    async fn write_nothing(&self) -> Result<reqwest::Response, reqwest::Error> {
        let mut request = self.client.post(self.write.clone()).body("");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Token {}", token.secret()));
        }
        request.send().await
    }

    async fn ping(&self) -> Result<StatusCode, reqwest::Error> {
        let mut ping = self.base.clone();
        ping.set_path("/ping");
        Ok(self.client.get(ping).send().await?.status())
    }
}

/// Why metrics would not get through.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] MetricsError),
    /// Nobody answers.
    #[error("the store for metrics at {url} does not answer: {why}")]
    Silent {
        /// Where.
        url: String,
        /// What happened.
        why: String,
    },
    /// Somebody answers who is no store.
    #[error("{url} answers `/ping` with {status}, which no store for metrics does")]
    Stranger {
        /// Where.
        url: String,
        /// With what.
        status: StatusCode,
    },
    /// It would not take anything.
    #[error(
        "the store for metrics at {url} does not take writes to bucket `{bucket}` of `{org}`: {said}"
    )]
    Closed {
        /// Where.
        url: String,
        /// Which bucket.
        bucket: String,
        /// Of which organisation.
        org: String,
        /// What it says.
        said: String,
    },
}

/// Finds out whether a store would take metrics, with a ping and a write of nothing. Stores nothing.
///
/// # Errors
/// When it would not, and why.
pub async fn check(config: &MetricsConfig) -> Result<(), Unusable> {
    let plain = Plain::new(config, PATIENCE)?;
    let url = config.url.clone();
    let silent = |err| Unusable::Silent { url: url.clone(), why: silence(err) };
    let status = plain.ping().await.map_err(silent)?;
    if !status.is_success() {
        return Err(Unusable::Stranger { url: config.url.clone(), status });
    }
    let answer = plain.write_nothing().await.map_err(silent)?;
    let status = answer.status();
    // Some stores want points in a write, and say so only after they have let it in.
    if status.is_success() || status == StatusCode::BAD_REQUEST {
        return Ok(());
    }
    let text = answer.text().await.unwrap_or_default();
    Err(Unusable::Closed {
        url: config.url.clone(),
        bucket: config.bucket.clone(),
        org: config.org.clone(),
        said: said(status, &text, &[]),
    })
}

fn builder(patience: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .timeout(patience)
        .connect_timeout(patience)
        .user_agent(concat!("groundswell/", env!("CARGO_PKG_VERSION")))
}

fn zipped(batch: &[Entry]) -> Vec<u8> {
    let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
    for entry in batch {
        // A vector takes everything.
        let _ = zip.write_all(entry.line.as_bytes());
        let _ = zip.write_all(b"\n");
    }
    zip.finish().unwrap_or_default()
}

/// What happened to a request that has no answer. Its address says nothing new and is left out.
fn silence(err: reqwest::Error) -> String {
    let err = err.without_url();
    if err.is_timeout() {
        return "the store does not answer in time".to_owned();
    }
    Chain(&err).to_string()
}

/// What stores say when they refuse something.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    message: String,
    error: String,
    /// The number of the line that is wrong, from 1.
    line: Option<usize>,
}

/// The status and what the store says, with the line it complains about.
fn said(status: StatusCode, text: &str, batch: &[Entry]) -> String {
    let read = serde_json::from_str(text);
    let Said { message, error, line } =
        read.unwrap_or_else(|_| Said { message: text.to_owned(), ..Said::default() });
    let message = if message.trim().is_empty() { error } else { message };
    let mut said = status.as_str().to_owned();
    if !message.trim().is_empty() {
        said = format!("{said} {}", start(message.trim()));
    }
    let line = line.and_then(|number| Some((number, batch.get(number.checked_sub(1)?)?)));
    if let Some((number, entry)) = line {
        said = format!("{said}: line {number} is `{}`", start(&entry.line));
    }
    said
}

/// The beginning of a text, on one line.
fn start(text: &str) -> String {
    let mut start: String =
        text.chars().take(REPEATED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > REPEATED {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_names_the_line() {
        let entry = |line: &str| Entry { line: line.to_owned(), run: None };
        let batch = [entry("good f=1"), entry("bad f=x")];
        for (text, says) in [
            ("", "400"),
            ("no\nsense", "400 no sense"),
            (
                r#"{"code":"invalid","message":"unable to parse 'bad f=x'"}"#,
                "400 unable to parse 'bad f=x'",
            ),
            (r#"{"error":"database not found"}"#, "400 database not found"),
            (
                r#"{"code":"invalid","message":"bad value","line":2}"#,
                "400 bad value: line 2 is `bad f=x`",
            ),
            (r#"{"code":"invalid","message":"bad value","line":9}"#, "400 bad value"),
        ] {
            assert_eq!(said(StatusCode::BAD_REQUEST, text, &batch), says);
        }
        let long = said(StatusCode::BAD_REQUEST, &"é".repeat(1000), &[]);
        assert_eq!(long.chars().count(), REPEATED + 5);
    }
}
