//! The parts of a real service: compositions, builders, and sync logs on the bus.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use groundswell_common::api::{Refusal, RefusalKind, SubmitRequest};
use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::composition::{
    BuildInput, Composition, ResolvedGroup, ResolvedRun, build_groups, resolve,
};
use groundswell_common::diagnostic::Diagnostics;
use groundswell_common::ids::{Attempt, RunId, WorkerId};
use groundswell_common::manifest::Manifest;
use groundswell_common::messages::{ImageRef, Limits, RuntimeKind};
use groundswell_common::objects::Objects;
use groundswell_common::sync::{self, Control};
use groundswell_common::timing::RUN_TIMEOUT;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{GroupOutline, Outline, Prepare, PrepareError, SyncLogError, SyncLogs};
use crate::build::{BuildError, BuildRequest, Builders, Dependency, source};

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
    /// `cache_dir` is where builds are kept; what is in it may be removed at any time.
    #[must_use]
    pub fn new(objects: Objects, cache_dir: &Path) -> Self {
        let builders = Builders::new(objects.clone(), cache_dir);
        Self { builders, objects, cache_dir: cache_dir.to_owned() }
    }

    async fn group_image(
        &self,
        group: &ResolvedGroup,
        request: impl Fn(&BuildInput) -> BuildRequest,
        progress: &mpsc::Sender<String>,
        cancel: &CancellationToken,
    ) -> Result<ImageRef, BuildError> {
        match (&group.artifact, &group.build) {
            (Some(artifact), _) => self.builders.artifact(artifact).await,
            (None, Some(build)) => {
                self.builders.build(&request(build), progress.clone(), cancel.clone()).await
            }
            (None, None) => Err(BuildError::Artifact {
                artifact: String::new(),
                reason: "the group has neither an artifact nor a builder".to_owned(),
            }),
        }
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
            disable_metrics: run.disable_metrics,
            warnings: run.warnings.iter().map(ToString::to_string).collect(),
        })
    }

    async fn images(
        &self,
        request: &SubmitRequest,
        _run: &RunId,
        progress: mpsc::Sender<String>,
        cancel: CancellationToken,
    ) -> Result<Vec<ImageRef>, PrepareError> {
        let (composition, manifest, run) =
            resolved(request).map_err(|err| PrepareError::Plan { reason: err.message })?;
        let directory = unpack_directory(&self.cache_dir).map_err(|err| host(&err))?;
        source::fetch(&request.source, &self.objects, directory.path())
            .await
            .map_err(|err| host(&err))?;
        let runtime = request.runtime.unwrap_or(run.runtime);
        let to_build = |input: &BuildInput| {
            build_request(input, directory.path(), &run.plan, runtime, request.no_cache)
        };
        let mut built: BTreeMap<String, ImageRef> = BTreeMap::new();
        let mut images = Vec::with_capacity(run.groups.len());
        for group in &run.groups {
            let key = group.artifact.clone().unwrap_or_else(|| group.build_key.clone());
            if let Some(image) = built.get(&key) {
                images.push(image.clone());
                continue;
            }
            let _ = progress.send(format!("building group {}", group.id)).await;
            let image = self
                .group_image(group, to_build, &progress, &cancel)
                .await
                .map_err(|err| trouble(&group.id, &err))?;
            built.insert(key, image.clone());
            images.push(image);
        }
        // Testground builds every group, so that a composition with a broken one is noticed.
        let all = build_groups(&composition, &manifest)
            .map_err(|err| PrepareError::Plan { reason: err.to_string() })?;
        for build in all.iter().filter(|build| !built.contains_key(&build.key)) {
            self.builders
                .build(&to_build(&build.input), progress.clone(), cancel.clone())
                .await
                .map_err(|err| trouble(&build.groups.join(", "), &err))?;
        }
        Ok(images)
    }
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

fn trouble(group: &str, err: &BuildError) -> PrepareError {
    let reason = format!("group {group} was not built: {}", Chain(err));
    if err.fault_of_plan() { PrepareError::Plan { reason } } else { PrepareError::Host { reason } }
}

fn host(err: &(dyn std::error::Error + 'static)) -> PrepareError {
    PrepareError::Host { reason: Chain(err).to_string() }
}
