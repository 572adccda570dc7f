//! Where NATS and the object store are: flags, then `GROUNDSWELL_*`, then the project's
//! `.groundswell/config.toml`, then the user's `~/.config/groundswell/config.toml`. Nothing at all is local mode.
//!
//! ```toml
//! current = "lab"                 # context used unless --context says otherwise
//! plans = "plans"                 # settings outside of a context hold for all of them
//!
//! [context.lab]
//! nats = "nats://lab:4222"
//! objects = "s3://groundswell/lab"
//! s3_endpoint = "http://lab:9000"
//! credentials = "/etc/groundswell/lab.creds"    # or a file with the seed of an nkey
//! ca = "/etc/groundswell/ca.pem"                # TLS: who is trusted, and who this is
//! certificate = "/etc/groundswell/me.pem"
//! key = "/etc/groundswell/me-key.pem"
//! token_file = "/etc/groundswell/me.token"      # what the coordinator asks for
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use groundswell_common::bus::Access;
use groundswell_common::token::{NotAToken, Token};
use serde::Deserialize;

use crate::cli::args::Global;

/// The context that is always there: this machine, nothing configured.
const LOCAL: &str = "local";

/// What is configured, after all sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Settings {
    /// NATS of the cluster; absent is local mode.
    pub(crate) nats: Option<String>,
    /// What lets this process in there.
    pub(crate) access: Access,
    /// What coordinators are shown.
    pub(crate) token: Option<Token>,
    /// Object store.
    pub(crate) objects: Option<String>,
    /// Endpoint of an S3-compatible server.
    pub(crate) s3_endpoint: Option<String>,
    /// Where plans are looked up.
    pub(crate) plans: Option<PathBuf>,
    /// Where local stacks and their store are.
    pub(crate) home: PathBuf,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A file cannot be read.
    #[error("failed to read configuration `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{path}` is not a valid configuration")]
    Parse {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    /// A token cannot be read.
    #[error("failed to read the token file `{path}`")]
    TokenFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A token is none.
    #[error("`{place}` does not have a token")]
    Token {
        place: String,
        #[source]
        source: NotAToken,
    },
    /// There is no such context.
    #[error("no context `{name}` in the configuration; known: {known}")]
    NoContext { name: String, known: String },
}

/// Settings of one source; each may be absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Layer {
    nats: Option<String>,
    credentials: Option<PathBuf>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    objects: Option<String>,
    s3_endpoint: Option<String>,
    plans: Option<PathBuf>,
}

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    current: Option<String>,
    nats: Option<String>,
    credentials: Option<PathBuf>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    objects: Option<String>,
    s3_endpoint: Option<String>,
    plans: Option<PathBuf>,
    context: BTreeMap<String, Layer>,
}

impl Settings {
    /// Reads all sources.
    pub(crate) fn load(global: &Global) -> Result<Self, SettingsError> {
        let env: BTreeMap<String, String> = std::env::vars().collect();
        let project = std::env::current_dir().ok().and_then(|dir| project_file(&dir));
        let project = project.map_or_else(|| Ok(ConfigFile::default()), |path| read(&path))?;
        let user = read(&config_home(&env).join("groundswell/config.toml"))?;
        resolve(global, &env, &project, &user)
    }
}

/// Decides each setting by the order of its sources.
fn resolve(
    global: &Global,
    env: &BTreeMap<String, String>,
    project: &ConfigFile,
    user: &ConfigFile,
) -> Result<Settings, SettingsError> {
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
    let flags = Layer {
        nats: global.nats.clone(),
        credentials: global.credentials.clone(),
        ca: global.ca.clone(),
        certificate: global.certificate.clone(),
        key: global.key.clone(),
        token_file: global.token_file.clone(),
        objects: global.objects.clone(),
        s3_endpoint: global.s3_endpoint.clone(),
        plans: None,
    };
    let variables = Layer {
        nats: set("GROUNDSWELL_NATS"),
        credentials: set("GROUNDSWELL_CREDENTIALS").map(PathBuf::from),
        ca: set("GROUNDSWELL_CA").map(PathBuf::from),
        certificate: set("GROUNDSWELL_CERTIFICATE").map(PathBuf::from),
        key: set("GROUNDSWELL_KEY").map(PathBuf::from),
        token_file: set("GROUNDSWELL_TOKEN_FILE").map(PathBuf::from),
        objects: set("GROUNDSWELL_OBJECTS"),
        s3_endpoint: set("GROUNDSWELL_S3_ENDPOINT"),
        plans: set("GROUNDSWELL_PLANS").map(PathBuf::from),
    };
    let home = home(env);
    let named = global.context.clone().or_else(|| set("GROUNDSWELL_CONTEXT"));
    if named.as_deref() == Some(LOCAL) {
        let plans =
            variables.plans.or_else(|| project.plans.clone()).or_else(|| user.plans.clone());
        return Ok(Settings {
            objects: flags.objects,
            s3_endpoint: flags.s3_endpoint,
            plans,
            home,
            ..Settings::default()
        });
    }
    let chosen = named.or_else(|| project.current.clone()).or_else(|| user.current.clone());
    let (in_project, in_user) = contexts(chosen.as_deref(), project, user)?;
    // A context that was asked for by flag is a flag: it wins over the environment.
    let layers = if global.context.is_some() {
        [flags, in_project, in_user, variables, project.own(), user.own()]
    } else {
        [flags, variables, in_project, project.own(), in_user, user.own()]
    };
    let token = match (&global.token_file, set("GROUNDSWELL_TOKEN")) {
        (None, Some(text)) => Some(token("GROUNDSWELL_TOKEN", &text)?),
        (Some(_), _) | (None, None) => {
            let file = layers.iter().find_map(|layer| layer.token_file.as_deref());
            file.map(token_of).transpose()?
        }
    };
    Ok(Settings {
        token,
        nats: layers.iter().find_map(|layer| layer.nats.clone()),
        access: layers.iter().map(Layer::access).reduce(Access::or).unwrap_or_default(),
        objects: layers.iter().find_map(|layer| layer.objects.clone()),
        s3_endpoint: layers.iter().find_map(|layer| layer.s3_endpoint.clone()),
        plans: layers.iter().find_map(|layer| layer.plans.clone()),
        home,
    })
}

fn token_of(path: &Path) -> Result<Token, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::TokenFile { path: path.to_owned(), source })?;
    token(&path.display().to_string(), &text)
}

fn token(place: &str, text: &str) -> Result<Token, SettingsError> {
    text.parse().map_err(|source| SettingsError::Token { place: place.to_owned(), source })
}

fn contexts(
    chosen: Option<&str>,
    project: &ConfigFile,
    user: &ConfigFile,
) -> Result<(Layer, Layer), SettingsError> {
    let Some(name) = chosen.filter(|name| *name != LOCAL) else {
        return Ok((Layer::default(), Layer::default()));
    };
    let (in_project, in_user) = (project.context.get(name), user.context.get(name));
    if in_project.is_none() && in_user.is_none() {
        let mut known: Vec<&str> =
            project.context.keys().chain(user.context.keys()).map(String::as_str).collect();
        known.push(LOCAL);
        return Err(SettingsError::NoContext { name: name.to_owned(), known: known.join(", ") });
    }
    Ok((in_project.cloned().unwrap_or_default(), in_user.cloned().unwrap_or_default()))
}

impl Layer {
    fn access(&self) -> Access {
        Access {
            credentials: self.credentials.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }
}

impl ConfigFile {
    /// The settings outside of any context.
    fn own(&self) -> Layer {
        Layer {
            nats: self.nats.clone(),
            credentials: self.credentials.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            token_file: self.token_file.clone(),
            objects: self.objects.clone(),
            s3_endpoint: self.s3_endpoint.clone(),
            plans: self.plans.clone(),
        }
    }
}

/// A file that is not there is an empty one.
fn read(path: &Path) -> Result<ConfigFile, SettingsError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        Err(source) => return Err(SettingsError::Read { path: path.to_owned(), source }),
    };
    toml::from_str(&text).map_err(|source| SettingsError::Parse { path: path.to_owned(), source })
}

/// The project's file: in this directory or the nearest one above that has it.
fn project_file(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().map(|dir| dir.join(".groundswell/config.toml")).find(|path| path.is_file())
}

fn config_home(env: &BTreeMap<String, String>) -> PathBuf {
    below_home(env, "XDG_CONFIG_HOME", ".config")
}

/// Where local stacks and their store are.
fn home(env: &BTreeMap<String, String>) -> PathBuf {
    match env.get("GROUNDSWELL_HOME").filter(|value| !value.is_empty()) {
        Some(home) => std::path::absolute(home).unwrap_or_else(|_| PathBuf::from(home)),
        None => below_home(env, "XDG_DATA_HOME", ".local/share").join("groundswell"),
    }
}

fn below_home(env: &BTreeMap<String, String>, variable: &str, otherwise: &str) -> PathBuf {
    // The base directory specification says that a relative path is to be ignored.
    if let Some(dir) = env.get(variable).filter(|value| value.starts_with('/')) {
        return PathBuf::from(dir);
    }
    let home = env.get("HOME").filter(|value| !value.is_empty()).map_or("/root", String::as_str);
    Path::new(home).join(otherwise)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::Args;

    fn global(flags: &[&str]) -> Global {
        let line = ["coordinator"].iter().chain(flags).chain(&["version"]);
        Args::try_parse_from(line).expect("valid flags").global
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn nats(
        flags: &[&str],
        variables: &[(&str, &str)],
        project: &str,
        user: &str,
    ) -> Option<String> {
        let file = |text| toml::from_str::<ConfigFile>(text).expect("a valid file");
        resolve(&global(flags), &env(variables), &file(project), &file(user))
            .expect("settings")
            .nats
    }

    #[test]
    fn flags_win_over_variables_over_project_over_user() {
        let user = "current = 'lab'\n[context.lab]\nnats = 'user'";
        let project = "nats = 'project'";
        let variable = [("GROUNDSWELL_NATS", "variable")];
        assert_eq!(nats(&[], &[], "", ""), None);
        assert_eq!(nats(&[], &[], "", user).as_deref(), Some("user"));
        assert_eq!(nats(&[], &[], project, user).as_deref(), Some("project"));
        assert_eq!(nats(&[], &variable, project, user).as_deref(), Some("variable"));
        assert_eq!(nats(&["--nats", "flag"], &variable, project, user).as_deref(), Some("flag"));
        assert_eq!(nats(&["-C", "lab"], &variable, project, user).as_deref(), Some("user"));
        assert_eq!(nats(&["-C", "local"], &variable, project, user), None);
    }

    #[test]
    fn a_context_that_does_not_exist_is_named_with_those_that_do() {
        let user: ConfigFile = toml::from_str("[context.lab]").expect("a valid file");
        let refused =
            resolve(&global(&["-C", "lap"]), &env(&[]), &ConfigFile::default(), &user).unwrap_err();
        assert_eq!(refused.to_string(), "no context `lap` in the configuration; known: lab, local");
    }

    #[test]
    fn home_is_where_the_base_directory_specification_says() {
        assert_eq!(home(&env(&[("HOME", "/h")])), Path::new("/h/.local/share/groundswell"));
        assert_eq!(home(&env(&[("XDG_DATA_HOME", "/d")])), Path::new("/d/groundswell"));
        assert_eq!(home(&env(&[("GROUNDSWELL_HOME", "/g")])), Path::new("/g"));
    }
}
