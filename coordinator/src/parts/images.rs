//! Builds the images of a run: each distinct one once, several at a time, and writes down what became of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use groundswell_common::builds::{BuildReport, LockWish, builds_key};
use groundswell_common::chain::Chain;
use groundswell_common::ids::RunId;
use groundswell_common::messages::ImageRef;
use groundswell_common::objects::Objects;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::PrepareError;
use crate::build::{BuildError, BuildRequest, Builders};

/// Where an image comes from.
pub(super) enum Want {
    /// It is there.
    Artifact(String),
    /// It is built, if it has not been before.
    Build(Box<BuildRequest>),
}

struct Job {
    key: String,
    want: Want,
    /// The composition's groups that it is built for; none for an artifact.
    groups: Vec<String>,
}

/// Distinct images, and which of them a run's groups need.
#[derive(Default)]
pub(super) struct Jobs {
    jobs: Vec<Job>,
    /// For each group of the run the number of its job.
    of_run: Vec<usize>,
}

impl Jobs {
    /// Adds the image of the run's next group.
    pub(super) fn for_run(&mut self, key: &str, want: Want) {
        let job = self.job(key, want);
        self.of_run.push(job);
    }

    /// Adds groups of the composition that use an image.
    pub(super) fn for_groups(&mut self, key: &str, groups: Vec<String>, want: Want) {
        let job = self.job(key, want);
        self.jobs[job].groups.extend(groups);
    }

    fn job(&mut self, key: &str, want: Want) -> usize {
        if let Some(known) = self.jobs.iter().position(|job| job.key == key) {
            return known;
        }
        self.jobs.push(Job { key: key.to_owned(), want, groups: Vec::new() });
        self.jobs.len() - 1
    }
}

/// How builds of a run are done and told.
pub(super) struct Told<'a> {
    /// The run.
    pub(super) run: &'a RunId,
    /// Where it is written down.
    pub(super) objects: &'a Objects,
    /// The lock they go by.
    pub(super) lock: Option<&'a LockWish>,
    /// How many at the same time; 0 is all of them, as far as the coordinator lets them.
    pub(super) at_once: usize,
}

/// Builds everything, and returns the image of each group of the run. The first failure ends the other builds.
pub(super) async fn build(
    builders: &Builders,
    jobs: Jobs,
    told: &Told<'_>,
    progress: mpsc::Sender<String>,
    cancel: CancellationToken,
) -> Result<Vec<ImageRef>, PrepareError> {
    let count = jobs.jobs.len();
    let ending = cancel.child_token();
    let done = AtomicUsize::new(0);
    let each = jobs.jobs.iter().enumerate().map(|(number, job)| {
        let (ending, done) = (&ending, &done);
        let progress = progress.clone();
        async move {
            let ended = one(builders, job, told, count, progress.clone(), ending.clone()).await;
            if ended.1.is_err() {
                ending.cancel();
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            let _ = progress.send(format!("{done} of {count} images are ready")).await;
            (number, ended)
        }
        .boxed()
    });
    // Boxed and collected first: the compiler cannot see otherwise that they may change threads.
    let each: Vec<_> = each.collect();
    let at_once = if told.at_once == 0 { count } else { told.at_once };
    let mut ended: Vec<_> = stream::iter(each).buffer_unordered(at_once.max(1)).collect().await;
    ended.sort_by_key(|(number, _)| *number);
    let mut reports = Vec::new();
    let mut images = Vec::new();
    for (_, (report, image)) in ended {
        reports.extend(report);
        images.push(image);
    }
    write_down(told, &reports).await;
    let images = images.into_iter().zip(&jobs.jobs);
    let images = images.map(|(image, job)| image.map_err(|err| (err, job))).collect::<Vec<_>>();
    // Builds that were ended because of another one are no reason.
    let ended_early = |image: &Result<ImageRef, (BuildError, &Job)>| {
        matches!(image, Err((BuildError::Canceled, _)))
    };
    let (early, others): (Vec<_>, Vec<_>) = images.into_iter().partition(ended_early);
    let failed = others.iter().chain(&early).find_map(|image| image.as_ref().err());
    if let Some((err, job)) = failed {
        return Err(trouble(job, err));
    }
    let images: Vec<ImageRef> = others.into_iter().flatten().collect();
    Ok(jobs.of_run.iter().map(|job| images[*job].clone()).collect())
}

async fn one(
    builders: &Builders,
    job: &Job,
    told: &Told<'_>,
    count: usize,
    progress: mpsc::Sender<String>,
    cancel: CancellationToken,
) -> (Option<BuildReport>, Result<ImageRef, BuildError>) {
    let request = match &job.want {
        Want::Artifact(artifact) => return (None, builders.artifact(artifact).await),
        Want::Build(request) => request,
    };
    let name = job.groups.join(", ");
    let _ = progress.send(format!("building group {name}")).await;
    let (sender, mut lines) = mpsc::channel::<String>(64);
    let pass_on = async {
        while let Some(line) = lines.recv().await {
            // Several builds print at the same time.
            let line = if count > 1 { format!("{name}: {line}") } else { line };
            let _ = progress.send(line).await;
        }
    };
    let built = builders.build_and_tell(request, &job.groups, told.lock, sender, cancel);
    let (built, ()) = tokio::join!(built, pass_on);
    let image =
        built.image.and_then(|image| check_groups(job, told, &built.report).map(|()| image));
    (Some(built.report), image)
}

/// All groups of one build have to be the same in the lock file as well.
fn check_groups(job: &Job, told: &Told<'_>, report: &BuildReport) -> Result<(), BuildError> {
    let Some(wish) = told.lock.filter(|wish| wish.exact) else { return Ok(()) };
    for group in &job.groups {
        if wish.lock.groups.get(group) != Some(&report.pins) {
            return Err(BuildError::Locked {
                what: "what is built for a group",
                found: format!("the image {} for `{group}`", report.pins.image),
                locked: "something else, or nothing".to_owned(),
            });
        }
    }
    Ok(())
}

async fn write_down(told: &Told<'_>, reports: &[BuildReport]) {
    let text = serde_json::to_vec_pretty(reports).unwrap_or_default();
    if let Err(err) = told.objects.put(&builds_key(told.run), text).await {
        warn!(run = %told.run, error = %Chain(&err), "what was built is not written down");
    }
}

fn trouble(job: &Job, err: &BuildError) -> PrepareError {
    let name = if job.groups.is_empty() { &job.key } else { &job.groups.join(", ") };
    let reason = format!("group {name} was not built: {}", Chain(err));
    if err.fault_of_plan() { PrepareError::Plan { reason } } else { PrepareError::Host { reason } }
}
