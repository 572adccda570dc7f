//! Records, who has them, and looking for them.

use groundswell_p2p::dht::{Dht, GroupInfo};
use groundswell_p2p::{QueryReport, Rng};
use groundswell_sdk::{Ctx, Result};
use serde::Deserialize;

/// How many records there are and how many are looked for, under the historic
/// names.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RecordParams {
    pub(crate) record_seed: u64,
    pub(crate) record_count: u32,
    pub(crate) search_records: u32,
}

/// A record: all members of a group of providers have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    /// Its number among those of its group.
    pub(crate) number: u32,
    /// The group of those who have it.
    pub(crate) group: String,
    /// How many they are.
    pub(crate) providers: usize,
}

/// What one search came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) group: String,
    /// Until the first provider, if there was one.
    pub(crate) first_s: Option<f64>,
    pub(crate) dials_failed: u64,
}

impl RecordParams {
    /// The records of a group.
    pub(crate) fn of_group(&self, group: &GroupInfo) -> Vec<Record> {
        let record = |number: u32| Record {
            key: key(self.record_seed, group.first, number),
            number,
            group: group.group.clone(),
            providers: group.count as usize,
        };
        (0..self.record_count).map(record).collect()
    }

    /// What an instance looks for: `search_records` of each group of providers.
    pub(crate) fn wanted(&self, cx: &Ctx, dht: &Dht) -> Vec<Record> {
        let mut rng = cx.rng("records");
        let mut wanted = Vec::new();
        for (_, group) in dht.roster.with_role("provider") {
            let mut records = self.of_group(group);
            rng.shuffle(&mut records);
            wanted.extend(records.into_iter().take(self.search_records as usize));
        }
        rng.shuffle(&mut wanted);
        wanted
    }
}

/// A key that everybody can work out.
pub(crate) fn key(seed: u64, group: u32, number: u32) -> Vec<u8> {
    Rng::new(seed, &format!("record/{group}/{number}")).seed().to_vec()
}

/// Whether this instance searches: those with the role do, and where nobody
/// has it, all but the bootstrappers.
pub(crate) fn is_searcher(cx: &Ctx, dht: &Dht) -> bool {
    if dht.roster.with_role("searcher").next().is_some() {
        return cx.role() == "searcher";
    }
    !dht.roster.is_bootstrapper(dht.me.index)
}

/// Announces the records of the own group.
pub(crate) async fn provide(cx: &Ctx, dht: &Dht, params: &RecordParams) -> Result {
    for record in params.of_group(&dht.roster.groups[dht.me.group]) {
        let report = dht.node.provide(record.key).await?;
        cx.point("time_to_provide_s", report.took).record();
    }
    arrive(dht).await;
    Ok(())
}

/// Waits while announcements travel: nobody acknowledges them.
pub(crate) async fn arrive(dht: &Dht) {
    tokio::time::sleep(dht.params.settle).await;
}

/// Looks for all providers of a record, and records what came of it.
pub(crate) async fn look_for(cx: &Ctx, dht: &Dht, record: &Record) -> Result<Found> {
    let answer = dht.node.providers(record.key.clone(), record.providers).await?;
    let group = Some(record.group.as_str());
    record_query(cx, &answer.report, group);
    let found = answer.found.len();
    let point = |name, value: f64, unit| {
        cx.point(name, value).unit(unit).tag("provider", &record.group).record();
    };
    point("found_ratio", f64::from(u8::from(found > 0)), "ratio");
    point("peers_found", found as f64, "count");
    point("peers_missing", record.providers.saturating_sub(found) as f64, "count");
    let first_s = answer.found.first().map(|(_, at)| at.as_secs_f64());
    if let (Some(first), Some((_, last))) = (first_s, answer.found.last()) {
        point("time_to_find_first_s", first, "s");
        point("time_to_find_last_s", last.as_secs_f64(), "s");
    }
    let dials_failed = answer.report.dials_failed;
    Ok(Found { group: record.group.clone(), first_s, dials_failed })
}

/// Records what a query took.
pub(crate) fn record_query(cx: &Ctx, report: &QueryReport, provider: Option<&str>) {
    let counts = [
        ("requests_per_query", u64::from(report.requests)),
        ("requests_failed_per_query", u64::from(report.failures)),
        ("dials_failed_per_query", report.dials_failed),
    ];
    for (name, count) in counts {
        let point = cx.point(name, count).unit("count");
        match provider {
            Some(provider) => point.tag("provider", provider).record(),
            None => point.record(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_seed_group_and_number() {
        let first = key(1, 0, 0);
        assert_eq!(first.len(), 32);
        assert_eq!(first, key(1, 0, 0));
        for other in [key(2, 0, 0), key(1, 1, 0), key(1, 0, 1)] {
            assert_ne!(first, other);
        }
    }
}
