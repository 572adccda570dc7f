//! What a case works with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::check::Checks;
use crate::env::RunEnv;
use crate::events::{self, Event, Events};
use crate::instance::Options;
use crate::metrics::{Counter, Histogram, Measure, Metrics, Point};
use crate::network::Network;
use crate::outcome::Result;
use crate::params::ParamError;
use crate::rng::Rng;
use crate::sync::barrier::{self, Barrier, Signal};
use crate::sync::exchange::Exchange;
use crate::sync::subscription::Subscription;
use crate::sync::{Sync, SyncError};

/// The context of an instance: its place in the run, the others, the network, KPIs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ctx(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    env: RunEnv,
    sync: Sync,
    metrics: Metrics,
    events: Events,
    checks: Checks,
    options: Options,
    seqs: OnceLock<(u64, u64)>,
    deadline: OnceLock<Instant>,
    cancel: watch::Sender<bool>,
    once: Mutex<BTreeMap<String, u64>>,
}

impl Ctx {
    pub(crate) fn new(env: RunEnv, sync: Sync, options: Options) -> Self {
        Self(Arc::new(Inner {
            metrics: Metrics::to(env.outputs.as_deref()),
            events: Events::of(&env),
            checks: Checks::default(),
            options,
            seqs: OnceLock::new(),
            deadline: OnceLock::new(),
            cancel: watch::Sender::new(false),
            once: Mutex::default(),
            env,
            sync,
        }))
    }

    /// The run, and this instance's place in it.
    #[must_use]
    pub fn env(&self) -> &RunEnv {
        &self.0.env
    }

    /// The parameters, as the author's own struct. See [`Params::read`](crate::Params::read).
    ///
    /// # Errors
    /// When one is missing or of another type; the message names it.
    pub fn params<T: DeserializeOwned>(&self) -> std::result::Result<T, ParamError> {
        self.0.env.params.read()
    }

    /// The group's id.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.0.env.group
    }

    /// What this instance is for: the parameter `role`, else what the platform says, else the group.
    #[must_use]
    pub fn role(&self) -> &str {
        let env = &self.0.env;
        let parameter = env.params.get("role").filter(|role| !role.is_empty() && *role != "null");
        let given = Some(env.role.as_str()).filter(|role| !role.is_empty());
        parameter.or(given).unwrap_or(&env.group)
    }

    /// Instances in the run.
    #[must_use]
    pub fn instances(&self) -> u32 {
        self.0.env.instances
    }

    /// When this instance came, among all of the run: 1 for the first. It differs from run to run.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.0.seqs.get().map_or(0, |seqs| seqs.0)
    }

    /// When this instance came, among its group: 1 for the first.
    #[must_use]
    pub fn group_seq(&self) -> u64 {
        self.0.seqs.get().map_or(0, |seqs| seqs.1)
    }

    /// The instance's number in the run, from 0. On Groundswell it is the same in every run and over restarts; on
    /// another platform it is [`Ctx::seq`] less one.
    #[must_use]
    pub fn index(&self) -> u32 {
        let by_arrival = || u32::try_from(self.seq().saturating_sub(1)).unwrap_or(u32::MAX);
        self.0.env.index.unwrap_or_else(by_arrival)
    }

    /// The instance's number in its group, from 0, as [`Ctx::index`].
    #[must_use]
    pub fn group_index(&self) -> u32 {
        let by_arrival = || u32::try_from(self.group_seq().saturating_sub(1)).unwrap_or(u32::MAX);
        self.0.env.group_index.unwrap_or_else(by_arrival)
    }

    /// How often this instance has been killed and started again: 0 in its first life.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.0.env.incarnation
    }

    /// A generator of this instance's own, the same in every run with the same seed. `stream` keeps uses apart:
    /// one that draws more often does not change the others.
    #[must_use]
    pub fn rng(&self, stream: &str) -> Rng {
        Rng::new(self.0.env.seed, &format!("{}/{stream}", self.index()))
    }

    /// A generator that is the same in all instances of the run.
    #[must_use]
    pub fn shared_rng(&self, stream: &str) -> Rng {
        Rng::new(self.0.env.seed, &format!("run/{stream}"))
    }

    /// The directory for results, which is kept. Where there is none, a temporary one.
    #[must_use]
    pub fn outputs(&self) -> &Path {
        self.0.env.outputs.as_ref().unwrap_or(&self.0.env.temp)
    }

    /// A path in the directory for results.
    #[must_use]
    pub fn output(&self, name: &str) -> PathBuf {
        self.outputs().join(name)
    }

    /// When the case has to be over: its parameter `timeout` after its begin.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get().copied()
    }

    /// Waits until the instance is told to stop. Long loops `select!` on it.
    pub async fn cancelled(&self) {
        // The sender lives as long as this context.
        let _ = self.0.cancel.subscribe().wait_for(|cancelled| *cancelled).await;
    }

    /// Whether the instance is told to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.0.cancel.borrow()
    }

    /// The sync service itself.
    #[must_use]
    pub fn sync(&self) -> &Sync {
        &self.0.sync
    }

    /// Signals a state of the run; see [`Sync::signal`].
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn signal(&self, state: &str) -> std::result::Result<u64, SyncError> {
        self.sync().signal(state).await
    }

    /// Signals a state, but only once in the life of this instance, restarts included. Returns the number it got.
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn signal_once(&self, state: &str) -> std::result::Result<u64, SyncError> {
        let known = self.once().get(state).copied();
        if let Some(number) = known {
            return Ok(number);
        }
        let number = self.sync().signal_once(state).await?;
        self.once().insert(state.to_owned(), number);
        Ok(number)
    }

    fn once(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for others to signal a state: `cx.barrier("ready").count(3).timeout(limit).await?`.
    pub fn barrier(&self, state: &str) -> Barrier {
        Barrier::new(self, state, Signal::No)
    }

    /// Signals a state, once in the life of this instance, and waits for others:
    /// `cx.signal_and_wait("ready").await?` waits for all, `.group()` for the own group.
    pub fn signal_and_wait(&self, state: &str) -> Barrier {
        Barrier::new(self, state, Signal::Once)
    }

    /// Appends to a topic; see [`Sync::publish`].
    ///
    /// # Errors
    /// When the value cannot be made JSON, or the sync is lost.
    pub async fn publish<T: Serialize>(
        &self,
        topic: &str,
        value: &T,
    ) -> std::result::Result<u64, SyncError> {
        self.sync().publish(topic, value).await
    }

    /// Every message of a topic, from its first; see [`Sync::subscribe`].
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn subscribe<T>(
        &self,
        topic: &str,
    ) -> std::result::Result<Subscription<T>, SyncError> {
        self.sync().subscribe(topic).await
    }

    /// Tells everybody a value and gets everybody's, in the order of the instances:
    /// `for peer in cx.exchange("addrs", &mine).await? { … }`. All instances of the run, or with `.group()` of the
    /// group, have to take part.
    pub fn exchange<T: Serialize + DeserializeOwned>(&self, topic: &str, value: &T) -> Exchange<T> {
        Exchange::new(self, topic, value)
    }

    /// Whether this instance is the one that leads: exactly one that asks gets `true`, also after a restart.
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn leads(&self, what: &str) -> std::result::Result<bool, SyncError> {
        Ok(self.signal_once(&format!("leader:{what}")).await? == 1)
    }

    /// As [`Ctx::leads`], one in each group.
    ///
    /// # Errors
    /// When the sync is lost.
    pub async fn leads_group(&self, what: &str) -> std::result::Result<bool, SyncError> {
        self.leads(&barrier::in_group(what, self.group())).await
    }

    /// The data network.
    #[must_use]
    pub fn network(&self) -> Network {
        Network::new(self)
    }

    /// Runs a stage of the case: all instances of the run begin the next one together. Records how long it took
    /// here as the KPI `phase_s` with the tag `phase`, without the wait for the others.
    ///
    /// # Errors
    /// That of the stage, or when the others do not come.
    pub async fn phase<T>(&self, name: &str, stage: impl Future<Output = Result<T>>) -> Result<T> {
        self.begin_stage(name).await;
        let begun = Instant::now();
        let output = stage.await?;
        self.point("phase_s", begun.elapsed()).tag("phase", name).record();
        self.end_stage(name).await;
        self.signal_and_wait(&format!("phase:{name}")).await?;
        Ok(output)
    }

    pub(crate) async fn begin_stage(&self, name: &str) {
        self.stage(name, true, &Event::StageStart { name }).await;
    }

    pub(crate) async fn end_stage(&self, name: &str) {
        self.stage(name, false, &Event::StageEnd { name }).await;
    }

    async fn stage(&self, name: &str, begins: bool, line: &Event<'_>) {
        self.event(line);
        let event = events::stage(name, self.group(), begins);
        self.print(&event);
        self.sync().post_event(event).await;
    }

    /// Waits for this instance's turn: the instances of the run are spread over `total` evenly, with some chance
    /// from the seed, so that they do not all begin at once.
    pub async fn stagger(&self, total: Duration) {
        sleep(self.turn(total)).await;
    }

    fn turn(&self, total: Duration) -> Duration {
        let place = f64::from(self.index()) + self.rng("stagger").ratio();
        total.mul_f64((place / f64::from(self.instances().max(1))).min(1.0))
    }

    /// Notes whether something holds, and goes on. One check that does not fails the case at its end.
    pub fn check(&self, holds: bool, what: impl std::fmt::Display) -> bool {
        if !holds {
            let what = what.to_string();
            self.message(format!("check failed: {what}"));
            self.0.checks.failed(what);
        }
        holds
    }

    pub(crate) fn checks(&self) -> &Checks {
        &self.0.checks
    }

    /// Prints a message for people, as a line that the platform understands.
    pub fn message(&self, text: impl std::fmt::Display) {
        self.print(&events::message(&text.to_string()));
    }

    /// Writes an event to `events.out`.
    pub fn event(&self, event: &Event<'_>) {
        self.0.events.record(self.index(), event);
    }

    pub(crate) fn print(&self, event: &serde_json::Value) {
        if !self.0.options.quiet {
            self.0.events.print(event);
        }
    }

    /// One value of a KPI: `cx.point("found", 3).unit("count").tag("phase", "search").record()`.
    #[expect(clippy::needless_pass_by_value, reason = "values are small and are written in place")]
    pub fn point(&self, name: &str, value: impl Measure) -> Point {
        self.0.metrics.point(name, &value)
    }

    /// What a KPI is at this moment.
    #[expect(clippy::needless_pass_by_value, reason = "values are small and are written in place")]
    pub fn gauge(&self, name: &str, value: impl Measure) -> Point {
        self.0.metrics.gauge(name, &value)
    }

    /// A value for those who look into a run, which is no result.
    #[expect(clippy::needless_pass_by_value, reason = "values are small and are written in place")]
    pub fn diagnostic(&self, name: &str, value: impl Measure) -> Point {
        self.0.metrics.diagnostic(name, &value)
    }

    /// A KPI that counts.
    pub fn counter(&self, name: &str) -> Counter {
        self.0.metrics.counter(name)
    }

    /// A KPI of which many values come.
    pub fn histogram(&self, name: &str) -> Histogram {
        self.0.metrics.histogram(name)
    }

    /// A KPI of which many durations come: `cx.timer("fetch_s").time(fetch()).await`.
    pub fn timer(&self, name: &str) -> Histogram {
        self.0.metrics.timer(name)
    }

    /// Puts a tag on all KPIs that are recorded from here on, such as the version of what is tested.
    pub fn tag_kpis(&self, key: &str, value: impl std::fmt::Display) {
        self.0.metrics.tag(key, &value.to_string());
    }

    /// Writes everything recorded so far to its files.
    pub fn flush(&self) {
        self.0.metrics.flush();
        self.0.events.flush();
    }

    pub(crate) fn is_unshaped(&self) -> bool {
        self.0.options.unshaped
    }

    pub(crate) fn arrived(&self, seq: u64, group_seq: u64) {
        // It is called once, before the case begins.
        let _ = self.0.seqs.set((seq, group_seq));
    }

    pub(crate) fn begin(&self, timeout: Option<Duration>) {
        if let Some(timeout) = timeout {
            // It is called once, when the case begins.
            let _ = self.0.deadline.set(Instant::now() + timeout);
        }
    }

    pub(crate) fn cancel(&self) {
        self.0.cancel.send_replace(true);
    }
}
