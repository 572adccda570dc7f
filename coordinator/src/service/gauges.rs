//! How the coordinator is doing, for Prometheus.

use std::collections::BTreeMap;

use groundswell_common::metrics::Shipper;
use groundswell_common::run::{RunPhase, RunStatus};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::actor::Actor;

type Label = [(&'static str, String); 1];

/// The phases a run may be in while the coordinator works on it.
const PHASES: [RunPhase; 8] = [
    RunPhase::Submitted,
    RunPhase::Queued,
    RunPhase::Reserved,
    RunPhase::Preparing,
    RunPhase::Starting,
    RunPhase::Running,
    RunPhase::Collecting,
    RunPhase::Finished,
];

/// The states of a worker, in the words of `coordinator workers`.
const STATES: [&str; 6] = ["ready", "cordoned", "draining", "drained", "silent", "lost"];

/// What is known of a coordinator. Clones share it; it outlives a lead.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    leads: Gauge,
    term: Gauge,
    runs: Family<Label, Gauge>,
    verdicts: Family<Label, Counter>,
    workers: Family<Label, Gauge>,
    slots: Gauge,
    slots_used: Gauge,
    instances: Gauge,
}

impl Gauges {
    /// What Prometheus is answered with.
    #[must_use]
    pub fn registry(&self, shipper: Shipper) -> Registry {
        let mut all = Registry::with_prefix("groundswell_coordinator");
        all.register("leads", "1 while this coordinator leads", self.leads.clone());
        all.register("term", "The term of its last lead", self.term.clone());
        all.register("runs", "Runs that are not over, by phase", self.runs.clone());
        all.register("verdicts", "Runs that are over, by verdict", self.verdicts.clone());
        all.register("workers", "Workers, by state", self.workers.clone());
        all.register("slots", "Instances all workers take together", self.slots.clone());
        all.register("slots_used", "Slots that runs hold", self.slots_used.clone());
        let help = "Instances that exist, as workers have said last";
        all.register("instances", help, self.instances.clone());
        all.register_collector(Box::new(shipper));
        all
    }

    pub(super) fn lead(&self, term: u64) {
        self.leads.set(1);
        self.term.set(i64::try_from(term).unwrap_or(i64::MAX));
    }

    pub(super) fn resign(&self) {
        self.leads.set(0);
    }

    /// Takes in that a run is over.
    pub(super) fn over(&self, status: &RunStatus) {
        let verdict = status.verdict.map_or("none", |verdict| verdict.as_str());
        self.verdicts.get_or_create(&label("verdict", verdict)).inc();
    }

    fn set(&self, family: &Family<Label, Gauge>, name: &'static str, word: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        family.get_or_create(&label(name, word)).set(count);
    }
}

fn label(name: &'static str, word: &str) -> Label {
    [(name, word.to_owned())]
}

impl Actor {
    /// Counts what there is.
    pub(super) fn count(&self) {
        let gauges = &self.config.gauges;
        let mut runs: BTreeMap<RunPhase, usize> = BTreeMap::new();
        for live in self.live.values() {
            *runs.entry(live.run.phase()).or_default() += 1;
        }
        for phase in PHASES {
            let count = runs.get(&phase).copied().unwrap_or(0);
            gauges.set(&gauges.runs, "phase", phase.as_str(), count);
        }
        let workers = self.workers.statuses(&self.loads(), Instant::now().into_std());
        for state in STATES {
            let count = workers.iter().filter(|worker| worker.state == state).count();
            gauges.set(&gauges.workers, "state", state, count);
        }
        let sum = |count: fn(&groundswell_common::api::WorkerStatus) -> u32| -> i64 {
            workers.iter().filter(|one| one.state != "lost").map(|one| i64::from(count(one))).sum()
        };
        gauges.slots.set(sum(|worker| worker.slots));
        gauges.slots_used.set(sum(|worker| worker.used));
        gauges.instances.set(sum(|worker| worker.instances));
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn every_name_is_documented() {
        let gauges = Gauges::default();
        gauges.set(&gauges.runs, "phase", "running", 2);
        gauges.verdicts.get_or_create(&label("verdict", "passed")).inc();
        gauges.set(&gauges.workers, "state", "ready", 1);
        gauges.lead(3);
        let mut text = String::new();
        encode(&mut text, &gauges.registry(Shipper::off())).unwrap();
        for line in [
            "groundswell_coordinator_leads 1",
            "groundswell_coordinator_term 3",
            "groundswell_coordinator_runs{phase=\"running\"} 2",
            "groundswell_coordinator_verdicts_total{verdict=\"passed\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
        let documented = include_str!("../../../docs/metrics.md");
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(documented.contains(&format!("`{name}")), "{name} is not in docs/metrics.md");
        }
    }
}
