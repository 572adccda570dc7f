//! Everybody tells everybody something.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::barrier::in_group;
use super::{SyncError, json};
use crate::context::Ctx;

/// How many of the missing are named.
const NAMED: usize = 10;

/// What one instance told, and which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<T> {
    /// The instance's number in the run, from 0. See [`Ctx::index`].
    pub index: u32,
    /// Its group.
    pub group: String,
    /// What it told.
    pub value: T,
}

/// A message as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    instance: u32,
    group: String,
    incarnation: u32,
    value: Value,
}

/// An exchange, to be awaited: everybody's values in the order of the instances, the own one among them.
#[must_use = "an exchange does nothing until it is awaited"]
#[derive(Debug)]
pub struct Exchange<T> {
    ctx: Ctx,
    topic: String,
    own: Result<Value, SyncError>,
    want: u32,
    timeout: Option<Duration>,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Exchange<T> {
    pub(crate) fn new(ctx: &Ctx, topic: &str, value: &T) -> Self {
        Self {
            ctx: ctx.clone(),
            topic: topic.to_owned(),
            own: json(topic, value),
            want: ctx.env().instances,
            timeout: None,
            of: PhantomData,
        }
    }

    /// Among the own group only.
    pub fn group(mut self) -> Self {
        let env = self.ctx.env();
        self.want = env.group_instances;
        self.topic = in_group(&self.topic, &env.group);
        self
    }

    /// Waits no longer than this.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Vec<Member<T>>, SyncError> {
        let env = self.ctx.env();
        let own = Told {
            instance: self.ctx.index(),
            group: env.group.clone(),
            incarnation: env.incarnation,
            value: self.own.clone()?,
        };
        let sync = self.ctx.sync();
        sync.publish(&self.topic, &own).await?;
        let mut messages = sync.subscribe::<Told>(&self.topic).await?;
        let begun = Instant::now();
        let limit = self.timeout.map(|timeout| begun + timeout);
        let limit = limit.into_iter().chain(self.ctx.deadline()).min();
        let mut told: BTreeMap<u32, Told> = BTreeMap::new();
        while (told.len() as u64) < u64::from(self.want) {
            let message = match limit {
                None => messages.next().await?,
                Some(limit) => match timeout_at(limit, messages.next()).await {
                    Ok(message) => message?,
                    Err(_) => return Err(self.too_late(&told, begun.elapsed())),
                },
            };
            let known = told.get(&message.instance).map(|told| told.incarnation);
            if known.is_none_or(|known| known <= message.incarnation) {
                told.insert(message.instance, message);
            }
        }
        told.into_values().map(|told| self.member(told)).collect()
    }

    fn member(&self, told: Told) -> Result<Member<T>, SyncError> {
        let value = serde_json::from_value(told.value).map_err(|err| SyncError::Unreadable {
            topic: self.topic.clone(),
            why: err.to_string(),
        })?;
        Ok(Member { index: told.instance, group: told.group, value })
    }

    fn too_late(&self, told: &BTreeMap<u32, Told>, waited: Duration) -> SyncError {
        let env = self.ctx.env();
        let missing_total = u64::from(self.want) - told.len() as u64;
        // Which numbers a group has, nobody knows here.
        let all = if self.want == env.instances { 0..env.instances } else { 0..0 };
        SyncError::Timeout {
            what: self.topic.clone(),
            waited,
            have: told.len() as u64,
            want: u64::from(self.want),
            missing: all.filter(|index| !told.contains_key(index)).take(NAMED).collect(),
            missing_total,
        }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> IntoFuture for Exchange<T> {
    type Output = Result<Vec<Member<T>>, SyncError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
