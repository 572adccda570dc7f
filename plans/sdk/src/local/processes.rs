//! `--local N`: the plan in N processes on this machine, with a sync service in this one.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::service::Service;
use super::testing::RunVars;
use crate::events::print_line;
use crate::params::Params;
use crate::run::{Cases, complain};

/// The variable that lets network configurations pass in vain.
pub(crate) const UNSHAPED: &str = "GROUNDSWELL_UNSHAPED";
/// The group when none is named.
const GROUP: &str = "single";

/// What the command line says after `--local`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    instances: u32,
    case: Option<String>,
    params: Vec<(String, String)>,
    groups: Vec<(String, u32)>,
    out: Option<PathBuf>,
    unshaped: bool,
}

impl Wish {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut arguments = arguments.iter();
        let count = arguments.next().ok_or("`--local` needs a number of instances")?;
        let mut wish = Self {
            instances: number(count)?,
            case: None,
            params: Vec::new(),
            groups: Vec::new(),
            out: None,
            unshaped: false,
        };
        while let Some(flag) = arguments.next() {
            if flag == "--unshaped" {
                wish.unshaped = true;
                continue;
            }
            let value = arguments.next().ok_or(format!("`{flag}` needs a value"))?;
            match flag.as_str() {
                "--case" => wish.case = Some(value.clone()),
                "--out" => wish.out = Some(PathBuf::from(value)),
                "--param" => wish.params.push(pair(value)?),
                "--group" => {
                    let (id, count) = pair(value)?;
                    wish.groups.push((id, number(&count)?));
                }
                other => return Err(format!("`{other}` is not known here")),
            }
        }
        wish.complete()
    }

    /// Instances that no named group has are in one of their own.
    fn complete(mut self) -> Result<Self, String> {
        let named: u32 = self.groups.iter().map(|(_, count)| count).sum();
        let rest = self.instances.checked_sub(named).ok_or_else(|| {
            format!("the groups have {named} instances, and `--local` says {}", self.instances)
        })?;
        if rest > 0 {
            self.groups.push((GROUP.to_owned(), rest));
        }
        Ok(self)
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or(format!("`{text}` is not a number of instances"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or(format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the plan.
pub(crate) async fn run(cases: &Cases, wish: Wish) -> ExitCode {
    match try_run(cases, wish).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(why) => complain(&why),
    }
}

async fn try_run(cases: &Cases, wish: Wish) -> Result<usize, String> {
    let names = cases.names();
    let case = match &wish.case {
        Some(case) => case.as_str(),
        None => names.first().ok_or("this plan has no cases")?,
    };
    if cases.find(case).is_none() {
        return Err(format!("there is no case `{case}`; there are: {}", names.join(", ")));
    }
    let mut params = defaults(cases.manifest, case)?;
    for (key, value) in &wish.params {
        params.set(key, value);
    }
    let out = wish.out.clone().unwrap_or_else(fresh_directory);
    let service = Service::start().await.map_err(|err| format!("no port for the sync: {err}"))?;
    let run = RunVars { run: "local", plan: "local", case, port: service.port(), params: &params };
    let mut watched = JoinSet::new();
    for (index, vars) in run.instances(&wish.groups, Some(&out)).into_iter().enumerate() {
        let child = start(vars, &out.join(index.to_string()), wish.unshaped)?;
        watched.spawn(watch(index, child));
    }
    let mut failed = 0;
    while let Some(ended) = watched.join_next().await {
        failed += usize::from(!ended.unwrap_or(false));
    }
    print_line(&format!("{failed} of {} failed; outputs are in {}", wish.instances, out.display()));
    Ok(failed)
}

fn fresh_directory() -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    std::env::temp_dir().join(format!("plan-{}-{}", std::process::id(), now.as_secs()))
}

fn start(vars: Vec<(String, String)>, out: &Path, unshaped: bool) -> Result<Child, String> {
    let failed = |err: &dyn std::fmt::Display| format!("failed to start an instance: {err}");
    std::fs::create_dir_all(out).map_err(|err| failed(&err))?;
    let program = std::env::current_exe().map_err(|err| failed(&err))?;
    let mut command = Command::new(program);
    command.envs(vars).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if unshaped {
        command.env(UNSHAPED, "1");
    }
    command.kill_on_drop(true).spawn().map_err(|err| failed(&err))
}

/// Prints what an instance prints, with its number in front, and tells whether it succeeded.
async fn watch(index: usize, mut child: Child) -> bool {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ((), (), status) = tokio::join!(relay(index, out), relay(index, err), child.wait());
    status.is_ok_and(|status| status.success())
}

async fn relay(index: usize, from: Option<impl AsyncRead + Unpin>) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        print_line(&format!("[{index}] {line}"));
    }
}

/// The defaults of a case's parameters, as the platform would hand them over.
fn defaults(manifest: Option<&str>, case: &str) -> Result<Params, String> {
    let Some(text) = manifest else { return Ok(Params::default()) };
    let manifest: toml::Table =
        text.parse().map_err(|err| format!("the manifest is not readable: {err}"))?;
    let cases = manifest.get("testcases").and_then(toml::Value::as_array).into_iter().flatten();
    let named =
        |table: &&toml::Value| table.get("name").and_then(toml::Value::as_str) == Some(case);
    let Some(found) = cases.into_iter().find(named) else {
        return Err(format!("the manifest has no case `{case}`"));
    };
    let params = found.get("params").and_then(toml::Value::as_table).into_iter().flatten();
    Ok(params
        .filter_map(|(name, declared)| Some((name.clone(), text_of(declared.get("default")?))))
        .collect())
}

fn text_of(value: &toml::Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => serde_json::to_string(value).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Wish, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Wish::parse(&words)
    }

    #[test]
    fn the_command_line_is_understood() {
        let wish = parse("5 --case ping --param a=b=c --group old=2 --unshaped").unwrap();
        assert_eq!(wish.groups, [("old".to_owned(), 2), ("single".to_owned(), 3)]);
        assert_eq!(wish.params, [("a".to_owned(), "b=c".to_owned())]);
        assert_eq!((wish.case.as_deref(), wish.unshaped), (Some("ping"), true));
        let cases = [
            ("", "`--local` needs a number of instances"),
            ("0", "`0` is not a number of instances"),
            ("2 --case", "`--case` needs a value"),
            ("2 --group a", "`a` is not KEY=VALUE"),
            ("2 --group a=3", "the groups have 3 instances, and `--local` says 2"),
            ("2 --x y", "`--x` is not known here"),
        ];
        for (line, wanted) in cases {
            assert_eq!(parse(line).unwrap_err(), wanted, "{line}");
        }
    }

    #[test]
    fn defaults_come_from_the_manifest() {
        let manifest = r#"
            [[testcases]]
            name = "a"
            [[testcases]]
            name = "b"
              [testcases.params]
              rounds = { type = "int", default = 3 }
              latency = { type = "duration", default = "10ms" }
              versions = { type = "list", default = ["x", "y"] }
              unset = { type = "int" }
        "#;
        let params = defaults(Some(manifest), "b").unwrap();
        assert_eq!(params.pack(), r#"latency=10ms|rounds=3|versions=["x","y"]"#);
        assert!(defaults(Some(manifest), "c").is_err());
    }
}
