//! Latencies between regions, from a file or from the model of cities.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{cities, gml, king, matrix, wonder};
use crate::diagnostic::{Diagnostic, SourceFile};

/// What is known of the ways between the regions of a composition.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Regions {
    /// Their names.
    pub names: Vec<String>,
    /// For each region, for each region: the way there, if it is known.
    pub ways: Vec<Option<Way>>,
    /// Upload and download of hosts in each region, in bits per second, where the source has them.
    #[serde(default)]
    pub rates: Vec<(u64, u64)>,
}

/// The way from one region to another.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Way {
    /// Delay, one way.
    pub latency: Duration,
    /// How far the delay deviates.
    #[serde(default)]
    pub jitter: Duration,
    /// Share of packets lost, in percent.
    #[serde(default)]
    pub loss_pct: f32,
}

impl Regions {
    /// Regions of which nothing is known yet.
    pub(super) fn blank(names: &[String]) -> Self {
        let ways = vec![None; names.len() * names.len()];
        Self { names: names.to_vec(), ways, rates: Vec::new() }
    }

    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|one| one == name)
    }

    pub(super) fn way(&self, from: usize, to: usize) -> Option<Way> {
        self.ways.get(from * self.names.len() + to).copied().flatten()
    }

    pub(super) fn set(&mut self, from: usize, to: usize, way: Way) {
        let size = self.names.len();
        self.ways[from * size + to] = Some(way);
    }
}

/// Which format a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A square CSV with a header.
    Matrix,
    /// A CSV of pings between pairs of servers.
    WonderNetwork,
    /// The matrix of the King data set.
    King,
    /// A network graph of Shadow.
    Shadow,
}

/// What was read: the wanted regions, and the names of all there are.
pub(super) struct Read {
    pub(super) regions: Regions,
    pub(super) known: Vec<String>,
}

/// Reads the ways between the wanted regions.
pub(super) fn read(
    format: Format,
    source: &Arc<SourceFile>,
    servers: Option<&Arc<SourceFile>>,
    round_trip: bool,
    wanted: &[String],
) -> Result<Read, Diagnostic> {
    match format {
        Format::Matrix => matrix::read(source, round_trip, wanted),
        Format::WonderNetwork => wonder::read(source, servers, wanted),
        Format::King => king::read(source, wanted),
        Format::Shadow => gml::read(source, wanted),
    }
}

/// The ways between cities.
pub(super) fn of_cities(wanted: &[String]) -> Read {
    let mut regions = Regions::blank(wanted);
    let found: Vec<_> = wanted.iter().map(|name| cities::find(name)).collect();
    for (i, from) in found.iter().enumerate() {
        for (j, to) in found.iter().enumerate() {
            if let (Some(from), Some(to)) = (from, to) {
                let latency = cities::latency(from, to);
                regions.set(i, j, Way { latency, ..Way::default() });
            }
        }
    }
    // A region that names a city in another case is known all the same.
    let spelled = wanted.iter().filter(|name| cities::find(name).is_some()).cloned();
    let known = spelled.chain(cities::CITIES.iter().map(|(name, ..)| (*name).to_owned())).collect();
    Read { regions, known }
}
