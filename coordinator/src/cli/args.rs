//! The commands and their flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use groundswell_common::fidelity::Grade;
use groundswell_common::ids::WorkerId;
use groundswell_common::queue::Priority;
use groundswell_common::token::Scope;

use super::compare::args::{BaselineCommand, Compare, FailOn, Trend};
use super::exit::Exit;
use super::page::Listen;
use super::templates::Template;

/// Runs Testground test plans on this machine or on a cluster.
#[derive(Debug, Parser)]
#[command(
    name = "coordinator",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = 110,
    after_help = "Data goes to stdout, everything else to stderr. Settings are looked for in this order: flags, \
        GROUNDSWELL_* variables, .groundswell/config.toml of the project, ~/.config/groundswell/config.toml. \
        With nothing configured everything runs on this machine and is gone afterwards, except outputs.\n\
        Exit codes: `coordinator explain exit-codes`."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// NATS server of the cluster, nats://host:port [env: GROUNDSWELL_NATS]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub(crate) nats: Option<String>,
    /// NATS credentials file, or a file with the seed of an nkey [env: GROUNDSWELL_CREDENTIALS]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) credentials: Option<PathBuf>,
    /// Certificate authority of the NATS servers, PEM; insists on TLS [env: GROUNDSWELL_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate for NATS, PEM [env: GROUNDSWELL_CERTIFICATE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) certificate: Option<PathBuf>,
    /// Key of the client certificate, PEM [env: GROUNDSWELL_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) key: Option<PathBuf>,
    /// File with the token the coordinator asks for [env: GROUNDSWELL_TOKEN_FILE, or GROUNDSWELL_TOKEN with the token]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) token_file: Option<PathBuf>,
    /// Object store, file:///directory or s3://bucket/prefix [env: GROUNDSWELL_OBJECTS]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub(crate) objects: Option<String>,
    /// Endpoint of an S3-compatible server [env: GROUNDSWELL_S3_ENDPOINT]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub(crate) s3_endpoint: Option<String>,
    /// Named context of the configuration files; `local` is this machine [env: GROUNDSWELL_CONTEXT]
    #[arg(short = 'C', long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) context: Option<String>,
    /// Print JSON and nothing else on stdout
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// When to use colour; NO_COLOR and CLICOLOR_FORCE are honoured
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN", help_heading = "Global options")]
    pub(crate) color: When,
    /// How progress is shown; auto is bars on a terminal and plain lines elsewhere
    #[arg(long, global = true, value_enum, default_value_t = ProgressKind::Auto, value_name = "KIND", help_heading = "Global options")]
    pub(crate) progress: ProgressKind,
    /// Say less: errors and the summary only
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Say more; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressKind {
    Auto,
    Bar,
    Plain,
    Json,
    Quiet,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Jsonl,
    Name,
    Csv,
    Md,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a composition and wait for its end
    Submit(Box<Submit>),
    /// Serve a cluster until terminated
    Serve(Serve),
    /// Keep a stack on this machine for many submits, until interrupted
    Up(Up),
    /// Show one run; without RUN the latest
    Status(Status),
    /// List runs, newest first
    Ls(Ls),
    /// Show what a run has measured; without RUN the latest
    Kpis(Kpis),
    /// Tell whether runs differ, and whether that is more than chance
    Compare(Box<Compare>),
    /// Keep runs under a name, to compare others with them
    #[command(subcommand)]
    Baseline(BaselineCommand),
    /// Show a KPI over the runs of a case, and where it changed for good
    Trend(Trend),
    /// Show what was built for a run, or what a build printed
    Builds(Builds),
    /// Show what instances printed
    Logs(Logs),
    /// Fetch the outputs of a run as an archive, or one file of them
    Collect(Collect),
    /// End a run; its outputs are collected
    Cancel(Cancel),
    /// Watch a run; leaving it does not end it
    Attach(Attach),
    /// Wait for the end of a run and exit with its code
    Wait(Wait),
    /// Check compositions without running them
    Validate(Validate),
    /// Make and find plans
    #[command(subcommand)]
    Plan(Plan),
    /// Put, list and remove datasets: files that instances read
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// List the runs that wait, and why
    Queue(List),
    /// Change how urgent a run is that waits
    Priority(SetPriority),
    /// List the workers of the cluster, or take some of them out of service
    Workers(Workers),
    /// Make a key for the NATS servers of a cluster, and print what they have to know of it
    Nkey(Nkey),
    /// Make, list and revoke tokens, for clusters that ask for them
    #[command(subcommand)]
    Token(TokenCommand),
    /// Find out what is missing on this machine or cluster, and how to get it
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Explain a subject
    Explain {
        /// What to explain
        subject: Subject,
    },
    /// Print the version
    Version,
}

/// What can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    ExitCodes,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C once cancels the run and collects its outputs, twice kills it, three times leaves. \
    On a terminal `d` detaches."
)]
pub(crate) struct Submit {
    /// Composition file, or - for stdin
    #[arg(value_name = "FILE", required_unless_present = "plan", conflicts_with_all = ["case", "instances"])]
    pub(crate) file: Option<PathBuf>,
    /// Run a plan without a composition file: its directory or its name
    #[arg(long, value_name = "DIR", requires_all = ["case", "instances"], conflicts_with = "file")]
    pub(crate) plan: Option<PathBuf>,
    /// With --plan: the test case
    #[arg(long, value_name = "NAME", requires = "plan")]
    pub(crate) case: Option<String>,
    /// With --plan: how many instances
    #[arg(long, value_name = "N", requires = "plan")]
    pub(crate) instances: Option<u32>,
    /// With --plan: the runner; the manifest's default otherwise
    #[arg(long, value_name = "RUNNER", requires = "plan")]
    pub(crate) runner: Option<String>,
    /// With --plan: the builder; the manifest's default otherwise
    #[arg(long, value_name = "BUILDER", requires = "plan")]
    pub(crate) builder: Option<String>,
    /// With --plan: a test parameter, repeatable
    #[arg(long = "param", value_name = "K=V", value_parser = pair, requires = "plan")]
    pub(crate) params: Vec<(String, String)>,
    /// Which of the composition's runs, in this order; all in alphabetical order otherwise
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) run_ids: Vec<String>,
    /// Print the run's id and return at once; needs a cluster or `coordinator up`
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Seed of everything drawn by chance
    #[arg(long, value_name = "U64")]
    pub(crate) seed: Option<u64>,
    /// How long each run may take from its start [default: 10m]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Exit with 11 when a run passed on a data network that was less true to its configuration
    #[arg(long, value_enum, value_name = "GRADE", conflicts_with = "detach")]
    pub(crate) require_fidelity: Option<Fidelity>,
    /// How instances are run; wins over the composition's runner
    #[arg(long, value_enum, value_name = "RUNTIME")]
    pub(crate) runtime: Option<Runtime>,
    /// Local mode: spread instances over N workers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// Where plans are looked up, after the composition's own directory [env: GROUNDSWELL_PLANS]
    #[arg(long, value_name = "DIR")]
    pub(crate) plans: Option<PathBuf>,
    /// Refuse what would only be a warning, unknown keys for example
    #[arg(long)]
    pub(crate) strict: bool,
    /// A variable the composition's template sees as .Env.KEY, repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
    /// How urgent it is; wins over the composition [default: normal]
    #[arg(long, value_enum, value_name = "CLASS")]
    pub(crate) priority: Option<Urgency>,
    /// On whose account it runs; the team that lists you otherwise
    #[arg(long, env = "GROUNDSWELL_TEAM", hide_env_values = true, value_name = "NAME")]
    pub(crate) team: Option<String>,
    /// Submitting the same again with the same key gives the run there is
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Repository, instead of what git says; with --metadata-branch a newer run replaces an older one that waits
    #[arg(long, value_name = "REPO")]
    pub(crate) metadata_repo: Option<String>,
    /// Branch, instead of what git says
    #[arg(long, value_name = "BRANCH")]
    pub(crate) metadata_branch: Option<String>,
    /// Commit, instead of what git says
    #[arg(long, value_name = "COMMIT")]
    pub(crate) metadata_commit: Option<String>,
    /// Build again even when the image is in the cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Refuse what is not built from exactly what FILE's lock file says
    #[arg(long, conflicts_with = "update_lock")]
    pub(crate) locked: bool,
    /// Look up branches and base images anew, and write the lock file: NAME.lock.toml beside NAME.toml
    #[arg(long, conflicts_with = "detach")]
    pub(crate) update_lock: bool,
    /// Fetch the outputs at the end, into RUN.tgz or as -o says
    #[arg(long)]
    pub(crate) collect: bool,
    /// With --collect: name of the archive, without .tgz
    #[arg(short = 'o', long, value_name = "NAME", requires = "collect")]
    pub(crate) collect_file: Option<String>,
    /// A free label of the run, repeatable
    #[arg(long = "label", value_name = "K=V", value_parser = pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Write a line per run to this file: run_id,task_id,outcome,error
    #[arg(long, value_name = "FILE")]
    pub(crate) result_file: Option<PathBuf>,
    /// Show what instances print while they run
    #[arg(long)]
    pub(crate) follow_logs: bool,
    /// Run it N times, one after the other, each with a seed of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100), conflicts_with = "detach")]
    pub(crate) repeat: u16,
    /// Take turns with the newest run of this side, submitted again as it was, and compare with it
    #[arg(long, value_name = "SIDE", conflicts_with = "detach")]
    pub(crate) interleave_with: Option<String>,
    /// Compare with this side at the end: `@NAME`, `branch:NAME`, a run, … as `coordinator compare` has them
    #[arg(long, value_name = "SIDE", conflicts_with = "detach")]
    pub(crate) baseline: Option<String>,
    /// With --baseline or --interleave-with: exit with 12 for a regression, 13 where nothing can be told
    #[arg(
        long,
        value_enum,
        value_name = "WHAT,…",
        value_delimiter = ',',
        default_value = "regression"
    )]
    pub(crate) fail_on: Vec<FailOn>,
}

/// How instances are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    Docker,
    Netns,
}

/// How urgent a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Urgency {
    Interactive,
    Normal,
    Batch,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Interactive => Self::Interactive,
            Urgency::Normal => Self::Normal,
            Urgency::Batch => Self::Batch,
        }
    }
}

/// How true a data network has to be to its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fidelity {
    Exact,
    Good,
}

impl From<Fidelity> for Grade {
    fn from(required: Fidelity) -> Self {
        match required {
            Fidelity::Exact => Self::Exact,
            Fidelity::Good => Self::Good,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Configuration file: teams, quotas, the queue
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Name of this coordinator among its standbys; the host's name otherwise
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where builds and downloads are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Where the coordinator's own metrics can be asked for in Prometheus's text format
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Begin anew where NATS has lost the control state: live runs, tokens and cordons are gone then
    #[arg(long)]
    pub(crate) bootstrap: bool,
    /// Divide every interval of the worker lease, for tests
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) lease_divisor: u32,
    #[command(flatten)]
    pub(crate) listen: Listen,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Nkey {
    /// Who gets it
    #[arg(long, value_enum)]
    pub(crate) role: RoleName,
    /// Name of the worker
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where the secret part is written; --credentials takes it
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// What somebody may do in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Leads, or stands by
    Coordinator,
    /// Runs instances
    Worker,
    /// Submits, cancels and looks
    Submitter,
    /// Looks
    Viewer,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    #[command(flatten)]
    pub(crate) listen: Listen,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Any unique prefix of a run's id or name, or `latest`
    #[arg(default_value = "latest")]
    pub(crate) run: String,
    /// How it is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Kpis {
    /// Any unique prefix of a run's id or name, or `latest`
    #[arg(default_value = "latest")]
    pub(crate) run: String,
    /// How it is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// How many at most
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    pub(crate) limit: u32,
    /// How it is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// How it is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Workers {
    #[command(subcommand)]
    pub(crate) command: Option<WorkersCommand>,
    /// How it is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// Give workers nothing new; what runs on them goes on
    Cordon(Cordon),
    /// Give workers runs again
    Uncordon(Uncordon),
    /// Give workers nothing new, and wait until nothing runs on them
    #[command(
        after_help = "Ctrl-C stops waiting; the workers stay cordoned, and a deadline counts on."
    )]
    Drain(DrainWorkers),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cordon {
    /// The workers
    #[arg(value_name = "WORKER", required = true)]
    pub(crate) workers: Vec<WorkerId>,
    /// Why, for whoever asks
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Uncordon {
    /// The workers
    #[arg(value_name = "WORKER", required = true)]
    pub(crate) workers: Vec<WorkerId>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DrainWorkers {
    #[command(flatten)]
    pub(crate) cordon: Cordon,
    /// End what is left after this long, as a failure of the infrastructure
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Option<Duration>,
    /// Do not wait
    #[arg(long)]
    pub(crate) detach: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Any unique prefix of a run's id or name, or `latest`
    pub(crate) run: String,
    /// Follow a run that is going on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only this group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Only this instance: its number in the run, or group:number
    #[arg(long, value_name = "G:N|N")]
    pub(crate) instance: Option<String>,
    /// Only what was printed on stderr
    #[arg(long)]
    pub(crate) stderr: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// Store the files of a directory under a name, or those below a URL of the same object store
    Put {
        /// A directory, or a URL that begins with the object store's
        #[arg(value_name = "DIR")]
        from: String,
        /// Its name in compositions
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// List datasets
    #[command(visible_alias = "ls")]
    List {
        /// How the list is printed
        #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
        format: Format,
    },
    /// Remove a dataset, and what no other one has
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Builds {
    /// Any unique prefix of a run's id or name, or `latest`
    #[arg(default_value = "latest")]
    pub(crate) run: String,
    /// Print what the build for this group printed
    #[arg(long, value_name = "GROUP")]
    pub(crate) log: Option<String>,
    /// How the list is printed
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Collect {
    /// Any unique prefix of a run's id or name, or `latest`
    pub(crate) run: String,
    /// The archive, or - for stdout [default: RUN.tgz]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print one file to stdout: group/number/path
    #[arg(long, value_name = "PATH", conflicts_with = "output")]
    pub(crate) file: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// Any unique prefix of a run's id or name, or `latest`
    pub(crate) run: String,
    /// Without grace
    #[arg(long)]
    pub(crate) kill: bool,
    /// Why, for the record
    #[arg(long, default_value = "canceled by `coordinator cancel`", value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SetPriority {
    /// Any unique prefix of a run's id or name, or `latest`
    pub(crate) run: String,
    /// How urgent it is
    #[arg(value_enum, value_name = "CLASS")]
    pub(crate) class: Urgency,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and write it into a file for its owner's eyes only
    Create(CreateToken),
    /// List the tokens, without their secrets
    Ls(List),
    /// End a token at once
    Revoke {
        /// Its id, as `token ls` shows it
        id: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateToken {
    /// What it is called, and who submits with it unless --user says so
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// What it may be used for, repeatable
    #[arg(long = "scope", value_enum, required = true, value_name = "SCOPE")]
    pub(crate) scopes: Vec<ScopeName>,
    /// Team on whose account its runs are; it may cancel no other team's
    #[arg(long, value_name = "TEAM")]
    pub(crate) team: Option<String>,
    /// Who submits with it
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// How long it lasts, such as 90d; for ever unless this says so
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub(crate) expires: Option<Duration>,
    /// Where the token goes; a file that is there is not overwritten
    pub(crate) file: PathBuf,
}

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeName {
    /// See runs, the queue and the workers
    Read,
    /// Submit runs
    Submit,
    /// Cancel runs of its team and change how urgent they are
    Cancel,
    /// Everything, runs of others and tokens included
    Admin,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Read => Self::Read,
            ScopeName::Submit => Self::Submit,
            ScopeName::Cancel => Self::Cancel,
            ScopeName::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Attach {
    /// Any unique prefix of a run's id or name, or `latest`
    pub(crate) run: String,
    /// Show what instances print
    #[arg(long)]
    pub(crate) follow_logs: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Any unique prefix of a run's id or name, or `latest`
    pub(crate) run: String,
    /// Give up after this long; the run goes on
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Validate {
    /// Composition files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Refuse what would only be a warning, unknown keys for example
    #[arg(long)]
    pub(crate) strict: bool,
    /// Where plans are looked up, after the composition's own directory [env: GROUNDSWELL_PLANS]
    #[arg(long, value_name = "DIR")]
    pub(crate) plans: Option<PathBuf>,
    /// A variable the composition's template sees as .Env.KEY, repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plan {
    /// Make a plan that runs
    New(New),
    /// Check that a plan implements every case of its manifest
    Check {
        /// The plan's directory
        dir: PathBuf,
    },
    /// List plans and their cases
    Ls {
        /// Where plans are looked up [env: GROUNDSWELL_PLANS]
        #[arg(long, value_name = "DIR")]
        plans: Option<PathBuf>,
        /// How it is printed
        #[arg(short = 'o', long, value_enum, default_value_t)]
        format: Format,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// Directory to make; its name is the plan's name
    pub(crate) dir: PathBuf,
    /// What the plan is about
    #[arg(long, value_enum, default_value_t = Template::Hello)]
    pub(crate) template: Template,
    /// Language
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    pub(crate) lang: Lang,
    /// Where a plan in Rust has the SDK from; without it, the SDK's source is written into the plan
    #[arg(long, value_name = "DIR|VERSION")]
    pub(crate) sdk: Option<String>,
}

/// Languages `plan new` has a template for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    Rust,
    Js,
    Sh,
}

/// Reads the command line. Help, version and usage errors are printed here.
pub(crate) fn parse() -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|err| {
        let _ = err.print();
        if err.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS }
    })
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form key=value")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_pair_keeps_what_follows_the_first_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("a").is_err());
        assert!(pair("=a").is_err());
    }
}
