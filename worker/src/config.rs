//! What a worker is told when it starts: a TOML file, and flags and environment variables that win over it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use groundswell_common::bus::BusConfig;
use groundswell_common::ids::{InvalidId, WorkerId};
use groundswell_common::messages::RuntimeKind;
use groundswell_common::objects::ObjectsConfig;
use serde::Deserialize;

/// Everything a worker needs to know.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Its id.
    pub id: WorkerId,
    /// How to reach NATS.
    pub bus: BusConfig,
    /// Where images come from and outputs go.
    pub objects: ObjectsConfig,
    /// Directory for images and for outputs on their way. One worker at a time.
    pub state_dir: PathBuf,
    /// How many instances it takes; absent is what its memory allows.
    pub slots: Option<u32>,
    /// The runtimes it offers; empty is every one that works here.
    pub runtimes: Vec<RuntimeKind>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Where its switch takes packets of other workers, `address` or `address:port`; absent is the address that
    /// reaches NATS, and a port of the kernel's choice.
    pub overlay_address: Option<String>,
    /// The program that makes namespaces; absent is this program itself.
    pub spawner: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read `{path}`")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("`{path}` is not a worker's configuration")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
    /// A value is missing everywhere.
    #[error("no {what}: give {flag}, set {variable}, or write it into the configuration file")]
    Missing {
        /// What.
        what: &'static str,
        /// The flag.
        flag: &'static str,
        /// The environment variable.
        variable: &'static str,
    },
    /// The name is not one.
    #[error("the worker cannot have this name")]
    Name(#[from] InvalidId),
    /// The overlay's address is not one.
    #[error("`{0}` is not an address of the overlay: write 10.0.0.5 or 10.0.0.5:4790")]
    Overlay(String),
    /// A label is not one.
    #[error("`{0}` is not a label: write key=value")]
    Label(String),
}

/// The form of the configuration file. Every field may be left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerFile {
    /// The worker's name: letters, digits, `-` and `_`. Absent is the host's name.
    pub name: Option<String>,
    /// How many instances it takes. Absent is what its memory allows.
    pub slots: Option<u32>,
    /// Directory for images and for outputs on their way.
    pub state_dir: Option<PathBuf>,
    /// The runtimes it offers, `netns` and `docker`. Absent is every one that works.
    pub runtimes: Vec<RuntimeKind>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Where its switch takes packets of other workers, `address` or `address:port`.
    pub overlay_address: Option<String>,
    /// How to reach NATS.
    pub nats: NatsSection,
    /// The object store.
    pub objects: ObjectsSection,
}

/// How to reach NATS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSection {
    /// `nats://host:port`, several separated by commas.
    pub url: Option<String>,
    /// Path of a credentials file.
    pub credentials: Option<PathBuf>,
}

/// The object store. Keys come from the environment or the machine's role, never from here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectsSection {
    /// `file:///directory` or `s3://bucket/prefix`.
    pub url: Option<String>,
    /// Endpoint of an S3-compatible server.
    pub s3_endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
}

/// Flags of `worker run`. Each wins over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RunFlags {
    /// Configuration file.
    #[arg(long, env = "GROUNDSWELL_WORKER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where NATS is: nats://host:port, several separated by commas.
    #[arg(long, env = "GROUNDSWELL_NATS", hide_env_values = true, value_name = "URL")]
    pub nats: Option<String>,
    /// The worker's name; without one, the host's name.
    #[arg(long, env = "GROUNDSWELL_WORKER_NAME")]
    pub name: Option<String>,
    /// How many instances it takes; without it, what its memory allows.
    #[arg(long, env = "GROUNDSWELL_SLOTS")]
    pub slots: Option<u32>,
    /// A label for placement, key=value. May be given several times.
    #[arg(
        long = "label",
        env = "GROUNDSWELL_LABELS",
        value_delimiter = ',',
        value_name = "KEY=VALUE"
    )]
    pub labels: Vec<String>,
    /// Where other workers send the packets of the data network: address or address:port. Without it, the
    /// address that reaches NATS and any free port.
    #[arg(long, env = "GROUNDSWELL_OVERLAY_ADDRESS", value_name = "ADDRESS")]
    pub overlay_address: Option<String>,
    /// Directory for images and for outputs on their way.
    #[arg(long, env = "GROUNDSWELL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The object store: file:///directory or s3://bucket/prefix.
    #[arg(long, env = "GROUNDSWELL_OBJECTS", value_name = "URL")]
    pub objects: Option<String>,
    /// Endpoint of an S3-compatible server.
    #[arg(long, env = "GROUNDSWELL_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
}

impl WorkerFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or has unknown or malformed fields.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
    }
}

impl WorkerConfig {
    /// Puts flags, environment and file together.
    ///
    /// # Errors
    /// When the file is not usable, or something that is needed is nowhere.
    pub fn load(flags: &RunFlags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => WorkerFile::read(path)?,
            None => WorkerFile::default(),
        };
        Self::merge(flags, file)
    }

    /// The address the overlay is to be bound to, when one is given.
    ///
    /// # Errors
    /// When it is not an address.
    pub fn overlay(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(text) = &self.overlay_address else { return Ok(None) };
        let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
        let address = text.parse().or_else(|_| alone());
        address.map(Some).map_err(|_| ConfigError::Overlay(text.clone()))
    }

    fn merge(flags: &RunFlags, file: WorkerFile) -> Result<Self, ConfigError> {
        let id = match flags.name.clone().or(file.name) {
            Some(name) => name.parse()?,
            None => host_name(),
        };
        let url = flags.nats.clone().or(file.nats.url).ok_or(ConfigError::Missing {
            what: "NATS server",
            flag: "--nats URL",
            variable: "GROUNDSWELL_NATS",
        })?;
        let objects = flags.objects.clone().or(file.objects.url).ok_or(ConfigError::Missing {
            what: "object store",
            flag: "--objects URL",
            variable: "GROUNDSWELL_OBJECTS",
        })?;
        let mut labels = file.labels;
        for label in &flags.labels {
            let (key, value) =
                label.split_once('=').ok_or_else(|| ConfigError::Label(label.clone()))?;
            labels.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self {
            bus: BusConfig {
                url,
                credentials: file.nats.credentials,
                name: format!("groundswell worker {id}"),
            },
            objects: ObjectsConfig {
                url: objects,
                endpoint: flags.s3_endpoint.clone().or(file.objects.s3_endpoint),
                region: file.objects.region,
            },
            state_dir: flags
                .state_dir
                .clone()
                .or(file.state_dir)
                .unwrap_or_else(|| PathBuf::from("/var/lib/groundswell/worker")),
            slots: flags.slots.or(file.slots),
            runtimes: file.runtimes,
            labels,
            overlay_address: flags.overlay_address.clone().or(file.overlay_address),
            spawner: None,
            id,
        })
    }
}

/// The host's name as a worker's id.
#[must_use]
pub fn host_name() -> WorkerId {
    let name = nix::unistd::gethostname().unwrap_or_default();
    WorkerId::from_lossy(&name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_a_whole_configuration() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/worker.toml");
        let file = WorkerFile::read(&example).expect("the example parses");
        let config = WorkerConfig::merge(&RunFlags::default(), file).expect("it is whole");
        assert_eq!(config.id.as_str(), "rack1-host3");
        assert_eq!(config.runtimes, [RuntimeKind::Netns, RuntimeKind::Docker]);
        assert_eq!(config.labels["zone"], "a");
        assert_eq!(config.objects.endpoint.as_deref(), Some("http://minio.internal:9000"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = WorkerFile { slots: Some(5), ..WorkerFile::default() };
        let flags = RunFlags {
            nats: Some("nats://a".into()),
            objects: Some("file:///tmp/x".into()),
            slots: Some(9),
            labels: vec!["zone=b".into()],
            ..RunFlags::default()
        };
        let config = WorkerConfig::merge(&flags, file).expect("whole");
        assert_eq!((config.slots, config.labels["zone"].as_str()), (Some(9), "b"));
    }

    #[test]
    fn an_overlay_address_has_a_port_or_not() {
        let overlay = |text: &str| {
            let flags = RunFlags {
                nats: Some("nats://a".into()),
                objects: Some("file:///tmp/x".into()),
                overlay_address: Some(text.into()),
                ..RunFlags::default()
            };
            WorkerConfig::merge(&flags, WorkerFile::default()).expect("whole").overlay()
        };
        assert_eq!(overlay("10.0.0.5").expect("one"), Some(([10, 0, 0, 5], 0).into()));
        assert_eq!(overlay("10.0.0.5:4790").expect("one"), Some(([10, 0, 0, 5], 4790).into()));
        assert!(overlay("fd00::5").expect("one").is_some());
        assert!(overlay("host3").expect_err("a name").to_string().contains("host3"));
    }

    #[test]
    fn what_is_unknown_or_missing_is_refused_by_name() {
        let refused = toml::from_str::<WorkerFile>("slotz = 3").unwrap_err().to_string();
        assert!(refused.contains("slotz"), "{refused}");
        let missing = WorkerConfig::merge(&RunFlags::default(), WorkerFile::default());
        assert!(missing.unwrap_err().to_string().contains("--nats URL"));
    }
}
