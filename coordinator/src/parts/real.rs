//! The parts of a real service: compositions, builders, and sync logs on the bus.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use groundswell_common::api::{Refusal, RefusalKind, SubmitRequest};
use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::composition::{
    BuildInput, Composition, ResolvedGroup, ResolvedRun, build_groups, resolve,
};
use groundswell_common::diagnostic::Diagnostics;
use groundswell_common::ids::{Attempt, InstanceId, RunId, WorkerId};
use groundswell_common::manifest::Manifest;
use groundswell_common::messages::{Limits, RuntimeKind};
use groundswell_common::objects::Objects;
use groundswell_common::sync::{self, Control};
use groundswell_common::timing::RUN_TIMEOUT;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::images::{self, Jobs, Told, Want};
use super::{GroupOutline, GroupParts, Outline, Prepare, PrepareError, SyncLogError, SyncLogs};
use crate::build::{BuildRequest, Builders, Dependency, source};
use crate::datasets::{self, DatasetError};

/// How many lost instances one message tells of: their reasons must fit into one.
const GONE_AT_ONCE: usize = 1000;

/// The sync logs of runs, on the bus.
pub struct BusSyncLogs {
    /// Where they are.
    pub bus: Bus,
}

#[async_trait]
impl SyncLogs for BusSyncLogs {
    async fn create(
        &self,
        run: &RunId,
        attempt: Attempt,
        workers: &[WorkerId],
    ) -> Result<(), SyncLogError> {
        sync::create_log(&self.bus, run, attempt, sync::DEFAULT_MAX_BYTES, workers)
            .await
            .map_err(failed("create"))
    }

    async fn start(&self, run: &RunId, attempt: Attempt, term: u64) -> Result<(), SyncLogError> {
        sync::append_control(&self.bus, run, attempt, &[Control::Start { term }])
            .await
            .map(drop)
            .map_err(failed("start"))
    }

    async fn mark_gone(
        &self,
        run: &RunId,
        attempt: Attempt,
        gone: &[InstanceId],
        reason: &str,
    ) -> Result<(), SyncLogError> {
        let record = |instance: &InstanceId| Control::Gone {
            instance: *instance,
            reason: reason.to_owned(),
        };
        for some in gone.chunks(GONE_AT_ONCE) {
            let records: Vec<Control> = some.iter().map(record).collect();
            sync::append_control(&self.bus, run, attempt, &records)
                .await
                .map_err(failed("tell of lost instances in"))?;
        }
        Ok(())
    }

    async fn delete(&self, run: &RunId, attempt: Attempt) -> Result<(), SyncLogError> {
        sync::delete_log(&self.bus, run, attempt).await.map_err(failed("delete"))
    }
}

fn failed(verb: &'static str) -> impl FnOnce(sync::SyncLogError) -> SyncLogError {
    move |source| SyncLogError { verb, source: Box::new(source) }
}

/// Makes runs out of compositions with the builders of this host.
pub struct Compositions {
    builders: Builders,
    objects: Objects,
    cache_dir: PathBuf,
}

impl Compositions {
    /// `cache_dir` is where builds are kept; what is in it may be removed at any time. At most `parallel` builds go
    /// on at the same time.
    #[must_use]
    pub fn new(objects: Objects, cache_dir: &Path, parallel: usize) -> Self {
        let builders = Builders::new(objects.clone(), cache_dir).with_parallel(parallel);
        Self { builders, objects, cache_dir: cache_dir.to_owned() }
    }
}

#[async_trait]
impl Prepare for Compositions {
    fn outline(&self, request: &SubmitRequest) -> Result<Outline, Refusal> {
        let (_, _, run) = resolved(request)?;
        let limits = Limits {
            run: request.timeout.or(run.timeout).unwrap_or(RUN_TIMEOUT),
            outcome_grace: run.outcome_grace,
            ..Limits::default()
        };
        Ok(Outline {
            plan: run.plan,
            case: run.case,
            runtime: request.runtime.unwrap_or(run.runtime),
            groups: run.groups.into_iter().map(outline_of).collect(),
            network: run.network,
            options: run.options,
            limits,
            seed: run.seed,
            placement: run.placement,
            priority: run.priority,
            on_lost: run.on_lost,
            judging: run.judging,
            disable_metrics: run.disable_metrics,
            warnings: run.warnings.iter().map(ToString::to_string).collect(),
        })
    }

    async fn images(
        &self,
        request: &SubmitRequest,
        run: &RunId,
        progress: mpsc::Sender<String>,
        cancel: CancellationToken,
    ) -> Result<Vec<GroupParts>, PrepareError> {
        let (composition, manifest, resolved) =
            resolved(request).map_err(|err| PrepareError::Plan { reason: err.message })?;
        // Quick, and a name that is wrong shall not cost a build.
        let mut datasets = Vec::new();
        for group in &resolved.groups {
            let found = datasets::resolve(&self.objects, &group.datasets).await;
            datasets.push(found.map_err(|err| no_dataset(&group.id, &err))?);
        }
        let directory = unpack_directory(&self.cache_dir).map_err(|err| host(&err))?;
        source::fetch(&request.source, &self.objects, directory.path())
            .await
            .map_err(|err| host(&err))?;
        let runtime = request.runtime.unwrap_or(resolved.runtime);
        let to_build = |input: &BuildInput| {
            build_request(input, directory.path(), &resolved.plan, runtime, request.no_cache)
        };
        let jobs = jobs(&composition, &manifest, &resolved, to_build)?;
        let at_once = usize::try_from(resolved.concurrent_builds).unwrap_or(usize::MAX);
        let told = Told { run, objects: &self.objects, lock: request.lock.as_ref(), at_once };
        let images = images::build(&self.builders, jobs, &told, progress, cancel).await?;
        let parts = |(image, datasets)| GroupParts { image, datasets };
        Ok(images.into_iter().zip(datasets).map(parts).collect())
    }
}

/// What has to be built: the image of each group of the run, in their order, and then, as Testground does, those of
/// all other groups, so that a composition with a broken one is noticed.
fn jobs(
    composition: &Composition,
    manifest: &Manifest,
    run: &ResolvedRun,
    to_build: impl Fn(&BuildInput) -> BuildRequest,
) -> Result<Jobs, PrepareError> {
    let mut jobs = Jobs::default();
    for group in &run.groups {
        let key = group.artifact.clone().unwrap_or_else(|| group.build_key.clone());
        let want = match (&group.artifact, &group.build) {
            (Some(artifact), _) => Want::Artifact(artifact.clone()),
            (None, Some(build)) => Want::Build(Box::new(to_build(build))),
            (None, None) => {
                let reason = format!("group {} has neither an artifact nor a builder", group.id);
                return Err(PrepareError::Plan { reason });
            }
        };
        jobs.for_run(&key, want);
    }
    let builds = build_groups(composition, manifest)
        .map_err(|err| PrepareError::Plan { reason: err.to_string() })?;
    for build in builds {
        let want = Want::Build(Box::new(to_build(&build.input)));
        jobs.for_groups(&build.key, build.groups, want);
    }
    Ok(jobs)
}

fn outline_of(group: ResolvedGroup) -> GroupOutline {
    GroupOutline {
        id: group.id,
        instances: group.instances,
        params: group.params,
        profiles: group.profiles,
        env: group.env,
        resources: group.resources,
        egress: group.egress,
        placement: group.placement,
        datasets: group.datasets,
    }
}

fn resolved(request: &SubmitRequest) -> Result<(Composition, Manifest, ResolvedRun), Refusal> {
    let (composition, _) = Composition::parse_with(
        &request.composition_name,
        &request.composition,
        &request.attachments,
    )
    .map_err(|err| refused(&err))?;
    let (manifest, _) =
        Manifest::parse("manifest.toml", &request.manifest).map_err(|err| refused(&err))?;
    let composition = composition.with_seed(request.seed);
    let run = resolve(&composition, &manifest, &request.run).map_err(|err| refused(&err))?;
    Ok((composition, manifest, run))
}

fn refused(err: &Diagnostics) -> Refusal {
    let help = err.0.first().map(|first| first.help.clone()).unwrap_or_default();
    Refusal { kind: RefusalKind::Invalid, message: err.to_string(), help }
}

fn build_request(
    input: &BuildInput,
    source: &Path,
    plan: &str,
    runtime: RuntimeKind,
    no_cache: bool,
) -> BuildRequest {
    BuildRequest {
        builder: input.builder.clone(),
        config: input.config.clone(),
        selectors: input.selectors.clone(),
        dependencies: input
            .dependencies
            .iter()
            .map(|dependency| Dependency {
                module: dependency.module.clone(),
                target: dependency.target.clone(),
                version: dependency.version.clone(),
            })
            .collect(),
        source: source.to_owned(),
        plan: plan.to_owned(),
        runtime,
        no_cache,
    }
}

/// A directory for one unpacked source, removed when it is dropped.
fn unpack_directory(cache_dir: &Path) -> std::io::Result<tempfile::TempDir> {
    let parent = cache_dir.join("unpacked");
    std::fs::create_dir_all(&parent)?;
    tempfile::tempdir_in(parent)
}

fn no_dataset(group: &str, err: &DatasetError) -> PrepareError {
    let reason = format!("group {group}: {}", Chain(err));
    if matches!(err, DatasetError::Objects(_)) {
        PrepareError::Host { reason }
    } else {
        PrepareError::Plan { reason }
    }
}

fn host(err: &(dyn std::error::Error + 'static)) -> PrepareError {
    PrepareError::Host { reason: Chain(err).to_string() }
}
