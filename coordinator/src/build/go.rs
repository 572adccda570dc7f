//! `exec:go`: a Go module to a bundle with one binary, `testplan`.
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `path` | directory of the module in the plan | the plan |
//! | `exec_pkg` | the package to build | `.` |
//! | `modfile` | another `go.mod`, in the module's directory | `go.mod` |
//! | `fresh_gomod`, `module_path` | makes a new `go.mod` for this module | |
//! | `enable_cgo` | | `false` |
//! | `go_proxy_mode`, `go_proxy_url` | `direct`, or `remote` with a URL | as the coordinator's host has it |
//! | `env` | environment of the build | none |
//!
//! The group's selectors are build tags. What a group replaces is a `replace` in `go.mod`; a repository is checked
//! out, and lies beside the module's directory with all that is to be built in. All plans share Go's caches.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use groundswell_common::messages::ImageRef;
use nix::fcntl::{Flock, FlockArg};
use tokio::process::Command;

use super::dependencies::{self, By};
use super::layout::{LaidOut, from_to};
use super::process::{self, Stdout};
use super::settings::Settings;
use super::tree::{self, Content, Files};
use super::{BuildError, BuildRequest, Builders, Watch, blocking, git, go_mod, home_name, host};

/// Name of the binary, as Testground has it.
const BINARY: &str = "testplan";

/// The compiler that a build would use: part of what its result depends on.
pub(super) async fn toolchain() -> Result<String, BuildError> {
    let output = Command::new("go")
        .arg("version")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(host("run `go`; install Go on the coordinator's host"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Builds a request.
pub(super) async fn build(
    builders: &Builders,
    request: &BuildRequest,
    watch: &Watch,
) -> Result<ImageRef, BuildError> {
    let settings = Settings(request);
    let options = Options::read(settings)?;
    let source = request.source.clone();
    let mut laid_out = blocking("read the plan's source", move || LaidOut::read(&source)).await?;
    let module = laid_out.plan.join(&options.path);
    let replaces = options.edit_module(builders, request, &mut laid_out.files, &module).await?;
    let shared = builders.cache_dir.join("go");
    let home = shared.join(home_name(request, &options.path));
    let tree = home.join("src");
    let (files, to) = (laid_out.files, tree.clone());
    let _alone = blocking("prepare the directory of the Go build", move || {
        std::fs::create_dir_all(&home)?;
        let lock = std::fs::File::create(home.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        tree::mirror(&files, &to)?;
        Ok(lock)
    })
    .await?;
    let bundle = tempfile::tempdir().map_err(host("create a directory for the bundle"))?;
    let binary = bundle.path().join(BINARY);
    let mut commands = Vec::new();
    if let Some(module_path) = &options.fresh {
        commands.push(go(&["mod", "init", module_path]));
        for (module, target) in &replaces {
            let replace = format!("-replace={module}={}", target.replacen(' ', "@", 1));
            commands.push(go(&["mod", "edit", &replace]));
        }
    }
    commands.push(go(&options.arguments(request, &binary)));
    for mut command in commands {
        command.current_dir(tree.join(&module)).envs(options.environment(settings, &shared)?);
        let finished = process::run(command, Stdout::Shown, watch).await?;
        if !finished.status.success() {
            return Err(BuildError::Failed {
                builder: request.builder.clone(),
                reason: format!("go ended with {}", finished.status),
                last_lines: finished.last_lines,
            });
        }
    }
    if !binary.is_file() {
        let reason = "the package is no program; name one with `package main`".to_owned();
        return Err(settings.wrong("exec_pkg", reason));
    }
    let image = builders.store_bundle(bundle.path()).await?;
    Ok(ImageRef { command: vec![BINARY.to_owned()], ..image })
}

fn go<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new("go");
    command.args(arguments);
    command
}

/// The options that both builders for Go have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) path: PathBuf,
    pub(super) package: String,
    pub(super) modfile: String,
    /// Path of the module for which a new `go.mod` is made.
    pub(super) fresh: Option<String>,
    pub(super) cgo: bool,
    /// Value of `GOPROXY`, when an option says it.
    pub(super) proxy: Option<String>,
    /// Whether something is replaced, so that `go.mod` and `go.sum` are not what was locked.
    pub(super) replaces: bool,
}

impl Options {
    pub(super) fn read(settings: Settings<'_>) -> Result<Self, BuildError> {
        let path = settings.path("path")?;
        let modfile = settings.text("modfile")?.unwrap_or_else(|| "go.mod".to_owned());
        let fresh = if settings.flag("fresh_gomod")? {
            let wanted = "it names the module that `fresh_gomod` makes a go.mod for";
            let path = settings.text("module_path")?;
            Some(path.ok_or_else(|| settings.wrong("module_path", wanted.to_owned()))?)
        } else {
            None
        };
        let directory = settings.0.plan_dir().join(&path);
        if fresh.is_none() && !directory.join(&modfile).is_file() {
            let shown = settings.text("path")?.unwrap_or_else(|| "./".to_owned());
            let key = if modfile == "go.mod" { "path" } else { "modfile" };
            let reason = format!("there is no `{modfile}` in `{shown}` of the plan");
            return Err(settings.wrong(key, reason));
        }
        Ok(Self {
            path,
            package: settings.text("exec_pkg")?.unwrap_or_else(|| ".".to_owned()),
            modfile,
            fresh,
            cgo: settings.flag("enable_cgo")?,
            proxy: proxy(settings)?,
            replaces: !settings.0.dependencies.is_empty(),
        })
    }

    /// Writes what is replaced into `go.mod`, and adds what is built in for it to the files. Returns each module that
    /// is replaced and what stands for it.
    pub(super) async fn edit_module(
        &self,
        builders: &Builders,
        request: &BuildRequest,
        files: &mut Files,
        module: &Path,
    ) -> Result<Vec<(String, String)>, BuildError> {
        let path = module.join(&self.modfile);
        if self.fresh.is_some() {
            for name in ["go.mod", "go.sum"] {
                files.remove(&module.join(name));
            }
        }
        let mut replaces = Vec::new();
        for (number, one) in dependencies::read(request)?.into_iter().enumerate() {
            let place = dependencies::brought(number);
            let target = match one.by {
                By::Version(version) => format!("{} {version}", one.module),
                By::Module { name, version } => format!("{name} {version}").trim_end().to_owned(),
                By::Git { url, commit } => {
                    let files_of = git::checkout(&url, &commit, &builders.cache_dir).await;
                    let checked_out = files_of.map_err(host("fetch what is replaced"))?;
                    add(files, &place, &checked_out)?;
                    from_to(module, &place).display().to_string()
                }
                By::Directory(directory) => {
                    dependencies::bring(request, files, &one.module, &directory, number)?;
                    from_to(module, &place).display().to_string()
                }
            };
            replaces.push((one.module, target));
        }
        let text = match files.get(&path) {
            Some(Content::Copy(from)) => std::fs::read_to_string(from).ok(),
            Some(Content::Text(text)) => Some(text.clone()),
            Some(Content::Directory) | None => None,
        };
        if let Some(text) = text.filter(|_| !replaces.is_empty()) {
            files.insert(path, Content::Text(go_mod::replace(&text, &replaces)));
        }
        Ok(replaces)
    }

    /// The arguments of `go build`.
    pub(super) fn arguments(&self, request: &BuildRequest, binary: &Path) -> Vec<String> {
        let mut arguments = vec!["build".to_owned(), "-o".to_owned(), binary.display().to_string()];
        if self.modfile != "go.mod" {
            arguments.push(format!("-modfile={}", self.modfile));
        }
        // What is not locked may be looked up: there is nothing else to go by.
        if self.replaces || self.fresh.is_some() {
            arguments.push("-mod=mod".to_owned());
        }
        if !request.selectors.is_empty() {
            arguments.push(format!("-tags={}", request.selectors.join(",")));
        }
        arguments.push(self.package.clone());
        arguments
    }

    fn environment(
        &self,
        settings: Settings<'_>,
        shared: &Path,
    ) -> Result<Vec<(String, String)>, BuildError> {
        let shared = |name: &str| shared.join(name).display().to_string();
        let mut environment = vec![
            ("GOCACHE".to_owned(), shared("cache")),
            ("GOMODCACHE".to_owned(), shared("modules")),
            ("GOFLAGS".to_owned(), "-trimpath".to_owned()),
            ("CGO_ENABLED".to_owned(), u8::from(self.cgo).to_string()),
        ];
        environment.extend(self.proxy.clone().map(|proxy| ("GOPROXY".to_owned(), proxy)));
        environment.extend(settings.table("env")?);
        Ok(environment)
    }
}

/// `GOPROXY` as the options say it. The local proxy is a container, so it is the business of `docker:go`.
fn proxy(settings: Settings<'_>) -> Result<Option<String>, BuildError> {
    let url = settings.text("go_proxy_url")?;
    match (settings.text("go_proxy_mode")?.as_deref(), url) {
        (None | Some("local"), _) => Ok(None),
        (Some("direct"), _) => Ok(Some("direct".to_owned())),
        (Some("remote"), Some(url)) => Ok(Some(url)),
        (Some("remote"), None) => {
            let reason = "mode `remote` needs the URL of a proxy".to_owned();
            Err(settings.wrong("go_proxy_url", reason))
        }
        (Some(other), _) => {
            let reason = format!("`{other}` is none of `local`, `direct` and `remote`");
            Err(settings.wrong("go_proxy_mode", reason))
        }
    }
}

fn add(files: &mut Files, place: &Path, directory: &Path) -> Result<(), BuildError> {
    tree::gather(files, place, directory, |_| false).map_err(host("read what is replaced"))
}
