//! What a thousand workers and a hundred thousand instances cost the coordinator.
//!
//! The coordinator and the server of NATS are processes of their own; the workers are simulated in this one, each
//! with a connection of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use groundswell_common::run::RunPhase;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{cpu, memory_mib};
use crate::rig::{Cluster, Setup};
use crate::simulated::{Answers, Simulated};

const WORKERS: u32 = 1_000;
const SLOTS: u32 = 100;
/// The network of a run has room for 65,000 instances, so there are two runs, each on all workers.
const RUNS: u32 = 2;
/// How long the coordinator is looked at while workers do nothing but beat.
const REST: Duration = Duration::from_secs(10);
/// What is told of the runs, each with the phase that ends it.
const UNTIL: [(&str, RunPhase); 5] = [
    ("all are placed", RunPhase::Preparing),
    ("all are ready", RunPhase::Starting),
    ("all have started", RunPhase::Running),
    ("the verdicts, all instances told", RunPhase::Finished),
    ("nothing is left", RunPhase::Cleaned),
];
/// How many workers register at the same time.
const AT_ONCE: usize = 50;

pub(crate) async fn measure() -> Result<()> {
    let cluster = Cluster::start(Setup::PLAIN).await?;
    let pid = cluster.coordinators.last().context("one serves")?.id()?;
    let answers = Arc::new(Answers::default());
    let began = Instant::now();
    let mut crowd = crowd(&cluster, &answers).await?;
    let registered = Figures::since(pid, began.elapsed(), Duration::ZERO, &answers)?;
    // All have sent a heartbeat, so that what follows is rest.
    sleep(Duration::from_secs(2)).await;
    answers.take();
    let (used, began) = (cpu(pid)?, Instant::now());
    sleep(REST).await;
    let rest = Figures::since(pid, began.elapsed(), used, &answers)?;
    let used = cpu(pid)?;
    let file = composition(&cluster)?;
    let files = [file.as_path(); RUNS as usize];
    let course = tokio::select! {
        course = cluster.run(&files) => course?,
        Some(ended) = crowd.join_next() => {
            ended??;
            bail!("a simulated worker has ended");
        }
    };
    let all = Figures::since(pid, course.reached(RunPhase::Cleaned)?.at, used, &answers)?;
    ensure!(cluster.ready().await == WORKERS as usize, "workers were lost");
    crowd.shutdown().await;
    cluster.end().await?;

    println!("\n### The coordinator with {WORKERS} workers\n");
    println!("| what | wall | cpu of the coordinator | of one core |\n|---|---:|---:|---:|");
    print("registering all", registered.wall, registered.cpu);
    print("at rest, a heartbeat of each every 2 s", rest.wall, rest.cpu);
    for (what, phase) in UNTIL {
        let mark = course.reached(phase)?;
        print(
            &format!("from submit of {} instances until {what}", WORKERS * SLOTS),
            mark.at,
            mark.cpu,
        );
    }
    println!("\n| | at rest | under the run |\n|---|---:|---:|");
    println!(
        "| memory, MiB; at most so far | {}; {} | {}; {} |",
        rest.now, rest.peak, all.now, all.peak
    );
    println!("| heartbeats answered | {} | {} |", rest.beats, all.beats);
    println!("| reports taken in | {} | {} |", rest.reports, all.reports);
    println!("| requests without an answer in 3 s | {} | {} |", rest.unanswered, all.unanswered);
    println!("| longest wait for an answer | {:.1?} | {:.1?} |", rest.longest, all.longest);
    Ok(())
}

fn print(what: &str, wall: Duration, cpu: Duration) {
    let share = 100.0 * cpu.as_secs_f64() / wall.as_secs_f64();
    let (wall, cpu) = (wall.as_secs_f64(), cpu.as_secs_f64());
    println!("| {what} | {wall:.2} s | {cpu:.2} s | {share:.1} % |");
}

/// What was seen of the coordinator during some time.
struct Figures {
    wall: Duration,
    cpu: Duration,
    now: u64,
    peak: u64,
    beats: u64,
    unanswered: u64,
    reports: u64,
    longest: Duration,
}

impl Figures {
    fn since(pid: u32, wall: Duration, used: Duration, answers: &Answers) -> Result<Self> {
        let (now, peak) = memory_mib(pid)?;
        let (beats, unanswered, reports, longest) = answers.take();
        let cpu = cpu(pid)?.saturating_sub(used);
        Ok(Self { wall, cpu, now, peak, beats, unanswered, reports, longest })
    }
}

/// Registers all workers; they work until the set is dropped.
async fn crowd(cluster: &Cluster, answers: &Arc<Answers>) -> Result<JoinSet<Result<()>>> {
    let registering = stream::iter(0..WORKERS)
        .map(|number| Simulated::register(cluster.url(), number, SLOTS, Arc::clone(answers)))
        .buffer_unordered(AT_ONCE)
        .try_collect();
    let registered: Vec<(Simulated, Duration)> = timeout(Duration::from_secs(60), registering)
        .await
        .context("workers do not register")??;
    let mut crowd = JoinSet::new();
    for (number, (simulated, heartbeat)) in (0..).zip(registered) {
        // Heartbeats of workers that have come at any time are spread evenly.
        crowd.spawn(simulated.work(heartbeat, heartbeat * number / WORKERS));
    }
    Ok(crowd)
}

/// A plan that no worker runs, and a composition of it.
fn composition(cluster: &Cluster) -> Result<PathBuf> {
    let plan = cluster.path("crowd");
    std::fs::create_dir_all(&plan)?;
    let all = WORKERS * SLOTS;
    let manifest = format!(
        "name = \"crowd\"\n[defaults]\nbuilder = \"exec:command\"\nrunner = \"netns\"\n\
         [builders.\"exec:command\"]\nentrypoint = [\"true\"]\n[runners.\"netns\"]\n\
         [[testcases]]\nname = \"all\"\ninstances = {{ min = 1, max = {all}, default = 1 }}\n"
    );
    std::fs::write(plan.join("manifest.toml"), manifest)?;
    let composition = format!(
        "[global]\nplan = \"{}\"\ncase = \"all\"\nbuilder = \"exec:command\"\nrunner = \"netns\"\n\
         [[groups]]\nid = \"all\"\ninstances = {{ count = {} }}\n",
        Path::new(&plan).display(),
        all / RUNS
    );
    let file = cluster.path("crowd.toml");
    std::fs::write(&file, composition)?;
    Ok(file)
}
