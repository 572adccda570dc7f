//! What a worker is told when it starts: a TOML file, and flags and environment variables that win over it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use groundswell_common::bus::{Access, BusConfig};
use groundswell_common::composition::quantity;
use groundswell_common::ids::{InvalidId, WorkerId};
use groundswell_common::messages::RuntimeKind;
use groundswell_common::metrics::{MetricsConfig, MetricsError, MetricsSection};
use groundswell_common::objects::ObjectsConfig;
use groundswell_common::permissions;
use serde::Deserialize;

use crate::keep::{Upkeep, Watermarks};

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
    /// How many instances of one run it takes; absent is as many as it has slots.
    pub slots_per_run: Option<u32>,
    /// The runtimes it offers; empty is every one that works here.
    pub runtimes: Vec<RuntimeKind>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Where its switch takes packets of other workers, `address` or `address:port`; absent is the address that
    /// reaches NATS, and a port of the kernel's choice.
    pub overlay_address: Option<String>,
    /// The program that makes namespaces; absent is this program itself.
    pub spawner: Option<PathBuf>,
    /// How it keeps its host in order.
    pub upkeep: Upkeep,
    /// Whether instances go on for the rest of the lease when this process is killed, for its next life to adopt.
    pub adopt: bool,
    /// Where metrics go; absent is nowhere.
    pub metrics: Option<MetricsConfig>,
    /// Where the worker's own metrics can be asked for; absent is nowhere.
    pub metrics_listen: Option<SocketAddr>,
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
    /// The overlay's address is no host's.
    #[error(
        "`{0}` does not say where other workers reach this one: \
         write the address of the interface that faces them, 10.0.0.5 or 10.0.0.5:4790"
    )]
    AnyOverlay(String),
    /// A label is not one.
    #[error("`{0}` is not a label: write key=value")]
    Label(String),
    /// A watermark of the disk is not one.
    #[error("`{name}` is {value} in `[disk]`: write a number from 1 to 100")]
    Watermark {
        /// Which.
        name: &'static str,
        /// What it is.
        value: u8,
    },
    /// The watermarks of the disk are in a wrong order.
    #[error(
        "`{lower}` ({below}) has to be less than `{higher}` ({above}) in `[disk]`: \
         a disk that fills up comes past them in that order"
    )]
    Watermarks {
        /// The one that comes first.
        lower: &'static str,
        /// What it is.
        below: u8,
        /// The one that comes after it.
        higher: &'static str,
        /// What it is.
        above: u8,
    },
    /// A size is not one.
    #[error("`{0}` is not a size: write 20Gi or 500M")]
    Size(String),
    /// The store for metrics cannot be used.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// The form of the configuration file. Every field may be left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerFile {
    /// The worker's name: letters, digits, `-` and `_`. Absent is the host's name.
    pub name: Option<String>,
    /// How many instances it takes. Absent is what its memory allows.
    pub slots: Option<u32>,
    /// How many instances of one run it takes. Absent is as many as it has slots.
    pub slots_per_run: Option<u32>,
    /// Directory for images and for outputs on their way.
    pub state_dir: Option<PathBuf>,
    /// The runtimes it offers, `netns` and `docker`. Absent is every one that works.
    pub runtimes: Vec<RuntimeKind>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Where its switch takes packets of other workers, `address` or `address:port`.
    pub overlay_address: Option<String>,
    /// Where the worker's own metrics can be asked for, `address:port`. Absent is nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// How to reach NATS.
    pub nats: NatsSection,
    /// The object store.
    pub objects: ObjectsSection,
    /// When a disk counts as full.
    pub disk: DiskSection,
    /// What is kept of images.
    pub images: ImagesSection,
    /// What is kept of datasets.
    pub datasets: DatasetsSection,
    /// Where metrics go.
    pub metrics: MetricsSection,
}

/// When a disk counts as full: how much of it is in use, in per cent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSection {
    /// From here on images that nobody uses are given up. Absent is 85.
    pub give_up_images_pct: Option<u8>,
    /// From here on the worker takes nothing new. Absent is 90.
    pub take_nothing_pct: Option<u8>,
    /// From here on the share that has written most is ended. Absent is 95.
    pub end_share_pct: Option<u8>,
}

impl DiskSection {
    fn watermarks(self) -> Result<Watermarks, ConfigError> {
        let usual = Watermarks::default();
        let marks = Watermarks {
            give_up_images_pct: self.give_up_images_pct.unwrap_or(usual.give_up_images_pct),
            take_nothing_pct: self.take_nothing_pct.unwrap_or(usual.take_nothing_pct),
            end_share_pct: self.end_share_pct.unwrap_or(usual.end_share_pct),
        };
        let ordered = [
            ("give_up_images_pct", marks.give_up_images_pct),
            ("take_nothing_pct", marks.take_nothing_pct),
            ("end_share_pct", marks.end_share_pct),
        ];
        if let Some((name, value)) = ordered.into_iter().find(|(_, v)| !(1..=100).contains(v)) {
            return Err(ConfigError::Watermark { name, value });
        }
        let wrong = ordered.windows(2).find(|pair| pair[0].1 >= pair[1].1);
        wrong.map_or(Ok(marks), |pair| {
            let ((lower, below), (higher, above)) = (pair[0], pair[1]);
            Err(ConfigError::Watermarks { lower, below, higher, above })
        })
    }
}

/// What is kept of datasets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetsSection {
    /// How much datasets may take on the disk, those in use included; `50Gi` without this line. The one that was
    /// used longest ago goes first, one in use never: a run whose datasets do not fit has no place here.
    pub keep: Option<String>,
}

impl DatasetsSection {
    fn keep_bytes(self) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.keep else { return Ok(Upkeep::default().datasets_keep_bytes) };
        quantity::bytes(&text).map(Some).ok_or(ConfigError::Size(text))
    }
}

/// What is kept of images.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesSection {
    /// How much images may take on the disk, those in use included; `20Gi` without this line. The one that was
    /// used longest ago goes first, one in use never.
    pub keep: Option<String>,
}

impl ImagesSection {
    fn keep_bytes(self) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.keep else { return Ok(Upkeep::default().images_keep_bytes) };
        quantity::bytes(&text).map(Some).ok_or(ConfigError::Size(text))
    }
}

/// How to reach NATS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSection {
    /// `nats://host:port`, several separated by commas.
    pub url: Option<String>,
    /// A credentials file of NATS, or a file with the seed of an nkey.
    pub credentials: Option<PathBuf>,
    /// Certificates of authorities that are trusted besides the system's, PEM. Also insists on encryption.
    pub ca: Option<PathBuf>,
    /// The worker's own certificate, PEM.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate, PEM.
    pub key: Option<PathBuf>,
}

impl NatsSection {
    fn access(self) -> Access {
        let Self { url: _, credentials, ca, certificate, key } = self;
        Access { credentials, ca, certificate, key }
    }
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
    /// How many instances of one run it takes; without it, as many as it has slots.
    #[arg(long, env = "GROUNDSWELL_SLOTS_PER_RUN", value_name = "N")]
    pub slots_per_run: Option<u32>,
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
    /// Where the worker's own metrics can be asked for in Prometheus's text format: address:port. Without it,
    /// nowhere.
    #[arg(long, env = "GROUNDSWELL_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    /// Directory for images and for outputs on their way.
    #[arg(long, env = "GROUNDSWELL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The object store: file:///directory or s3://bucket/prefix.
    #[arg(long, env = "GROUNDSWELL_OBJECTS", value_name = "URL")]
    pub objects: Option<String>,
    /// End all instances at once when this process is killed, and adopt none of an earlier one: they do not go on for
    /// the rest of the lease.
    #[arg(long)]
    pub no_adoption: bool,
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
    /// When it is not an address, or stands for all of this host.
    pub fn overlay(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(text) = &self.overlay_address else { return Ok(None) };
        let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
        let address: Result<SocketAddr, _> = text.parse().or_else(|_| alone());
        let address = address.map_err(|_| ConfigError::Overlay(text.clone()))?;
        if address.ip().is_unspecified() {
            return Err(ConfigError::AnyOverlay(text.clone()));
        }
        Ok(Some(address))
    }

    fn merge(flags: &RunFlags, file: WorkerFile) -> Result<Self, ConfigError> {
        let id = match flags.name.clone().or(file.name) {
            Some(name) => name.parse()?,
            None => host_name(),
        };
        let url = flags.nats.clone().or(file.nats.url.clone()).ok_or(ConfigError::Missing {
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
        let upkeep = Upkeep {
            disk: Some(file.disk.watermarks()?),
            images_keep_bytes: file.images.keep_bytes()?,
            datasets_keep_bytes: file.datasets.keep_bytes()?,
            ..Upkeep::default()
        };
        Ok(Self {
            upkeep,
            bus: BusConfig {
                access: file.nats.access(),
                inbox: Some(permissions::inbox(&id)),
                ..BusConfig::open(url, format!("groundswell worker {id}"))
            },
            objects: ObjectsConfig {
                url: objects,
                endpoint: flags.s3_endpoint.clone().or(file.objects.s3_endpoint),
                region: file.objects.region,
            },
            state_dir: state_dir(flags.state_dir.clone(), file.state_dir),
            slots: flags.slots.or(file.slots),
            slots_per_run: flags.slots_per_run.or(file.slots_per_run),
            runtimes: file.runtimes,
            labels,
            overlay_address: flags.overlay_address.clone().or(file.overlay_address),
            spawner: None,
            adopt: !flags.no_adoption,
            metrics: file.metrics.resolve()?,
            metrics_listen: flags.metrics_listen.or(file.metrics_listen),
            id,
        })
    }
}

/// The directory a worker uses: the flag's, or the file's, or the usual one.
pub(crate) fn state_dir(flag: Option<PathBuf>, file: Option<PathBuf>) -> PathBuf {
    flag.or(file).unwrap_or_else(|| PathBuf::from("/var/lib/groundswell/worker"))
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
        let mut file = WorkerFile::read(&example).expect("the example parses");
        assert!(file.metrics.token_file.take().is_some(), "the file itself is the reader's");
        let config = WorkerConfig::merge(&RunFlags::default(), file).expect("it is whole");
        assert_eq!(config.id.as_str(), "rack1-host3");
        assert_eq!(config.runtimes, [RuntimeKind::Netns, RuntimeKind::Docker]);
        assert_eq!(config.labels["zone"], "a");
        assert_eq!(config.objects.endpoint.as_deref(), Some("http://minio.internal:9000"));
        assert_eq!(config.upkeep, Upkeep::default(), "the example shows the usual values");
        assert_eq!(config.metrics_listen, Some(([127, 0, 0, 1], 9464).into()));
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
        for any in ["0.0.0.0", "0.0.0.0:4790", "::"] {
            let refused = overlay(any).expect_err("no host's").to_string();
            assert!(refused.contains(any) && refused.contains("interface"), "{refused}");
        }
    }

    #[test]
    fn watermarks_are_percentages_in_the_order_a_disk_fills_up() {
        let refused = |text: &str| {
            let file: WorkerFile = toml::from_str(text).expect("parses");
            let marks = file.disk.watermarks().map(drop);
            marks.and(file.images.keep_bytes().map(drop)).expect_err("refused").to_string()
        };
        let said = refused("[disk]\ntake_nothing_pct = 96");
        assert!(said.contains("`take_nothing_pct` (96)") && said.contains("`end_share_pct` (95)"));
        assert!(refused("[disk]\nend_share_pct = 101").contains("from 1 to 100"));
        assert!(refused("[images]\nkeep = \"much\"").contains("`much` is not a size"));
        let datasets: WorkerFile = toml::from_str("[datasets]\nkeep = \"all\"").expect("parses");
        let said = datasets.datasets.keep_bytes().expect_err("refused").to_string();
        assert!(said.contains("`all` is not a size"), "{said}");
    }

    #[test]
    fn what_is_unknown_or_missing_is_refused_by_name() {
        let refused = toml::from_str::<WorkerFile>("slotz = 3").unwrap_err().to_string();
        assert!(refused.contains("slotz"), "{refused}");
        let missing = WorkerConfig::merge(&RunFlags::default(), WorkerFile::default());
        assert!(missing.unwrap_err().to_string().contains("--nats URL"));
    }
}
