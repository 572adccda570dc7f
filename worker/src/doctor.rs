//! Finds out whether this host can be a worker, one line per finding.

use std::fmt::Write as _;

use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::messages::RuntimeKind;
use groundswell_common::objects::Objects;

use crate::config::WorkerConfig;
use crate::network::nat::{self, NatError};
use crate::parts::Parts;
use crate::reap::StateDir;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is as it should be.
    pub good: bool,
    /// What, in one line.
    pub text: String,
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
    findings.extend(runtimes(&Parts::find(config).await?));
    findings.extend(nats());
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

/// Whether instances can be behind NATs. Without root it is the spawner that makes namespaces, and this
/// process may not find out.
fn nats() -> Option<Finding> {
    match nat::probe() {
        Ok(()) => Some(good("instances can be behind NATs".to_owned())),
        Err(NatError::Host { .. }) if !nix::unistd::geteuid().is_root() => None,
        Err(err) => Some(bad(format!("instances cannot be behind NATs: {}", Chain(&err)))),
    }
}

/// The findings as text for people.
#[must_use]
pub fn shown(findings: &[Finding]) -> String {
    findings.iter().fold(String::new(), |mut text, finding| {
        let mark = if finding.good { "ok   " } else { "trouble" };
        let _ = writeln!(text, "{mark:7} {}", finding.text);
        text
    })
}

fn good(text: String) -> Finding {
    Finding { good: true, text }
}

fn bad(text: String) -> Finding {
    Finding { good: false, text }
}
