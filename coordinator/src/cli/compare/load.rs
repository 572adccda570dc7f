//! What runs have measured, as comparisons see it: one number of each KPI for each run.

use std::collections::BTreeMap;

use groundswell_common::compare::{ComparedKpi, ComparedRun};
use groundswell_common::kpi::{Distribution, KpiRow, Stat};
use groundswell_common::objects::Objects;
use groundswell_coordinator::record::{self, KpiFile};
use regex::Regex;

use super::select::Known;
use crate::cli::Trouble;
use crate::cli::exit::Exit;

/// A run with what it has measured.
pub(crate) struct Measured {
    pub(crate) known: Known,
    /// Absent when nothing is stored.
    file: Option<KpiFile>,
}

/// Reads what a run has measured.
pub(crate) async fn load(objects: &Objects, known: Known) -> Result<Measured, Trouble> {
    let file = record::load_kpis(objects, &known.run).await;
    let file = file.map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
    Ok(Measured { known, file })
}

/// Which KPIs are compared, and what of them.
pub(crate) struct Wanted<'a> {
    /// Their names with the statistic have to match this.
    pub(crate) names: Option<&'a Regex>,
    /// The statistics.
    pub(crate) stats: &'a [Stat],
}

impl Wanted<'_> {
    /// The KPIs that any of the runs has: those that have a good direction first, otherwise in the order of the
    /// runs' own lists.
    pub(crate) fn kpis<'a>(&self, runs: impl Iterator<Item = &'a Measured>) -> Vec<ComparedKpi> {
        let mut kpis: Vec<ComparedKpi> = Vec::new();
        for row in runs.flat_map(Measured::rows) {
            for stat in self.stats {
                let name = named(&row.name, *stat);
                let wanted = self.names.is_none_or(|names| names.is_match(&name));
                if wanted && kpis.iter().all(|kpi| kpi.name != name) {
                    // How many values there are is a number of its own, whatever their unit.
                    let unit = if *stat == Stat::Count { String::new() } else { row.unit.clone() };
                    kpis.push(ComparedKpi { name, unit, better: row.better });
                }
            }
        }
        kpis.sort_by_key(|kpi| kpi.better.is_none());
        kpis
    }
}

/// A KPI and what of it stands for a run: `time_to_find.p95`.
pub(crate) fn named(kpi: &str, stat: Stat) -> String {
    format!("{kpi}.{}", stat.as_str())
}

impl Measured {
    fn rows(&self) -> &[KpiRow] {
        self.file.as_ref().map_or(&[], |file| &file.kpis)
    }

    /// The number of one KPI; none when the run does not have it.
    pub(crate) fn value(&self, kpi: &str, stat: Stat) -> Option<f64> {
        of_row(self.rows().iter().find(|row| row.name == kpi)?, stat)
    }

    /// The base of a KPI's unit.
    pub(crate) fn unit(&self, kpi: &str) -> Option<&str> {
        self.rows().iter().find(|row| row.name == kpi).map(|row| row.unit.as_str())
    }

    /// The KPIs the run has.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.rows().iter().map(|row| row.name.as_str())
    }

    /// The run, with the numbers of these KPIs that are in the same unit.
    pub(crate) fn compared(&self, kpis: &[ComparedKpi], stats: &[Stat]) -> ComparedRun {
        let values = self.rows().iter().flat_map(|row| {
            stats.iter().filter_map(move |stat| Some((row, *stat, of_row(row, *stat)?)))
        });
        self.with(
            kpis,
            values.map(|(row, stat, value)| (named(&row.name, stat), &row.unit, stat, value)),
        )
    }

    /// The same of the instances of one group.
    pub(crate) fn compared_group(
        &self,
        group: &str,
        kpis: &[ComparedKpi],
        stats: &[Stat],
    ) -> ComparedRun {
        let rows: Vec<_> = self
            .rows()
            .iter()
            .map(|row| (row, self.distribution(&row.name, &row.unit, Some(group))))
            .collect();
        let values = rows.iter().flat_map(|(row, values)| {
            stats.iter().filter_map(|stat| {
                let value = values.stat(*stat).filter(|_| values.count() > 0)?;
                Some((named(&row.name, *stat), &row.unit, *stat, value))
            })
        });
        self.with(kpis, values)
    }

    fn with<'a>(
        &self,
        kpis: &[ComparedKpi],
        values: impl Iterator<Item = (String, &'a String, Stat, f64)>,
    ) -> ComparedRun {
        let same_unit = |name: &str, unit: &str, stat: Stat| {
            kpis.iter().any(|kpi| kpi.name == name && (kpi.unit == unit || stat == Stat::Count))
        };
        let mut distrust = self.known.distrust.clone();
        if self.file.is_none() {
            distrust.push("no KPIs of it are stored".to_owned());
        }
        ComparedRun {
            name: self.known.name.clone(),
            distrust,
            values: values
                .filter(|(name, unit, stat, _)| same_unit(name, unit, *stat))
                .map(|(name, _, _, value)| (name, value))
                .collect(),
        }
    }

    /// The groups that have measured something, in order.
    pub(crate) fn groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = self
            .file
            .iter()
            .flat_map(|file| &file.series)
            .filter(|series| !series.key.diagnostic)
            .map(|series| series.key.group.clone())
            .collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// All values of a KPI in the base of its unit, of one group or of all.
    pub(crate) fn distribution(&self, kpi: &str, unit: &str, group: Option<&str>) -> Distribution {
        let mut all = Distribution::default();
        for series in self.file.iter().flat_map(|file| &file.series) {
            let key = &series.key;
            let fits =
                key.name == kpi && !key.diagnostic && group.is_none_or(|group| key.group == group);
            if fits && (key.unit == unit || key.unit.is_empty()) {
                all.merge(&series.values);
            }
        }
        all
    }
}

fn of_row(row: &KpiRow, stat: Stat) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "nobody records 2^53 values")]
    let count = row.count as f64;
    if stat == Stat::Count { Some(count) } else { row.stats.get(stat.as_str()).copied() }
}

/// What of the terms differs between runs that are compared, each in words.
pub(crate) fn differing_terms<'a>(runs: impl Iterator<Item = &'a Known>) -> Vec<String> {
    let mut seen: BTreeMap<&str, Vec<Option<&str>>> = BTreeMap::new();
    let runs: Vec<&Known> = runs.collect();
    for term in runs.iter().flat_map(|run| run.terms.keys()) {
        seen.entry(term).or_insert_with(|| {
            runs.iter().map(|run| run.terms.get(term).map(String::as_str)).collect()
        });
    }
    let differs = |values: &Vec<Option<&str>>| values.iter().any(|value| *value != values[0]);
    let told = seen.into_iter().filter(|(_, values)| differs(values)).map(|(term, mut values)| {
        values.sort_unstable();
        values.dedup();
        let values: Vec<&str> =
            values.into_iter().map(|value| value.unwrap_or("nothing")).collect();
        format!("the runs differ in {term}: {}", values.join(", "))
    });
    told.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use groundswell_common::ids::RunId;
    use groundswell_common::kpi::{Better, SeriesKey, judge};
    use groundswell_common::run::SourceInfo;
    use groundswell_coordinator::record::SeriesRow;

    use super::*;

    fn run_id() -> RunId {
        "c8k3vmlrirtj2p8lcec0".parse().expect("an id")
    }

    /// A run that measured these values of `time` in groups `a` and `b`.
    fn measured(a: &[f64], b: &[f64]) -> Measured {
        let distribution = |values: &[f64]| {
            let mut all = Distribution::default();
            values.iter().for_each(|value| assert!(all.record(*value)));
            all
        };
        let series = [("a", a), ("b", b)].map(|(group, values)| {
            let values = distribution(values);
            let key = SeriesKey {
                name: "time".into(),
                group: group.into(),
                unit: "s".into(),
                ..SeriesKey::default()
            };
            SeriesRow { key, count: values.count(), stats: judge::stats(&values), values }
        });
        let both = distribution(&[a, b].concat());
        let row = KpiRow {
            name: "time".into(),
            unit: "s".into(),
            better: Some(Better::Lower),
            count: both.count(),
            stats: judge::stats(&both),
        };
        let other =
            KpiRow { name: "hops".into(), better: None, unit: String::new(), ..row.clone() };
        let file = KpiFile {
            v: 1,
            run: run_id(),
            kpis: vec![other, row],
            series: series.into(),
            hosts: Vec::new(),
            judgement: None,
        };
        let known = Known {
            run: run_id(),
            name: "calm-heron".into(),
            plan: "p".into(),
            case: "c".into(),
            submitted_ms: 0,
            is_over: true,
            source: SourceInfo::default(),
            labels: BTreeMap::new(),
            terms: BTreeMap::new(),
            distrust: Vec::new(),
        };
        Measured { known, file: Some(file) }
    }

    #[test]
    fn kpis_with_a_good_direction_come_first_and_names_can_be_chosen() {
        let run = measured(&[1.0, 2.0], &[3.0]);
        let names = |names: Option<&Regex>, stats: &[Stat]| -> Vec<String> {
            let kpis = Wanted { names, stats }.kpis(std::iter::once(&run));
            kpis.into_iter().map(|kpi| kpi.name).collect()
        };
        assert_eq!(names(None, &[Stat::P50]), ["time.p50", "hops.p50"]);
        let chosen = Regex::new("^time.*(p50|max)").expect("a regular expression");
        assert_eq!(
            names(Some(&chosen), &[Stat::Max, Stat::P50, Stat::Min]),
            ["time.max", "time.p50"]
        );
    }

    #[test]
    fn a_run_has_one_number_of_each_kpi_and_so_has_a_group() {
        let run = measured(&[1.0, 2.0], &[3.0]);
        let stats = [Stat::P50, Stat::Count];
        let kpis = Wanted { names: None, stats: &stats }.kpis(std::iter::once(&run));
        let whole = run.compared(&kpis, &stats);
        assert_eq!((whole.values["time.p50"], whole.values["time.count"]), (2.0, 3.0));
        let group = run.compared_group("a", &kpis, &stats);
        assert_eq!((group.values["time.p50"], group.values["time.count"]), (1.0, 2.0));
        assert!(!group.values.contains_key("hops.p50"));
        assert_eq!(run.groups(), ["a", "b"]);
        assert_eq!(run.value("time", Stat::Max), Some(3.0));
    }

    #[test]
    fn a_run_without_kpis_is_not_trusted_and_another_unit_is_another_number() {
        let run = measured(&[1.0], &[2.0]);
        let kpis = vec![ComparedKpi { name: "time.p50".into(), unit: "B".into(), better: None }];
        assert!(run.compared(&kpis, &[Stat::P50]).values.is_empty());
        let nothing = Measured { file: None, ..run };
        assert_eq!(nothing.compared(&kpis, &[Stat::P50]).distrust, ["no KPIs of it are stored"]);
    }

    #[test]
    fn what_runs_do_not_share_is_told() {
        let run = |value: &str| {
            let mut known = measured(&[1.0], &[]).known;
            known.terms.insert("size of all".to_owned(), value.to_owned());
            known
        };
        let (one, two) = (run("1"), run("2"));
        assert!(differing_terms([&one, &one].into_iter()).is_empty());
        let told = differing_terms([&two, &one, &two].into_iter());
        assert_eq!(told, ["the runs differ in size of all: 1, 2"]);
        let bare = Known { terms: BTreeMap::new(), ..one.clone() };
        assert_eq!(
            differing_terms([&bare, &one].into_iter()),
            ["the runs differ in size of all: nothing, 1"]
        );
    }
}
