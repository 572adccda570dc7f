//! `plan check`: whether a plan has an implementation of every case of its manifest.
//!
//! A plan made with Groundswell's SDK lists its cases as JSON when it is started with `--list-cases`. Whether others
//! have what their manifest names cannot be known without running them, and the command says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::exit::Exit;
use super::inputs::read_manifest;
use super::out::Paint;
use super::{Done, Session, Trouble};

/// How long a plan may take to list its cases. One that does not know the flag may wait for a run.
const LISTING: Duration = Duration::from_secs(10);

pub(crate) async fn run(session: &Session, dir: &Path) -> Done {
    let (_, manifest) = read_manifest(dir)?;
    let declared: BTreeSet<&str> = manifest.cases.iter().map(String::as_str).collect();
    let Some(listed) = implemented(dir).await? else {
        return Ok(unknown(session, &manifest.name));
    };
    let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    let missing: Vec<&str> = declared.difference(&listed).copied().collect();
    let undeclared: Vec<&str> = listed.difference(&declared).copied().collect();
    if session.out.json {
        session.out.json(&json!({
            "v": 1, "plan": manifest.name, "known": true, "cases": listed,
            "missing": missing, "undeclared": undeclared,
        }));
    }
    for case in &undeclared {
        session.out.warning(format_args!("case `{case}` is implemented and not in the manifest"));
    }
    if missing.is_empty() {
        let mark = session.out.paint(Paint::Good, "✔");
        let (name, count) = (&manifest.name, declared.len());
        session.out.say(format_args!("{mark} {name}: every case of {count} is implemented"));
        return Ok(Exit::Passed);
    }
    Err(Trouble::new(
        Exit::Invalid,
        format!("plan `{}` does not implement {}", manifest.name, named(&missing)),
        format!(
            "it implements {}; remove the others from manifest.toml or write them",
            named(&listed.iter().copied().collect::<Vec<_>>())
        ),
    ))
}

fn named(cases: &[&str]) -> String {
    cases.iter().map(|case| format!("`{case}`")).collect::<Vec<_>>().join(", ")
}

fn unknown(session: &Session, plan: &str) -> Exit {
    if session.out.json {
        session.out.json(&json!({ "v": 1, "plan": plan, "known": false }));
    }
    session.out.note(format_args!(
        "{plan}: whether every case is implemented cannot be known, the plan does not answer `--list-cases`"
    ));
    Exit::Passed
}

/// The cases a plan says it implements; none when it does not say.
async fn implemented(dir: &Path) -> Result<Option<Vec<String>>, Trouble> {
    // Another kind of plan would begin to run, or not even know that it was asked.
    if !dir.join("Cargo.toml").is_file() {
        return Ok(None);
    }
    for binary in build(dir).await? {
        if let Some(cases) = list(&binary).await {
            return Ok(Some(cases));
        }
    }
    Ok(None)
}

/// Builds a Cargo plan where it is and returns its binaries.
async fn build(dir: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let failed = |what: String| Trouble::new(Exit::Invalid, what, "");
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--message-format=json-render-diagnostics"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|err| failed(format!("failed to run `cargo`: {err}")))?;
    if !built.status.success() {
        return Err(failed(format!(
            "`{}` does not build: cargo ended with {}",
            dir.display(),
            built.status
        )));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let binary = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    };
    Ok(messages.lines().filter_map(binary).collect())
}

/// Asks a plan for its cases; none when it does not answer with a list.
async fn list(binary: &Path) -> Option<Vec<String>> {
    let asked = Command::new(binary)
        .arg("--list-cases")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answered = timeout(LISTING, asked).await.ok()?.ok()?;
    serde_json::from_slice(&answered.stdout).ok().filter(|_| answered.status.success())
}
