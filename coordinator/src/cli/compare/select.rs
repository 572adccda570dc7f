//! Which runs a side of a comparison means.

use std::collections::{BTreeMap, BTreeSet};

use groundswell_common::ids::RunId;
use groundswell_common::objects::Objects;
use groundswell_common::run::{RunRecord, SourceInfo};
use groundswell_common::trust::trusted;
use groundswell_coordinator::baselines::{self, BaselineError};
use groundswell_coordinator::record;

use super::args::Of;
use crate::cli::Trouble;
use crate::cli::exit::Exit;

/// How many of the newest runs are looked at for those that a branch, a commit or a label means.
const LOOKED_AT: usize = 2000;

/// One part of a side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    /// A run, by the beginning of its id or name.
    Run(String),
    /// The runs of a baseline.
    Baseline(String),
    /// The newest runs of a branch.
    Branch(String),
    /// The newest runs of a commit, by the beginning of its hash.
    Commit(String),
    /// The newest runs with a label.
    Label(String, String),
}

impl Selector {
    /// The parts of a side.
    pub(crate) fn parse(side: &str) -> Result<Vec<Self>, Trouble> {
        side.split(',').map(|part| Self::parse_one(part.trim())).collect()
    }

    fn parse_one(text: &str) -> Result<Self, Trouble> {
        let wrong = |message: String| {
            Err(Trouble::new(
                Exit::Usage,
                message,
                "`coordinator compare --help` says what a side can be",
            ))
        };
        if let Some(name) = text.strip_prefix('@') {
            return Ok(Self::Baseline(name.to_owned()));
        }
        let selector = match text.split_once(':') {
            None => Self::Run(text.to_owned()),
            Some(("branch", name)) => Self::Branch(name.to_owned()),
            Some(("commit", hash)) => Self::Commit(hash.to_owned()),
            Some(("label", pair)) => match pair.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), value.to_owned()),
                None => return wrong(format!("`{text}` is not of the form label:KEY=VALUE")),
            },
            Some((kind, _)) => return wrong(format!("there is no kind of side `{kind}:`")),
        };
        match &selector {
            Self::Run(name) | Self::Branch(name) | Self::Commit(name) if name.is_empty() => {
                wrong(format!("`{text}` names nothing"))
            }
            Self::Run(_)
            | Self::Branch(_)
            | Self::Commit(_)
            | Self::Label(..)
            | Self::Baseline(_) => Ok(selector),
        }
    }

    /// Whether it is among the runs that this means; nobody asks that of one that names its runs.
    fn means(&self, run: &Known) -> bool {
        match self {
            Self::Run(_) | Self::Baseline(_) => false,
            Self::Branch(branch) => run.source.branch == *branch,
            Self::Commit(commit) => run.source.commit.starts_with(commit.as_str()),
            Self::Label(key, value) => run.labels.get(key) == Some(value),
        }
    }
}

/// What comparisons have to know of a run, besides what it has measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Known {
    pub(crate) run: RunId,
    pub(crate) name: String,
    pub(crate) plan: String,
    pub(crate) case: String,
    pub(crate) submitted_ms: u64,
    pub(crate) is_over: bool,
    pub(crate) source: SourceInfo,
    pub(crate) labels: BTreeMap<String, String>,
    /// What has to be the same for runs to be comparable, by what people call it.
    pub(crate) terms: BTreeMap<String, String>,
    /// Why it cannot be trusted.
    pub(crate) distrust: Vec<String>,
}

impl From<RunRecord> for Known {
    fn from(record: RunRecord) -> Self {
        let distrust = trusted(&record.status).err().unwrap_or_default();
        let terms = terms(&record);
        let status = record.status;
        Self {
            is_over: status.phase.is_over(),
            run: status.run,
            name: status.name,
            plan: status.plan,
            case: status.case,
            submitted_ms: status.submitted_ms,
            source: record.source,
            labels: record.labels,
            terms,
            distrust,
        }
    }
}

fn terms(record: &RunRecord) -> BTreeMap<String, String> {
    let mut terms = BTreeMap::new();
    for group in &record.groups {
        terms.insert(format!("instances of {}", group.id), group.instances.to_string());
        for (param, value) in &group.params {
            terms.insert(format!("{param} of {}", group.id), value.clone());
        }
    }
    terms.insert("the runtime".to_owned(), record.runtime.as_str().to_owned());
    terms
}

/// Where runs of the past are looked up.
pub(crate) struct Past<'a> {
    objects: &'a Objects,
    ids: Vec<RunId>,
}

impl<'a> Past<'a> {
    /// Everything that is stored.
    pub(crate) async fn open(objects: &'a Objects) -> Result<Self, Trouble> {
        let mut ids =
            record::runs(objects).await.map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
        ids.sort();
        Ok(Self { objects, ids })
    }

    /// The runs that the sides mean, each with its sides' runs oldest first or as they were named. What `branch:`,
    /// `commit:` and `label:` mean is of the plan and case of what is named otherwise, and is on one side only: on
    /// the later one.
    pub(crate) async fn sides(
        &self,
        sides: &[Vec<Selector>],
        of: &Of,
    ) -> Result<Vec<Vec<Known>>, Trouble> {
        let mut found: Vec<Vec<Known>> = Vec::new();
        for side in sides {
            let mut runs = Vec::new();
            for selector in side {
                runs.extend(self.named(selector).await?);
            }
            found.push(runs);
        }
        let mut of = of.clone();
        if let Some(first) = found.iter().flatten().next() {
            of.plan.get_or_insert_with(|| first.plan.clone());
            of.case.get_or_insert_with(|| first.case.clone());
        }
        let mut taken: BTreeSet<RunId> =
            found.iter().flatten().map(|run| run.run.clone()).collect();
        for (side, runs) in sides.iter().zip(&mut found).rev() {
            for selector in side
                .iter()
                .filter(|selector| !matches!(selector, Selector::Run(_) | Selector::Baseline(_)))
            {
                let meant = self
                    .newest(&of, |run| selector.means(run) && !taken.contains(&run.run))
                    .await?;
                taken.extend(meant.iter().map(|run| run.run.clone()));
                runs.extend(meant);
            }
        }
        for (side, runs) in sides.iter().zip(&found) {
            if runs.is_empty() {
                return Err(nothing(side));
            }
        }
        one_case(&found)?;
        Ok(found)
    }

    /// The runs that a selector names one by one; none for others.
    async fn named(&self, selector: &Selector) -> Result<Vec<Known>, Trouble> {
        match selector {
            Selector::Run(name) => {
                let id = record::select(&self.ids, name)?;
                Ok(vec![self.known(&id).await?])
            }
            Selector::Baseline(name) => {
                let baseline = baselines::find(self.objects, name).await.map_err(trouble)?;
                let mut runs = Vec::new();
                for id in &baseline.runs {
                    let mut run = self.known(id).await?;
                    if baseline.forced.contains(id) {
                        run.distrust.clear();
                    }
                    runs.push(run);
                }
                Ok(runs)
            }
            Selector::Branch(_) | Selector::Commit(_) | Selector::Label(..) => Ok(Vec::new()),
        }
    }

    async fn known(&self, id: &RunId) -> Result<Known, Trouble> {
        let gone = || {
            Trouble::new(Exit::NothingSelected, format!("the record of run {id} is not stored"), "")
        };
        self.load(id).await?.ok_or_else(gone)
    }

    async fn load(&self, id: &RunId) -> Result<Option<Known>, Trouble> {
        let record = record::load(self.objects, id).await;
        Ok(record.map_err(|err| Trouble::from_error(Exit::Infra, &err))?.map(Known::from))
    }

    /// The newest runs that are over, of a plan and case and as `fits` says, the oldest of them first.
    pub(crate) async fn newest(
        &self,
        of: &Of,
        fits: impl Fn(&Known) -> bool,
    ) -> Result<Vec<Known>, Trouble> {
        let mut runs = Vec::new();
        for id in self.ids.iter().rev().take(LOOKED_AT) {
            if runs.len() >= usize::from(of.last) {
                break;
            }
            let run = self.load(id).await?;
            let right = |run: &Known| {
                of.plan.as_ref().is_none_or(|plan| *plan == run.plan)
                    && of.case.as_ref().is_none_or(|case| *case == run.case)
            };
            runs.extend(run.filter(|run| run.is_over && right(run) && fits(run)));
        }
        runs.reverse();
        Ok(runs)
    }
}

/// Whether all runs are of one case, and none is there twice.
fn one_case(sides: &[Vec<Known>]) -> Result<(), Trouble> {
    let cases: BTreeSet<String> =
        sides.iter().flatten().map(|run| format!("{}/{}", run.plan, run.case)).collect();
    if cases.len() > 1 {
        let cases: Vec<String> = cases.into_iter().collect();
        let message = format!("runs of different cases cannot be compared: {}", cases.join(", "));
        return Err(Trouble::new(Exit::Usage, message, "choose one with --plan and --case"));
    }
    let mut seen = BTreeSet::new();
    match sides.iter().flatten().find(|run| !seen.insert(&run.run)) {
        None => Ok(()),
        Some(twice) => {
            let message = format!("{} is there twice", twice.name);
            Err(Trouble::new(Exit::Usage, message, "each run counts once, and on one side"))
        }
    }
}

fn nothing(side: &[Selector]) -> Trouble {
    let words: Vec<String> = side
        .iter()
        .map(|selector| match selector {
            Selector::Run(name) => name.clone(),
            Selector::Baseline(name) => format!("@{name}"),
            Selector::Branch(name) => format!("branch:{name}"),
            Selector::Commit(hash) => format!("commit:{hash}"),
            Selector::Label(key, value) => format!("label:{key}={value}"),
        })
        .collect();
    let message = format!("`{}` means no run that is over", words.join(","));
    Trouble::new(
        Exit::NothingSelected,
        message,
        "`coordinator ls` lists runs; --plan and --case narrow the search",
    )
}

/// What went wrong with a baseline, with its exit code.
pub(crate) fn trouble(err: BaselineError) -> Trouble {
    let exit = match &err {
        BaselineError::Name { .. } => Exit::Usage,
        BaselineError::Unknown { .. } => Exit::NothingSelected,
        BaselineError::Damaged { .. } | BaselineError::Objects(_) => Exit::Infra,
    };
    Trouble::from_error(exit, &err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_list_of_what_means_runs() {
        let parsed =
            Selector::parse("calm-heron, @main,branch:dev/x,commit:3f0b,label:pr=812").unwrap();
        let wanted = [
            Selector::Run("calm-heron".into()),
            Selector::Baseline("main".into()),
            Selector::Branch("dev/x".into()),
            Selector::Commit("3f0b".into()),
            Selector::Label("pr".into(), "812".into()),
        ];
        assert_eq!(parsed, wanted);
        for wrong in ["", "a,", "branch:", "commit:", "label:x", "tag:v1"] {
            assert_eq!(Selector::parse(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn an_order_of_trouble_has_its_exit_code() {
        let unknown = BaselineError::Unknown { name: "x".into(), known: Vec::new() };
        assert_eq!(trouble(unknown).exit, Exit::NothingSelected);
    }
}
