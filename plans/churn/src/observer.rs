//! Observers look for records without a pause, and see what is left when the
//! faults are over.

use std::collections::BTreeSet;
use std::time::Duration;

use groundswell_p2p::{Identity, Node, PeerId, QueryReport};
use groundswell_sdk::{Ctx, Result, ensure};
use tokio::time::{Instant, sleep, timeout_at};

use crate::churner::{Alive, Move};
use crate::stage::{self, Stage};

/// How long an observer rests between two searches.
const REST: Duration = Duration::from_millis(200);
/// Searches that have to succeed in a row for the network to be whole again.
const IN_A_ROW: usize = 5;
/// How long instances have to say that they are alive.
const ROLL_CALL: Duration = Duration::from_secs(5);

pub(crate) async fn run(cx: &Ctx, stage: Stage) -> Result {
    let observer = Observer { cx, stage };
    let searches = observer.search_until_end();
    let moves = observer.follow_moves();
    tokio::try_join!(searches, moves)?;
    observer.recover().await?;
    observer.count_losses().await?;
    observer.inspect_table().await?;
    observer.stage.dht.report(cx).await?;
    cx.signal_once("observed").await?;
    Ok(())
}

struct Observer<'a> {
    cx: &'a Ctx,
    stage: Stage,
}

/// Whether a search found its record, and what it took.
struct Search {
    found: bool,
    first: Option<Duration>,
    report: QueryReport,
}

/// A stretch of time, and the searches in it.
#[derive(Debug)]
struct Stretch {
    /// Failed dials of the node before.
    before: u64,
    searches: u32,
}

impl Stretch {
    fn begin(before: u64) -> Self {
        Self { before, searches: 0 }
    }

    /// Failed dials for each search, given how many there are at the end.
    fn per_search(&self, at_end: u64) -> Option<f64> {
        let failed = at_end.saturating_sub(self.before) as f64;
        (self.searches > 0).then(|| failed / f64::from(self.searches))
    }
}

impl Observer<'_> {
    fn node(&self) -> &Node {
        &self.stage.dht.node
    }

    /// The instances whose records have to be found.
    fn stable(&self) -> Vec<u32> {
        let roster = &self.stage.dht.roster;
        let members = roster.members.iter();
        let stable = members.filter(|member| stage::is_stable(&roster.group(member).role));
        stable.map(|member| member.index).collect()
    }

    async fn search_until_end(&self) -> Result {
        let records = self.stable();
        ensure!(!records.is_empty(), "the run has no instance with the role `stable`");
        let mut rng = self.cx.rng("searches");
        let mut calm = Stretch::begin(self.dials_failed().await?);
        while Instant::now() < self.stage.begun {
            self.search(records[rng.index(records.len())]).await?;
            calm.searches += 1;
            sleep(REST).await;
        }
        let at_begin = self.dials_failed().await?;
        let mut faults = Stretch::begin(at_begin);
        while Instant::now() < self.stage.end {
            self.search_once(records[rng.index(records.len())]).await?;
            faults.searches += 1;
            sleep(REST).await;
        }
        let before = calm.per_search(at_begin);
        if let (Some(before), Some(during)) =
            (before, faults.per_search(self.dials_failed().await?))
        {
            let added = during - before;
            self.cx.point("dials_failed_added_per_query", added).unit("count").record();
        }
        Ok(())
    }

    /// All dials of this node that failed until now: also those of searches
    /// that had found something before the dial failed.
    async fn dials_failed(&self) -> Result<u64> {
        Ok(self.node().stats().await?.all_dials_failed())
    }

    /// Searches while faults happen, and records how it went.
    async fn search_once(&self, record: u32) -> Result {
        let begun = Instant::now();
        let search = self.search(record).await?;
        let window = self.window(begun);
        let point = |name, value: f64| self.cx.point(name, value).tag("window", window);
        point("found_ratio", f64::from(u8::from(search.found))).unit("ratio").record();
        if let Some(first) = search.first {
            self.cx.point("time_to_find_first_s", first).tag("window", window).record();
        }
        let failed = search.report.dials_failed as f64;
        point("dials_failed_per_query", failed).unit("count").record();
        Ok(())
    }

    async fn search(&self, index: u32) -> Result<Search> {
        let answer = self.node().providers(stage::key(self.cx, index), 1).await?;
        let first = answer.found.first().map(|(_, at)| *at);
        Ok(Search { found: first.is_some(), first, report: answer.report })
    }

    /// The window a search began in, as its begin in seconds.
    fn window(&self, begun: Instant) -> u64 {
        let length = self.stage.params.window.as_secs_f64();
        let since = begun.saturating_duration_since(self.stage.begun).as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "seconds of a run, above zero"
        )]
        let start = ((since / length).floor() * length) as u64;
        start
    }

    /// Tries to reach every node that has moved at its new address.
    async fn follow_moves(&self) -> Result {
        let mut moves = self.cx.subscribe::<Move>("moves").await?;
        loop {
            match timeout_at(self.stage.end, moves.next()).await {
                Ok(moved) => self.reach(&moved?).await?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// Looks for a node until a connection to its new address stands.
    async fn reach(&self, moved: &Move) -> Result {
        let peer = self.peer(moved.index, moved.life);
        let begun = Instant::now();
        let limit = begun + self.stage.params.recovery;
        let there = loop {
            if self.is_connected_at(peer, moved).await? {
                break true;
            }
            if Instant::now() > limit {
                break false;
            }
            // What is known from before leads to the old address.
            self.node().disconnect(peer).await?;
            let answer = self.node().find_peer(peer).await?;
            if self.node().dial_peer(peer, answer.addresses).await.is_err() {
                sleep(REST).await;
            }
        };
        self.cx.point("reachable_after_move_ratio", there).unit("ratio").record();
        if there {
            self.cx.point("time_to_new_address_s", begun.elapsed()).record();
        }
        Ok(())
    }

    async fn is_connected_at(&self, peer: PeerId, moved: &Move) -> Result<bool> {
        let ip = moved.address.iter().next();
        let connections = self.node().connections().await?;
        Ok(connections.iter().any(|one| one.peer == peer && one.address.iter().next() == ip))
    }

    fn peer(&self, index: u32, life: u64) -> PeerId {
        Identity::derive(self.cx.env().seed, u64::from(index), life).peer()
    }

    /// Measures how long after the last fault searches succeed again, one
    /// after the other.
    async fn recover(&self) -> Result {
        let records = self.stable();
        let mut rng = self.cx.rng("recovery");
        let limit = self.stage.end + self.stage.params.recovery;
        let mut row = 0;
        let mut whole_at = Instant::now();
        while row < IN_A_ROW && Instant::now() < limit {
            let begun = Instant::now();
            let search = self.search(records[rng.index(records.len())]).await?;
            if !search.found {
                row = 0;
                continue;
            }
            if row == 0 {
                whole_at = begun;
            }
            row += 1;
        }
        let recovered = row == IN_A_ROW;
        self.cx.point("recovered_ratio", recovered).unit("ratio").record();
        if recovered {
            let after = whole_at.saturating_duration_since(self.stage.end);
            self.cx.point("time_to_reconverge_s", after).record();
        }
        Ok(())
    }

    /// Looks for every record once more.
    async fn count_losses(&self) -> Result {
        let mut lost = 0_u32;
        for index in self.stable() {
            lost += u32::from(!self.search(index).await?.found);
        }
        self.cx.point("records_lost", lost).unit("count").record();
        Ok(())
    }

    /// Records how much of the routing table is nobody any more.
    async fn inspect_table(&self) -> Result {
        let mut alive: BTreeSet<PeerId> = BTreeSet::new();
        for (_, group) in self.stage.dht.roster.with_role("observer") {
            let all = group.first..group.first + group.count;
            alive.extend(all.map(|index| self.peer(index, 0)));
        }
        let mut calls = self.cx.subscribe::<Alive>("alive").await?;
        let limit = Instant::now() + ROLL_CALL;
        while let Ok(call) = timeout_at(limit, calls.next()).await {
            let call = call?;
            alive.insert(self.peer(call.index, call.life));
        }
        let table = self.node().routing_table().await?;
        let dead = table.iter().filter(|entry| !alive.contains(&entry.peer)).count();
        let ratio = dead as f64 / table.len().max(1) as f64;
        self.cx.point("dead_entry_ratio", ratio).unit("ratio").record();
        Ok(())
    }
}
