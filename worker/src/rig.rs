//! How this worker is doing: counted as it goes, looked at every second, told to Prometheus when it asks and to the
//! store for metrics every ten seconds. None of it happens when nobody wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use groundswell_common::fidelity::NetworkReport;
use groundswell_common::metrics::{Point, Shipper};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::heartbeat::{Line, Status};
use crate::supervisor::Host;
use crate::supervisor::load::Look;

/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the store is told.
const TELL: Duration = Duration::from_secs(10);

type Share = Gauge<f64, AtomicU64>;
type Label = [(&'static str, String); 1];

/// What is known of this worker. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rig {
    slots: Gauge,
    instances: Gauge,
    shares: Gauge,
    draining: Gauge,
    cordoned: Gauge,
    unanswered: Share,
    busy: Share,
    steal: Share,
    oom_kills: Counter,
    packets: Family<Label, Counter>,
    late: Family<Label, Share>,
    stalls: Counter,
    longest_stall: Share,
}

/// What the worker says of itself elsewhere.
pub(crate) struct Watched {
    status: watch::Receiver<Status>,
    answered: watch::Receiver<Option<std::time::Instant>>,
    cordon: watch::Receiver<Option<String>>,
}

impl Watched {
    pub(crate) fn of(line: &Line) -> Self {
        Self {
            status: line.status.subscribe(),
            answered: line.answered.clone(),
            cordon: line.cordon.subscribe(),
        }
    }
}

impl Rig {
    /// Of a worker with so many slots.
    pub(crate) fn new(slots: u32) -> Self {
        let rig = Self::default();
        rig.slots.set(slots.into());
        rig
    }

    /// What Prometheus is answered with.
    pub(crate) fn registry(&self, shipper: Shipper) -> Registry {
        let mut all = Registry::with_prefix("groundswell_worker");
        all.register("slots", "Instances the worker takes", self.slots.clone());
        all.register("instances", "Instances that exist", self.instances.clone());
        all.register("shares", "Shares of runs that are here", self.shares.clone());
        all.register("draining", "1 when the worker is leaving", self.draining.clone());
        let help = "1 when the worker takes nothing new although it stays";
        all.register("cordoned", help, self.cordoned.clone());
        let help = "Time since the coordinator has last answered";
        all.register("unanswered_seconds", help, self.unanswered.clone());
        let help = "Share of the host's cpu time that was not idle in the last second";
        all.register("cpu_busy_ratio", help, self.busy.clone());
        let help =
            "Share of cpu time that the machine's own host gave to others in the last second";
        all.register("cpu_steal_ratio", help, self.steal.clone());
        let help = "Processes the kernel killed for want of memory since the worker began";
        all.register("oom_kills", help, self.oom_kills.clone());
        let help = "Packets of shares that have ended, by what became of them";
        all.register("packets", help, self.packets.clone());
        let help = "How late packets of the last share were written that has ended";
        all.register("packet_late_seconds", help, self.late.clone());
        let help = "Times of more than a millisecond in which the data plane did nothing, of shares that have ended";
        all.register("stalls", help, self.stalls.clone());
        let help = "The longest of these";
        all.register("longest_stall_seconds", help, self.longest_stall.clone());
        all.register_collector(Box::new(shipper));
        all
    }

    /// Takes in what was measured of the packets of a share.
    pub(crate) fn take(&self, report: &NetworkReport) {
        let label = |name, value: &str| [(name, value.to_owned())];
        for (fate, count) in &report.fates {
            self.packets.get_or_create(&label("fate", fate)).inc_by(*count);
        }
        let mut late = groundswell_common::fidelity::Histogram::default();
        report.lanes.iter().for_each(|lane| late.merge(&lane.late));
        if late.count() > 0 {
            for (quantile, q) in [("0.5", 0.5), ("0.99", 0.99), ("1", 1.0)] {
                let seconds = Duration::from_nanos(late.quantile(q)).as_secs_f64();
                self.late.get_or_create(&label("quantile", quantile)).set(seconds);
            }
        }
        self.stalls.inc_by(report.stalls.count());
        let longest = report.stalls.longest.as_secs_f64().max(self.longest_stall.get());
        self.longest_stall.set(longest);
    }

    /// Looks until `end`.
    pub(crate) async fn watch(self, host: Arc<Host>, watched: Watched, end: CancellationToken) {
        let origin = Instant::now();
        let mut before = Look::now(origin);
        let mut told = origin;
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = Look::now(origin);
            self.look(&before, &now);
            before = now;
            self.note(&host, &watched);
            if told.elapsed() >= TELL {
                told = Instant::now();
                host.parts.shipper.point(None, &self.point(host.worker.as_str()));
            }
        }
    }

    fn look(&self, before: &Look, now: &Look) {
        if let Some((busy, steal)) = now.shares_since(before) {
            self.busy.set(busy);
            self.steal.set(steal);
        }
        self.oom_kills.inc_by(now.oom_kills_since(before));
    }

    fn note(&self, host: &Host, watched: &Watched) {
        self.instances.set(host.instances.load(Ordering::Relaxed).into());
        let status = watched.status.borrow();
        self.shares.set(i64::try_from(status.shares.len()).unwrap_or(i64::MAX));
        self.draining.set(status.draining.into());
        self.cordoned.set(watched.cordon.borrow().is_some().into());
        let silent = watched
            .answered
            .borrow()
            .map_or(Duration::ZERO, |at| Instant::now().into_std().saturating_duration_since(at));
        self.unanswered.set(silent.as_secs_f64());
    }

    fn point(&self, worker: &str) -> Point {
        let now = jiff::Timestamp::now().as_nanosecond();
        let packets = |fate: &str| {
            let label = [("fate", fate.to_owned())];
            self.packets.get(&label).map_or(0, |count| count.get())
        };
        Point::new("groundswell_rig", i64::try_from(now).unwrap_or(i64::MAX))
            .tag("worker", worker)
            .field("slots", self.slots.get())
            .field("instances", self.instances.get())
            .field("shares", self.shares.get())
            .field("draining", self.draining.get())
            .field("cordoned", self.cordoned.get())
            .field("unanswered_s", self.unanswered.get())
            .field("cpu_busy", self.busy.get())
            .field("cpu_steal", self.steal.get())
            .field("oom_kills", self.oom_kills.get())
            .field("packets_delivered", packets("delivered"))
            .field("stalls", self.stalls.get())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use groundswell_common::fidelity::{LaneReport, Stall};
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn what_shares_have_measured_adds_up_and_is_told_under_documented_names() {
        let rig = Rig::new(7);
        let mut lane = LaneReport::default();
        lane.late.record_many(2_000_000, 10);
        let fates = BTreeMap::from([("delivered".to_owned(), 10)]);
        let mut report = NetworkReport { lanes: vec![lane], fates, ..NetworkReport::default() };
        report.stalls.push(Stall { at: Duration::ZERO, length: Duration::from_millis(5) });
        rig.take(&report);
        rig.take(&report);
        let mut text = String::new();
        encode(&mut text, &rig.registry(Shipper::off())).unwrap();
        for line in [
            "groundswell_worker_slots 7",
            "groundswell_worker_packets_total{fate=\"delivered\"} 20",
            "groundswell_worker_packet_late_seconds{quantile=\"1\"} 0.002",
            "groundswell_worker_stalls_total 2",
            "groundswell_worker_longest_stall_seconds 0.005",
            "groundswell_worker_metrics_waiting 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
        let documented = include_str!("../../docs/metrics.md");
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(documented.contains(&format!("`{name}")), "{name} is not in docs/metrics.md");
        }
        let line = rig.point("w1").encode().unwrap();
        assert!(line.starts_with("groundswell_rig,worker=w1 "), "{line}");
        assert!(line.contains("packets_delivered=20i") && line.contains("slots=7i"), "{line}");
    }
}
