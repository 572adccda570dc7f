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
//! and compiles only what has changed. Extra source directories lie beside the plan's, as `../<name>`; what the
//! crate reaches by paths, and its workspace's root, lies where it lies in the user's tree (see [`around`]).
//! What a group replaces is written into the manifests on the way (see `replace`).
//! All plans share one target directory, so what they have in common is compiled once; Cargo builds in it
//! one at a time.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use groundswell_common::messages::ImageRef;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use tokio::process::Command;

use super::layout::{LaidOut, normal};
use super::process::{self, Finished, Stdout};
use super::settings::Settings;
use super::tree::{self, Content};
use super::{BuildError, BuildRequest, Builders, Watch, blocking, home_name, host};

pub mod around;
mod manifest;
mod replace;

/// Checks that there is a crate, and returns its directory.
pub(super) fn check_crate(request: &BuildRequest) -> Result<PathBuf, BuildError> {
    let directory = request.plan_dir().join(Settings(request).path("path")?);
    if directory.join("Cargo.toml").is_file() {
        return Ok(directory);
    }
    let shown = Settings(request).text("path")?.unwrap_or_else(|| "./".to_owned());
    let reason = format!("there is no Cargo.toml in `{shown}` of the plan");
    Err(Settings(request).wrong("path", reason))
}

/// The compiler that a build would use: part of what its result depends on.
pub(super) async fn toolchain(request: &BuildRequest) -> Result<String, BuildError> {
    let directory = check_crate(request)?;
    let source = request.source.clone();
    let laid_out = blocking("read the plan's source", move || LaidOut::read(&source)).await?;
    let directory = toolchain_directory(&laid_out, &Settings(request).path("path")?, directory);
    let output = Command::new("rustc")
        .arg("-vV")
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(host("run `rustc`; install Rust on the coordinator's host"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where `rustc` finds the file, if there is one, in which the crate or its workspace asks for a toolchain.
fn toolchain_directory(laid_out: &LaidOut, path: &Path, crate_directory: PathBuf) -> PathBuf {
    for above in laid_out.plan.join(path).ancestors() {
        for name in ["rust-toolchain", "rust-toolchain.toml"] {
            if let Some(Content::Copy(from)) = laid_out.files.get(&above.join(name)) {
                return from.parent().map_or(crate_directory, Path::to_owned);
            }
        }
    }
    crate_directory
}

/// A source as Cargo is to see it, and how Cargo is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The crate's directory.
    pub(super) directory: PathBuf,
    /// Whether the lock file is to be taken as it is.
    pub(super) locked: bool,
    /// Crates whose version is changed in the lock file only.
    pub(super) only_locked: Vec<(String, String)>,
}

impl Plan {
    /// Lays out a source, with everything replaced that the request replaces. Returns the root of the workspace
    /// as well.
    pub(super) fn lay_out(
        request: &BuildRequest,
        laid_out: &mut LaidOut,
    ) -> Result<(Self, PathBuf), BuildError> {
        let directory = laid_out.plan.join(Settings(request).path("path")?);
        let root = find_root(laid_out, &directory);
        let only_locked = replace::apply(request, laid_out, &root)?;
        // Cargo drops entries of the lock file in a part of the user's workspace, and changes those of what is
        // replaced.
        let is_whole = root.starts_with(&laid_out.plan) && request.dependencies.is_empty();
        let has_lock = laid_out.files.contains_key(&root.join("Cargo.lock"));
        Ok((Self { directory, locked: is_whole && has_lock, only_locked }, root))
    }

    /// The arguments of `cargo build`.
    pub(super) fn arguments(&self, settings: Settings<'_>) -> Result<Vec<String>, BuildError> {
        let mut features = settings.list("features")?;
        features.extend(settings.0.selectors.iter().cloned());
        let mut arguments =
            vec!["build".to_owned(), "--profile".to_owned(), self.profile(settings)?];
        if self.locked {
            arguments.push("--locked".to_owned());
        }
        if let Some(bin) = settings.text("bin")? {
            arguments.extend(["--bin".to_owned(), bin]);
        }
        if !features.is_empty() {
            arguments.extend(["--features".to_owned(), features.join(",")]);
        }
        Ok(arguments)
    }

    /// The profile it is built in.
    #[expect(clippy::unused_self, reason = "it is one of the things that say how Cargo is called")]
    pub(super) fn profile(&self, settings: Settings<'_>) -> Result<String, BuildError> {
        Ok(settings.text("profile")?.unwrap_or_else(|| "release".to_owned()))
    }
}

/// Builds a request.
pub(super) async fn build(
    builders: &Builders,
    request: &BuildRequest,
    watch: &Watch,
) -> Result<ImageRef, BuildError> {
    let settings = Settings(request);
    let shared = builders.cache_dir.join("cargo");
    let home = shared.join(home_name(request, &settings.path("path")?));
    let turn = builders.turn("cargo");
    let _turn = turn.acquire().await.expect("the semaphore is never closed");
    let prepared = prepare(request, home).await?;
    let in_crate = |arguments: &[String]| -> Result<Command, BuildError> {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(&prepared.directory);
        command.env("CARGO_TARGET_DIR", shared.join("target")).envs(settings.table("env")?);
        Ok(command)
    };
    for (module, version) in &prepared.plan.only_locked {
        let words = ["update", module, "--precise", version].map(str::to_owned);
        finished(request, process::run(in_crate(&words)?, Stdout::Shown, watch).await?)?;
    }
    let mut arguments = prepared.plan.arguments(settings)?;
    arguments.push("--message-format=json-render-diagnostics".to_owned());
    let built = process::run(in_crate(&arguments)?, Stdout::Kept, watch).await?;
    let built = finished(request, built)?;
    prepared.check_lock(request)?;
    let binary = binary(settings, built)?;
    let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bundle = tempfile::tempdir().map_err(host("create a directory for the bundle"))?;
    std::fs::copy(&binary, bundle.path().join(&name)).map_err(host("copy the built binary"))?;
    let image = builders.store_bundle(bundle.path()).await?;
    Ok(ImageRef { command: vec![name], ..image })
}

fn finished(request: &BuildRequest, finished: Finished) -> Result<Finished, BuildError> {
    if finished.status.success() {
        return Ok(finished);
    }
    Err(failed(request, format!("cargo ended with {}", finished.status), finished))
}

/// A source that is ready to be built.
struct Prepared {
    /// The crate.
    directory: PathBuf,
    /// How it is built.
    plan: Plan,
    /// The workspace's lock file.
    lock: PathBuf,
    /// What it was, when the user has one.
    lock_before: Option<String>,
    /// Keeps other processes out of all Cargo builds here: two plans may give their binaries the same name.
    _alone: Flock<std::fs::File>,
}

/// Mirrors the source.
async fn prepare(request: &BuildRequest, home: PathBuf) -> Result<Prepared, BuildError> {
    let source = request.source.clone();
    let mut laid_out = blocking("read the plan's source", move || LaidOut::read(&source)).await?;
    let (plan, root) = Plan::lay_out(request, &mut laid_out)?;
    let lock_before = laid_out.text(&root.join("Cargo.lock"));
    let tree = home.join("src");
    let (directory, lock) = (tree.join(&plan.directory), tree.join(root).join("Cargo.lock"));
    let alone = blocking("prepare the directory of the Cargo build", move || {
        std::fs::create_dir_all(&home)?;
        let file = std::fs::File::create(home.with_file_name("lock"))?;
        let alone = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        tree::mirror(&laid_out.files, &tree)?;
        Ok(alone)
    })
    .await?;
    Ok(Prepared { directory, plan, lock, lock_before, _alone: alone })
}

/// The root of the crate's workspace. A crate without one becomes its own: whatever lies around the directory of
/// builds is none of its business.
fn find_root(laid_out: &mut LaidOut, place: &Path) -> PathBuf {
    let table = |path: &Path| laid_out.text(path)?.parse::<toml::Table>().ok();
    let own = place.join("Cargo.toml");
    let Some(manifest) = table(&own) else { return place.to_owned() };
    let told = manifest.get("package").and_then(|package| package.get("workspace"));
    if let Some(told) = told.and_then(toml::Value::as_str) {
        return normal(&place.join(told));
    }
    for above in place.ancestors() {
        if table(&above.join("Cargo.toml")).is_some_and(|table| table.contains_key("workspace")) {
            return above.to_owned();
        }
    }
    let text = laid_out.text(&own).unwrap_or_default();
    laid_out.files.insert(own, Content::Text(format!("{}\n[workspace]\n", text.trim_end())));
    place.to_owned()
}

impl Prepared {
    /// Checks that Cargo has used what the workspace's lock file says, and what is replaced.
    fn check_lock(&self, request: &BuildRequest) -> Result<(), BuildError> {
        let after = std::fs::read_to_string(&self.lock).map_err(host("read the lock file"))?;
        if !request.dependencies.is_empty() {
            return replace::check_used(request, &after);
        }
        let Some(before) = self.lock_before.as_ref() else { return Ok(()) };
        let before = manifest::locked_packages(before);
        let added: Vec<_> =
            manifest::locked_packages(&after).difference(&before).cloned().collect();
        if added.is_empty() {
            return Ok(());
        }
        Err(BuildError::Failed {
            builder: request.builder.clone(),
            reason: format!(
                "the workspace's Cargo.lock lacks {}; run `cargo metadata` in the plan to bring it up to date",
                added.join(", ")
            ),
            last_lines: Vec::new(),
        })
    }
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
