//! An instance with an honest node: it publishes, listens and watches its mesh.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use groundswell_p2p::{Event, Identity, Multiaddr, Node};
use groundswell_sdk::prelude::*;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use crate::message::{Message, WARM};
use crate::nodes::{self, TOPIC};
use crate::params::P;
use crate::receipts::{Presence, Receipts, Sent};
use crate::scenario::Scenario;
use crate::watch::Sample;
use crate::world::{Role, World};

/// What is sent shortly before a node leaves is not expected to reach it.
const BEFORE_LEAVING: Duration = Duration::from_secs(2);

/// What the listening task shares with the node's instance.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) receipts: Receipts,
    /// Events that this instance was too slow to look at.
    pub(crate) overlooked: u64,
}

/// An instance with an honest node.
pub(crate) struct Honest<'a> {
    pub(crate) cx: &'a Ctx,
    pub(crate) role: Role,
    pub(crate) scenario: Scenario,
    pub(crate) p: &'a P,
    pub(crate) node: Node,
    pub(crate) sent: Sent,
    pub(crate) unsent: u64,
    pub(crate) samples: Vec<Sample>,
    pub(crate) present: Presence,
    pub(crate) restarts: u32,
    heard: Arc<Mutex<Heard>>,
    listeners: JoinSet<()>,
    place: Multiaddr,
}

impl<'a> Honest<'a> {
    /// Starts the node; it knows nobody yet.
    pub(crate) async fn start(
        cx: &'a Ctx,
        role: Role,
        scenario: Scenario,
        p: &'a P,
    ) -> Result<Self> {
        let place = nodes::listen(cx.network().ip()?, 0);
        let identity = Identity::derive(p.seed, u64::from(cx.index()), 0);
        let node = Node::start(nodes::honest(identity, place, scenario, p)).await?;
        // When it comes back it is where it was.
        let mut place = node.address().await?;
        place.pop();
        cx.tag_kpis("version", version(&node, p));
        let mut honest = Self {
            cx,
            role,
            scenario,
            p,
            node,
            sent: Sent::new(),
            unsent: 0,
            samples: Vec::new(),
            present: Presence::default(),
            restarts: 0,
            heard: Arc::default(),
            listeners: JoinSet::new(),
            place,
        };
        honest.listen().await?;
        Ok(honest)
    }

    /// Where the node is, with its peer id.
    pub(crate) async fn address(&self) -> Result<String> {
        Ok(self.node.address().await?.to_string())
    }

    /// What was heard so far.
    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(&mut self) -> Result {
        let events = self.node.events();
        self.listeners.spawn(take_messages(events, Arc::clone(&self.heard)));
        self.node.subscribe(TOPIC).await?;
        Ok(())
    }

    /// Dials the neighbours that are this node's to dial.
    pub(crate) async fn join(&self, world: &World) -> Result {
        for other in world.dials_of(self.cx.index()) {
            self.node.dial_peer(other.peer, vec![other.address.clone()]).await?;
        }
        Ok(())
    }

    /// Publishes messages that do not count, so that meshes and scores settle.
    pub(crate) async fn warm(&mut self, world: &World) -> Result {
        let end = Instant::now() + self.p.t_warm;
        if self.role != Role::Publisher {
            sleep_until(end).await;
            return Ok(());
        }
        let bytes = u32::try_from(self.p.message_size.0)?;
        let mut turns = self.turns(world);
        for number in WARM.. {
            tokio::select! {
                _ = turns.tick() => {}
                () = sleep_until(end) => break,
            }
            // Before the first meshes stand there may be nobody to send to.
            let _ = self.publish(number, bytes).await;
        }
        Ok(())
    }

    /// Publishes messages that count, and watches the mesh.
    pub(crate) async fn run(&mut self, world: &World) -> Result {
        let begun = Instant::now();
        let end = begun + self.p.t_run;
        let honest = world.honest_peers();
        let mut turns = self.turns(world);
        let mut looks = interval_at(begun, self.p.t_heartbeat);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut absences = self.absences(begun).into_iter().peekable();
        loop {
            let leaves = absences.peek().copied().unwrap_or(end);
            tokio::select! {
                () = sleep_until(end) => return Ok(()),
                () = sleep_until(leaves), if leaves < end => {
                    absences.next();
                    self.leave_and_return(world).await?;
                }
                _ = turns.tick(), if self.role == Role::Publisher => self.publish_next().await?,
                _ = looks.tick() => {
                    let mesh = self.node.mesh_peers(TOPIC).await?;
                    let good = mesh.iter().filter(|peer| honest.contains(peer)).count();
                    let sample =
                        Sample { at: begun.elapsed(), honest: good, sybils: mesh.len() - good };
                    self.samples.push(sample);
                }
            }
        }
    }

    /// When it is this publisher's turn: they take turns so that the network
    /// gets its messages evenly.
    fn turns(&self, world: &World) -> tokio::time::Interval {
        let count = u32::try_from(world.publishers().count()).unwrap_or(u32::MAX).max(1);
        let own = world.publishers().position(|peer| peer.instance == self.cx.index());
        let own = u32::try_from(own.unwrap_or_default()).unwrap_or_default();
        let each = Duration::from_secs_f64(1.0 / self.p.message_rate);
        let mut turns = interval_at(Instant::now() + each * own, each * count);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        turns
    }

    async fn publish_next(&mut self) -> Result {
        let number = u32::try_from(self.sent.len())?;
        let sizes = &self.p.message_sizes;
        let size = match sizes.get(self.sent.len() % sizes.len().max(1)) {
            Some(size) if self.scenario.sizes => *size,
            Some(_) | None => self.p.message_size,
        };
        self.sent.push(now_ns());
        // One that cannot be sent is lost, and that is how it counts.
        if self.publish(number, u32::try_from(size.0)?).await.is_err() {
            self.unsent += 1;
        }
        Ok(())
    }

    async fn publish(&self, number: u32, bytes: u32) -> Result {
        let message = Message { publisher: self.cx.index(), number, sent_ns: now_ns(), bytes };
        self.node.publish(TOPIC, message.encode()).await?;
        Ok(())
    }

    /// When this node leaves, if it is one that does.
    fn absences(&self, begun: Instant) -> Vec<Instant> {
        if !self.scenario.churn || self.role != Role::Lurker || self.p.churn_interval.is_zero() {
            return Vec::new();
        }
        let mut rng = self.cx.rng("churn");
        let mut at = self.p.churn_interval;
        let mut leaves = Vec::new();
        while at < self.p.t_run {
            if rng.chance(self.p.churn_pct.ratio()) {
                leaves.push(begun + at + rng.duration(self.p.churn_interval));
            }
            at += self.p.churn_interval;
        }
        leaves
    }

    /// Stops the node, and starts it again with the same identity and address.
    async fn leave_and_return(&mut self, world: &World) -> Result {
        let left = now_ns().saturating_sub(nanos(BEFORE_LEAVING));
        self.node.clone().stop().await;
        sleep(self.p.churn_downtime).await;
        let identity = Identity::derive(self.p.seed, u64::from(self.cx.index()), 0);
        let config = nodes::honest(identity, self.place.clone(), self.scenario, self.p);
        self.node = Node::start(config).await?;
        self.listen().await?;
        let mut found = 0_u32;
        for other in world.neighbours(self.cx.index()) {
            // Some of them may be away themselves.
            let reached = self.node.dial_peer(other.peer, vec![other.address.clone()]).await;
            found += u32::from(reached.is_ok());
        }
        self.cx.check(found > 0, "came back and found no neighbour");
        // A place in the meshes comes with a heartbeat, at either end.
        let settled = now_ns() + nanos(self.p.t_heartbeat * 3);
        self.present.away(left, settled);
        self.restarts += 1;
        Ok(())
    }
}

/// Which software a node is, for tags.
fn version(node: &Node, p: &P) -> String {
    let gossip = match p.gossip_version {
        crate::params::GossipVersion::Newest => "",
        crate::params::GossipVersion::V1_1 => "-gossipsub-1.1",
    };
    format!("{}{gossip}", node.version())
}

/// Notes the messages of a node until it has stopped.
async fn take_messages(mut events: Receiver<Event>, heard: Arc<Mutex<Heard>>) {
    let note = |act: &dyn Fn(&mut Heard)| {
        act(&mut heard.lock().unwrap_or_else(PoisonError::into_inner));
    };
    loop {
        match events.recv().await {
            Ok(Event::Message { data, .. }) => {
                let now = now_ns();
                note(&|heard| heard.receipts.note(&data, now));
            }
            Ok(_) => {}
            Err(RecvError::Lagged(count)) => note(&|heard| heard.overlooked += count),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Nanoseconds since 1970: the clock that all instances share.
pub(crate) fn now_ns() -> u64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
