//! What of a run goes to the store for metrics, as points. Pure.
//!
//! | measurement | one point for each | tags besides the run's |
//! |---|---|---|
//! | `groundswell_event` | event of the run's log | `kind`, `worker`, `group` |
//! | `groundswell_run` | run that is over | `verdict` |
//! | `groundswell_kpi` | KPI of a run, and KPI of a group | `kpi`, `unit`, `group` |
//! | `groundswell_network` | worker of a run | `worker` |
//! | `groundswell_host` | worker of a run | `worker` |
//!
//! The run's tags are `run`, `plan`, `case`, `branch` and `commit`. An instance is a field: as a tag it would make a
//! series of each.

use std::collections::BTreeMap;
use std::time::Duration;

use groundswell_common::fidelity::{Histogram, NetworkReport};
use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::kpi::{Distribution, HostLoad, Judgement, Stat, State};
use groundswell_common::metrics::Point;
use groundswell_common::run::{GroupCounts, RunEvent, RunRecord, RunStatus, SourceInfo};

use crate::record::KpiFile;

/// Nanoseconds of a millisecond.
const MS: i64 = 1_000_000;

/// Whose points they are.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The run.
    pub run: &'a RunId,
    /// Its plan.
    pub plan: &'a str,
    /// Its case.
    pub case: &'a str,
    /// When it was submitted, Unix milliseconds.
    pub submitted_ms: u64,
    /// Where the software under test comes from.
    pub source: &'a SourceInfo,
}

impl Origin<'_> {
    fn point(&self, measurement: &str, at_ns: i64) -> Point {
        Point::new(measurement, at_ns)
            .tag("run", self.run.as_str())
            .tag("plan", self.plan)
            .tag("case", self.case)
            .tag("branch", &self.source.branch)
            .tag("commit", &self.source.commit)
    }
}

/// An event of the run's log. `no` counts them: two of one millisecond would otherwise be one point.
#[must_use]
pub fn event(origin: Origin<'_>, no: u64, event: &RunEvent) -> Point {
    let at_ms = origin.submitted_ms.saturating_add(event.at_ms);
    let apart = i64::try_from(no).unwrap_or(0) % MS;
    let mut point = origin
        .point("groundswell_event", nanoseconds(at_ms).saturating_add(apart))
        .tag("kind", &event.kind)
        .tag("worker", event.worker.as_ref().map_or("", WorkerId::as_str))
        .tag("group", event.group.as_deref().unwrap_or_default())
        .field("text", event.text.as_str())
        .field("at_ms", event.at_ms);
    if let Some(instance) = event.instance {
        point = point.field("instance", instance.0);
    }
    point
}

/// Everything about a run that is over.
#[must_use]
pub fn ending(record: &RunRecord, kpis: Option<&KpiFile>) -> Vec<Point> {
    let status = &record.status;
    let origin = Origin {
        run: &status.run,
        plan: &status.plan,
        case: &status.case,
        submitted_ms: status.submitted_ms,
        source: &record.source,
    };
    let at_ns = nanoseconds(status.finished_ms.unwrap_or(status.submitted_ms));
    let point = origin.point("groundswell_run", at_ns);
    let mut points = vec![whole(point, record, status)];
    for (worker, report) in &record.network_reports {
        let point = origin.point("groundswell_network", at_ns).tag("worker", worker.as_str());
        points.push(network(point, report));
    }
    if let Some(kpis) = kpis {
        points.extend(of_run(origin, kpis, at_ns));
        points.extend(of_groups(origin, kpis, at_ns));
        points.extend(kpis.hosts.iter().map(|(worker, load)| {
            host(origin.point("groundswell_host", at_ns).tag("worker", worker.as_str()), load)
        }));
    }
    points
}

fn whole(point: Point, record: &RunRecord, status: &RunStatus) -> Point {
    let verdict = status.verdict.map_or("", |verdict| verdict.as_str());
    let sum = |count: fn(&GroupCounts) -> u32| -> u32 {
        status.groups.iter().map(|(_, counts)| count(counts)).sum()
    };
    let mut point = point
        .tag("verdict", verdict)
        .field("passed", u32::from(verdict == "passed"))
        .field("name", status.name.as_str())
        .field("user", status.user.as_str())
        .field("reason", status.reason.as_str())
        .field("attempt", record.attempt.0)
        .field("seed", record.seed)
        .field("instances", sum(|counts| counts.want))
        .field("succeeded", sum(|counts| counts.success))
        .field("failed", sum(|counts| counts.failure))
        .field("lost", sum(|counts| counts.lost))
        .field("workers", status.workers.len() as u64)
        .field("warnings", status.warnings.len() as u64);
    let between = |from: Option<u64>, to: Option<u64>| {
        from.zip(to).map(|(from, to)| Duration::from_millis(to.saturating_sub(from)).as_secs_f64())
    };
    if let Some(seconds) = between(Some(status.submitted_ms), status.started_ms) {
        point = point.field("waited_s", seconds);
    }
    if let Some(seconds) = between(status.started_ms, status.finished_ms) {
        point = point.field("took_s", seconds);
    }
    if let Some(network) = &status.network {
        point = point.field("fidelity", network.grade.as_str());
    }
    status.judgement.iter().fold(point, judged)
}

fn judged(point: Point, judgement: &Judgement) -> Point {
    let count = |states: &[State]| {
        judgement.expectations.iter().filter(|one| states.contains(&one.state)).count() as u64
    };
    point
        .field("expectations_kept", count(&[State::Kept]))
        .field("expectations_broken", count(&[State::Broken, State::Silent]))
}

/// Each KPI over all groups.
fn of_run(origin: Origin<'_>, kpis: &KpiFile, at_ns: i64) -> impl Iterator<Item = Point> {
    kpis.kpis.iter().map(move |row| {
        let point = kpi(origin, at_ns, &row.name, &row.unit).field("count", row.count);
        row.stats.iter().fold(point, |point, (stat, value)| point.field(stat, *value))
    })
}

/// Each KPI of each group, whatever tags the plan gave its values.
fn of_groups(origin: Origin<'_>, kpis: &KpiFile, at_ns: i64) -> Vec<Point> {
    let mut merged: BTreeMap<(&str, &str, &str), Distribution> = BTreeMap::new();
    for row in kpis.series.iter().filter(|row| !row.key.diagnostic) {
        let key = (row.key.name.as_str(), row.key.unit.as_str(), row.key.group.as_str());
        merged.entry(key).or_default().merge(&row.values);
    }
    let point = |((name, unit, group), values): ((&str, &str, &str), Distribution)| {
        let point = kpi(origin, at_ns, name, unit).tag("group", group);
        stats(point, "", &values).field("count", values.count())
    };
    merged.into_iter().map(point).collect()
}

fn kpi(origin: Origin<'_>, at_ns: i64, name: &str, unit: &str) -> Point {
    origin.point("groundswell_kpi", at_ns).tag("kpi", name).tag("unit", unit)
}

fn stats(point: Point, prefix: &str, values: &Distribution) -> Point {
    let stats = Stat::ALL.into_iter().filter(|stat| *stat != Stat::Count);
    stats.filter_map(|stat| Some((stat, values.stat(stat)?))).fold(point, |point, (stat, value)| {
        point.field(&format!("{prefix}{}", stat.as_str()), value)
    })
}

fn network(point: Point, report: &NetworkReport) -> Point {
    let sum = |count: fn(&groundswell_common::fidelity::LaneReport) -> u64| -> u64 {
        report.lanes.iter().map(count).sum()
    };
    let mut late = Histogram::default();
    report.lanes.iter().for_each(|lane| late.merge(&lane.late));
    let late_s = |q| Duration::from_nanos(late.quantile(q)).as_secs_f64();
    let mut point = point
        .field("packets", sum(|lane| lane.packets))
        .field("bytes", sum(|lane| lane.bytes))
        .field("lost", sum(|lane| lane.lost))
        .field("overrun", sum(|lane| lane.overrun))
        .field("filtered", sum(|lane| lane.filtered))
        .field("no_memory", sum(|lane| lane.no_memory))
        .field("stalls", report.stalls.count())
        .field("stall_longest_s", report.stalls.longest.as_secs_f64());
    if late.count() > 0 {
        point = point
            .field("late_p50_s", late_s(0.50))
            .field("late_p99_s", late_s(0.99))
            .field("late_max_s", late_s(1.0));
    }
    if let Some(drops) = report.interface_drops {
        point = point.field("interface_drops", drops);
    }
    point
}

fn host(point: Point, load: &HostLoad) -> Point {
    let point = stats(stats(point, "busy_", &load.busy), "steal_", &load.steal);
    point.field("oom_kills", load.oom_kills).field("clock_step_s", load.clock_step_s)
}

fn nanoseconds(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX).saturating_mul(MS)
}

#[cfg(test)]
mod tests {
    use groundswell_common::kpi::{KpiRow, SeriesKey};

    use super::*;
    use crate::record::SeriesRow;

    fn origin(source: &SourceInfo) -> Origin<'_> {
        Origin { run: leaked(), plan: "ping pong", case: "a,b", submitted_ms: 1_000, source }
    }

    fn leaked() -> &'static RunId {
        Box::leak(Box::new("c8k3vmlrirtj2p8lcec0".parse().expect("a run id")))
    }

    fn lines(points: impl IntoIterator<Item = Point>) -> Vec<String> {
        points.into_iter().map(|point| point.encode().expect("it can be written")).collect()
    }

    #[test]
    fn an_event_is_a_point_at_its_time_and_two_of_one_moment_are_two() {
        let source = SourceInfo {
            branch: "main".to_owned(),
            commit: "abc".to_owned(),
            ..SourceInfo::default()
        };
        let happened = RunEvent {
            at_ms: 7,
            kind: "message".to_owned(),
            text: "say \"hi\"".to_owned(),
            worker: "w1".parse().ok(),
            group: Some("all".to_owned()),
            instance: Some(groundswell_common::ids::InstanceId(3)),
        };
        let of = |no| lines([event(origin(&source), no, &happened)]).remove(0);
        assert_eq!(
            of(1),
            "groundswell_event,branch=main,case=a\\,b,commit=abc,group=all,kind=message,plan=ping\\ pong,\
             run=c8k3vmlrirtj2p8lcec0,worker=w1 at_ms=7i,instance=3i,text=\"say \\\"hi\\\"\" 1007000001"
        );
        assert!(of(2).ends_with(" 1007000002"));
        let bare = RunEvent { worker: None, group: None, instance: None, ..happened };
        let line = lines([event(origin(&SourceInfo::default()), 1, &bare)]).remove(0);
        assert!(!line.contains("worker") && !line.contains("instance") && !line.contains("branch"));
    }

    #[test]
    fn a_kpi_is_told_of_the_run_and_of_each_group_whatever_tags_its_values_have() {
        let series = |group: &str, phase: &str, values: &[f64], diagnostic: bool| {
            let mut of = Distribution::default();
            values.iter().for_each(|value| assert!(of.record(*value)));
            SeriesRow {
                key: SeriesKey {
                    name: "rtt".to_owned(),
                    group: group.to_owned(),
                    unit: "s".to_owned(),
                    tags: BTreeMap::from([("phase".to_owned(), phase.to_owned())]),
                    diagnostic,
                },
                count: of.count(),
                stats: BTreeMap::new(),
                values: of,
            }
        };
        let kpis = KpiFile {
            v: 1,
            run: leaked().clone(),
            kpis: vec![KpiRow {
                name: "rtt".to_owned(),
                unit: "s".to_owned(),
                count: 4,
                stats: BTreeMap::from([("max".to_owned(), 4.0), ("mean".to_owned(), f64::NAN)]),
                ..KpiRow::default()
            }],
            series: vec![
                series("a", "warm", &[1.0, 2.0], false),
                series("a", "cold", &[3.0], false),
                series("b", "cold", &[4.0], false),
                series("b", "cold", &[9.0], true),
            ],
            hosts: Vec::new(),
            judgement: None,
        };
        let source = SourceInfo::default();
        let groups = lines(of_groups(origin(&source), &kpis, 5));
        assert_eq!(groups.len(), 2, "{groups:?}");
        assert!(
            groups[0].contains(",group=a,kpi=rtt,")
                && groups[0].contains(",unit=s count=3i,max=3.0,")
        );
        assert!(
            groups[0].contains("mean=2.0,") && groups[0].contains("sum=6.0 5"),
            "{}",
            groups[0]
        );
        assert!(groups[1].contains("group=b") && groups[1].contains("max=4.0"), "{}", groups[1]);
        // What is not a number cannot be told; the shipper counts it.
        assert!(of_run(origin(&source), &kpis, 5).next().expect("one").encode().is_err());
    }
}
