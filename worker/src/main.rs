//! The worker's executable.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use groundswell_common::chain::Chain;
use groundswell_common::telemetry::{self, LogFormat};
use groundswell_worker::config::{RunFlags, WorkerConfig};
use groundswell_worker::{agent, doctor};
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
    Doctor(RunFlags),
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

async fn examine(flags: &RunFlags) -> anyhow::Result<()> {
    let config = WorkerConfig::load(flags)?;
    let findings = doctor::examine(&config).await?;
    say(&doctor::shown(&findings))?;
    let trouble = findings.iter().any(|finding| finding.level == doctor::Level::Trouble);
    ensure!(!trouble, "something is missing on this host");
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
