//! A DHT over all instances of a run: the part that every plan about it begins
//! and ends with.

mod nodes;
mod params;
mod roster;

use std::time::Duration;

use groundswell_sdk::{Ctx, Result};
use tokio::sync::broadcast;
use tokio::time::Instant;

pub use self::params::{ClientMode, DhtParams, Join};
use self::roster::Entrance;
pub use self::roster::{GroupInfo, Member, Roster, is_undialable};
use crate::{AutonatVerdict, Event, Multiaddr, Node, Pool, Version, bridge};

/// How long a node in automatic mode waits for AutoNAT's verdict.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(30);

/// Which node of an instance it is that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// What the identity is derived from, beside the instance's number. The
    /// same number is the same identity.
    pub number: u64,
    /// What it runs.
    pub version: Version,
}

impl Default for Life {
    fn default() -> Self {
        Self { number: 0, version: Version::oldest() }
    }
}

/// This instance's part of the DHT.
#[derive(Debug, Clone)]
pub struct Dht {
    /// The node that the case is about.
    pub node: Node,
    /// Everybody.
    pub roster: Roster,
    /// This instance.
    pub me: Member,
    /// The parameters.
    pub params: DhtParams,
    /// The other nodes of this instance.
    crowd: Pool,
    /// What keeps two networks of one run apart.
    name: String,
}

impl Dht {
    /// Shapes the network, learns who is there and starts the node. `name`
    /// keeps networks apart where a case has several, one after the other.
    pub async fn start(cx: &Ctx, params: DhtParams, name: &str) -> Result<Self> {
        let life = Life { version: params.version()?, ..Life::default() };
        Self::start_as(cx, params, name, life).await
    }

    /// As [`Self::start`], in a later life or with another version.
    pub async fn start_as(cx: &Ctx, params: DhtParams, name: &str, life: Life) -> Result<Self> {
        nodes::shape(cx, &params).await?;
        let version = life.version;
        let roster = Roster::gather(cx, own_group(cx, &params, version)).await?;
        let index = cx.index();
        let me = roster.member(index).ok_or("this instance is in no group's range")?.clone();
        let node = nodes::begin(cx, &params, &roster, &me, life).await?;
        let crowd = nodes::crowd(cx, &params, &me).await?;
        cx.tag_kpis("version", version);
        Ok(Self { node, roster, me, params, crowd, name: name.to_owned() })
    }

    /// Takes the node off the network, in good order.
    pub async fn leave(&self) {
        self.node.clone().stop().await;
    }

    /// Starts the node anew after it has left or its address has changed, and
    /// enters the network with it.
    pub async fn revive(&mut self, cx: &Ctx, life: Life) -> Result {
        self.leave().await;
        self.node = nodes::begin(cx, &self.params, &self.roster, &self.me, life).await?;
        self.enter(cx).await
    }

    /// Enters a network that is up, without a turn to wait for.
    pub async fn enter(&self, cx: &Ctx) -> Result {
        let doors = self.entrances(cx).await?;
        self.enter_by(&self.node, &doors).await?;
        self.take_place(cx, &doors).await
    }

    async fn take_place(&self, cx: &Ctx, doors: &[Multiaddr]) -> Result {
        if nodes::needs_relay(&self.params, &self.me) {
            nodes::take_place(cx, &self.node, doors).await?;
        }
        Ok(())
    }

    /// Joins the network: bootstrappers at once, the others in their turn.
    /// Records `time_to_bootstrap_s`.
    pub async fn join(&self, cx: &Ctx) -> Result {
        let doors = self.entrances(cx).await?;
        if !self.roster.is_bootstrapper(self.me.index) {
            cx.stagger(self.params.stagger).await;
        }
        let begun = Instant::now();
        let mut events = self.node.events();
        self.enter_by(&self.node, &doors).await?;
        if !doors.is_empty() {
            cx.point("time_to_bootstrap_s", begun.elapsed()).record();
        }
        self.take_place(cx, &doors).await?;
        for node in self.crowd.nodes() {
            self.enter_by(node, &doors).await?;
        }
        if self.params.client_mode == ClientMode::Auto {
            self.await_verdict(cx, &mut events, begun).await;
        }
        Ok(())
    }

    /// Lets the network settle and looks once more for the own neighbours, who
    /// may have come later.
    pub async fn settle(&self, cx: &Ctx) -> Result {
        tokio::time::sleep(self.params.settle).await;
        cx.stagger(self.params.stagger).await;
        if self.roster.members.len() > 1 {
            self.node.closest(self.me.peer.to_bytes()).await?;
        }
        Ok(())
    }

    /// Records the state of the routing table, connections and traffic.
    pub async fn report(&self, cx: &Ctx) -> Result {
        let table = self.node.routing_table().await?;
        let dead = self.roster.undialable_ratio(table.iter().map(|entry| entry.peer));
        cx.point("routing_table_size", table.len()).unit("count").record();
        cx.point("routing_table_undialable_ratio", dead).unit("ratio").record();
        bridge::report(cx, &self.node).await
    }

    /// Leaves the network.
    pub async fn stop(self) {
        self.crowd.stop().await;
        self.node.stop().await;
    }

    /// Where to join, the own address left out. Bootstrappers tell it first.
    async fn entrances(&self, cx: &Ctx) -> Result<Vec<Multiaddr>> {
        let topic = format!("entrances:{}", self.name);
        if self.roster.is_bootstrapper(self.me.index) {
            let address = self.node.address().await?;
            cx.publish(&topic, &Entrance { index: self.me.index, address }).await?;
        }
        let mut told = cx.subscribe::<Entrance>(&topic).await?;
        let mut doors = Vec::new();
        for _ in 0..self.roster.bootstrappers() {
            let door = told.next().await?;
            if door.index != self.me.index {
                doors.push(door);
            }
        }
        doors.sort_by_key(|door| door.index);
        // Not all through the same one.
        let turn = self.me.index as usize % doors.len().max(1);
        doors.rotate_left(turn);
        Ok(doors.into_iter().map(|door| door.address).collect())
    }

    /// Connects to bootstrappers and looks for the own neighbours.
    async fn enter_by(&self, node: &Node, doors: &[Multiaddr]) -> Result {
        if doors.is_empty() {
            return Ok(());
        }
        let mut open = 0;
        let mut last = None;
        for door in doors.iter().take(3) {
            match nodes::reach(node, door).await {
                Ok(()) => open += 1,
                Err(err) => last = Some(err),
            }
        }
        if let (0, Some(err)) = (open, last) {
            return Err(format!("reached none of {} bootstrappers: {err}", doors.len()).into());
        }
        match self.params.join {
            Join::Own => drop(node.closest(node.peer().to_bytes()).await?),
            Join::Full => drop(node.bootstrap().await?),
        }
        Ok(())
    }

    /// Waits until AutoNAT knows, and records whether it is right.
    async fn await_verdict(
        &self,
        cx: &Ctx,
        events: &mut broadcast::Receiver<Event>,
        begun: Instant,
    ) {
        let verdict = Node::wait_for(events, "AutoNAT", VERDICT_TIMEOUT, |event| {
            let Event::Autonat(verdict) = event else { return None };
            match verdict {
                AutonatVerdict::Public(_) => Some(true),
                AutonatVerdict::Private => Some(false),
                AutonatVerdict::Unknown => None,
            }
        })
        .await;
        if verdict.is_ok() {
            cx.point("time_to_verdict_s", begun.elapsed()).record();
        }
        let correct = matches!(verdict, Ok(public) if public == self.me.dialable);
        cx.point("verdict_correct_ratio", correct).unit("ratio").record();
    }
}

fn own_group(cx: &Ctx, params: &DhtParams, version: Version) -> GroupInfo {
    let env = cx.env();
    GroupInfo {
        group: cx.group().to_owned(),
        first: cx.index() - cx.group_index(),
        count: env.group_instances,
        role: cx.role().to_owned(),
        version: version.name().to_owned(),
        nat: is_behind_nat(cx),
        undialable: params.undialable_pct.ratio(),
    }
}

/// Whether this instance sees another network than the run has.
#[must_use]
pub fn is_behind_nat(cx: &Ctx) -> bool {
    let env = cx.env();
    matches!((env.subnet, env.run_subnet), (Some(own), Some(run)) if own != run)
}
