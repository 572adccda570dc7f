//! Instances that can be reached, then cannot, and so on.

use std::time::Duration;

use groundswell_p2p::{Event, PeerId, echo};
use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};

use crate::class::Class;
use crate::host::{Card, Host};

/// Between two looks at whether the other end answers.
const BEAT: Duration = Duration::from_millis(250);
/// How long an answer, or a dial, may take.
const PATIENCE: Duration = Duration::from_secs(2);
const TOPIC: &str = "flips";

#[derive(Debug, Clone, Deserialize)]
struct Params {
    flip_interval: Duration,
    flip_mode: Mode,
    flips: u32,
    redial_after: u32,
}

/// How an instance becomes unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// What it sends vanishes.
    Drop,
    /// What it sends is refused.
    Reject,
    /// It leaves the network.
    Down,
}

/// A flipper can, or cannot, be reached from here on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Flip {
    flipper: u32,
    reachable: bool,
}

/// Flippers go and come back; public instances try all the time to talk to them.
pub(crate) async fn flip_flop(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let host = Host::join(&cx, 1 << 20).await?;
    host.needs(Class::Flipper)?;
    host.needs(Class::Public)?;
    cx.phase("flip", async {
        if host.class == Class::Flipper {
            flip(&host, &params).await
        } else if host.class == Class::Public {
            watch_all(&host, &params).await
        } else {
            Ok(())
        }
    })
    .await?;
    host.leave().await
}

async fn flip(host: &Host, params: &Params) -> Result {
    let network = host.cx.network();
    let subnet = host.run_subnet()?.to_string();
    for _ in 0..params.flips {
        sleep(params.flip_interval).await;
        let away = network.configure();
        let away = match params.flip_mode {
            Mode::Drop => away.filter(&subnet, Filter::Drop),
            Mode::Reject => away.filter(&subnet, Filter::Reject),
            Mode::Down => away.detach(),
        };
        away.apply().await?;
        tell(host, false).await?;
        sleep(params.flip_interval).await;
        network.configure().apply().await?;
        tell(host, true).await?;
    }
    Ok(())
}

async fn tell(host: &Host, reachable: bool) -> Result {
    host.cx.publish(TOPIC, &Flip { flipper: host.cx.index(), reachable }).await?;
    Ok(())
}

async fn watch_all(host: &Host, params: &Params) -> Result {
    let flippers = host.others().filter(|member| member.value.class == Class::Flipper);
    // All at the same time.
    let watched = flippers.map(|member| watch(host, params, member.index, &member.value));
    futures_util::future::try_join_all(watched).await?;
    Ok(())
}

/// Talks to one flipper until it has come back for the last time.
async fn watch(host: &Host, params: &Params, flipper: u32, card: &Card) -> Result {
    let mut flips = host.cx.subscribe::<Flip>(TOPIC).await?;
    let mut link = Link { host, card, missed: 0, redial_after: params.redial_after };
    let mut events = host.node.events();
    let met = timeout(params.flip_interval, link.recover()).await;
    ensure!(met.is_ok(), "the flipper {flipper} is not reached before its first flip");
    let mut back = 0;
    while back < params.flips {
        let flip = tokio::select! {
            flip = flips.next() => flip?,
            () = link.keep_talking() => continue,
        };
        if flip.flipper != flipper {
            continue;
        }
        if !flip.reachable {
            let talked = link.talk().await;
            host.cx.point("unreachable_ratio", !talked).unit("ratio").record();
            continue;
        }
        back += 1;
        let came = Instant::now();
        let limit = params.flip_interval.max(Duration::from_secs(10)) * 2;
        let recovered = timeout(limit, link.recover()).await.is_ok();
        host.cx.point("recovered_ratio", recovered).unit("ratio").record();
        host.cx.point("recovery_after_flip_s", came.elapsed()).record();
        let survived = !was_lost(&mut events, card.peer);
        host.cx.point("connection_survival_ratio", survived).unit("ratio").record();
    }
    Ok(())
}

/// Whether the connection to a peer has ended since the last look.
fn was_lost(events: &mut broadcast::Receiver<Event>, peer: PeerId) -> bool {
    let mut lost = false;
    loop {
        match events.try_recv() {
            Ok(Event::Disconnected { peer: of, .. }) => lost |= of == peer,
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return lost,
        }
    }
}

/// What a watcher does to talk to one flipper.
struct Link<'a> {
    host: &'a Host,
    card: &'a Card,
    missed: u32,
    redial_after: u32,
}

impl Link<'_> {
    /// Tries to talk once: over the connection there is, or a new one.
    async fn talk(&mut self) -> bool {
        let node = &self.host.node;
        let connected = match node.connections().await {
            Ok(all) => all.iter().any(|one| one.peer == self.card.peer),
            Err(_) => false,
        };
        if !connected && !self.dial().await {
            return false;
        }
        if echo::through(node, self.card.peer, 64, PATIENCE).await == 64 {
            self.missed = 0;
            return true;
        }
        self.missed += 1;
        if self.missed == self.redial_after {
            self.missed = 0;
            // It may have ended by itself in the meantime.
            let _ = node.disconnect(self.card.peer).await;
        }
        false
    }

    async fn dial(&self) -> bool {
        let cx = &self.host.cx;
        let addresses = self.host.addresses_of(self.card);
        let dialled = timeout(PATIENCE, self.host.node.dial_peer(self.card.peer, addresses)).await;
        let reached = matches!(dialled, Ok(Ok(_)));
        cx.point("stale_address_ratio", !reached).unit("ratio").record();
        reached
    }

    async fn keep_talking(&mut self) {
        loop {
            self.talk().await;
            sleep(BEAT).await;
        }
    }

    async fn recover(&mut self) {
        while !self.talk().await {
            sleep(BEAT).await;
        }
    }
}
