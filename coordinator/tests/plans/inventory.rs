//! What the plans measure at the largest scale that a development machine bears: each composition with several seeds,
//! and once more on several workers. It takes an hour or more and prints the tables of `docs/test-inventory.md`.
//!
//! A composition that has its table in `target/tmp/inventory` is not run again; remove the file to measure it anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Home, PLANS, cases, plans};

/// The seeds of the runs on one worker, and how many workers run the first of them once more.
const SEEDS: [u64; 3] = [42, 43, 44];
const WORKERS: &str = "4";
/// What a run ends with that may be counted: passed, an expectation broken, too busy for a verdict.
const MEASURED: [i32; 3] = [0, 11, 13];
/// Statistics of a KPI that are shown.
const SHOWN: [&str; 3] = ["mean", "p50", "p95"];

#[test]
#[ignore = "takes hours: make inventory"]
fn the_plans_are_measured() {
    let only = std::env::var("ONLY").unwrap_or_default();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inventory");
    std::fs::create_dir_all(&directory).expect("made");
    let (mut failed, mut tables) = (Vec::new(), String::new());
    for (plan, composition) in compositions()
        .iter()
        .filter(|(plan, composition)| format!("{plan}/{composition}").contains(&only))
    {
        let kept = directory.join(format!("{plan}-{composition}.md"));
        if !kept.is_file() {
            match measure(plan, composition) {
                Ok(table) => std::fs::write(&kept, table).expect("written"),
                Err(said) => failed.push(said),
            }
        }
        tables += &std::fs::read_to_string(&kept).unwrap_or_default();
    }
    println!("{tables}");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Every composition that is made for a development machine.
fn compositions() -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for plan in PLANS.into_iter().chain(["interop"]) {
        let files = std::fs::read_dir(plans().join(plan).join("_compositions")).expect("there");
        let names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| name.starts_with("machine")).map(|name| (plan, name)));
    }
    found.sort();
    found
}

/// One run, as far as it is shown.
struct Run {
    /// Passed, failed, inconclusive.
    verdict: String,
    /// From the first instance's start to the end, in seconds.
    took_s: f64,
    instances: u64,
    case: String,
    /// KPIs that the manifest declares: unit, and their statistics.
    kpis: BTreeMap<String, (String, BTreeMap<String, f64>)>,
    /// The share of the processors that was busy.
    busy: String,
}

fn measure(plan: &str, composition: &str) -> Result<String, String> {
    let home = Home::new();
    let file = plans().join(plan).join("_compositions").join(composition);
    let alone =
        SEEDS.iter().map(|seed| run(&home, &file, *seed, "1")).collect::<Result<Vec<_>, _>>()?;
    let spread = run(&home, &file, SEEDS[0], WORKERS)?;
    Ok(table(plan, composition, &alone, &spread))
}

fn run(home: &Home, file: &Path, seed: u64, workers: &str) -> Result<Run, String> {
    let (set, seed) = (format!("SEED={seed}"), seed.to_string());
    let options = ["--seed", &seed, "--set", &set, "--workers", workers];
    let (code, said) = home.submit(file, &options);
    if !code.is_some_and(|code| MEASURED.contains(&code)) {
        return Err(format!("{} with seed {seed}: {code:?}\n{said}", file.display()));
    }
    let told: Value = serde_json::from_str(&home.status()).expect("JSON");
    let told = &told[0];
    let ms = |key: &str| told[key].as_f64().unwrap_or(f64::NAN);
    let gates = told["judgement"]["gates"].as_array().into_iter().flatten();
    let busy =
        gates.filter(|gate| gate["name"] == "host_busy").find_map(|gate| gate["got"].as_str());
    let groups = told["groups"].as_array().into_iter().flatten();
    Ok(Run {
        verdict: text(&told["verdict"]),
        took_s: (ms("finished_ms") - ms("started_ms")) / 1000.0,
        instances: groups.filter_map(|group| group[1]["want"].as_u64()).sum(),
        case: text(&told["case"]),
        kpis: told["judgement"]["kpis"].as_array().into_iter().flatten().filter_map(kpi).collect(),
        busy: busy.unwrap_or("–").to_owned(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The name of a KPI, its unit and its statistics.
type Kpi = (String, (String, BTreeMap<String, f64>));

/// A KPI with a direction, which is what a manifest's have and the SDK's own do not.
fn kpi(told: &Value) -> Option<Kpi> {
    told["better"].as_str()?;
    let stats = told["stats"].as_object()?.iter();
    let stats = stats.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect();
    Some((text(&told["name"]), (text(&told["unit"]), stats)))
}

fn table(plan: &str, composition: &str, alone: &[Run], spread: &Run) -> String {
    let (first, name) = (&alone[0], composition.trim_end_matches(".toml"));
    let each =
        |show: &dyn Fn(&Run) -> String| alone.iter().map(show).collect::<Vec<_>>().join(", ");
    let mut lines = format!(
        "### {plan}, `{name}`: case `{}`, {} instances\n\n\
         Three runs on one worker: {} after {} s, host busy {}. On {WORKERS} workers: {} after {:.0} s.\n\n\
         | KPI | {} | on {WORKERS} workers |\n|---|---|---|---|---|\n",
        first.case,
        first.instances,
        each(&|run| run.verdict.clone()),
        each(&|run| format!("{:.0}", run.took_s)),
        each(&|run| run.busy.clone()),
        spread.verdict,
        spread.took_s,
        SHOWN.join(" | "),
    );
    for (kpi, (unit, _)) in &first.kpis {
        let cell = |stat: &&str| {
            let values: Vec<f64> = alone.iter().filter_map(|run| value(run, kpi, stat)).collect();
            range(&values)
        };
        let cells: Vec<String> = SHOWN.iter().map(cell).collect();
        let there = value(spread, kpi, "mean").map_or_else(|| "–".to_owned(), number);
        let unit = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
        lines += &format!("| {kpi}{unit} | {} | {there} |\n", cells.join(" | "));
    }
    lines + "\n"
}

fn value(run: &Run, kpi: &str, stat: &str) -> Option<f64> {
    run.kpis.get(kpi)?.1.get(stat).copied()
}

/// The middle of some values, and the least and the greatest where they differ.
fn range(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
        return "–".to_owned();
    };
    let middle = number(sorted[sorted.len() / 2]);
    match (number(*least), number(*most)) {
        (least, most) if least == most => middle,
        (least, most) => format!("{middle} ({least} to {most})"),
    }
}

/// Three digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        size if size >= 0.01 => 4,
        _ => 5,
    };
    let shown = format!("{value:.digits$}");
    if shown.contains('.') {
        return shown.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    shown
}

#[test]
fn every_case_is_in_the_inventory() {
    let file = plans().parent().expect("the repository").join("docs/test-inventory.md");
    let inventory = std::fs::read_to_string(&file).expect("an inventory");
    let missing: Vec<String> = manifests()
        .iter()
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).expect("a manifest");
            let manifest: toml::Table = text.parse().expect("TOML");
            let plan = manifest["name"].as_str().expect("a name").to_owned();
            cases(path).into_iter().map(move |case| format!("| {plan} | `{case}` |"))
        })
        .filter(|row| !inventory.contains(row))
        .collect();
    assert!(missing.is_empty(), "{} has no rows\n{}", file.display(), missing.join("\n"));
}

/// The manifests of all plans.
fn manifests() -> Vec<PathBuf> {
    let directories = std::fs::read_dir(plans()).expect("there are plans").flatten();
    directories
        .map(|entry| entry.path().join("manifest.toml"))
        .filter(|path| path.is_file())
        .collect()
}
