//! The worker's executable.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use groundswell_common::chain::Chain;
use groundswell_common::telemetry::{self, LogFormat};
use groundswell_worker::agent;
use groundswell_worker::card::{self, BenchFlags};
use groundswell_worker::clean::{self, CleanFlags};
use groundswell_worker::config::{RunFlags, WorkerConfig};
use groundswell_worker::doctor::{self, DoctorFlags};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// Runs the instances of Groundswell's runs on this host.
#[derive(Debug, Parser)]
#[command(name = "worker", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Log lines as JSON.
    #[arg(long, global = true, env = "GROUNDSWELL_LOG_JSON")]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take part in a cluster until told to leave (SIGTERM, Ctrl-C).
    Run(RunFlags),
    /// Find out whether this host can be a worker.
    Doctor(DoctorFlags),
    /// Measure what this host can do, and keep that as the card the worker shows; takes half a minute.
    Bench(BenchFlags),
    /// Remove what a worker that does not run any more has left on this host.
    Clean(CleanFlags),
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    // First of all: the spawner of namespaces is this same program, and has one thread.
    if let Some(code) = groundswell_worker::spawner_main_if_asked() {
        return code;
    }
    start(Args::parse())
}

#[tokio::main]
async fn start(args: Args) -> ExitCode {
    let format = if args.log_json { LogFormat::Json } else { LogFormat::Text };
    let telemetry = telemetry::init("groundswell-worker", tracing::Level::INFO, format);
    let ended = match args.command {
        Command::Run(flags) => run(&flags).await,
        Command::Doctor(flags) => examine(&flags).await,
        Command::Bench(flags) => bench(&flags).await,
        Command::Clean(flags) => clean_up(&flags).await,
        Command::Version => say(&format!("worker {}\n", env!("CARGO_PKG_VERSION"))),
    };
    telemetry.shutdown();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            error!(error = %Chain(err.as_ref()), "worker failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: &RunFlags) -> anyhow::Result<()> {
    let config = WorkerConfig::load(flags)?;
    let shutdown = CancellationToken::new();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let asked = shutdown.clone();
    let running = agent::run(config, shutdown);
    tokio::pin!(running);
    loop {
        tokio::select! {
            ended = &mut running => return ended,
            _ = terminated.recv() => info!("asked to leave"),
            _ = interrupted.recv() => info!("asked to leave"),
        }
        asked.cancel();
    }
}

async fn examine(flags: &DoctorFlags) -> anyhow::Result<()> {
    let config = WorkerConfig::load(&flags.run)?;
    let mut findings = doctor::examine(&config).await?;
    say(&doctor::shown(&findings))?;
    if flags.fix {
        let repaired = repair(&doctor::steps(&findings), flags.dry_run)?;
        if repaired {
            findings = doctor::examine(&config).await?;
            say(&format!("\nafter that:\n{}", doctor::shown(&findings)))?;
        }
    }
    let trouble = findings.iter().any(|finding| finding.level == doctor::Level::Trouble);
    ensure!(!trouble, "something is missing on this host");
    Ok(())
}

/// Takes the steps, each shown first. Goes on after one that fails. Returns whether any was taken.
fn repair(steps: &[doctor::Step], only_show: bool) -> anyhow::Result<bool> {
    if steps.is_empty() {
        say("\nthere is nothing here that `--fix` repairs\n")?;
        return Ok(false);
    }
    let may = nix::unistd::geteuid().is_root();
    say(match (only_show, may) {
        (true, _) => "\nsteps that `--fix` takes:\n",
        (false, true) => "\ntaking these steps:\n",
        (false, false) => "\nonly root may take these steps:\n",
    })?;
    for step in steps {
        say(&format!("  {}\n", step.command()))?;
        if may
            && !only_show
            && let Err(err) = doctor::take(step)
        {
            say(&format!("    failed: {err}\n"))?;
        }
    }
    Ok(may && !only_show)
}

async fn bench(flags: &BenchFlags) -> anyhow::Result<()> {
    let card = card::bench(flags).await?;
    if flags.json {
        return say(&format!("{}\n", serde_json::to_string_pretty(&card)?));
    }
    say(&card::shown(&card))
}

async fn clean_up(flags: &CleanFlags) -> anyhow::Result<()> {
    let cleaned = clean::clean(flags).await?;
    let verb = match (flags.verify, flags.dry_run) {
        (true, _) => "left",
        (false, true) => "would remove",
        (false, false) => "removed",
    };
    for found in &cleaned.found {
        say(&format!("{verb:12} {found}\n"))?;
    }
    for failed in &cleaned.failed {
        say(&format!("{:12} {failed}\n", "trouble"))?;
    }
    if cleaned.found.is_empty() && cleaned.failed.is_empty() {
        say("nothing is left on this host\n")?;
    }
    ensure!(cleaned.failed.is_empty(), "not everything could be looked at or removed");
    ensure!(!flags.verify || cleaned.found.is_empty(), "something is left on this host");
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
