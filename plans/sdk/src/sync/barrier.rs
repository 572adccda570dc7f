//! Waiting for others.

use std::future::IntoFuture;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::{Sync, SyncError};
use crate::context::Ctx;

/// How long the service may take to say who is missing.
const INSPECTION: Duration = Duration::from_secs(5);

/// Whether, and how, the state is signalled before the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    No,
    Once,
}

/// A wait for others, to be awaited. Without a timeout it ends with the case's deadline.
#[must_use = "a barrier does nothing until it is awaited"]
#[derive(Debug, Clone)]
pub struct Barrier {
    ctx: Ctx,
    name: String,
    target: u64,
    of: String,
    signal: Signal,
    timeout: Option<Duration>,
}

impl Barrier {
    pub(crate) fn new(ctx: &Ctx, name: &str, signal: Signal) -> Self {
        Self {
            ctx: ctx.clone(),
            name: name.to_owned(),
            target: u64::from(ctx.env().instances),
            of: GLOBAL.to_owned(),
            signal,
            timeout: None,
        }
    }

    /// Waits for all instances of the run, which is the default.
    pub fn all(mut self) -> Self {
        self.target = u64::from(self.ctx.env().instances);
        self
    }

    /// Waits for the own group. The state is the group's own: another group's of the same name is another state.
    pub fn group(mut self) -> Self {
        let env = self.ctx.env();
        self.target = u64::from(env.group_instances);
        self.of = group_state(&env.group);
        self.name = in_group(&self.name, &env.group);
        self
    }

    /// Waits for so many signals.
    pub fn count(mut self, target: u64) -> Self {
        self.target = target;
        self
    }

    /// Waits no longer than this.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn wait(self) -> Result<(), SyncError> {
        let sync = self.ctx.sync();
        if self.signal == Signal::Once {
            self.ctx.signal_once(&self.name).await?;
        }
        if self.target == 0 {
            return Ok(());
        }
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let limit = self.timeout.into_iter().chain(self.ctx.deadline().map(left)).min();
        let begun = Instant::now();
        let reached = sync.wait(&self.name, self.target);
        match limit {
            None => reached.await,
            Some(limit) => match timeout(limit, reached).await {
                Ok(outcome) => outcome,
                Err(_) => Err(self.too_late(sync, begun.elapsed()).await),
            },
        }
    }

    async fn too_late(&self, sync: &Sync, waited: Duration) -> SyncError {
        let found = timeout(INSPECTION, sync.inspect(&self.name, &self.of)).await;
        let found = found.ok().flatten().unwrap_or_default();
        SyncError::Timeout {
            what: self.name.clone(),
            waited,
            have: found.count,
            want: self.target,
            missing: found.missing,
            missing_total: found.missing_total,
        }
    }
}

impl IntoFuture for Barrier {
    type Output = Result<(), SyncError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.wait())
    }
}

/// The state that every instance signals when it begins.
pub(crate) const GLOBAL: &str = "initialized_global";

/// The state that every instance of a group signals when it begins.
pub(crate) fn group_state(group: &str) -> String {
    format!("initialized_group_{group}")
}

/// A name that is a group's own.
pub(crate) fn in_group(name: &str, group: &str) -> String {
    format!("{name}:group:{group}")
}
