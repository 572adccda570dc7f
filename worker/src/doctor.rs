//! Finds out whether this host can be a worker, one line per finding.

use std::fmt::Write as _;

use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::messages::RuntimeKind;
use groundswell_common::objects::Objects;

use crate::config::WorkerConfig;
use crate::network::nat::TreeSpec;
use crate::parts::Parts;
use crate::reap::StateDir;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// What, in one line.
    pub text: String,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Good,
    /// Missing, and only some runs need it.
    Note,
    /// Missing.
    Trouble,
}

/// Looks at everything a worker needs. A host with one runtime that works is a worker.
///
/// # Errors
/// When this host cannot carry packets at all.
pub async fn examine(config: &WorkerConfig) -> anyhow::Result<Vec<Finding>> {
    let path = config.state_dir.display();
    let state = match StateDir::take(&config.state_dir) {
        Ok(state) => state,
        // Looking at the runtimes would disturb the worker that has it.
        Err(err) => return Ok(vec![bad(Chain(&err).to_string())]),
    };
    let mut findings = vec![good(format!("the state directory `{path}` is usable"))];
    let parts = Parts::find(config).await?;
    findings.extend(runtimes(&parts));
    findings.extend(nats(&parts).await);
    findings.push(match Bus::connect(&config.bus).await {
        Ok(bus) => good(format!("nats-server {} answers", bus.server_version())),
        Err(err) => bad(Chain(&err).to_string()),
    });
    let store = async {
        let objects = Objects::open(&config.objects)?;
        objects.probe(config.id.as_str()).await
    };
    findings.push(match store.await {
        Ok(()) => good(format!("the object store `{}` takes and gives", config.objects.url)),
        Err(err) => bad(Chain(&err).to_string()),
    });
    let mib = crate::agent::memory_bytes() >> 20;
    findings.push(good(format!("{mib} MiB of memory")));
    drop(state);
    Ok(findings)
}

fn runtimes(parts: &Parts) -> Vec<Finding> {
    let works = |kind: RuntimeKind| good(format!("runtime `{}` works", kind.as_str()));
    let mut findings: Vec<Finding> =
        parts.runtimes.iter().map(|runtime| works(runtime.kind())).collect();
    let notes = parts.notes.iter().cloned();
    let missing = parts.runtimes.iter().flat_map(|runtime| runtime.missing());
    findings.extend(notes.chain(missing).map(bad));
    if parts.runtimes.is_empty() {
        findings.push(bad("no runtime works, so this host cannot run instances".to_owned()));
    }
    findings
}

/// Tries a NAT with each runtime; only runs with NATs need them.
async fn nats(parts: &Parts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for runtime in &parts.runtimes {
        let name = runtime.kind().as_str();
        findings.push(match runtime.make_nat(TreeSpec::trial()).await {
            Ok((nat, _)) => {
                nat.close().await;
                good(format!("instances of runtime `{name}` can be behind NATs"))
            }
            Err(err) => Finding {
                level: Level::Note,
                text: format!("no NATs with runtime `{name}`: {}", Chain(&err)),
            },
        });
    }
    findings
}

/// The findings as text for people.
#[must_use]
pub fn shown(findings: &[Finding]) -> String {
    findings.iter().fold(String::new(), |mut text, finding| {
        let mark = match finding.level {
            Level::Good => "ok",
            Level::Note => "note",
            Level::Trouble => "trouble",
        };
        let _ = writeln!(text, "{mark:7} {}", finding.text);
        text
    })
}

fn good(text: String) -> Finding {
    Finding { level: Level::Good, text }
}

fn bad(text: String) -> Finding {
    Finding { level: Level::Trouble, text }
}
