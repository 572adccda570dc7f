//! Where the command line meets the rest of Groundswell: compositions, the plan's source, the service, the
//! embedded worker, stored outputs. Nothing else in `cli` and `local` calls these parts directly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use groundswell_common::bus::Bus;
#[cfg(feature = "local")]
use groundswell_common::bus::BusConfig;
use groundswell_common::composition::network::Attachments;
use groundswell_common::composition::{Composition, build_groups, resolve, run_ids};
use groundswell_common::manifest::Manifest;
#[cfg(feature = "local")]
use groundswell_common::metrics::MetricsConfig;
use groundswell_common::metrics::Shipper;
use groundswell_common::objects::Objects;
use groundswell_common::objects::ObjectsConfig;
use groundswell_common::outputs::{self, IndexEntry};
use groundswell_common::run::RunRecord;
use groundswell_common::timing::{Leadership, Lease};
use groundswell_coordinator::build::cargo::around::{self, Wanted};
use groundswell_coordinator::build::dependencies::is_directory;
use groundswell_coordinator::build::source::{self, Sources};
use groundswell_coordinator::ledger::GenerationFile;
use groundswell_coordinator::parts::Parts;
use groundswell_coordinator::parts::real::{BusSyncLogs, Compositions};
use groundswell_coordinator::queue::Policy;
use groundswell_coordinator::service::{Gauges, Service, ServiceConfig};
use groundswell_coordinator::workers::Overcommit;
#[cfg(feature = "local")]
use groundswell_worker::config::WorkerConfig;
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
    color: bool,
    parsed: Composition,
}

impl Loaded {
    /// What the composition takes from other files.
    pub(crate) fn attachments(&self) -> &Attachments {
        self.parsed.attachments()
    }
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

/// Reads a composition. The error is rendered text.
pub(crate) fn load(file_name: &str, text: &str, reading: Reading<'_>) -> Result<Loaded, String> {
    let resource = |path: &str| {
        let path = reading.base.join(path);
        std::fs::read_to_string(&path).map_err(|err| format!("{}: {err}", path.display()))
    };
    let (parsed, warnings) =
        Composition::load(file_name, text, reading.env, &resource, reading.strict)
            .map_err(|err| err.render(reading.color))?;
    Ok(Loaded {
        text: parsed.text().to_owned(),
        plan: parsed.plan().to_owned(),
        case: parsed.case().to_owned(),
        runs: run_ids(&parsed),
        warnings: warnings.iter().map(|warning| warning.render(reading.color)).collect(),
        color: reading.color,
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
    let (parsed, _) = Manifest::parse(file_name, text).map_err(|err| err.render(false))?;
    Ok(PlanManifest {
        name: parsed.name.clone(),
        cases: parsed.cases.iter().map(|case| case.name.clone()).collect(),
        runner: parsed.default_runner.clone(),
        builder: parsed.default_builder.clone(),
        parsed,
    })
}

/// The groups of one run with their instances, after every rule of the contract. The error is rendered text.
pub(crate) fn groups(
    loaded: &Loaded,
    manifest: &PlanManifest,
    run: &str,
) -> Result<Vec<(String, u32)>, String> {
    let resolved =
        resolve(&loaded.parsed, &manifest.parsed, run).map_err(|err| err.render(loaded.color))?;
    Ok(resolved.groups.into_iter().map(|group| (group.id, group.instances)).collect())
}

/// What one run's network is, in one line; absent when the composition says nothing of it.
pub(crate) fn links(loaded: &Loaded, manifest: &PlanManifest, run: &str) -> Option<String> {
    resolve(&loaded.parsed, &manifest.parsed, run).ok()?.network.summary()
}

/// What one run is judged by beside the ends of its instances, in one line; absent when that is nothing.
pub(crate) fn judging(loaded: &Loaded, manifest: &PlanManifest, run: &str) -> Option<String> {
    let judging = resolve(&loaded.parsed, &manifest.parsed, run).ok()?.judging;
    let mut parts = Vec::new();
    let mut names: Vec<&str> = judging.checks.iter().map(|check| check.name.as_str()).collect();
    names.dedup();
    if !names.is_empty() {
        parts.push(names.join(", "));
    }
    parts.extend(judging.off.iter().map(|(name, _)| format!("{name} is off")));
    if judging.gates.is_some() {
        parts.push("validity gates".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join(" · "))
}

/// What the plan is built from: its directory, those that its builder wants beside it, and what its crates reach.
pub(crate) fn sources(
    loaded: &Loaded,
    manifest: &PlanManifest,
    plan_dir: &Path,
) -> anyhow::Result<Sources> {
    let builder = loaded.parsed.builder().unwrap_or_default().replace(':', "_");
    let wanted = manifest.parsed.extra_sources.get(&builder).cloned().unwrap_or_default();
    let extra = wanted
        .iter()
        .map(|dir| plan_dir.join(dir))
        .map(|dir| (dir.file_name().unwrap_or_default().to_string_lossy().into_owned(), dir))
        .collect();
    let builds = build_groups(&loaded.parsed, &manifest.parsed)?;
    let mut wanted = Wanted::default();
    for input in builds.iter().map(|build| &build.input) {
        let is_cargo = input.builder.ends_with(":cargo");
        if is_cargo {
            let path = input.config.get("path").and_then(|path| path.as_str()).unwrap_or("");
            wanted.crates.insert(path.into());
        }
        let targets = input.dependencies.iter().map(|one| one.target.as_str());
        let built_in = if is_cargo { &mut wanted.replacing } else { &mut wanted.directories };
        built_in.extend(targets.filter(|target| is_directory(target)).map(PathBuf::from));
    }
    let around = around::find(plan_dir, &wanted)?;
    Ok(Sources { plan: plan_dir.to_owned(), extra, around })
}

/// Packs the plan's source into the object store and returns its digest.
pub(crate) async fn pack(
    sources: &Sources,
    objects: &Objects,
    cache_dir: &Path,
) -> anyhow::Result<String> {
    Ok(source::store(sources, objects, cache_dir).await?)
}

/// What the service needs.
#[derive(Clone)]
pub(crate) struct ServiceParts {
    pub(crate) bus: Bus,
    pub(crate) objects: Objects,
    pub(crate) lease: Lease,
    pub(crate) cache_dir: PathBuf,
    pub(crate) name: String,
    /// How long a run that does not fit waits for workers that have not registered yet.
    pub(crate) patience: Duration,
    /// The intervals between coordinators, when it is one of several.
    pub(crate) standby: Option<Leadership>,
    /// What the queue goes by.
    pub(crate) policy: Policy,
    /// How many times what workers have may be given out.
    pub(crate) overcommit: Overcommit,
    /// How many builds go on at the same time.
    pub(crate) parallel_builds: usize,
    /// Where the first admin's token goes when tokens are required.
    pub(crate) first_token: Option<PathBuf>,
    /// By what a loss of the control state is noticed.
    pub(crate) generation: Option<GenerationFile>,
    /// Takes what goes to the store for metrics.
    pub(crate) shipper: Shipper,
    /// Where it is counted how the coordinator is doing.
    pub(crate) gauges: Gauges,
}

/// Starts the service. Once this returns it answers; the future ends when it has ended, be it that another
/// coordinator has taken the lead.
pub(crate) async fn start_service(
    parts: ServiceParts,
    shutdown: CancellationToken,
) -> anyhow::Result<BoxFuture<'static, anyhow::Result<()>>> {
    let ServiceParts {
        bus,
        objects,
        lease,
        cache_dir,
        name,
        patience,
        standby,
        policy,
        overcommit,
        parallel_builds,
        first_token,
        generation,
        shipper,
        gauges,
    } = parts;
    let joined = Parts {
        prepare: Arc::new(Compositions::new(objects.clone(), &cache_dir, parallel_builds)),
        sync_logs: Arc::new(BusSyncLogs { bus: bus.clone() }),
    };
    let config = ServiceConfig {
        lease,
        no_room_patience: patience,
        standby: standby.is_some(),
        leadership: standby.unwrap_or(Leadership::ALONE),
        policy,
        overcommit,
        first_token,
        generation,
        shipper,
        gauges,
        ..ServiceConfig::new(bus, objects, name, joined)
    };
    let service = Service::start(config, shutdown.clone()).await?;
    Ok(Box::pin(async move {
        tokio::select! {
            () = shutdown.cancelled() => {
                service.stop().await;
                Ok(())
            }
            () = service.deposed() => Ok(()),
        }
    }))
}

/// What an embedded worker needs.
#[cfg(feature = "local")]
pub(crate) struct WorkerParts {
    /// NATS.
    pub(crate) url: String,
    /// The object store.
    pub(crate) objects: ObjectsConfig,
    /// The worker's id.
    pub(crate) name: String,
    /// Its directory.
    pub(crate) state_dir: PathBuf,
    /// Where metrics go.
    pub(crate) metrics: Option<MetricsConfig>,
}

/// Runs a worker in this process until `shutdown`, then lets it drain.
#[cfg(feature = "local")]
pub(crate) fn run_worker(
    parts: WorkerParts,
    shutdown: CancellationToken,
) -> BoxFuture<'static, anyhow::Result<()>> {
    let WorkerParts { url, objects, name, state_dir, metrics } = parts;
    Box::pin(async move {
        let config = WorkerConfig {
            id: name.parse()?,
            bus: BusConfig::open(url, format!("groundswell worker {name}")),
            objects,
            state_dir,
            slots: None,
            runtimes: Vec::new(),
            labels: BTreeMap::new(),
            slots_per_run: None,
            spawner: None,
            adopt: false,
            overlay_address: None,
            upkeep: groundswell_worker::keep::Upkeep::local(),
            metrics,
            metrics_listen: None,
        };
        groundswell_worker::agent::run(config, shutdown).await
    })
}

/// The command line of a worker in a process of its own, after the binary's name.
pub(crate) fn worker_arguments(
    url: &str,
    objects: &ObjectsConfig,
    name: &str,
    state_dir: &Path,
) -> Vec<String> {
    let state_dir = state_dir.display().to_string();
    let mut arguments = vec![
        "run",
        "--nats",
        url,
        "--objects",
        &objects.url,
        "--name",
        name,
        "--state-dir",
        &state_dir,
        // One machine: nothing may be left when it all is killed.
        "--no-adoption",
    ];
    if let Some(endpoint) = &objects.endpoint {
        arguments.extend(["--s3-endpoint", endpoint]);
    }
    arguments.into_iter().map(str::to_owned).collect()
}

/// Does the work of an embedded worker's helper process when this process was started as one.
pub(crate) fn asked_to_be_a_helper() -> Option<ExitCode> {
    #[cfg(feature = "local")]
    return groundswell_worker::spawner_main_if_asked();
    #[cfg(not(feature = "local"))]
    None
}

/// A file among a run's stored outputs.
pub(crate) type OutputFile = IndexEntry;

/// The stored outputs of a run.
pub(crate) async fn outputs(
    objects: &Objects,
    record: &RunRecord,
) -> anyhow::Result<Vec<OutputFile>> {
    let mut files = Vec::new();
    for key in &record.indexes {
        files.extend(outputs::read_index(objects, key).await?.files);
    }
    Ok(files)
}

/// The content of one stored file.
pub(crate) async fn read_output(objects: &Objects, file: &OutputFile) -> anyhow::Result<Bytes> {
    Ok(outputs::read_file(objects, file).await?)
}
