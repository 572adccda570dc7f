//! `composition.toml`: which case to run, with which groups, how many instances.
//!
//! ```text
//! file ──template──► text ──parse──► Composition ──resolve with a Manifest──► ResolvedRun
//! ```
//!
//! Parsing keeps what the file says. Defaults and precedence are decided when a run is resolved.

mod builds;
mod datasets;
mod egress;
mod merge;
pub mod network;
mod options;
mod parse;
mod placement;
pub mod quantity;
mod resolve;
mod single;
mod sizes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::datasets::DatasetWish;
use crate::diagnostic::{Diagnostic, Diagnostics, SourceFile};
use crate::document::At;
use crate::egress::GroupEgress;
use crate::kpi;
use crate::messages::{Resources, RunOptions, RuntimeKind};
use crate::nat::NatPlan;
use crate::network::NetworkPlan;
use crate::on_lost::OnLost;
use crate::placement::{GroupPlacement, RunPlacement};
use crate::queue::Priority;
use crate::template::{self, Resources as Load};

use network::{Attachments, NetworkWish, ShapeWish, Source};

pub use builds::{BUILDERS, Build, BuildInput, Dependency, build_groups};
pub use resolve::resolve;
pub use single::Single;

/// The id of the run of a composition that lists no runs.
pub const DEFAULT_RUN: &str = "default";

/// A composition as its file says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    /// Its name, for people.
    pub name: String,
    /// Its author, for people.
    pub author: String,
    pub(crate) source: Arc<SourceFile>,
    pub(crate) global: Global,
    pub(crate) groups: Vec<Group>,
    pub(crate) network: NetworkWish,
    pub(crate) datasets: Vec<datasets::Shared>,
    /// Never empty: a composition without runs has the run [`DEFAULT_RUN`] with every group.
    pub(crate) runs: Vec<Run>,
}

impl Composition {
    /// Reads a composition that needs no templating, or whose template is executed. Unknown keys are
    /// warnings, or errors when `strict`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(
        file_name: &str,
        text: &str,
        strict: bool,
    ) -> Result<(Self, Vec<Diagnostic>), Diagnostics> {
        let none = |_: &str| Err("there are no files here".to_owned());
        Self::parse_from(file_name, text, strict, Source::Files(&none))
    }

    /// Reads a composition whose files were read before, by [`Composition::load`].
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse_with(
        file_name: &str,
        text: &str,
        attachments: &Attachments,
    ) -> Result<(Self, Vec<Diagnostic>), Diagnostics> {
        Self::parse_from(file_name, text, false, Source::Known(attachments))
    }

    fn parse_from(
        file_name: &str,
        text: &str,
        strict: bool,
        source: Source<'_>,
    ) -> Result<(Self, Vec<Diagnostic>), Diagnostics> {
        parse::parse(&SourceFile::new(file_name, text), strict, source)
    }

    /// Executes the template in `text`, then reads the composition it makes and the files that one names.
    ///
    /// # Errors
    /// What is wrong with the template, or else everything that is wrong with the composition.
    pub fn load(
        file_name: &str,
        text: &str,
        env: &BTreeMap<String, String>,
        load: &Load<'_>,
        strict: bool,
    ) -> Result<(Self, Vec<Diagnostic>), Diagnostics> {
        let rendered = template::render(&SourceFile::new(file_name, text), env, load)?;
        // Lines of the rendered text are not those of the file, and the name says so.
        let name = if rendered == text {
            file_name.to_owned()
        } else {
            format!("{file_name} (after templating)")
        };
        Self::parse_from(&name, &rendered, strict, Source::Files(load))
    }

    /// What it takes from other files.
    #[must_use]
    pub fn attachments(&self) -> &Attachments {
        &self.network.attachments
    }

    /// With another seed than its own, if there is another.
    #[must_use]
    pub fn with_seed(mut self, seed: Option<u64>) -> Self {
        self.global.seed = seed.or(self.global.seed);
        self
    }

    /// The text it was read from: after templating.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.source.text
    }

    /// `global.plan`: where the plan is found.
    #[must_use]
    pub fn plan(&self) -> &str {
        &self.global.plan.value
    }

    /// `global.case`; empty when there is none.
    #[must_use]
    pub fn case(&self) -> &str {
        self.global.case.as_ref().map_or("", |case| case.value.as_str())
    }

    /// `global.builder`, which chooses the manifest's extra sources.
    #[must_use]
    pub fn builder(&self) -> Option<&str> {
        self.global.builder.as_ref().map(|builder| builder.value.as_str())
    }
}

/// The ids of the runs of a composition in the order they are run: alphabetically.
#[must_use]
pub fn run_ids(composition: &Composition) -> Vec<String> {
    let mut ids: Vec<_> = composition.runs.iter().map(|run| run.id.value.clone()).collect();
    ids.sort();
    ids
}

/// The builders' and runners' view of all groups.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Global {
    pub(crate) plan: At<String>,
    pub(crate) case: Option<At<String>>,
    pub(crate) total_instances: Option<At<u32>>,
    pub(crate) concurrent_builds: u32,
    pub(crate) builder: Option<At<String>>,
    pub(crate) build_config: Map<String, Value>,
    pub(crate) selectors: Vec<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) runner: Option<At<String>>,
    pub(crate) run_config: Map<String, Value>,
    pub(crate) run: GroupRun,
    pub(crate) disable_metrics: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) seed: Option<u64>,
    pub(crate) placement: RunPlacement,
    pub(crate) priority: Option<Priority>,
    pub(crate) on_lost: OnLost,
    pub(crate) expect: Vec<kpi::Change>,
    pub(crate) validity: Option<kpi::GateLimits>,
}

/// Texts by name, with their places.
pub(crate) type Texts = BTreeMap<String, At<String>>;

/// What `global.run`, `groups.run`, `runs` and `runs.groups` can say about instances.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct GroupRun {
    pub(crate) artifact: Option<String>,
    pub(crate) params: Texts,
    pub(crate) profiles: Texts,
    pub(crate) env: Texts,
}

/// How many instances a group has.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Instances {
    pub(crate) count: Option<At<u32>>,
    pub(crate) percentage: Option<At<f64>>,
    /// Where it says that it has what the others leave.
    pub(crate) rest: Option<std::ops::Range<usize>>,
}

/// A group that is built.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) id: At<String>,
    pub(crate) builder: Option<At<String>>,
    pub(crate) build_config: Map<String, Value>,
    pub(crate) selectors: Vec<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) resources: Resources,
    pub(crate) instances: Instances,
    pub(crate) run: GroupRun,
    pub(crate) region: Option<At<String>>,
    pub(crate) link: ShapeWish,
    pub(crate) egress: GroupEgress,
    pub(crate) nat: Option<At<NatPlan>>,
    pub(crate) placement: placement::GroupWish,
    pub(crate) datasets: Vec<At<DatasetWish>>,
}

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) id: At<String>,
    pub(crate) total_instances: Option<At<u32>>,
    pub(crate) shared: GroupRun,
    pub(crate) timeout: Option<Duration>,
    pub(crate) groups: Vec<RunGroup>,
}

/// A group of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunGroup {
    pub(crate) id: At<String>,
    pub(crate) group_id: At<String>,
    pub(crate) resources: Resources,
    pub(crate) instances: Instances,
    pub(crate) run: GroupRun,
}

/// A run with everything decided that its files decide.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedRun {
    /// Its id within the composition.
    pub id: String,
    /// The plan's name from the manifest, as instances see it.
    pub plan: String,
    /// The case, as instances see it.
    pub case: String,
    /// The runner's name as the composition has it.
    pub runner: String,
    /// How instances are run.
    pub runtime: RuntimeKind,
    /// Instances in the whole run.
    pub total_instances: u32,
    /// Its groups in the order of the composition.
    pub groups: Vec<ResolvedGroup>,
    /// The links between them, and what happens to them.
    pub network: NetworkPlan,
    /// The runner's configuration: composition over manifest.
    pub run_config: Map<String, Value>,
    /// What is understood of it.
    pub options: RunOptions,
    /// How long the outcome of an ended instance may take.
    pub outcome_grace: Duration,
    /// How long the run may take, when the composition says so.
    pub timeout: Option<Duration>,
    /// Seed of everything drawn by chance, when the composition says so.
    pub seed: Option<u64>,
    /// Which workers it asks for.
    pub placement: RunPlacement,
    /// How urgent it is, when the composition says so.
    pub priority: Option<Priority>,
    /// What becomes of it when instances are lost.
    pub on_lost: OnLost,
    /// What it is judged by.
    pub judging: kpi::Judging,
    /// `TEST_DISABLE_METRICS`.
    pub disable_metrics: bool,
    /// How many builds may run at once; 0 is no limit.
    pub concurrent_builds: u32,
    /// What people should look at.
    pub warnings: Vec<Diagnostic>,
}

/// A group of a run with everything decided.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedGroup {
    /// `TEST_GROUP_ID`.
    pub id: String,
    /// The group it is built as.
    pub build_group: String,
    /// Its builder; absent when it needs none.
    pub builder: Option<String>,
    /// What its image is built from; absent exactly when there is an artifact.
    pub build: Option<BuildInput>,
    /// The image to use without a build.
    pub artifact: Option<String>,
    /// How many instances.
    pub instances: u32,
    /// `TEST_INSTANCE_PARAMS`, before packing.
    pub params: BTreeMap<String, String>,
    /// Environment variables of the composition.
    pub env: BTreeMap<String, String>,
    /// `TEST_CAPTURE_PROFILES`, before packing.
    pub profiles: BTreeMap<String, String>,
    /// Limits of each instance.
    pub resources: Resources,
    /// What its instances may reach outside the data network.
    pub egress: GroupEgress,
    /// Which workers it asks for.
    pub placement: GroupPlacement,
    /// Files of the object store that its instances read.
    pub datasets: Vec<DatasetWish>,
    /// Equal for groups that share a build; empty with an artifact.
    pub build_key: String,
}
