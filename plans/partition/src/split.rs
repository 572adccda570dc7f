//! Two regions that are kept apart, and one that watches.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::dial::{Dialled, dial, greet};

/// Between two tries of a region that waits for the other.
const RETRY: Duration = Duration::from_millis(100);

/// Where an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Region {
    /// It keeps the packets from B, by its own network configuration.
    A,
    /// The other side.
    B,
    /// It sees both.
    Observer,
}

/// What is between A and B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    /// A's packets to B are filtered, and so neither reaches the other over TCP.
    Filtered(Filter),
}

#[derive(Debug, Clone, Deserialize)]
struct Params {
    region: Option<Region>,
}

#[derive(Debug, Clone, Deserialize)]
struct Times {
    duration: Duration,
    #[serde(default = "once")]
    flaps: u32,
    heal_timeout: Duration,
}

fn once() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Peer {
    region: Region,
    ip: Ipv4Addr,
}

/// This instance and everybody else.
struct Place {
    cx: Ctx,
    region: Region,
    others: Vec<Peer>,
    _tasks: JoinSet<()>,
}

/// Nothing is filtered.
pub(crate) async fn accept(cx: Ctx) -> Result {
    let place = Place::find(&cx).await?;
    place.split(Filter::Accept).await?;
    cx.phase("dial", place.look(Between::Nothing)).await
}

/// What A sends to B is refused.
pub(crate) async fn reject(cx: Ctx) -> Result {
    let place = Place::find(&cx).await?;
    place.split(Filter::Reject).await?;
    cx.phase("dial", place.look(Between::Filtered(Filter::Reject))).await
}

/// What A sends to B vanishes.
pub(crate) async fn drop_silently(cx: Ctx) -> Result {
    let place = Place::find(&cx).await?;
    place.split(Filter::Drop).await?;
    cx.phase("dial", place.look(Between::Filtered(Filter::Drop))).await
}

/// A is refused at once, while B hears nothing: the two see different things.
pub(crate) async fn asymmetric(cx: Ctx) -> Result {
    reject(cx).await
}

/// Split for a while, then together again.
pub(crate) async fn heal(cx: Ctx) -> Result {
    let times: Times = cx.params()?;
    let place = Place::find(&cx).await?;
    place.split_and_heal("once", &times).await
}

/// The same, several times.
pub(crate) async fn flapping(cx: Ctx) -> Result {
    let times: Times = cx.params()?;
    let place = Place::find(&cx).await?;
    for flap in 0..times.flaps {
        place.split_and_heal(&flap.to_string(), &times).await?;
    }
    Ok(())
}

impl Place {
    async fn find(cx: &Ctx) -> Result<Self> {
        let params: Params = cx.params()?;
        let region = params.region.unwrap_or(match cx.index() % 3 {
            0 => Region::A,
            1 => Region::B,
            _ => Region::Observer,
        });
        let ip = cx.network().ip()?;
        let mut tasks = JoinSet::new();
        greet(ip, &mut tasks).await?;
        let all = cx.exchange("peers", &Peer { region, ip }).await?;
        for wanted in [Region::A, Region::B] {
            let has = all.iter().any(|member| member.value.region == wanted);
            ensure!(has, "no group has the parameter `region = \"{}\"`", wanted.name());
        }
        let others = all.into_iter().filter(|member| member.index != cx.index());
        let others = others.map(|member| member.value).collect();
        Ok(Self { cx: cx.clone(), region, others, _tasks: tasks })
    }

    /// Filters what A sends to B, and waits until all have done so.
    async fn split(&self, filter: Filter) -> Result {
        if self.region == Region::A {
            let mut configuration = self.cx.network().configure();
            for peer in self.others.iter().filter(|peer| peer.region == Region::B) {
                configuration = configuration.filter(&format!("{}/32", peer.ip), filter);
            }
            let begun = Instant::now();
            configuration.apply().await?;
            self.cx.timer("apply_s").observe(begun.elapsed());
        }
        Ok(())
    }

    /// Dials everybody once, all at the same time, and compares.
    async fn look(&self, between: Between) -> Result {
        // Whoever configures has done so.
        self.cx.signal_and_wait(&format!("configured-{between:?}")).await?;
        let mut dials = JoinSet::new();
        for peer in self.others.clone() {
            dials.spawn(async move { (peer, dial(peer.ip).await) });
        }
        while let Some(dialled) = dials.join_next().await {
            let (peer, (dialled, took)) = dialled?;
            let expected = self.region.sees(peer.region, between);
            let side = if self.region.is_apart_from(peer.region) { "across" } else { "inside" };
            let point = |name: &str, holds: bool| {
                self.cx.point(name, holds).unit("ratio").tag("side", side).record();
            };
            point("reach_ratio", dialled == Dialled::Reached);
            point("as_expected", dialled == expected);
            if dialled != expected {
                let (from, to) = (self.region.name(), peer.region.name());
                self.cx.message(format!("{from} to {to}: {dialled:?}, expected {expected:?}"));
            }
            self.cx.timer("detect_s").tag("kind", dialled.name()).observe(took);
        }
        Ok(())
    }

    async fn split_and_heal(&self, name: &str, times: &Times) -> Result {
        let cx = &self.cx;
        cx.phase(&format!("split-{name}"), self.split(Filter::Drop)).await?;
        cx.phase(&format!("apart-{name}"), async {
            let across = self.across();
            let begun = Instant::now();
            for peer in &across {
                let (dialled, _) = dial(peer.ip).await;
                cx.point("split_ratio", dialled != Dialled::Reached).unit("ratio").record();
            }
            sleep(times.duration.saturating_sub(begun.elapsed())).await;
            Ok(())
        })
        .await?;
        cx.phase(&format!("heal-{name}"), self.split(Filter::Accept)).await?;
        cx.phase(&format!("together-{name}"), self.come_together(times.heal_timeout)).await
    }

    /// Dials the other side until everybody there has answered, and records how long that took.
    async fn come_together(&self, limit: Duration) -> Result {
        let begun = Instant::now();
        for peer in self.across() {
            while dial(peer.ip).await.0 != Dialled::Reached {
                ensure!(begun.elapsed() < limit, "{} is not reached within {limit:?}", peer.ip);
                sleep(RETRY).await;
            }
            self.cx.timer("heal_s").observe(begun.elapsed());
        }
        Ok(())
    }

    fn across(&self) -> Vec<Peer> {
        let others = self.others.iter();
        others.filter(|peer| self.region.is_apart_from(peer.region)).copied().collect()
    }
}

impl Region {
    fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Observer => "observer",
        }
    }

    fn is_apart_from(self, other: Self) -> bool {
        matches!((self, other), (Self::A, Self::B) | (Self::B, Self::A))
    }

    /// What a dial from here to there leads to.
    fn sees(self, other: Self, between: Between) -> Dialled {
        match between {
            Between::Filtered(filter) if self.is_apart_from(other) => match filter {
                Filter::Accept => Dialled::Reached,
                // B's packets arrive, and A's answers are refused to A.
                Filter::Reject if self == Self::B => Dialled::Silence,
                Filter::Reject => Dialled::Refused,
                Filter::Drop => Dialled::Silence,
            },
            Between::Nothing | Between::Filtered(_) => Dialled::Reached,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_seen_by_the_side_that_is_filtered() {
        let rejected = Between::Filtered(Filter::Reject);
        assert_eq!(Region::A.sees(Region::B, rejected), Dialled::Refused);
        assert_eq!(Region::B.sees(Region::A, rejected), Dialled::Silence);
        assert_eq!(Region::A.sees(Region::Observer, rejected), Dialled::Reached);
        assert_eq!(Region::A.sees(Region::B, Between::Nothing), Dialled::Reached);
    }

    #[tokio::test]
    async fn without_filters_everybody_is_reached() {
        use groundswell_sdk::testing::Local;
        Local::new(4).unshaped().run(accept).await.assert_success();
    }
}
