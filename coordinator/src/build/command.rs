//! `exec:command`: any build command to a bundle.
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `command` | the build: a list, or a text for `sh -c`; runs in a copy of the plan | no build |
//! | `entrypoint` | the command of an instance | required |
//! | `include` | paths of the plan that make the bundle | everything |
//! | `env` | environment of the instances | none |
//!
//! The entry point's first word is a path in the plan when there is such a file, and otherwise a command that is
//! searched for where the instance runs. Extra source directories lie beside the plan's, as `../<name>`. The build
//! finds the group's selectors in `SELECTORS`, joined by `,`, and what it replaces in `DEPENDENCIES`, as
//! `module=target@version` joined by blanks.

use std::path::{Path, PathBuf};

use groundswell_common::messages::ImageRef;
use serde_json::Value;
use tokio::process::Command;

use super::layout::LaidOut;
use super::process::{self, Stdout};
use super::settings::Settings;
use super::{BuildError, BuildRequest, Builders, Watch, blocking, host, tree};

/// Builds a request.
pub(super) async fn build(
    builders: &Builders,
    request: &BuildRequest,
    watch: &Watch,
) -> Result<ImageRef, BuildError> {
    let settings = Settings(request);
    let entrypoint = settings.list("entrypoint")?;
    if entrypoint.is_empty() {
        let reason = "it says what an instance runs: entrypoint = [\"./run.sh\"]".to_owned();
        return Err(settings.wrong("entrypoint", reason));
    }
    let env = settings.table("env")?;
    let include = settings.paths("include")?;
    let build = build_command(settings)?;
    let scratch = tempfile::tempdir().map_err(host("create a directory for the build"))?;
    let (from, to) = (request.source.clone(), scratch.path().join("src"));
    let plan = blocking("copy the plan", move || {
        let laid_out = LaidOut::read(&from)?;
        tree::mirror(&laid_out.files, &to)?;
        Ok(to.join(laid_out.plan))
    })
    .await?;
    if let Some(mut command) = build {
        command.current_dir(&plan).envs(settings.choices());
        let finished = process::run(command, Stdout::Shown, watch).await?;
        if !finished.status.success() {
            return Err(BuildError::Failed {
                builder: request.builder.clone(),
                reason: format!("the command ended with {}", finished.status),
                last_lines: finished.last_lines,
            });
        }
    }
    let bundle = match include.as_slice() {
        [] => plan,
        include => {
            let chosen = scratch.path().join("bundle");
            pick(settings, &plan, include, &chosen)?;
            chosen
        }
    };
    let command = first_word(&entrypoint, &bundle);
    let image = builders.store_bundle(&bundle).await?;
    Ok(ImageRef { command, env, ..image })
}

fn build_command(settings: Settings<'_>) -> Result<Option<Command>, BuildError> {
    if let Some(Value::String(text)) = settings.0.config.get("command") {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        return Ok(Some(command));
    }
    let words = settings.list("command")?;
    Ok(words.split_first().map(|(program, arguments)| {
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }))
}

/// Copies the chosen paths.
fn pick(
    settings: Settings<'_>,
    plan: &Path,
    include: &[PathBuf],
    to: &Path,
) -> Result<(), BuildError> {
    for path in include {
        if !plan.join(path).exists() {
            let reason = format!("`{}` is not there after the build", path.display());
            return Err(settings.wrong("include", reason));
        }
    }
    let wanted = |path: &Path| {
        include.iter().any(|chosen| path.starts_with(chosen) || chosen.starts_with(path))
    };
    tree::mirror_directory(plan, to, |path| !wanted(path)).map_err(host("copy the bundle's files"))
}

/// A word that is no file of the bundle is searched for by `env`, as a shell would.
fn first_word(entrypoint: &[String], bundle: &Path) -> Vec<String> {
    let mut words = entrypoint.to_vec();
    let first = words[0].clone();
    if first.starts_with('/') {
        return words;
    }
    if bundle.join(&first).is_file() || first.contains('/') {
        words[0] = first.trim_start_matches("./").to_owned();
        return words;
    }
    words.insert(0, "/usr/bin/env".to_owned());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_a_file_of_the_bundle_or_searched_for() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("run.sh"), "").expect("written");
        let words = |text: &str| {
            let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
            first_word(&words, dir.path()).join(" ")
        };
        assert_eq!(words("run.sh a"), "run.sh a");
        assert_eq!(words("./run.sh a"), "run.sh a");
        assert_eq!(words("node index.js"), "/usr/bin/env node index.js");
        assert_eq!(words("/bin/sh run.sh"), "/bin/sh run.sh");
    }
}
