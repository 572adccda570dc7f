//! `exec:cargo`: a Cargo project to a bundle with one binary.
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `path` | directory of the crate in the plan | the plan |
//! | `bin` | which binary | the only one, or the one named like the package |
//! | `features` | list of features; the group's selectors are added | none |
//! | `profile` | `release`, `dev` or one of the crate's own | `release` |
//! | `env` | environment of the build | none |
//!
//! The source is mirrored into a directory that stays, so Cargo finds the paths and times of the last build
//! and compiles only what has changed. Extra source directories lie beside the plan's, as `../<name>`.
//! All plans share one target directory, so what they have in common is compiled once; Cargo builds in it
//! one at a time.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use groundswell_common::messages::ImageRef;
use groundswell_common::objects::digest;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use tokio::process::Command;

use super::process::{self, Finished, Stdout};
use super::settings::Settings;
use super::{BuildError, BuildRequest, Builders, Watch, blocking, host, source};

/// The compiler that a build would use: part of what its result depends on.
pub(super) async fn toolchain(request: &BuildRequest) -> Result<String, BuildError> {
    let directory = request.plan_dir().join(Settings(request).path("path")?);
    if !directory.join("Cargo.toml").is_file() {
        let reason = format!("there is no Cargo.toml in `{}` of the plan", shown_path(request)?);
        return Err(Settings(request).wrong("path", reason));
    }
    let output = Command::new("rustc")
        .arg("-vV")
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(host("run `rustc`; install Rust on the coordinator's host"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown_path(request: &BuildRequest) -> Result<String, BuildError> {
    Ok(Settings(request).text("path")?.unwrap_or_else(|| "./".to_owned()))
}

/// Builds a request.
pub(super) async fn build(
    builders: &Builders,
    request: &BuildRequest,
    watch: &Watch,
) -> Result<ImageRef, BuildError> {
    let settings = Settings(request);
    let path = settings.path("path")?;
    let shared = builders.cache_dir.join("cargo");
    let home = shared.join(home_name(request, &path));
    let turn = builders.turn("cargo");
    let _turn = turn.acquire().await.expect("the semaphore is never closed");
    let (from, to) = (request.source.clone(), home.clone());
    let _lock =
        blocking("prepare the directory of the Cargo build", move || prepare(&from, &to)).await?;
    let directory = home.join("src/plan").join(&path);
    let command = command(settings, &directory, &home, &shared.join("target"))?;
    let finished = process::run(command, Stdout::Kept, watch).await?;
    if !finished.status.success() {
        return Err(failed(request, format!("cargo ended with {}", finished.status), finished));
    }
    let binary = binary(settings, finished)?;
    let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bundle = tempfile::tempdir().map_err(host("create a directory for the bundle"))?;
    std::fs::copy(&binary, bundle.path().join(&name)).map_err(host("copy the built binary"))?;
    let image = builders.store_bundle(bundle.path()).await?;
    Ok(ImageRef { command: vec![name], ..image })
}

/// One directory for each crate of each plan.
fn home_name(request: &BuildRequest, path: &Path) -> String {
    let name = digest(format!("{}\0{}", request.plan, path.display()).as_bytes());
    name[7..23].to_owned()
}

/// Mirrors the source and keeps other processes out of all Cargo builds here as long as the lock lives: two
/// plans may give their binaries the same name.
fn prepare(source: &Path, home: &Path) -> std::io::Result<Flock<std::fs::File>> {
    std::fs::create_dir_all(home)?;
    let file = std::fs::File::create(home.with_file_name("lock"))?;
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let extra = source.join("extra");
    let tree = home.join("src");
    std::fs::create_dir_all(&tree)?;
    let mut names = vec!["plan".to_owned()];
    source::mirror(&source.join("plan"), &tree.join("plan"), source::left_out)?;
    if extra.is_dir() {
        for entry in std::fs::read_dir(&extra)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            source::mirror(&extra.join(&name), &tree.join(&name), |_| false)?;
            names.push(name);
        }
    }
    for entry in std::fs::read_dir(&tree)? {
        let entry = entry?;
        if !names.iter().any(|name| *name == entry.file_name().to_string_lossy()) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(lock)
}

fn command(
    settings: Settings<'_>,
    directory: &Path,
    home: &Path,
    target: &Path,
) -> Result<Command, BuildError> {
    let mut features = settings.list("features")?;
    features.extend(settings.0.selectors.iter().cloned());
    let profile = settings.text("profile")?.unwrap_or_else(|| "release".to_owned());
    let mut command = Command::new("cargo");
    command.args(["build", "--message-format=json-render-diagnostics", "--profile", &profile]);
    if locked(directory, home) {
        command.arg("--locked");
    }
    if let Some(bin) = settings.text("bin")? {
        command.args(["--bin", &bin]);
    }
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    command.current_dir(directory).env("CARGO_TARGET_DIR", target);
    command.envs(settings.table("env")?);
    Ok(command)
}

/// Whether the crate or a workspace around it brings a lock file.
fn locked(directory: &Path, home: &Path) -> bool {
    let around = directory.ancestors().take_while(|around| around.starts_with(home));
    around.into_iter().any(|around| around.join("Cargo.lock").is_file())
}

/// The part of Cargo's messages that says which binaries there are.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Target,
    #[serde(default)]
    manifest_path: PathBuf,
}

#[derive(Deserialize, Default)]
struct Target {
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: Vec<String>,
}

fn binary(settings: Settings<'_>, finished: Finished) -> Result<PathBuf, BuildError> {
    let mut found: Vec<(String, PathBuf, PathBuf)> = finished
        .stdout
        .iter()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.target.kind.iter().any(|kind| kind == "bin"))
        .filter_map(|message| {
            Some((message.target.name, message.executable?, message.manifest_path))
        })
        .collect();
    if found.len() > 1 {
        let package = |manifest: &Path| {
            let text = std::fs::read_to_string(manifest).ok()?;
            let table: toml::Table = text.parse().ok()?;
            Some(table.get("package")?.get("name")?.as_str()?.to_owned())
        };
        if let Some(at) = found.iter().position(|one| package(&one.2).as_ref() == Some(&one.0)) {
            found.swap(0, at);
            found.truncate(1);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.1.clone()),
        [] => {
            let reason = "the crate has no binary; the plan has to be a program".to_owned();
            Err(failed(settings.0, reason, finished))
        }
        several => {
            let names: Vec<_> = several.iter().map(|one| format!("`{}`", one.0)).collect();
            let reason = format!("name one of the crate's binaries: {}", names.join(", "));
            Err(settings.wrong("bin", reason))
        }
    }
}

fn failed(request: &BuildRequest, reason: String, finished: Finished) -> BuildError {
    BuildError::Failed { builder: request.builder.clone(), reason, last_lines: finished.last_lines }
}
