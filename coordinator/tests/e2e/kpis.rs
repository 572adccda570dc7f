//! What instances measure, and what is expected of it, decides how a run ends.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Home, Ran};

/// A plan in a shell that writes what it is told to write, and the composition that runs it.
pub(crate) struct Measuring {
    /// What each instance does before it says that it succeeded.
    pub(crate) script: &'static str,
    /// KPIs, expectations and gates of its one case.
    pub(crate) case: &'static str,
    /// More TOML for `[global]`.
    pub(crate) global: &'static str,
}

const POINT: &str = r#"
point() { printf '{"ts":1,"type":"point","name":"%s","measures":{"value":%s},"unit":"%s"}\n' "$1" "$2" "$3" >> "$TEST_OUTPUTS_PATH/${4:-results}.out"; }
"#;

pub(crate) const DECLARED: &str = r#"
[[testcases.kpis]]
name = "time_to_find"
unit = "s"
better = "lower"
[[testcases.expect]]
name = "fast"
kpi = "time_to_find"
stat = "max"
op = "<"
value = "$timeout"
"#;

/// Only what the plan itself measures: how busy the machine is that runs these tests is another matter.
const GATES: &str = "[testcases.validity]\nhost_busy = false\nclock_step_s = false\noom_kills = false\nfidelity = false\n";

impl Measuring {
    pub(crate) fn submit(&self, home: &Home, instances: u32, flags: &[&str]) -> Ran {
        let manifest = format!(
            "name = \"measuring\"\n[builders.\"exec:command\"]\nentrypoint = [\"sh\", \"run.sh\"]\n\
             [runners.\"netns\"]\noutcome_from = \"stdout\"\n[[testcases]]\nname = \"measure\"\n\
             instances = {{ min = 1, max = 100 }}\n[testcases.params]\ntimeout = {{ default = \"2s\" }}\n{}\n",
            self.case
        );
        let script = format!(
            "set -eu\n{POINT}\n{}\necho '{{\"event\":{{\"success_event\":{{}}}}}}'\n",
            self.script
        );
        home.write("measuring/manifest.toml", &manifest);
        home.write("measuring/run.sh", &script);
        let file = home.write(
            "composition.toml",
            &format!(
                "[global]\nplan = \"measuring\"\ncase = \"measure\"\nrunner = \"netns\"\nbuilder = \"exec:command\"\n\
                 {}\n[[groups]]\nid = \"all\"\ninstances = {{ count = {instances} }}\n",
                self.global
            ),
        );
        let mut arguments = vec!["submit", file.as_str(), "--timeout", "60s"];
        arguments.extend(flags);
        home.run(&arguments)
    }
}

fn kpis(home: &Home) -> Value {
    let ran = home.run(&["kpis", "latest", "--json"]).ends_with(0);
    serde_json::from_str(&ran.stdout).expect("JSON")
}

#[test]
fn a_kept_expectation_passes_and_its_kpi_is_in_the_summary() {
    let home = Home::new();
    let plan = Measuring { script: "point time_to_find 1500 ms", case: DECLARED, global: "" };
    plan.submit(&home, 2, &[])
        .passes(2)
        .says("kpis       time_to_find  mean 1.5 s  p50 1.5 s  p95 1.5 s  max 1.5 s  (2 values)")
        .says("✔ fast  max of time_to_find < 2 s, got 1.5 s");
    let file = kpis(&home);
    assert_eq!(file["kpis"][0]["count"], 2);
    assert_eq!(file["series"][0]["key"]["group"], "all");
    assert_eq!(home.status()["judgement"]["expectations"][0]["state"], "kept");
    let table = home.run(&["kpis"]).ends_with(0).stdout;
    assert!(table.contains("time_to_find"), "{table}");
}

#[test]
fn a_broken_expectation_fails_a_run_of_which_every_instance_succeeded() {
    let home = Home::new();
    let plan = Measuring { script: "point time_to_find 2.5 s", case: DECLARED, global: "" };
    plan.submit(&home, 2, &[])
        .ends_with(11)
        .says("2 = 2 success")
        .says("expectation `fast`: max of time_to_find was to be < 2 s, and is 2.5 s");
    assert_eq!(home.status()["verdict"], "failed");
    home.run(&["wait", "latest"]).ends_with(11);
}

#[test]
fn a_kpi_that_nobody_reports_breaks_what_is_expected_of_it() {
    let home = Home::new();
    let plan = Measuring { script: "point time_to_fnid 1 s", case: DECLARED, global: "" };
    plan.submit(&home, 1, &[]).ends_with(11).says("no instance reported it");
    let off = Measuring {
        global: "[[global.expect]]\nname = \"fast\"\noff = \"nothing is looked for here\"\n",
        ..plan
    };
    off.submit(&home, 1, &[]).passes(1).says("– fast  is off: nothing is looked for here");
}

#[test]
fn failed_instances_win_over_broken_expectations_and_both_are_told() {
    let home = Home::new();
    let script =
        "point time_to_find 2.5 s\necho '{\"event\":{\"failure_event\":{\"error\":\"lost\"}}}'";
    let ran = Measuring { script, case: DECLARED, global: "" }
        .submit(&home, 1, &["--json"])
        .ends_with(10);
    let result = ran.stdout.lines().last().expect("a result");
    let result: Value = serde_json::from_str(result).expect("JSON");
    assert_eq!(result["codes"], serde_json::json!([10, 11]));
    assert_eq!(result["status"]["judgement"]["expectations"][0]["state"], "broken");
}

#[test]
fn an_overloaded_rig_cannot_fail_a_run_and_a_pass_is_doubted() {
    let home = Home::new();
    let case: &'static str = Box::leak(format!("{DECLARED}{GATES}").into_boxed_str());
    let lag = "point time_to_find 2.5 s\npoint loop_lag_s 0.2 s diagnostics";
    Measuring { script: lag, case, global: "" }
        .submit(&home, 1, &[])
        .ends_with(13)
        .says("loop_lag_s was to be <= 50 ms and was 200 ms; otherwise: expectation `fast`");
    assert_eq!(home.status()["verdict"], "inconclusive");
    let passes = "point time_to_find 1 s\npoint loop_lag_s 0.2 s diagnostics";
    let doubted = Measuring { script: passes, case, global: "" };
    doubted.submit(&home, 1, &[]).passes(1).says("the machines were not fit to tell");
    let strict = Measuring { global: "validity = { strict = true }", ..doubted };
    strict.submit(&home, 1, &[]).ends_with(13);
    let wider = Measuring { script: lag, case, global: "validity = { loop_lag_s = 0.3 }" };
    wider.submit(&home, 1, &[]).ends_with(11);
}

#[test]
fn lines_on_stdout_count_when_the_runner_is_told_so_and_bad_lines_are_told() {
    let home = Home::new();
    let script = "echo 'kpi time_to_find=900 ms phase=warm'\necho oops >> \"$TEST_OUTPUTS_PATH/results.out\"";
    let plan =
        Measuring { script, case: DECLARED, global: "run_config = { kpis_from = \"stdout\" }" };
    plan.submit(&home, 2, &[])
        .passes(2)
        .says("2 lines of metrics cannot be read: those of all[0] (not a metric in JSON)");
    assert_eq!(kpis(&home)["series"][0]["key"]["tags"]["phase"], "warm");
    Measuring { global: "", ..plan }.submit(&home, 1, &[]).ends_with(11);
}

/// All values of a KPI among the stored outputs, sorted.
fn raw(home: &Home, name: &str) -> Vec<f64> {
    let archive = home.dir.path().join("raw.tgz");
    let to = archive.display().to_string();
    home.run(&["collect", "latest", "--output", &to]).ends_with(0);
    let mut values = Vec::new();
    let unpacked = flate2::read::GzDecoder::new(std::fs::File::open(&archive).expect("there"));
    let mut tar = tar::Archive::new(unpacked);
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        if !entry.path().expect("a path").ends_with(Path::new("results.out")) {
            continue;
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            if line["name"] == name {
                values.push(line["measures"]["value"].as_f64().expect("a number"));
            }
        }
    }
    values.sort_by(f64::total_cmp);
    values
}

#[test]
fn percentiles_of_a_run_on_two_workers_are_those_of_all_its_values() {
    let home = Home::new();
    let script = "seed=$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')\n\
        awk -v seed=\"$seed\" 'BEGIN { srand(seed); for (i = 0; i < 300; i++) \
        printf \"{\\\"type\\\":\\\"point\\\",\\\"name\\\":\\\"time_to_find\\\",\\\"measures\\\":{\\\"value\\\":%.9f}}\\n\", exp(rand() * 9 - 9) }' \
        > \"$TEST_OUTPUTS_PATH/results.out\"";
    let plan = Measuring { script, case: DECLARED, global: "" };
    plan.submit(&home, 8, &["--workers", "2"]).passes(8);
    assert_eq!(home.status()["workers"].as_array().map(Vec::len), Some(2));
    let values = raw(&home, "time_to_find");
    assert_eq!(values.len(), 8 * 300);
    let row = kpis(&home)["kpis"][0].clone();
    let exact = BTreeMap::from([("p50", 1200), ("p90", 2160), ("p95", 2280), ("p99", 2376)]);
    for (stat, rank) in exact {
        let (got, wanted) = (row["stats"][stat].as_f64().expect("a number"), values[rank - 1]);
        assert!((got - wanted).abs() <= wanted * 0.005, "{stat}: {got} for {wanted}");
    }
    let sum: f64 = values.iter().sum();
    let got = row["stats"]["sum"].as_f64().expect("a number");
    assert!((got - sum).abs() < 1e-6, "{got} for {sum}");
    assert_eq!(row["count"], 2400);
    assert_eq!(row["stats"]["min"].as_f64(), values.first().copied());
    assert_eq!(row["stats"]["max"].as_f64(), values.last().copied());
}

#[test]
fn more_series_than_fit_into_a_message_arrive_all_the_same() {
    let home = Home::new();
    let script = "awk 'BEGIN { for (i = 0; i < 2500; i++) for (j = 0; j < 8; j++) \
        printf \"{\\\"type\\\":\\\"point\\\",\\\"name\\\":\\\"peer-number-%d\\\",\\\"measures\\\":{\\\"value\\\":%d.5}}\\n\", i, j }' \
        > \"$TEST_OUTPUTS_PATH/results.out\"";
    let plan = Measuring { script, case: "", global: "" };
    plan.submit(&home, 1, &[]).passes(1).says("4000 values of KPIs were left out");
    let file = kpis(&home);
    assert_eq!(file["series"].as_array().map(Vec::len), Some(2000));
    assert!(file["series"].as_array().expect("a list").iter().all(|series| series["count"] == 8));
}

#[test]
fn a_composition_that_expects_what_is_not_declared_is_not_valid() {
    let home = Home::new();
    let expect =
        "[[global.expect]]\nkpi = \"time_to_fnid\"\nstat = \"p95\"\nop = \"<\"\nvalue = 1\n";
    Measuring { script: "", case: DECLARED, global: expect }
        .submit(&home, 1, &[])
        .ends_with(3)
        .says("no KPI `time_to_fnid` is declared")
        .says("`time_to_find`?");
}

#[test]
fn a_case_without_an_implementation_is_found_where_that_can_be_known() {
    let home = Home::new();
    home.write(
        "plan/Cargo.toml",
        "[package]\nname = \"lister\"\nedition = \"2024\"\n[workspace]\n",
    );
    home.write(
        "plan/src/main.rs",
        "fn main() { if std::env::args().nth(1).as_deref() == Some(\"--list-cases\") { println!(r#\"[\"a\",\"b\"]\"#); } }",
    );
    let manifest = |cases: &[&str]| {
        let cases: String =
            cases.iter().map(|case| format!("[[testcases]]\nname = \"{case}\"\n")).collect();
        format!("name = \"lister\"\n[builders.\"exec:cargo\"]\n[runners.netns]\n{cases}")
    };
    home.write("plan/manifest.toml", &manifest(&["a", "c"]));
    home.run(&["plan", "check", "plan"])
        .ends_with(3)
        .says("plan `lister` does not implement `c`")
        .says("case `b` is implemented and not in the manifest");
    home.write("plan/manifest.toml", &manifest(&["a", "b"]));
    home.run(&["plan", "check", "plan"]).ends_with(0).says("every case of 2 is implemented");
    home.write("plan/src/main.rs", "fn main() {}");
    home.run(&["plan", "check", "plan"]).ends_with(0).says("cannot be known");
    home.write("shell/manifest.toml", &manifest(&["a"]));
    home.run(&["plan", "check", "shell"]).ends_with(0).says("cannot be known");
}
