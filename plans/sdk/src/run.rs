//! The entry of a plan: which case to run, and as what.

use std::future::Future;
use std::process::ExitCode;

use crate::context::Ctx;
use crate::env::RunEnv;
use crate::events::print_line;
use crate::instance::{self, Case, Options};
use crate::local::processes;
use crate::outcome::Result;
use crate::panics;

/// The cases of a plan, by the names they have in its manifest.
#[derive(Clone, Default)]
pub struct Cases {
    cases: Vec<(&'static str, Case)>,
    threads: Option<usize>,
    pub(crate) manifest: Option<&'static str>,
}

impl std::fmt::Debug for Cases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cases").field("cases", &self.names()).finish_non_exhaustive()
    }
}

impl Cases {
    /// A plan without cases.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a case: an `async fn name(cx: Ctx) -> Result`.
    #[must_use]
    pub fn case<F, Fut>(mut self, name: &'static str, function: F) -> Self
    where
        F: Fn(Ctx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        self.cases.push((name, instance::case(function)));
        self
    }

    /// Runs an instance on so many threads. One is the default: a thousand instances may share a machine.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The text of the manifest, `include_str!("../manifest.toml")`: with it a run with `--local` has the defaults
    /// of the parameters.
    #[must_use]
    pub fn manifest(mut self, text: &'static str) -> Self {
        self.manifest = Some(text);
        self
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.cases.iter().map(|(name, _)| *name).collect()
    }

    /// A case by the name that the platform gives it, which has `-` where the manifest has `/`.
    pub(crate) fn find(&self, name: &str) -> Option<Case> {
        let found =
            self.cases.iter().find(|(known, _)| *known == name || known.replace('/', "-") == name);
        found.map(|(_, case)| case.clone())
    }

    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        use tokio::runtime::Builder;
        match self.threads {
            None | Some(0 | 1) => Builder::new_current_thread().enable_all().build(),
            Some(threads) => {
                Builder::new_multi_thread().worker_threads(threads).enable_all().build()
            }
        }
    }
}

const USAGE: &str = "\
This is a test plan. A platform runs it, or:
  --local N [--case NAME] [--param KEY=VALUE]... [--group NAME=COUNT]... [--out DIR] [--unshaped]
                 runs it in N processes on this machine; --unshaped lets network configurations pass in vain
  --list-cases   prints the names of its cases as a JSON list";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Instance,
    ListCases,
    Local(processes::Wish),
    Usage(String),
}

fn wish(arguments: &[String], in_a_run: bool) -> Wish {
    match arguments.first().map(String::as_str) {
        Some("--list-cases") => Wish::ListCases,
        Some("--local") => match processes::Wish::parse(&arguments[1..]) {
            Ok(wish) => Wish::Local(wish),
            Err(why) => Wish::Usage(why),
        },
        // What else is there is the plan's own affair.
        _ if in_a_run => Wish::Instance,
        Some("--help") => Wish::Usage(String::new()),
        Some(other) => Wish::Usage(format!("`{other}` is not known here")),
        None => Wish::Usage("no run is given: `TEST_RUN` is not set".to_owned()),
    }
}

/// Runs a plan: the whole of its `main`.
///
/// As an instance it runs the case that `TEST_CASE` names, tells the platform how it ended, and returns 0 for
/// success, 1 for failure and 2 for a crash.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "a plan's `main` reads better without a borrow")]
pub fn run(cases: Cases) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match wish(&arguments, std::env::var_os("TEST_RUN").is_some()) {
        Wish::ListCases => {
            print_line(&serde_json::json!(cases.names()).to_string());
            ExitCode::SUCCESS
        }
        Wish::Instance => run_instance(&cases),
        Wish::Local(wish) => match cases.runtime() {
            Ok(runtime) => runtime.block_on(processes::run(&cases, wish)),
            Err(err) => complain(&format!("no runtime: {err}")),
        },
        Wish::Usage(why) if why.is_empty() => {
            print_line(USAGE);
            ExitCode::SUCCESS
        }
        Wish::Usage(why) => complain(&format!("{why}\n{USAGE}")),
    }
}

fn run_instance(cases: &Cases) -> ExitCode {
    let env = match RunEnv::from_process() {
        Ok(env) => env,
        Err(err) => return complain(&err.to_string()),
    };
    let runtime = match cases.runtime() {
        Ok(runtime) => runtime,
        Err(err) => return complain(&format!("no runtime: {err}")),
    };
    panics::note();
    let case = cases.find(&env.case);
    let options =
        Options { unshaped: std::env::var_os(processes::UNSHAPED).is_some(), quiet: false };
    let outcome = runtime.block_on(instance::live(env, case, options, instance::terminated()));
    // A task that blocks must not keep the process.
    runtime.shutdown_background();
    outcome.exit_code()
}

/// Says on stderr why nothing was run.
pub(crate) fn complain(why: &str) -> ExitCode {
    use std::io::Write as _;
    // Without stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{why}");
    ExitCode::from(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: &[&str], in_a_run: bool) -> Wish {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        wish(&arguments, in_a_run)
    }

    #[test]
    fn a_plan_is_an_instance_unless_it_is_asked_for_more() {
        assert_eq!(asked(&[], true), Wish::Instance);
        assert_eq!(asked(&["--own-flag"], true), Wish::Instance);
        assert_eq!(asked(&["--list-cases"], true), Wish::ListCases);
        assert!(matches!(asked(&["--local", "3"], false), Wish::Local(_)));
        assert_eq!(asked(&["x"], false), Wish::Usage("`x` is not known here".to_owned()));
    }

    #[test]
    fn a_case_is_found_by_the_name_the_platform_gives_it() {
        let cases = Cases::new().case("dht/find", |_| async { Ok(()) });
        assert!(cases.find("dht-find").is_some());
        assert!(cases.find("dht").is_none());
    }
}
