//! The configuration file of `coordinator serve`: the queue, teams and their quotas, what workers give out.
//!
//! Every field may be left out. Durations and sizes are texts with a unit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use groundswell_common::composition::quantity;
use groundswell_common::metrics::MetricsSection;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::build;
use crate::queue::Policy;
use crate::queue::policy::{Quota, Team};
use crate::workers::Overcommit;

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
    #[error("`{path}` is not a coordinator's configuration")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
}

/// The form of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeFile {
    /// Where the coordinator's own metrics can be asked for, `address:port`. Absent is nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// How runs wait.
    pub queue: QueueSection,
    /// What workers give out.
    pub capacity: CapacitySection,
    /// Who may call.
    pub access: AccessSection,
    /// How images are built.
    pub builds: BuildsSection,
    /// Where metrics go.
    pub metrics: MetricsSection,
    /// Teams, by name.
    pub team: BTreeMap<String, TeamSection>,
    /// Every team without a table of its own.
    pub others: TeamSection,
}

/// How runs wait.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSection {
    /// After this time what a team has used counts half. Absent is an hour.
    #[serde(deserialize_with = "duration")]
    pub half_life: Option<Duration>,
    /// After each time as long as this a waiting run counts as one class more urgent. Absent is half an hour.
    #[serde(deserialize_with = "duration")]
    pub aging: Option<Duration>,
}

/// What workers give out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapacitySection {
    /// How many times a worker's cpu cores may be given out. Absent is once.
    pub cpu_overcommit: Option<u32>,
    /// How many times a worker's memory may be given out. Absent is once.
    pub memory_overcommit: Option<u32>,
}

/// Who may call.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessSection {
    /// Whether calls are let in with a token only. Absent is not: NATS alone decides who gets in.
    pub tokens_required: bool,
    /// Where the first admin's token goes. Absent is `admin.token` in the home directory of Groundswell.
    pub first_token: Option<PathBuf>,
}

/// How images are built.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildsSection {
    /// How many builds go on at the same time. Absent is four.
    pub parallel: Option<usize>,
}

/// A team.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeamSection {
    /// Its share beside those of other teams. Absent is 1.
    pub weight: Option<u32>,
    /// Its users. Absent is whoever names it.
    pub users: BTreeSet<String>,
    /// Instances of its runs that hold room at the same time.
    pub instances: Option<u32>,
    /// Runs that hold room at the same time.
    pub runs: Option<u32>,
    /// Runs that wait.
    pub queued: Option<u32>,
    /// How long one run may take.
    #[serde(deserialize_with = "duration")]
    pub run_time: Option<Duration>,
    /// How much the instances of one run may print that is kept.
    #[serde(deserialize_with = "bytes")]
    pub log_bytes: Option<u64>,
    /// How much the instances of one run may leave in their outputs.
    #[serde(deserialize_with = "bytes")]
    pub outputs_bytes: Option<u64>,
}

impl ServeFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or has unknown or malformed fields.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
    }

    /// What the queue goes by.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let usual = Policy::default();
        Policy {
            half_life: self.queue.half_life.unwrap_or(usual.half_life),
            aging: self.queue.aging.unwrap_or(usual.aging),
            teams: self.team.iter().map(|(name, team)| (name.clone(), team.team())).collect(),
            others: self.others.team(),
        }
    }

    /// Where the first admin's token goes when tokens are required, with `home` for what is not said.
    #[must_use]
    pub fn first_token(&self, home: &Path) -> Option<PathBuf> {
        let path = || self.access.first_token.clone().unwrap_or_else(|| home.join("admin.token"));
        self.access.tokens_required.then(path)
    }

    /// How many builds go on at the same time.
    #[must_use]
    pub fn parallel_builds(&self) -> usize {
        self.builds.parallel.unwrap_or(build::PARALLEL)
    }

    /// How many times what a worker has may be given out.
    #[must_use]
    pub fn overcommit(&self) -> Overcommit {
        let usual = Overcommit::NONE;
        Overcommit {
            cpu: self.capacity.cpu_overcommit.unwrap_or(usual.cpu),
            memory: self.capacity.memory_overcommit.unwrap_or(usual.memory),
        }
    }
}

impl TeamSection {
    fn team(&self) -> Team {
        Team {
            weight: self.weight.unwrap_or(1).max(1),
            users: self.users.clone(),
            quota: Quota {
                instances: self.instances,
                runs: self.runs,
                queued: self.queued,
                run_time: self.run_time,
                log_bytes: self.log_bytes,
                outputs_bytes: self.outputs_bytes,
            },
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(source)?;
    let wrong = || D::Error::custom(format!("`{text}` is not a duration such as `30m`"));
    quantity::duration(&text).ok_or_else(wrong).map(Some)
}

fn bytes<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(source)?;
    let wrong = || D::Error::custom(format!("`{text}` is not an amount of bytes such as `10Gi`"));
    quantity::bytes(&text).ok_or_else(wrong).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_a_configuration() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/coordinator.toml");
        let file = ServeFile::read(&example).expect("the example parses");
        let policy = file.policy();
        let core = policy.team("core");
        assert_eq!((core.weight, core.quota.instances, core.quota.runs), (2, Some(4_000), Some(2)));
        assert_eq!(core.quota.run_time, Some(Duration::from_secs(1_800)));
        assert_eq!(core.quota.log_bytes, Some(10 << 30));
        assert_eq!(core.quota.outputs_bytes, Some(200 << 30));
        assert_eq!(policy.team("anyone").quota.queued, Some(20));
        assert_eq!(policy.half_life, Duration::from_secs(3_600));
        assert_eq!(file.overcommit(), Overcommit { cpu: 4, memory: 1 });
        assert_eq!(file.parallel_builds(), 2);
        assert_eq!(file.metrics_listen, Some(([127, 0, 0, 1], 9465).into()));
        assert_eq!(file.metrics.bucket.as_deref(), Some("groundswell"));
    }

    #[test]
    fn an_empty_file_changes_nothing_and_an_unknown_field_is_refused() {
        let file = ServeFile::default();
        assert_eq!((file.policy(), file.overcommit()), (Policy::default(), Overcommit::NONE));
        for (wrong, says) in [
            ("[team.core]\nartifact_bytes = \"1Gi\"", "artifact_bytes"),
            ("[queue]\naging = \"soon\"", "`soon` is not a duration"),
            ("[others]\nlog_bytes = \"much\"", "`much` is not an amount of bytes"),
        ] {
            let refused = toml::from_str::<ServeFile>(wrong).expect_err(wrong).to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
