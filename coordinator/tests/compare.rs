//! `compare`, `baseline` and `trend` as people meet them: real processes on records of runs that the test wrote.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

/// An object store with runs of the past.
struct Past {
    dir: tempfile::TempDir,
    runs: usize,
}

/// A run of the past.
#[derive(Clone, Copy)]
struct Run<'a> {
    branch: &'a str,
    commit: &'a str,
    case: &'a str,
    verdict: &'a str,
    /// What the busiest host was, if that broke its gate.
    busy: Option<&'a str>,
    label: Option<(&'a str, &'a str)>,
    size: &'a str,
    /// `delivery` in seconds and `bytes`, of two groups.
    seeders: [f64; 2],
    leechers: [f64; 2],
}

const MAIN: Run<'_> = Run {
    branch: "main",
    commit: "aaa111",
    case: "spread",
    verdict: "passed",
    busy: None,
    label: None,
    size: "1",
    seeders: [0.3, 20_000.0],
    leechers: [0.4, 20_000.0],
};

/// What a command left behind.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// The id of the run of a number.
fn id(number: usize) -> String {
    format!("c8k3vmlrirtj2p8l{number:03}0")
}

impl Past {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), runs: 0 }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Writes the record of a run and what it has measured; gives its id.
    fn add(&mut self, run: Run<'_>) -> String {
        let id = id(self.runs);
        self.runs += 1;
        let gates: Vec<Value> = run
            .busy
            .iter()
            .map(|busy| json!({"name": "host_busy", "wanted": "<= 0.85", "got": busy, "state": "broken"}))
            .collect();
        let labels: Value =
            run.label.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let record = json!({
            "v": 1,
            "status": {
                "run": id, "name": format!("run-{:02}", self.runs - 1), "revision": 9, "plan": "gossip",
                "case": run.case, "phase": "cleaned", "doing": "",
                "submitted_ms": 1_700_000_000_000_u64 + self.runs as u64 * 86_400_000,
                "groups": [], "workers": [], "verdict": run.verdict, "judgement": {"gates": gates},
            },
            "attempt": 1, "version": "0.1.0", "composition": "", "run_in_composition": "default",
            "runtime": "netns", "seed": 1, "subnet": "16.0.0.0/16", "options": {},
            "groups": [{"id": "all", "instances": 4, "image": {"kind": "bundle", "digest": "x", "size": 1}, "params": {"size": run.size}}],
            "limits": {
                "prepare": {"secs": 1, "nanos": 0}, "run": {"secs": 1, "nanos": 0},
                "stop_grace": {"secs": 1, "nanos": 0}, "outcome_grace": {"secs": 1, "nanos": 0},
            },
            "placement": [], "source": {"repo": "r", "branch": run.branch, "commit": run.commit, "dirty": false},
            "labels": labels, "versions": {}, "ends": [], "indexes": [],
        });
        self.put(&format!("runs/{id}/record.json"), &record);
        self.put(&format!("runs/{id}/kpis.json"), &kpis(&id, run));
        id
    }

    fn put(&self, key: &str, value: &Value) {
        let file = self.store().join(key);
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("made");
        std::fs::write(file, value.to_string()).expect("written");
    }

    /// Runs of a branch whose `delivery` is about this many seconds and whose `bytes` never change.
    fn branch(&mut self, branch: &str, commit: &str, deliveries: &[f64]) -> Vec<String> {
        let run = |delivery: &f64| Run {
            branch,
            commit,
            seeders: [delivery - 0.05, 20_000.0],
            leechers: [delivery + 0.05, 20_000.0],
            ..MAIN
        };
        deliveries.iter().map(|delivery| self.add(run(delivery))).collect()
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        // A run's name comes from its id; these are numbered to be told apart in what is printed.
        let named = |argument: &&str| {
            (0..self.runs).fold((*argument).to_owned(), |text, number| {
                text.replace(&format!("run-{number:02}"), &id(number))
            })
        };
        let output = Command::new(env!("CARGO_BIN_EXE_coordinator"))
            .args(arguments.iter().map(named))
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("USER", "tester")
            .env("GROUNDSWELL_HOME", self.dir.path().join("home"))
            .env("GROUNDSWELL_OBJECTS", format!("file://{}", self.store().display()))
            .output()
            .expect("started");
        Ran {
            code: output.status.code().expect("not killed"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// What a command that works prints.
    fn prints(&self, code: i32, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// What a command that fails says.
    fn refuses(&self, code: i32, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{arguments:?}: {}", ran.stderr);
        ran.stderr
    }
}

/// What a run has measured: a KPI for which less is better, and one without a good direction.
fn kpis(id: &str, run: Run<'_>) -> Value {
    let stats = |values: &[f64]| {
        let (least, most) = (
            values.iter().copied().fold(f64::MAX, f64::min),
            values.iter().copied().fold(0.0, f64::max),
        );
        json!({"min": least, "max": most, "p50": values.iter().sum::<f64>() / values.len() as f64})
    };
    let series = |name: &str, unit: &str, group: &str, value: f64| {
        json!({
            "key": {"name": name, "group": group, "unit": unit}, "count": 1, "stats": stats(&[value]),
            "values": {"values": [value]},
        })
    };
    let row = |name: &str, unit: &str, at: usize, better: Option<&str>| {
        let stats = stats(&[run.seeders[at], run.leechers[at]]);
        json!({"name": name, "unit": unit, "better": better, "count": 2, "stats": stats})
    };
    json!({
        "v": 1, "run": id, "hosts": [], "judgement": null,
        "kpis": [row("bytes", "B", 1, None), row("delivery", "s", 0, Some("lower"))],
        "series": [
            series("bytes", "B", "seeders", run.seeders[1]), series("bytes", "B", "leechers", run.leechers[1]),
            series("delivery", "s", "seeders", run.seeders[0]), series("delivery", "s", "leechers", run.leechers[0]),
        ],
    })
}

const BEFORE: [f64; 5] = [0.371, 0.365, 0.380, 0.374, 0.360];
const SLOWER: [f64; 5] = [0.412, 0.420, 0.405, 0.415, 0.409];

/// Five runs of `main` and five slower ones of `dev`.
fn regressed() -> Past {
    let mut past = Past::new();
    past.branch("main", "aaa111", &BEFORE);
    past.branch("dev", "bbb222", &SLOWER);
    past
}

#[test]
fn a_regression_is_told_in_words_and_by_the_exit_code() {
    let past = regressed();
    let ran = past.run(&["compare", "branch:main", "branch:dev"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (12, ""));
    insta::assert_snapshot!("regression", ran.stdout);
    // The same from the other side is none.
    let better = past.prints(0, &["compare", "branch:dev", "branch:main"]);
    assert!(better.contains("improvement"), "{better}");
    // Whoever does not want to fail does not.
    past.prints(0, &["compare", "branch:main", "branch:dev", "--fail-on", "none"]);
}

#[test]
fn a_comparison_is_a_comment_a_page_test_results_and_json() {
    let past = regressed();
    let of = |more: &[&str]| {
        past.prints(12, &[&["compare", "branch:main", "branch:dev"], more].concat())
    };
    insta::assert_snapshot!("markdown", of(&["-o", "md"]));
    insta::assert_snapshot!("junit", of(&["-o", "junit"]));
    let json: Value = serde_json::from_str(&of(&["--json"])).expect("JSON");
    let report = &json["comparisons"][0];
    let row = &report["comparison"]["rows"][0];
    assert_eq!(
        (&json["v"], &row["kpi"], &row["finding"]),
        (&json!(1), &json!("delivery.p50"), &json!("regression"))
    );
    assert_eq!(report["comparison"]["design"], json!({"method": "mann_whitney", "a": 5, "b": 5}));
    assert_eq!(report["quantiles"]["delivery"].as_array().map(Vec::len), Some(9));
    // The page needs nothing from elsewhere, and a file is no colour and nothing on stdout.
    assert_eq!(of(&["-o", "html", "--out", "page.html", "--color", "always"]), "");
    let page = std::fs::read_to_string(past.dir.path().join("page.html")).expect("written");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg") && !page.contains("http"));
    assert!(page.contains("REGRESSION") && !page.contains('\u{1b}'));
}

#[test]
fn sides_are_runs_lists_baselines_branches_commits_and_labels() {
    let mut past = Past::new();
    let before = past.branch("main", "aaa111", &BEFORE);
    for delivery in SLOWER {
        past.add(Run {
            branch: "dev",
            commit: "bbb222",
            label: Some(("pr", "812")),
            seeders: [delivery, 1.0],
            leechers: [delivery, 1.0],
            ..MAIN
        });
    }
    past.add(Run { case: "another", ..MAIN });
    past.prints(0, &["baseline", "set", "main", "branch:main", "--case", "spread"]);
    let listed = before.join(",");
    for a in [
        "@main",
        "commit:aaa",
        "branch:main",
        listed.as_str(),
        "run-00,run-01,run-02,run-03,run-04",
    ] {
        for b in ["branch:dev", "commit:bbb2", "label:pr=812"] {
            let text =
                past.prints(12, &["compare", a, b, "--case", "spread", "--kpi", "^delivery"]);
            assert!(text.contains("(5 runs)") && text.contains("REGRESSION"), "{a} {b}: {text}");
        }
    }
    // What is named says which case the others are of.
    past.prints(12, &["compare", "@main", "branch:dev"]);
    let said = past.refuses(4, &["compare", "@gone", "branch:dev"]);
    assert!(said.contains("there is no baseline `gone`; there are: main"), "{said}");
    let said = past.refuses(4, &["compare", "@main", "branch:nowhere"]);
    assert!(said.contains("`branch:nowhere` means no run that is over"), "{said}");
    let said = past.refuses(2, &["compare", "run-00", "run-10"]);
    assert!(
        said.contains("runs of different cases cannot be compared: gossip/another, gossip/spread"),
        "{said}"
    );
    let said = past.refuses(2, &["compare", "run-00,run-01", "run-01"]);
    assert!(said.contains("run-01 is there twice"), "{said}");
    let said = past.refuses(2, &["compare", "run-00", "tag:v1"]);
    assert!(said.contains("there is no kind of side `tag:`"), "{said}");
}

#[test]
fn the_newest_runs_are_meant_and_each_is_on_one_side() {
    let mut past = Past::new();
    past.branch("main", "aaa111", &[0.9; 4]);
    past.branch("main", "bbb222", &BEFORE);
    past.branch("main", "ccc333", &SLOWER);
    // The runs of the newest commit are on the second side, so they are not among those of the branch.
    let text = past.prints(12, &["compare", "branch:main", "commit:ccc", "--last", "5"]);
    assert!(text.contains("A = branch:main (5 runs)  B = commit:ccc (5 runs)"), "{text}");
    assert!(text.contains("371 ms") && !text.contains("900 ms"), "{text}");
}

#[test]
fn runs_that_cannot_be_trusted_are_left_out_and_named() {
    let mut past = regressed();
    past.add(Run { branch: "dev", busy: Some("0.99"), seeders: [9.0, 1.0], ..MAIN });
    past.add(Run { branch: "dev", verdict: "infra", seeders: [9.0, 1.0], ..MAIN });
    let text = past.prints(12, &["compare", "branch:main", "branch:dev", "--kpi", "delivery"]);
    insta::assert_snapshot!("left_out", text);
}

#[test]
fn what_cannot_be_told_is_refused_with_what_would_help() {
    let mut past = Past::new();
    past.branch("main", "aaa111", &BEFORE[..2]);
    past.branch("dev", "bbb222", &SLOWER[..2]);
    let arguments = ["compare", "branch:main", "branch:dev", "--kpi", "delivery"];
    let ran = past.run(&arguments);
    assert_eq!(ran.code, 0);
    assert!(
        ran.stderr.contains("this comparison can tell nothing: 2 v 2 runs cannot tell"),
        "{}",
        ran.stderr
    );
    insta::assert_snapshot!("refused", ran.stdout);
    let strict = [&arguments[..], &["--fail-on", "regression,inconclusive"]].concat();
    assert_eq!(past.run(&strict).code, 13);
}

#[test]
fn one_run_is_compared_with_a_baseline_of_nine() {
    let mut past = Past::new();
    past.branch("main", "aaa111", &[0.371, 0.365, 0.380, 0.374, 0.360, 0.377, 0.369, 0.372, 0.371]);
    past.branch("dev", "bbb222", &[0.412, 0.375]);
    past.prints(0, &["baseline", "set", "main", "branch:main"]);
    let text = past.prints(12, &["compare", "@main", "run-09", "--kpi", "delivery"]);
    insta::assert_snapshot!("one_run", text);
    let text = past.prints(0, &["compare", "@main", "run-10", "--kpi", "delivery"]);
    assert!(text.contains("inside") && text.contains("found     1 same"), "{text}");
    // Several sides are compared one after the other.
    let both = past.prints(12, &["compare", "@main", "run-09", "run-10", "--kpi", "delivery"]);
    assert_eq!(both.matches("A = @main (9 runs)").count(), 2, "{both}");
}

#[test]
fn pairs_and_other_rules_can_be_asked_for() {
    let mut past = Past::new();
    let days = [0.30, 0.55, 0.35, 0.80, 0.45, 0.60, 0.40];
    for day in days {
        past.branch("main", "aaa111", &[day]);
        past.branch("dev", "bbb222", &[day * 1.05]);
    }
    let arguments = ["compare", "branch:main", "branch:dev", "--kpi", "delivery"];
    let with = |code, more: &[&str]| past.prints(code, &[&arguments[..], more].concat());
    let (unpaired, paired) = (with(0, &[]), with(12, &["--paired"]));
    assert!(unpaired.contains("exact Mann-Whitney test of 7 v 7 runs"), "{unpaired}");
    assert!(paired.contains("exact Wilcoxon test of 7 pairs of runs"), "{paired}");
    let lenient = with(0, &["--paired", "--min-effect", "20%"]);
    assert!(lenient.contains("it changed, by less than what is said to matter"), "{lenient}");
    let other = with(12, &["--paired", "--stat", "min,max", "--correct", "none", "--alpha", "0.1"]);
    assert!(
        other.contains("delivery.min") && other.contains("delivery.max") && !other.contains("p50"),
        "{other}"
    );
    assert!(
        past.refuses(2, &["compare", "branch:main", "branch:dev", "--kpi", "["]).contains("--kpi")
    );
    assert!(
        past.refuses(4, &["compare", "branch:main", "branch:dev", "--kpi", "nope"])
            .contains("no such KPIs")
    );
}

#[test]
fn groups_of_one_run_are_described_and_of_six_compared() {
    let mut past = Past::new();
    past.branch("main", "aaa111", &[0.371, 0.365, 0.380, 0.374, 0.360, 0.377]);
    let of = |code, side: &str, more: &[&str]| {
        past.prints(
            code,
            &[&["compare", side, "--by", "group", "--groups", "seeders,leechers"], more].concat(),
        )
    };
    insta::assert_snapshot!("groups", of(0, "run-00", &[]));
    let six = of(12, "branch:main", &["--kpi", "delivery"]);
    assert!(six.contains("exact Wilcoxon test of 6 pairs of runs"), "{six}");
}

#[test]
fn what_differs_besides_the_software_is_told() {
    let mut past = regressed();
    let slower = Run { seeders: [0.36, 20_000.0], leechers: [0.46, 20_000.0], ..MAIN };
    past.add(Run { branch: "dev", size: "2", ..slower });
    let text = past.prints(12, &["compare", "branch:main", "branch:dev", "--kpi", "delivery"]);
    assert!(text.contains("note      the runs differ in size of all: 1, 2"), "{text}");
}

#[test]
fn a_baseline_is_set_shown_listed_and_removed() {
    let mut past = regressed();
    let ran = past.run(&["baseline", "set", "main", "run-00", "run-01"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "@main is 2 runs of gossip/spread\n"));
    let shown = past.prints(0, &["baseline", "show", "main"]);
    assert!(
        shown.contains("run-00") && shown.contains("run-01") && !shown.contains("run-02"),
        "{shown}"
    );
    assert_eq!(past.prints(0, &["baseline", "ls", "-o", "name"]), "main\n");
    let json: Value =
        serde_json::from_str(&past.prints(0, &["baseline", "ls", "--json"])).expect("JSON");
    assert_eq!(
        (&json[0]["runs"][1], &json[0]["user"]),
        (&json!("c8k3vmlrirtj2p8l0010"), &json!("tester"))
    );
    // One that cannot be trusted is refused, unless somebody insists; then it counts.
    past.add(Run { busy: Some("0.99"), ..MAIN });
    let said = past.refuses(13, &["baseline", "set", "main", "run-00,run-10"]);
    assert!(said.contains("run-10: host_busy was to be <= 0.85 and was 0.99"), "{said}");
    let forced = past.run(&["baseline", "set", "main", "run-00,run-10", "--force"]);
    assert!(forced.code == 0 && forced.stderr.contains("forced: run-10"), "{}", forced.stderr);
    let text = past.prints(0, &["compare", "@main", "run-01"]);
    assert!(text.contains("A = @main (2 runs)"), "{text}");
    past.prints(0, &["baseline", "rm", "main"]);
    assert!(past.refuses(4, &["baseline", "show", "main"]).contains("there is no baseline `main`"));
    assert!(
        past.refuses(2, &["baseline", "set", "a/b", "run-00"]).contains("cannot name a baseline")
    );
}

#[test]
fn a_trend_has_the_runs_of_a_branch_and_where_it_changed() {
    let mut past = Past::new();
    let wave = |at: usize| [0.0, 0.004, -0.003, 0.002, -0.004][at % 5];
    let before: Vec<f64> = (0..13).map(|at| 0.37 + wave(at)).collect();
    let after: Vec<f64> = (0..9).map(|at| 0.41 + wave(at)).collect();
    past.branch("main", "aaa111", &before);
    past.branch("dev", "ddd444", &[0.9]);
    past.add(Run { busy: Some("0.99"), ..MAIN });
    past.branch("main", "bbb222", &after);
    let arguments =
        ["trend", "delivery", "--branch", "main", "--plan", "gossip", "--case", "spread"];
    let ran = past.run(&[&arguments[..], &["--changepoints"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("1 of 23 runs are left out"), "{}", ran.stderr);
    insta::assert_snapshot!("trend", ran.stdout);
    let json: Value = serde_json::from_str(
        &past.prints(0, &[&arguments[..], &["--changepoints", "--json"]].concat()),
    )
    .expect("JSON");
    let changes: Vec<usize> = json
        .as_array()
        .expect("a list")
        .iter()
        .enumerate()
        .filter(|(_, point)| !point["change"].is_null())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(changes, [13]);
    // Few runs are listed, and no changes looked for.
    let few = past.run(&[&arguments[..], &["--changepoints", "-n", "10"]].concat());
    assert!(
        few.code == 0 && few.stderr.contains("changes are looked for in 20 runs or more"),
        "{}",
        few.stderr
    );
    let said = past.refuses(4, &["trend", "nope", "--branch", "main"]);
    assert!(
        said.contains("has the KPI `nope`") && said.contains("they have bytes, delivery"),
        "{said}"
    );
}
