//! The data network of a run as its composition has it: one class of instances per group, the access link
//! of each, the path between any two, and the schedule of what changes when.
//!
//! All of it is decided before the run starts and travels with the assignment, so that every worker does
//! the same at the same time without asking anyone.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::link::{AccessLink, LinkShape};
use crate::narrative::{Entry, Narrative, Strike, TooMany};
use crate::nat::{NatPlan, SpecRefused};

/// Where runs get their data networks from when nothing else is said: 16.0.0.0/16 to 31.255.0.0/16, as Testground.
pub const DATA_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(16, 0, 0, 0), 4);
/// As many groups as a run with links may have.
pub const MOST_CLASSES: usize = 250;
/// As many firings as a schedule may have.
pub const MOST_FIRINGS: usize = 4000;

/// What carries the packets of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataPath {
    /// The worker's switch.
    #[default]
    Switch,
    /// The kernel: routing, HTB, netem and nftables.
    Kernel,
}

impl DataPath {
    /// The word used in every file and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Kernel => "kernel",
        }
    }
}

/// What a composition says about the data network. The default says nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkPlan {
    /// The access link of each class. A group's class is its index among the groups of the run.
    pub classes: Vec<AccessLink>,
    /// Shapes of paths, each listed once.
    pub shapes: Vec<LinkShape>,
    /// For each class, for each class it sends to: the path's shape, as an index into `shapes`. Empty when
    /// no path has a shape.
    pub paths: Vec<u16>,
    /// For each class, the NATs it is behind. Empty when none is behind any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nats: Vec<Option<NatPlan>>,
    /// What changes when, in order.
    pub schedule: Vec<Firing>,
    /// What happens to single instances.
    #[serde(skip_serializing_if = "Narrative::is_empty")]
    pub narrative: Narrative,
    /// Whether packets between workers are encrypted.
    pub encrypt: bool,
    /// Whether what an instance sends to many reaches all others of the run.
    pub multicast: bool,
    /// What carries the packets.
    #[serde(skip_serializing_if = "is_default")]
    pub data_path: DataPath,
}

fn is_default(path: &DataPath) -> bool {
    *path == DataPath::default()
}

/// What the workers of one attempt of a run know and nobody else does. It is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OverlaySecret([u8; 32]);

impl OverlaySecret {
    /// Made of bytes that were drawn at random.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a cipher.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for OverlaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OverlaySecret(..)")
    }
}

/// One change of the data network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Firing {
    /// When, from the start of the run.
    pub at: Duration,
    /// What it is, for people.
    pub text: String,
    /// What changes.
    pub action: Action,
}

/// What a firing changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing passes between two sets of classes any more, in either direction.
    Cut {
        /// Names it among the run's cuts.
        cut: u16,
        /// One side.
        from: Vec<u16>,
        /// The other side; may overlap with the first one.
        to: Vec<u16>,
        /// Whether the interfaces of the first side lose their carrier, which applications can see.
        carrier: bool,
    },
    /// These cuts are over. One that is not there changes nothing.
    Heal {
        /// Their names.
        cuts: Vec<u16>,
    },
    /// The access link of these classes is another one. It replaces what instances asked for themselves.
    Access {
        /// The classes.
        classes: Vec<u16>,
        /// Their access link from now on.
        link: AccessLink,
    },
    /// The paths from some classes to others are other ones.
    Path {
        /// Pairs of classes, from and to.
        pairs: Vec<(u16, u16)>,
        /// Their shape from now on.
        shape: LinkShape,
    },
    /// The routers of these classes forget all mappings, as when they are switched off and on.
    Rebind {
        /// The classes.
        classes: Vec<u16>,
    },
    /// The instances of these classes get other addresses in the run's network, or their routers do.
    Readdress {
        /// The classes.
        classes: Vec<u16>,
    },
}

impl NetworkPlan {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What happens to single instances in a run with this seed, whose classes have so many of them.
    ///
    /// # Errors
    /// When that is more than a run bears.
    pub fn strikes(&self, seed: u64, sizes: &[u32]) -> Result<Vec<Strike>, TooMany> {
        self.narrative.draw(seed, sizes, &self.nats)
    }

    /// The NATs of a class.
    #[must_use]
    pub fn nat(&self, class: usize) -> Option<&NatPlan> {
        self.nats.get(class)?.as_ref()
    }

    /// Checks the NATs against the network of a run.
    ///
    /// # Errors
    ///
    /// Says the first thing that is wrong.
    pub fn check_nats(&self, subnet: Ipv4Net) -> Result<(), SpecRefused> {
        for layers in self.nats.iter().flatten().map(|nat| &nat.layers) {
            for (number, layer) in layers.iter().enumerate() {
                layer.spec.check(subnet)?;
                if let Some(outer) = layers.get(number + 1) {
                    layer.spec.check(outer.spec.lan)?;
                }
            }
        }
        Ok(())
    }

    /// What it says, in one line for people.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut parts = Vec::new();
        let shaped = self.classes.iter().filter(|link| **link != AccessLink::default()).count();
        if shaped > 0 {
            parts.push(format!("{shaped} of {} groups with access links", self.classes.len()));
        }
        let behind = self.nats.iter().flatten().count();
        if behind > 0 {
            parts.push(format!("{behind} of {} groups behind NATs", self.classes.len()));
        }
        let latencies =
            || self.paths.iter().filter_map(|index| self.shapes.get(usize::from(*index)));
        let latencies = || latencies().map(|shape| shape.latency.as_secs_f64() * 1e3);
        if let Some(least) = latencies().min_by(f64::total_cmp) {
            let most = latencies().fold(least, f64::max);
            parts.push(format!("{} to {} ms between groups", short(least), short(most)));
        }
        if self.multicast {
            parts.push("broadcast and multicast reach everyone".to_owned());
        }
        if let Some(last) = self.schedule.last() {
            let changes = match self.schedule.len() {
                1 => "1 change".to_owned(),
                several => format!("{several} changes"),
            };
            parts.push(format!("{changes} scheduled, the last at {:.1} s", last.at.as_secs_f64()));
        }
        if !self.narrative.is_empty() {
            let titles: Vec<_> = self.narrative.entries.iter().map(Entry::title).collect();
            parts.push(format!("instances are struck by {}", titles.join(", ")));
        }
        if self.encrypt {
            parts.push("encrypted between workers".to_owned());
        }
        if self.data_path == DataPath::Kernel {
            parts.push("over the kernel's data path".to_owned());
        }
        Some(parts.join(", "))
    }

    /// The shape of the path between two classes.
    #[must_use]
    pub fn path(&self, from: usize, to: usize) -> LinkShape {
        let classes = self.classes.len();
        let index = (from < classes && to < classes).then(|| self.paths.get(from * classes + to));
        let shape = index.flatten().and_then(|index| self.shapes.get(usize::from(*index)));
        shape.copied().unwrap_or_default()
    }
}

/// At most a tenth, and none where there is none.
fn short(ms: f64) -> String {
    let text = format!("{ms:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}
