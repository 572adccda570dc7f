//! The commands. Each module is one command or a family of them; `out` prints, `exit` knows the codes,
//! `connect` finds the coordinator, `parts` is where the commands meet the rest of Groundswell.

pub(crate) mod args;
mod baseline;
mod builds;
mod call;
mod check;
mod collect;
mod compare;
mod connect;
mod dataset;
mod doctor;
mod exit;
mod fidelity;
mod find;
mod inputs;
mod keys;
mod kpis;
mod live;
mod lock_file;
mod logs;
mod nkey;
mod out;
mod page;
pub(crate) mod parts;
mod plan;
mod progress;
mod queue;
mod repeat;
mod results;
mod runs;
mod sdk_source;
mod secret;
mod serve;
mod submit;
mod summary;
mod templates;
mod token;
mod trend;
mod validate;
mod workers;

use std::process::ExitCode;

use groundswell_common::api::Refusal;
use groundswell_common::chain::Chain;
use groundswell_common::telemetry::{self, LogFormat};

use args::{Args, Command};
use exit::Exit;
use out::{Out, to_json};

use crate::context::Settings;

/// What every command gets.
pub(crate) struct Session {
    out: Out,
    global: args::Global,
    settings: Settings,
}

/// Why a command could not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Trouble {
    exit: Exit,
    message: String,
    help: String,
}

impl Trouble {
    fn new(exit: Exit, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: help.into() }
    }

    /// An error of someone else's making, with its causes.
    fn from_error(exit: Exit, err: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(exit, Chain(err).to_string(), "")
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::new(Exit::of_refusal(refusal.kind), refusal.message, refusal.help)
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(err: anyhow::Error) -> Self {
        Self::from_error(Exit::Internal, err.as_ref())
    }
}

/// What a command ends with.
type Done = Result<Exit, Trouble>;

/// Runs the command and says how it went.
pub(crate) async fn main(args: Args) -> ExitCode {
    let out = Out::new(&args.global);
    let telemetry = telemetry::init("coordinator", log_level(&args), LogFormat::Text);
    let done = match Settings::load(&args.global) {
        Ok(settings) => {
            let session = Session { out, global: args.global, settings };
            run(&session, args.command).await
        }
        Err(err) => Err(Trouble::from_error(Exit::Usage, &err)),
    };
    telemetry.shutdown();
    match done {
        Ok(exit) => exit.into(),
        Err(trouble) => {
            out.error(&trouble.message, &trouble.help);
            trouble.exit.into()
        }
    }
}

/// Says that the process could not even begin.
pub(crate) fn could_not_begin(err: &std::io::Error) -> ExitCode {
    let out = Out { json: false, color: false, quiet: false, verbose: false };
    out.error(&format!("failed to start the runtime: {err}"), "");
    Exit::Internal.into()
}

/// A process that serves tells what it does; a command that people look at stays out of its own bars.
fn log_level(args: &Args) -> tracing::Level {
    let serves = matches!(args.command, Command::Serve(_));
    match (args.global.verbose, serves) {
        (0, true) | (1, _) => tracing::Level::INFO,
        (0, false) => tracing::Level::ERROR,
        (2.., _) => tracing::Level::DEBUG,
    }
}

async fn run(session: &Session, command: Command) -> Done {
    match command {
        Command::Submit(args) => submit::run(session, &args).await,
        Command::Serve(args) => serve::serve(session, args).await,
        Command::Up(args) => serve::up(session, &args).await,
        Command::Status(args) => runs::status(session, &args).await,
        Command::Ls(args) => runs::ls(session, &args).await,
        Command::Kpis(args) => kpis::run(session, &args).await,
        Command::Compare(args) => compare::run(session, &args).await,
        Command::Baseline(command) => baseline::run(session, command).await,
        Command::Trend(args) => trend::run(session, &args).await,
        Command::Builds(args) => builds::run(session, &args).await,
        Command::Logs(args) => logs::run(session, &args).await,
        Command::Collect(args) => collect::run(session, &args).await,
        Command::Cancel(args) => runs::cancel(session, &args).await,
        Command::Attach(args) => runs::attach(session, &args).await,
        Command::Wait(args) => runs::wait(session, &args).await,
        Command::Validate(args) => Ok(validate::run(session, &args).await),
        Command::Plan(args::Plan::New(wish)) => plan::new(session, &wish),
        Command::Plan(args::Plan::Check { dir }) => check::run(session, &dir).await,
        Command::Plan(args::Plan::Ls { plans, format }) => plan::ls(session, plans, format),
        Command::Dataset(command) => dataset::run(session, command).await,
        Command::Queue(args) => queue::queue(session, &args).await,
        Command::Priority(args) => queue::priority(session, &args).await,
        Command::Workers(args) => workers::run(session, &args).await,
        Command::Nkey(args) => nkey::run(session, &args),
        Command::Token(args) => token::run(session, args).await,
        Command::Doctor => doctor::run(session).await,
        Command::Completions { shell } => completions(session, shell),
        Command::Explain { subject: args::Subject::ExitCodes } => {
            explain_exit_codes(session);
            Ok(Exit::Passed)
        }
        Command::Version => {
            version(session);
            Ok(Exit::Passed)
        }
    }
}

fn version(session: &Session) {
    let version = env!("CARGO_PKG_VERSION");
    if session.out.json {
        session.out.json(&serde_json::json!({ "v": 1, "name": "coordinator", "version": version }));
    } else {
        session.out.data(format_args!("coordinator {version}"));
    }
}

fn completions(session: &Session, shell: clap_complete::Shell) -> Done {
    let mut script = Vec::new();
    let mut command = <Args as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "coordinator", &mut script);
    session.out.bytes(&script).map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    Ok(Exit::Passed)
}

fn explain_exit_codes(session: &Session) {
    let rows = exit::TABLE.iter().map(|(exit, meaning, again)| (exit.code(), *meaning, *again));
    if session.out.json {
        let values: Vec<_> = rows
            .map(|(code, meaning, again)| serde_json::json!({ "code": code, "meaning": meaning, "retry": again }))
            .collect();
        session.out.data(to_json(&values));
        return;
    }
    for (code, meaning, again) in rows {
        let again = if again.is_empty() { String::new() } else { format!("  (again: {again})") };
        session.out.data(format_args!("{code:>4}  {meaning}{again}"));
    }
    session.out.data("");
    session.out.data(
        "When several hold: 137, 143, 130, 1, 5, 20, 22, 21, 3, 4, 10, 11, 12, 13, 124, the first of them wins; --json lists all.",
    );
    session.out.data("Testground's `collect` exits with 3 when it fails; here that is 4 (no such run or file) or 20 (store).");
}
