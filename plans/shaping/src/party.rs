//! Instances that measure together, two or three of them, apart from all others of the run.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::ping::{self, Pings};
use crate::theory::Window;

/// Where datagrams are counted.
pub(crate) const DATAGRAMS: u16 = 7008;
/// Where streams end.
pub(crate) const STREAMS: u16 = 7009;
/// Between two pings lies up to so much, by chance: pairs that go in step would be in each other's way.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Member {
    place: usize,
    ip: Ipv4Addr,
}

/// This instance and those it measures with.
pub(crate) struct Party {
    pub(crate) cx: Ctx,
    /// Which party of the run it is, from 0.
    pub(crate) number: u32,
    /// Which member this instance is, from 0. The first one asks, the others answer.
    pub(crate) place: usize,
    /// Everybody's address, by place.
    pub(crate) members: Vec<Ipv4Addr>,
    pub(crate) datagrams: UdpSocket,
    pub(crate) streams: TcpListener,
    /// Answers pings.
    pub(crate) tasks: JoinSet<()>,
}

impl Party {
    /// Finds the others. Instances that follow each other are a party.
    pub(crate) async fn meet(cx: &Ctx, size: u32) -> Result<Self> {
        let instances = cx.instances();
        ensure!(
            instances.is_multiple_of(size),
            "{instances} instances are no whole number of parties of {size}: change the composition's count"
        );
        let (number, place) = (cx.index() / size, usize::try_from(cx.index() % size)?);
        let ip = cx.network().ip()?;
        let mut tasks = JoinSet::new();
        ping::echo(ip, &mut tasks).await?;
        let datagrams = UdpSocket::bind((ip, DATAGRAMS)).await?;
        let streams = TcpListener::bind((ip, STREAMS)).await?;

        // Everybody's address, but only of the own party: a run may have thousands of them.
        let topic = format!("party-{number}");
        cx.publish(&topic, &Member { place, ip }).await?;
        let mut others = cx.subscribe::<Member>(&topic).await?;
        let mut members = vec![None; usize::try_from(size)?];
        while members.iter().any(Option::is_none) {
            let member = others.next().await?;
            if let Some(entry) = members.get_mut(member.place) {
                *entry = Some(member.ip);
            }
        }
        let members = members.into_iter().flatten().collect();
        cx.signal_and_wait("met").await?;
        Ok(Self { cx: cx.clone(), number, place, members, datagrams, streams, tasks })
    }

    /// Whether this instance asks, and the others answer.
    pub(crate) fn asks(&self) -> bool {
        self.place == 0
    }

    /// This instance's address as it was when the party met.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.members[self.place]
    }

    /// The other one of a pair.
    pub(crate) fn peer(&self) -> Ipv4Addr {
        self.members[usize::from(self.place == 0)]
    }

    /// Shapes what this instance sends, and records how long that took.
    pub(crate) async fn shape(&self, shape: Shape) -> Result {
        let begun = Instant::now();
        self.cx.network().shape(shape).await?;
        self.cx.timer("apply_s").observe(begun.elapsed());
        Ok(())
    }

    /// Pings and records each round trip, with the tag `link`. Returns those that came back.
    pub(crate) async fn measure(
        &self,
        pings: &mut Pings,
        count: u32,
        window: Window,
        link: &str,
    ) -> Result<Vec<Duration>> {
        let answered = self.cx.histogram("answered_ratio").unit("ratio").tag("link", link);
        let rtts = self.cx.timer("rtt_s").tag("link", link);
        let late = self.cx.histogram("rtt_late_s").unit("s").tag("link", link);
        let in_window = self.cx.histogram("in_window_ratio").unit("ratio").tag("link", link);
        let mut pauses = self.cx.rng(&format!("pauses/{link}"));
        // The first one finds the way.
        pings.ping().await;
        let mut all = Vec::new();
        for _ in 0..count {
            sleep(pauses.duration(PAUSE)).await;
            let rtt = pings.ping().await;
            answered.observe(rtt.is_some());
            let Some(rtt) = rtt else { continue };
            rtts.observe(rtt);
            late.observe(window.late_s(rtt));
            in_window.observe(window.holds(rtt));
            all.push(rtt);
        }
        Ok(all)
    }

    /// Tells what this party found. The first party of the run gets what all have found, the others nothing.
    pub(crate) async fn gather<T>(&self, topic: &str, found: &T) -> Result<Option<Vec<T>>>
    where
        T: Serialize + DeserializeOwned,
    {
        self.cx.publish(topic, found).await?;
        if self.number > 0 {
            return Ok(None);
        }
        let mut all = Vec::new();
        let mut told = self.cx.subscribe(topic).await?;
        let parties = usize::try_from(self.cx.instances())? / self.members.len();
        while all.len() < parties {
            all.push(told.next().await?);
        }
        Ok(Some(all))
    }
}

/// Runs of tests have the same addresses and ports, so one goes on at a time.
#[cfg(test)]
pub(crate) static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
