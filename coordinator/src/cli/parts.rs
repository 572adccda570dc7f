//! Where the command line meets the rest of Groundswell: compositions, the plan's source, the service, the
//! embedded worker, stored outputs. Nothing else in `cli` and `local` calls these parts directly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use futures::future::BoxFuture;
use groundswell_common::bus::Bus;
use groundswell_common::objects::Objects;
use groundswell_common::run::RunRecord;
use groundswell_common::timing::Lease;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

/// Names under which a worker may have stored what an instance printed on stdout, best first.
pub(crate) const STDOUT_FILES: [&str; 2] = ["stdout.log", "run.out"];
/// The same for stderr.
pub(crate) const STDERR_FILES: [&str; 2] = ["stderr.log", "run.err"];

/// Everything a composition says that the command line needs.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The composition after templating.
    pub(crate) text: String,
    /// `global.plan`, as written.
    pub(crate) plan: String,
    /// `global.case`.
    pub(crate) case: String,
    /// Its runs, in alphabetical order.
    pub(crate) runs: Vec<String>,
    /// What people should know, rendered.
    pub(crate) warnings: Vec<String>,
    parsed: Composition,
}

/// How a composition is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'a> {
    /// What the template sees as `.Env`.
    pub(crate) env: &'a BTreeMap<String, String>,
    /// Directory that `load_resource` is relative to.
    pub(crate) base: &'a Path,
    /// Whether warnings are errors.
    pub(crate) strict: bool,
    /// Whether what is wrong is rendered in colour.
    pub(crate) color: bool,
}

/// A composition without a file.
#[derive(Debug, Clone)]
pub(crate) struct Single<'a> {
    pub(crate) plan: &'a str,
    pub(crate) case: &'a str,
    pub(crate) instances: u32,
    pub(crate) runner: &'a str,
    pub(crate) builder: &'a str,
    pub(crate) params: &'a [(String, String)],
}

/// A plan's manifest as the command line needs it.
#[derive(Debug, Clone)]
pub(crate) struct PlanManifest {
    /// The plan's name.
    pub(crate) name: String,
    /// Its cases.
    pub(crate) cases: Vec<String>,
    /// The runner its author prefers; empty when there is none.
    pub(crate) runner: String,
    /// The builder its author prefers; empty when there is none.
    pub(crate) builder: String,
    parsed: Manifest,
}

#[derive(Debug, Clone, Deserialize)]
struct Composition {
    global: Global,
    #[serde(default)]
    groups: Vec<Group>,
    #[serde(default)]
    runs: Vec<Run>,
}

#[derive(Debug, Clone, Deserialize)]
struct Global {
    plan: String,
    #[serde(default)]
    case: String,
    #[serde(default)]
    builder: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Group {
    id: String,
    #[serde(default)]
    instances: Instances,
}

#[derive(Debug, Clone, Deserialize)]
struct Run {
    id: String,
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Instances {
    #[serde(default)]
    count: u32,
}

#[derive(Debug, Clone, Deserialize)]
struct Manifest {
    name: String,
    #[serde(default)]
    defaults: BTreeMap<String, String>,
    #[serde(default)]
    extra_sources: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    testcases: Vec<Case>,
}

#[derive(Debug, Clone, Deserialize)]
struct Case {
    name: String,
}

/// Reads a composition. The error is rendered text.
pub(crate) fn load(file_name: &str, text: &str, reading: Reading<'_>) -> Result<Loaded, String> {
    let _ = (reading.env, reading.base, reading.strict, reading.color);
    let parsed: Composition =
        toml::from_str(text).map_err(|err| format!("{file_name} is not valid:\n{err}"))?;
    let mut runs: Vec<String> = parsed.runs.iter().map(|run| run.id.clone()).collect();
    if runs.is_empty() {
        runs.push("default".to_owned());
    }
    runs.sort();
    Ok(Loaded {
        text: text.to_owned(),
        plan: parsed.global.plan.clone(),
        case: parsed.global.case.clone(),
        runs,
        warnings: Vec::new(),
        parsed,
    })
}

/// The text of a composition without a file: one group called `single`.
pub(crate) fn single(single: &Single<'_>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let params: String = single
        .params
        .iter()
        .map(|(key, value)| format!("{} = {}\n", quoted(key), quoted(value)))
        .collect();
    format!(
        "[metadata]\nname = {}\n\n[global]\nplan = {}\ncase = {}\nbuilder = {}\nrunner = {}\n\n\
         [[groups]]\nid = \"single\"\ninstances = {{ count = {} }}\n\n[groups.run.test_params]\n{params}",
        quoted(&format!("{}/{}", single.plan, single.case)),
        quoted(single.plan),
        quoted(single.case),
        quoted(single.builder),
        quoted(single.runner),
        single.instances,
    )
}

/// Reads a manifest. The error is rendered text.
pub(crate) fn manifest(file_name: &str, text: &str) -> Result<PlanManifest, String> {
    let parsed: Manifest =
        toml::from_str(text).map_err(|err| format!("{file_name} is not valid:\n{err}"))?;
    let default = |key: &str| parsed.defaults.get(key).cloned().unwrap_or_default();
    Ok(PlanManifest {
        name: parsed.name.clone(),
        cases: parsed.testcases.iter().map(|case| case.name.clone()).collect(),
        runner: default("runner"),
        builder: default("builder"),
        parsed,
    })
}

/// The groups of one run with their instances, after every rule of the contract. The error is rendered text.
pub(crate) fn groups(
    loaded: &Loaded,
    manifest: &PlanManifest,
    run: &str,
) -> Result<Vec<(String, u32)>, String> {
    if !manifest.cases.contains(&loaded.case) {
        let known = manifest.cases.join(", ");
        return Err(format!(
            "plan `{}` has no case `{}`; it has: {known}",
            manifest.name, loaded.case
        ));
    }
    let explicit = loaded.parsed.runs.iter().find(|known| known.id == run);
    let groups = explicit.map_or(&loaded.parsed.groups, |run| &run.groups);
    Ok(groups.iter().map(|group| (group.id.clone(), group.instances.count)).collect())
}

/// The directories besides the plan's own that its builder wants, by the name they get.
pub(crate) fn extra_sources(
    loaded: &Loaded,
    manifest: &PlanManifest,
    plan_dir: &Path,
) -> Vec<(String, PathBuf)> {
    let builder = loaded.parsed.global.builder.replace(':', "_");
    let wanted = manifest.parsed.extra_sources.get(&builder).cloned().unwrap_or_default();
    wanted
        .iter()
        .map(|dir| plan_dir.join(dir))
        .map(|dir| (dir.file_name().unwrap_or_default().to_string_lossy().into_owned(), dir))
        .collect()
}

/// Packs the plan's source into the object store and returns its digest.
pub(crate) async fn pack(
    plan_dir: &Path,
    extra: &[(String, PathBuf)],
    objects: &Objects,
) -> anyhow::Result<String> {
    let (plan_dir, extra) = (plan_dir.to_owned(), extra.to_vec());
    let packed =
        tokio::task::spawn_blocking(move || -> std::io::Result<tempfile::NamedTempFile> {
            let file = tempfile::NamedTempFile::new()?;
            let mut tar = tar::Builder::new(zstd::Encoder::new(file.reopen()?, 3)?);
            tar.append_dir_all("plan", &plan_dir)?;
            for (name, dir) in &extra {
                tar.append_dir_all(format!("extra/{name}"), dir)?;
            }
            tar.into_inner()?.finish()?;
            Ok(file)
        })
        .await??;
    Ok(objects.put_blob(packed.path()).await?)
}

/// What the service needs.
pub(crate) struct ServiceParts {
    pub(crate) bus: Bus,
    pub(crate) objects: Objects,
    pub(crate) lease: Lease,
    pub(crate) cache_dir: PathBuf,
    pub(crate) name: String,
}

/// Starts the service. Once this returns it answers; the future ends when it has ended.
#[expect(clippy::unused_async, reason = "the service starts asynchronously")]
pub(crate) async fn start_service(
    parts: ServiceParts,
    shutdown: CancellationToken,
) -> anyhow::Result<BoxFuture<'static, anyhow::Result<()>>> {
    let ServiceParts { bus, objects, lease, cache_dir, name } = parts;
    let _ = (bus, objects, lease, cache_dir, shutdown);
    anyhow::bail!("this build of the coordinator has no service for `{name}`")
}

/// What an embedded worker needs.
#[cfg(feature = "local")]
pub(crate) struct WorkerParts {
    /// NATS.
    pub(crate) url: String,
    /// The object store's URL.
    pub(crate) objects: String,
    /// The worker's id.
    pub(crate) name: String,
    /// Its directory.
    pub(crate) state_dir: PathBuf,
}

/// Runs a worker in this process until `shutdown`, then lets it drain.
#[cfg(feature = "local")]
pub(crate) fn run_worker(
    parts: WorkerParts,
    shutdown: CancellationToken,
) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let WorkerParts { url, objects, name, state_dir } = parts;
        let _ = (url, objects, state_dir, shutdown);
        anyhow::bail!("this build of the coordinator has no worker for `{name}`")
    })
}

/// The command line of a worker in a process of its own, after the binary's name.
pub(crate) fn worker_arguments(
    url: &str,
    objects: &str,
    name: &str,
    state_dir: &Path,
) -> Vec<String> {
    let state_dir = state_dir.display().to_string();
    ["run", "--nats", url, "--objects", objects, "--name", name, "--state-dir", &state_dir]
        .map(str::to_owned)
        .to_vec()
}

/// Does the work of an embedded worker's helper process when this process was started as one.
pub(crate) fn asked_to_be_a_helper() -> Option<ExitCode> {
    None
}

/// A file among a run's stored outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputFile {
    /// Group of the instance that wrote it.
    pub(crate) group: String,
    /// Number of that instance within its group.
    pub(crate) in_group: u32,
    /// Path within the instance's outputs.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    pack: String,
    offset: u64,
}

#[derive(Deserialize)]
struct Index {
    files: Vec<IndexedFile>,
}

#[derive(Deserialize)]
struct IndexedFile {
    group: String,
    in_group: u32,
    path: String,
    pack: String,
    offset: u64,
    size: u64,
    mode: u32,
}

/// The stored outputs of a run.
pub(crate) async fn outputs(
    objects: &Objects,
    record: &RunRecord,
) -> anyhow::Result<Vec<OutputFile>> {
    let mut files = Vec::new();
    for key in &record.indexes {
        let stored = objects.get(key).await?;
        let stored = stored.ok_or_else(|| anyhow::anyhow!("`{key}` is not in the object store"))?;
        let index: Index = serde_json::from_slice(&stored)?;
        files.extend(index.files.into_iter().map(|file| OutputFile {
            group: file.group,
            in_group: file.in_group,
            path: file.path,
            size: file.size,
            mode: file.mode,
            pack: file.pack,
            offset: file.offset,
        }));
    }
    Ok(files)
}

/// The content of one stored file.
pub(crate) async fn read_output(objects: &Objects, file: &OutputFile) -> anyhow::Result<Bytes> {
    if file.size == 0 {
        return Ok(Bytes::new());
    }
    Ok(objects.get_range(&file.pack, file.offset..file.offset + file.size).await?)
}
