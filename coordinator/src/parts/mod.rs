//! What the service needs from the rest of the coordinator: a request that becomes a checked outline and
//! then images, and the sync log of a run.

mod images;
pub mod real;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use groundswell_common::api::{Refusal, SubmitRequest};
use groundswell_common::datasets::{DatasetMount, DatasetWish};
use groundswell_common::egress::GroupEgress;
use groundswell_common::ids::{Attempt, InstanceId, RunId, WorkerId};
use groundswell_common::kpi::Judging;
use groundswell_common::messages::{
    GroupSpec, ImageRef, Limits, Resources, RunOptions, RuntimeKind,
};
use groundswell_common::nat::NatPlan;
use groundswell_common::network::{DataPath, NetworkPlan};
use groundswell_common::on_lost::OnLost;
use groundswell_common::placement::{GroupPlacement, RunPlacement};
use groundswell_common::queue::Priority;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::placement::{Distribution, Gang, Need, Party};

/// A group before its image is built.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupOutline {
    /// The group's id.
    pub id: String,
    /// Instances of the group in the whole run.
    pub instances: u32,
    /// Parameters of its instances.
    pub params: BTreeMap<String, String>,
    /// Profiles its instances capture.
    pub profiles: BTreeMap<String, String>,
    /// Environment variables of the composition.
    pub env: BTreeMap<String, String>,
    /// Limits of each instance.
    pub resources: Resources,
    /// What its instances may reach outside the data network.
    pub egress: GroupEgress,
    /// Which workers it asks for.
    pub placement: GroupPlacement,
    /// Files of the object store that its instances read.
    pub datasets: Vec<DatasetWish>,
}

/// What is prepared for a group before it gets a place.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupParts {
    /// Its image.
    pub image: ImageRef,
    /// Its datasets.
    pub datasets: Vec<DatasetMount>,
}

impl From<ImageRef> for GroupParts {
    fn from(image: ImageRef) -> Self {
        Self { image, datasets: Vec::new() }
    }
}

impl GroupOutline {
    /// The group as workers need it.
    #[must_use]
    pub fn with_parts(&self, parts: GroupParts) -> GroupSpec {
        let GroupParts { image, datasets } = parts;
        GroupSpec {
            id: self.id.clone(),
            instances: self.instances,
            image,
            params: self.params.clone(),
            profiles: self.profiles.clone(),
            env: self.env.clone(),
            resources: self.resources.clone(),
            egress: self.egress.clone(),
            datasets,
        }
    }
}

/// Everything a composition says about one run; images are still to be built.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// The plan.
    pub plan: String,
    /// The case.
    pub case: String,
    /// How instances are run.
    pub runtime: RuntimeKind,
    /// Groups in the order of the composition.
    pub groups: Vec<GroupOutline>,
    /// The links between them.
    pub network: NetworkPlan,
    /// Runner options.
    pub options: RunOptions,
    /// Time limits.
    pub limits: Limits,
    /// Seed of everything drawn by chance; absent draws one.
    pub seed: Option<u64>,
    /// Which workers it asks for.
    pub placement: RunPlacement,
    /// How urgent it is, when the composition says so.
    pub priority: Option<Priority>,
    /// What becomes of it when instances are lost.
    pub on_lost: OnLost,
    /// What it is judged by beside the ends of its instances.
    pub judging: Judging,
    /// Whether instances are told not to record metrics.
    pub disable_metrics: bool,
    /// What people should know.
    pub warnings: Vec<String>,
}

impl Outline {
    /// The instances with an address of their own in the run's network: of those behind one NAT, the first.
    pub fn fronts(&self) -> impl Iterator<Item = InstanceId> + '_ {
        let mut first = 0_u32;
        self.parties()
            .flat_map(move |party| {
                let begin = first;
                first = first.saturating_add(party.instances);
                (begin..first).step_by(usize::try_from(party.together.max(1)).unwrap_or(usize::MAX))
            })
            .map(InstanceId)
    }

    /// The instances behind NATs that have IPv6, each after the one whose router is the way to it.
    pub fn behind(&self) -> impl Iterator<Item = (InstanceId, InstanceId)> + '_ {
        let mut first = 0_u32;
        self.groups.iter().enumerate().flat_map(move |(class, group)| {
            let begin = first;
            first = first.saturating_add(group.instances);
            let nat = self.network.nat(class).filter(|nat| nat.routes_ipv6());
            let instances = nat.map_or(0..0, |_| 0..group.instances);
            instances.filter_map(move |instance| {
                let front = begin + nat?.front(instance);
                Some((InstanceId(front), InstanceId(begin + instance)))
            })
        })
    }

    /// Its groups as they are to be placed: what is behind one NAT is on one worker.
    pub fn parties(&self) -> impl Iterator<Item = Party> + '_ {
        self.groups.iter().enumerate().map(|(class, group)| Party {
            name: group.id.clone(),
            instances: group.instances,
            together: self.network.nat(class).map_or(1, NatPlan::tree),
            need: Need::of(&group.resources),
            wish: group.placement.clone(),
        })
    }

    /// All its instances as they are to be placed.
    #[must_use]
    pub fn gang(&self, distribution: Distribution) -> Gang {
        Gang {
            parties: self.parties().collect(),
            runtime: self.runtime,
            // The kernel's data path ends at its worker.
            wish: RunPlacement {
                one_worker: self.placement.one_worker || self.network.data_path == DataPath::Kernel,
                ..self.placement.clone()
            },
            distribution,
        }
    }
}

/// Why a run has no images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The plan does not build.
    #[error("{reason}")]
    Plan {
        /// Why.
        reason: String,
    },
    /// The builder, its host or the object store is the cause.
    #[error("{reason}")]
    Host {
        /// Why.
        reason: String,
    },
}

/// Makes a run out of a request.
#[async_trait]
pub trait Prepare: Send + Sync {
    /// Checks the request and resolves every default. Quick, and without effect.
    ///
    /// # Errors
    /// When the composition, the manifest or the request is wrong.
    fn outline(&self, request: &SubmitRequest) -> Result<Outline, Refusal>;

    /// Builds the image of each group and finds its datasets, in the order of the outline. Ends soon after `cancel`.
    ///
    /// # Errors
    /// When an image cannot be built, or there is no such dataset.
    async fn images(
        &self,
        request: &SubmitRequest,
        run: &RunId,
        progress: mpsc::Sender<String>,
        cancel: CancellationToken,
    ) -> Result<Vec<GroupParts>, PrepareError>;
}

/// Why something about a sync log failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} the sync log")]
pub struct SyncLogError {
    /// What was tried.
    pub verb: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The sync logs of runs, from the coordinator's side. Each call may be repeated.
#[async_trait]
pub trait SyncLogs: Send + Sync {
    /// Makes the log of an attempt.
    ///
    /// # Errors
    /// When there is none afterwards.
    async fn create(
        &self,
        run: &RunId,
        attempt: Attempt,
        workers: &[WorkerId],
    ) -> Result<(), SyncLogError>;

    /// Appends the one record that lets all instances go.
    ///
    /// # Errors
    /// When it is not known to be in the log.
    async fn start(&self, run: &RunId, attempt: Attempt, term: u64) -> Result<(), SyncLogError>;

    /// Appends that instances are lost, so that who waits for them hears of it.
    ///
    /// # Errors
    /// When it is not known to be in the log.
    async fn mark_gone(
        &self,
        run: &RunId,
        attempt: Attempt,
        gone: &[InstanceId],
        reason: &str,
    ) -> Result<(), SyncLogError>;

    /// Removes the log; it is no error when there is none.
    ///
    /// # Errors
    /// When it may still be there.
    async fn delete(&self, run: &RunId, attempt: Attempt) -> Result<(), SyncLogError>;
}

/// The parts a service is put together from.
#[derive(Clone)]
pub struct Parts {
    /// From request to images.
    pub prepare: Arc<dyn Prepare>,
    /// The sync logs.
    pub sync_logs: Arc<dyn SyncLogs>,
}
