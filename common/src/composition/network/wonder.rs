//! Pings between pairs of servers, as WonderNetwork publishes them.
//!
//! One line per measurement: source, destination, timestamp, then the shortest, mean and longest round trip
//! and their deviation in milliseconds. Servers are numbers; a second file names them, its first columns
//! being number and name. Several measurements of a pair are averaged. Their deviation becomes jitter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::matrix::rows;
use super::regions::{Read, Regions, Way};
use crate::diagnostic::{Diagnostic, SourceFile};

/// Columns of a line of pings.
const COLUMNS: usize = 7;
const MEAN: usize = 4;
const DEVIATION: usize = 6;
/// A longer round trip is no measurement.
const LONGEST_MS: f64 = 3.6e6;

/// What was measured between two servers.
#[derive(Default, Clone, Copy)]
struct Sum {
    mean_ms: f64,
    deviation_ms: f64,
    count: f64,
}

pub(super) fn read(
    source: &Arc<SourceFile>,
    servers: Option<&Arc<SourceFile>>,
    wanted: &[String],
) -> Result<Read, Diagnostic> {
    let names = servers.map(|servers| names(servers)).unwrap_or_default();
    let mut regions = Regions::blank(wanted);
    let mut sums = vec![Sum::default(); wanted.len() * wanted.len()];
    let mut known: Vec<String> = names.values().map(|name| (*name).to_owned()).collect();
    known.sort();
    for (number, row) in rows(&source.text).enumerate() {
        if number == 0 && row[0].1.eq_ignore_ascii_case("source") {
            continue;
        }
        let place = row[0].0.start..row.last().map_or(0, |cell| cell.0.end);
        let value = |column: usize| {
            let text = row.get(column)?.1;
            text.parse::<f64>().ok().filter(|value| (0.0..=LONGEST_MS).contains(value))
        };
        let (true, Some(mean), Some(deviation)) =
            (row.len() >= COLUMNS, value(MEAN), value(DEVIATION))
        else {
            let help = "a line has source, destination, timestamp, min, avg, max and mdev, times in milliseconds";
            return Err(Diagnostic::error(source, place, "not a line of pings", help));
        };
        let name = |column: usize| names.get(row[column].1).copied().unwrap_or(row[column].1);
        if names.is_empty() && known.len() < 10_000 && !known.iter().any(|one| one == name(0)) {
            known.push(name(0).to_owned());
        }
        let (Some(from), Some(to)) = (regions.index(name(0)), regions.index(name(1))) else {
            continue;
        };
        let sum = &mut sums[from * wanted.len() + to];
        sum.mean_ms += mean;
        sum.deviation_ms += deviation;
        sum.count += 1.0;
    }
    for (from, to) in (0..wanted.len()).flat_map(|i| (0..wanted.len()).map(move |j| (i, j))) {
        let there = sums[from * wanted.len() + to];
        let back = sums[to * wanted.len() + from];
        // A pair that was measured from one end only is taken to be the same from the other.
        let sum = if there.count > 0.0 { there } else { back };
        if sum.count > 0.0 {
            let half = |total: f64| Duration::from_secs_f64(total / sum.count / 2e3);
            let way =
                Way { latency: half(sum.mean_ms), jitter: half(sum.deviation_ms), loss_pct: 0.0 };
            regions.set(from, to, way);
        } else if from == to {
            regions.set(from, to, Way::default());
        }
    }
    Ok(Read { regions, known })
}

fn names(servers: &SourceFile) -> BTreeMap<&str, &str> {
    rows(&servers.text)
        .filter_map(|row| Some((row.first()?.1, row.get(1)?.1)))
        .filter(|(id, _)| !id.eq_ignore_ascii_case("id"))
        .collect()
}
