//! One instance from its begin to its outcome.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::context::Ctx;
use crate::env::RunEnv;
use crate::events;
use crate::outcome::{Outcome, Result, told};
use crate::sync::connection::Target;
use crate::sync::{Sync, barrier};
use crate::{panics, rng, sampler, units};

/// How long a case may go on after it was told to stop.
const GRACE: Duration = Duration::from_secs(2);
/// How much longer than its timeout a case may take to say what it waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the outcome may take to be stored. A worker that is restarted is away for a while.
const FAREWELL: Duration = Duration::from_secs(120);

/// A case: what an instance does.
pub(crate) type Case = Arc<dyn Fn(Ctx) -> BoxFuture<'static, Result> + Send + std::marker::Sync>;

/// Makes a case of a function.
pub(crate) fn case<F, Fut>(function: F) -> Case
where
    F: Fn(Ctx) -> Fut + Send + std::marker::Sync + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    Arc::new(move |ctx| Box::pin(function(ctx)))
}

/// What an instance is given beside its environment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Whether the network may be configured in vain.
    pub(crate) unshaped: bool,
    /// Whether its lifecycle is printed.
    pub(crate) quiet: bool,
}

/// Runs a case and tells its outcome. `stop` ends it early.
pub(crate) async fn live(
    env: RunEnv,
    case: Option<Case>,
    options: Options,
    stop: impl Future<Output = ()>,
) -> Outcome {
    let target = Target {
        host: env.sync.0.clone(),
        port: env.sync.1,
        session: session(&env),
        instance: env.index,
    };
    let (sync, connection) = Sync::new(&env.prefix(), target);
    let mut background = JoinSet::new();
    background.spawn(connection.run());
    let ctx = Ctx::new(env, sync, options);
    let outcome = match decide(&ctx, case, stop).await {
        Ok(outcome) => outcome,
        Err(why) => Outcome::Failure(why),
    };
    ctx.cancel();
    ctx.flush();
    let event = events::outcome(&outcome, ctx.group());
    ctx.print(&event);
    // The outcome is told to people, whether or not the platform hears it. What was posted before it is stored
    // before it, so nothing is open then.
    let _ = timeout(FAREWELL, ctx.sync().publish_event(event)).await;
    background.shutdown().await;
    outcome
}

/// A name that no other client has.
fn session(env: &RunEnv) -> String {
    let now = crate::lines::now_ns();
    let process = u64::from(std::process::id());
    let instance = u64::from(env.index.unwrap_or(u32::MAX));
    format!("{:016x}", rng::mix(now ^ rng::mix(process ^ rng::mix(instance))))
}

async fn decide(
    ctx: &Ctx,
    case: Option<Case>,
    stop: impl Future<Output = ()>,
) -> std::result::Result<Outcome, String> {
    let mut stop = pin!(stop);
    ctx.print(&events::start(ctx.env()));
    let Some(case) = case else {
        return Err(format!("this plan has no case `{}`", ctx.env().case));
    };
    let limit = case_timeout(ctx.env())?;
    tokio::select! {
        arrived = arrive(ctx) => arrived?,
        () = &mut stop => return Err(ABORTED.to_owned()),
    }
    ctx.begin(limit);
    let mut tasks = JoinSet::new();
    let mut samplers = JoinSet::new();
    samplers.spawn(sampler::run(ctx.clone()));
    tasks.spawn(case(ctx.clone()));
    let ended = tokio::select! {
        ended = tasks.join_next() => return Ok(judge(ctx, ended)),
        () = &mut stop => ABORTED.to_owned(),
        () = deadline(ctx) => {
            let limit = limit.unwrap_or_default().as_secs_f64();
            format!("the case was not over after {limit} s, its parameter `timeout`")
        }
    };
    ctx.cancel();
    match timeout(GRACE, tasks.join_next()).await {
        // Its own words say more.
        Ok(Some(Ok(Err(err)))) => Err(format!("{ended}: {}", told(err.as_ref()))),
        Ok(_) | Err(_) => Err(ended),
    }
}

const ABORTED: &str = "aborted";

fn case_timeout(env: &RunEnv) -> std::result::Result<Option<Duration>, String> {
    let given = env.params.get("timeout").filter(|text| !text.is_empty() && *text != "null");
    let parsed = given.map(|text| {
        units::duration(text)
            .map_err(|err| format!("the parameter `timeout` is `{text}`, which {err}"))
    });
    parsed.transpose()
}

/// Waits a little beyond the deadline, so that a barrier that ends with it can say why.
async fn deadline(ctx: &Ctx) {
    match ctx.deadline() {
        Some(deadline) => sleep_until(deadline + LAST_WORDS).await,
        None => std::future::pending().await,
    }
}

/// Waits for the network, and tells the others that this instance is here.
async fn arrive(ctx: &Ctx) -> std::result::Result<(), String> {
    let env = ctx.env();
    let lost = |err: crate::SyncError| err.to_string();
    if env.sidecar {
        ctx.begin_stage(NETWORK).await;
        let begun = Instant::now();
        let ready = ctx.sync().wait(NETWORK, u64::from(env.instances));
        ready.await.map_err(lost)?;
        ctx.diagnostic("network_initialized_s", begun.elapsed()).record();
        ctx.end_stage(NETWORK).await;
    }
    let seq = ctx.signal_once(barrier::GLOBAL).await.map_err(lost)?;
    let group_state = barrier::group_state(&env.group);
    let group_seq = ctx.signal_once(&group_state).await.map_err(lost)?;
    ctx.arrived(seq, group_seq);
    Ok(())
}

const NETWORK: &str = "network-initialized";

fn judge(ctx: &Ctx, ended: Option<std::result::Result<Result, JoinError>>) -> Outcome {
    match ended {
        Some(Ok(Ok(()))) => ctx.checks().verdict().map_or(Outcome::Success, Outcome::Failure),
        Some(Ok(Err(err))) => Outcome::Failure(told(err.as_ref())),
        Some(Err(err)) if err.is_panic() => panics::crash(err),
        Some(Err(_)) | None => Outcome::Failure(ABORTED.to_owned()),
    }
}

/// Waits for the signal with which a platform stops an instance.
pub(crate) async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminations) => {
            terminations.recv().await;
        }
        // Without a handler the signal just ends the process.
        Err(_) => loop {
            sleep(Duration::from_secs(3600)).await;
        },
    }
}
