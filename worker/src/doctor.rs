//! Finds out whether this host can be a worker, one line per finding, and repairs what can be repaired.

mod host;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::messages::RuntimeKind;
use groundswell_common::metrics;
use groundswell_common::objects::Objects;

use crate::agent::slots;
use crate::clean::holder;
use crate::config::{RunFlags, WorkerConfig};
use crate::network::nat::TreeSpec;
use crate::parts::Parts;
use crate::reap::{StateDir, StateDirError};
pub use host::Step;

/// Flags of `worker doctor`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DoctorFlags {
    /// What the worker is to be.
    #[command(flatten)]
    pub run: RunFlags,
    /// Repair what can be repaired. Each step is shown before it is taken.
    #[arg(long)]
    pub fix: bool,
    /// With --fix: only show the steps.
    #[arg(long, requires = "fix")]
    pub dry_run: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// What, in one line.
    pub text: String,
    /// What would change that, one step after the other.
    pub fix: Vec<Step>,
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
    let is_root = nix::unistd::geteuid().is_root();
    let slots = config.slots.unwrap_or_else(|| slots(crate::agent::memory_bytes()));
    let mut findings = host::examine(Path::new("/"), slots, is_root);
    let state = match StateDir::take(&config.state_dir) {
        Ok(state) => state,
        // Looking at the runtimes would disturb the worker that has it.
        Err(err) => {
            findings.push(no_state_dir(&config.state_dir, &err));
            return Ok(findings);
        }
    };
    findings.push(good(format!("the state directory `{path}` is usable")));
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
    findings.extend(metrics(config).await);
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
    let advised = |text: String| {
        let fix = advice(&text).into_iter().map(|one| Step::Suggest(one.to_owned())).collect();
        Finding { fix, ..bad(text) }
    };
    findings.extend(notes.chain(missing).map(advised));
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
                fix: Vec::new(),
            },
        });
    }
    findings
}

/// Whether the store for metrics takes any. Runs go on without it.
async fn metrics(config: &WorkerConfig) -> Option<Finding> {
    let store = config.metrics.as_ref()?;
    Some(match metrics::check(store).await {
        Ok(()) => good(format!("the store for metrics at {} takes some", store.url)),
        Err(err) => bad(Chain(&err).to_string()),
    })
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
        for step in &finding.fix {
            let _ = writeln!(text, "        fix: {}", step.command());
        }
        text
    })
}

/// The steps this program takes by itself, each once, in order.
#[must_use]
pub fn steps(findings: &[Finding]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for step in findings.iter().flat_map(|finding| &finding.fix).filter(|step| step.is_ours()) {
        if !steps.contains(step) {
            steps.push(step.clone());
        }
    }
    steps
}

/// Takes a step on this host.
///
/// # Errors
/// When this process may not, or the kernel refuses.
pub fn take(step: &Step) -> std::io::Result<()> {
    step.take(Path::new("/"))
}

fn no_state_dir(path: &Path, err: &StateDirError) -> Finding {
    let fix = match err {
        // The kernel gives a lock back when its holder ends, so it is never a stale one.
        StateDirError::Taken { .. } => {
            let who = holder(&path.join("lock")).map(|pid| format!(" (process {pid})"));
            Step::Suggest(format!(
                "stop that worker{}, or give this one a --state-dir of its own",
                who.unwrap_or_default()
            ))
        }
        StateDirError::Unusable { .. } => Step::MakeDirectory(PathBuf::from(path)),
    };
    Finding { fix: vec![fix], ..bad(Chain(err).to_string()) }
}

/// What somebody should do who reads that a runtime does not work, or does not limit something.
fn advice(text: &str) -> Option<&'static str> {
    if text.contains("the engine does not answer") {
        return Some("systemctl enable --now docker");
    }
    if text.contains("install and start Docker") {
        return Some("apt-get install docker.io && systemctl enable --now docker");
    }
    let limit = text.contains("not enforced") && text.contains("cgroup controller");
    limit.then_some(
        "run the worker as root, or in a systemd unit of the user with `Delegate=cpu memory pids`",
    )
}

fn good(text: String) -> Finding {
    Finding { level: Level::Good, text, fix: Vec::new() }
}

fn bad(text: String) -> Finding {
    Finding { level: Level::Trouble, text, fix: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_followed_by_what_changes_it_and_a_step_is_taken_once() {
        let step = || Step::LoadModule("tun");
        let findings = [
            good("fine".to_owned()),
            Finding { fix: vec![step(), Step::Suggest("ask".to_owned())], ..bad("a".to_owned()) },
            Finding { fix: vec![step()], ..bad("b".to_owned()) },
        ];
        let wanted = "ok      fine\ntrouble a\n        fix: modprobe tun\n        fix: ask\n\
            trouble b\n        fix: modprobe tun\n";
        assert_eq!(shown(&findings), wanted);
        assert_eq!(steps(&findings), [step()]);
    }

    #[test]
    fn a_worker_that_runs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateDir::take(dir.path()).unwrap();
        let err = StateDir::take(dir.path()).unwrap_err();
        let finding = no_state_dir(dir.path(), &err);
        let pid = std::process::id().to_string();
        assert!(finding.fix[0].command().contains(&pid), "{finding:?}");
        drop(held);
    }
}
