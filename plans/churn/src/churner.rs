//! Everybody but the observers: they serve, and do to themselves what the case
//! says.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_p2p::dht::Life;
use groundswell_p2p::{Multiaddr, Version};
use groundswell_sdk::{Ctx, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until};

use crate::stage::{self, Stage};

/// How often an instance looks whether its address has changed.
const LOOK: Duration = Duration::from_millis(500);

/// What churners do to themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Nothing: what happens comes from the composition.
    Serve,
    /// They leave in good order and come back.
    Leave,
    /// They begin with the old version and change to the new one.
    Upgrade,
    /// They come once the network is up, all at once.
    ComeLate,
}

/// A node has another address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Move {
    pub(crate) index: u32,
    pub(crate) life: u64,
    pub(crate) address: Multiaddr,
}

/// Who is there when the faults are over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Alive {
    pub(crate) index: u32,
    pub(crate) life: u64,
}

pub(crate) async fn run(cx: &Ctx, stage: Stage, habit: Habit) -> Result {
    let mut churner = Churner::new(cx, stage)?;
    match habit {
        _ if cx.role() != "churner" => churner.serve_until_end().await?,
        Habit::Serve => churner.serve_until_end().await?,
        Habit::Leave => churner.leave_now_and_then().await?,
        Habit::Upgrade => churner.upgrade_in_turn().await?,
        Habit::ComeLate => churner.come_late().await?,
    }
    churner.stay().await
}

struct Churner<'a> {
    cx: &'a Ctx,
    stage: Stage,
    life: u64,
    address: Ipv4Addr,
}

impl<'a> Churner<'a> {
    fn new(cx: &'a Ctx, stage: Stage) -> Result<Self> {
        let life = stage::life(cx.incarnation(), stage.params.identity);
        Ok(Self { cx, stage, life, address: cx.network().ip()? })
    }

    /// What the node runs unless it is upgraded.
    fn version(&self) -> Result<Version> {
        Ok(self.stage.dht.params.version()?)
    }

    async fn serve_until_end(&mut self) -> Result {
        self.serve_until(self.stage.end).await
    }

    /// Serves, and follows the address the network gives this instance.
    async fn serve_until(&mut self, end: Instant) -> Result {
        while Instant::now() < end {
            sleep_until((Instant::now() + LOOK).min(end)).await;
            let address = self.cx.network().ip()?;
            if address != self.address {
                self.address = address;
                self.moved().await?;
            }
        }
        Ok(())
    }

    /// Listens at the new address and comes back from there. The connections
    /// from the old address are lost without knowing it.
    async fn moved(&mut self) -> Result {
        self.cx.counter("moves").unit("count").add(1);
        self.change(self.version()?).await?;
        let address = self.stage.dht.node.address().await?;
        let (index, life) = (self.stage.dht.me.index, self.life);
        self.cx.publish("moves", &Move { index, life, address }).await?;
        Ok(())
    }

    /// Goes and comes back as another node, and measures how long that takes.
    async fn change(&mut self, version: Version) -> Result {
        let begun = Instant::now();
        self.stage.dht.revive(self.cx, Life { number: self.life, version }).await?;
        self.cx.point("time_to_rejoin_s", begun.elapsed()).record();
        Ok(())
    }

    /// At each interval a share of the churners leaves for the downtime. Who
    /// does is drawn from the seed.
    async fn leave_now_and_then(&mut self) -> Result {
        let mut rng = self.cx.rng("leave");
        let params = self.stage.params.clone();
        let mut next = self.stage.begun;
        let mut lives = 0;
        loop {
            next += params.interval;
            if next + params.downtime >= self.stage.end {
                break;
            }
            let leaves = rng.chance(params.pct / 100.0);
            self.serve_until(next).await?;
            if leaves {
                lives += 1;
                self.stage.dht.leave().await;
                self.cx.counter("leaves").unit("count").add(1);
                sleep(params.downtime).await;
                self.life = stage::life(lives, params.identity);
                self.change(self.version()?).await?;
            }
        }
        self.serve_until_end().await
    }

    /// The churners are upgraded one after the other, over the whole time.
    async fn upgrade_in_turn(&mut self) -> Result {
        let Some(&newest) = Version::ALL.last() else { return Ok(()) };
        ensure!(
            newest != self.version()?,
            "there is nothing to upgrade to: the nodes run {newest}; build with the selector `libp2p-0_53`"
        );
        let time = self.stage.end - self.stage.begun;
        let count = self.cx.env().group_instances.max(1);
        // The last one has an interval left to serve.
        let turn = f64::from(self.cx.group_index() + 1) / f64::from(count + 1);
        self.serve_until(self.stage.begun + time.mul_f64(turn)).await?;
        self.stage.dht.leave().await;
        self.change(newest).await?;
        self.cx.counter("upgrades").unit("count").add(1);
        self.serve_until_end().await
    }

    /// A crowd comes within a moment, and each looks for a record at once.
    async fn come_late(&mut self) -> Result {
        let wait = self.cx.rng("crowd").duration(self.stage.params.crowd_window);
        sleep_until(self.stage.begun + wait).await;
        let begun = Instant::now();
        self.stage.dht.enter(self.cx).await?;
        self.cx.point("time_to_bootstrap_s", begun.elapsed()).record();
        let stable = self
            .stage
            .dht
            .roster
            .members
            .iter()
            .find(|member| stage::is_stable(&self.stage.dht.roster.group(member).role));
        let stable = stable.ok_or("the run has no instance with the role `stable`")?;
        let key = stage::key(self.cx, stable.index);
        let answer = self.stage.dht.node.providers(key, 1).await?;
        let found = !answer.found.is_empty();
        self.cx.point("crowd_served_ratio", found).unit("ratio").record();
        if found {
            self.cx.point("time_to_served_s", begun.elapsed()).record();
        }
        self.serve_until_end().await
    }

    /// Says that it is there, and stays until the observers have seen enough.
    async fn stay(mut self) -> Result {
        let (index, life) = (self.stage.dht.me.index, self.life);
        self.cx.publish("alive", &Alive { index, life }).await?;
        let observers: u32 =
            self.stage.dht.roster.with_role("observer").map(|(_, group)| group.count).sum();
        // Observers give up after the time to recover, so that this is not for ever.
        let limit = self.stage.end + self.stage.params.recovery * 2 + Duration::from_secs(60);
        let cx = self.cx;
        let observed =
            cx.barrier("observed").count(u64::from(observers)).timeout(limit - Instant::now());
        let serving = self.serve_until(limit);
        tokio::select! {
            done = observed.into_future() => done?,
            served = serving => served?,
        }
        self.stage.dht.stop().await;
        Ok(())
    }
}
