//! What one fetch asks whom for. Pure: it takes what happens and the time,
//! and collects lines for the wantlists of peers.
//!
//! Blocks are opened in the order of the fetch, a few windows ahead: every
//! peer is asked whether it has them. A block is then asked of one peer that
//! does, rarest blocks first, quickest peers first, and no peer gets more at
//! a time than it answers soon.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use groundswell_p2p::{PeerId, Rng};
use tokio::time::Instant;

use crate::Cid;
use crate::wire::{Presence, Want};

/// How many windows ahead peers are asked what they have.
const LOOKAHEAD: usize = 4;
/// Blocks that a peer is asked for before it is known.
const FIRST_LIMIT: f64 = 4.0;
const LEAST_LIMIT: f64 = 2.0;
/// The answer time that is assumed of a peer that has not answered yet.
const GUESS: Duration = Duration::from_millis(50);
/// Answers may take this long beyond the quickest one before fewer blocks
/// are asked for at a time.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often peers are asked again for blocks that nobody has.
const REPEAT: Duration = Duration::from_secs(5);

/// Whom a fetch asks for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// One peer that has said that it has the block.
    #[default]
    Session,
    /// All peers at once, as before version 1.2 of the protocol.
    Broadcast,
}

/// In which order a fetch asks for blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As they are given: for who reads while it fetches.
    Given,
    /// At random and rarest first: for many who fetch the same.
    #[default]
    Rarest,
}

/// The parameters of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) policy: Policy,
    pub(crate) order: Order,
    /// Blocks that are asked for at a time.
    pub(crate) window: usize,
    /// How long a peer may be silent before others are asked.
    pub(crate) silence: Duration,
}

/// A line for the wantlist of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) peer: PeerId,
    pub(crate) cid: Cid,
    pub(crate) want: Want,
}

#[derive(Debug)]
struct Open {
    rank: usize,
    holders: BTreeSet<PeerId>,
    asked: Option<(PeerId, Instant)>,
    told: Instant,
}

#[derive(Debug)]
struct Peer {
    /// It says neither what it has nor what it lacks.
    legacy: bool,
    joined: Instant,
    /// The usual time from asking for a block to getting it.
    usual: Option<Duration>,
    quickest: Duration,
    /// Blocks that it may be asked for at a time.
    limit: f64,
    asked: usize,
    /// Makes sessions differ in whom they prefer among equals.
    taste: f64,
}

/// One fetch.
#[derive(Debug)]
pub(crate) struct Session {
    terms: Terms,
    waiting: VecDeque<Cid>,
    open: BTreeMap<Cid, Open>,
    opened: usize,
    peers: BTreeMap<PeerId, Peer>,
    rng: Rng,
    asks: Vec<Ask>,
    timeouts: u64,
}

impl Session {
    pub(crate) fn new(mut cids: Vec<Cid>, terms: Terms, mut rng: Rng) -> Self {
        if terms.order == Order::Rarest {
            rng.shuffle(&mut cids);
        }
        Self {
            terms,
            waiting: cids.into(),
            open: BTreeMap::new(),
            opened: 0,
            peers: BTreeMap::new(),
            rng,
            asks: Vec::new(),
            timeouts: 0,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.open.is_empty()
    }

    /// What is still missing.
    pub(crate) fn missing(&self) -> Vec<Cid> {
        self.open.keys().chain(&self.waiting).copied().collect()
    }

    /// Asks for as much as the window and the peers allow. The lines that
    /// have come together since the last call.
    pub(crate) fn take_asks(&mut self, now: Instant) -> Vec<Ask> {
        self.open_more(now);
        if self.terms.policy == Policy::Session {
            while self.ask_next(now) {}
        }
        std::mem::take(&mut self.asks)
    }

    /// Wants given to others because of silence, since the last call.
    pub(crate) fn take_timeouts(&mut self) -> u64 {
        std::mem::take(&mut self.timeouts)
    }

    pub(crate) fn on_peer(&mut self, peer: PeerId, legacy: bool, now: Instant) {
        if self.peers.contains_key(&peer) {
            // Its stream was opened again; the engine tells it everything anew.
            return;
        }
        let joined = Peer {
            legacy,
            joined: now,
            usual: None,
            quickest: Duration::MAX,
            limit: FIRST_LIMIT,
            asked: 0,
            taste: 1.0 + self.rng.ratio() / 4.0,
        };
        self.peers.insert(peer, joined);
        let want = self.opening_want();
        for (cid, open) in &mut self.open {
            if legacy {
                open.holders.insert(peer);
            }
            self.asks.push(Ask { peer, cid: *cid, want });
        }
    }

    pub(crate) fn on_peer_gone(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        for open in self.open.values_mut() {
            open.holders.remove(&peer);
            open.asked = open.asked.filter(|(asked, _)| *asked != peer);
        }
    }

    pub(crate) fn on_presence(&mut self, from: PeerId, cid: Cid, is: Presence, now: Instant) {
        let (Some(open), Some(peer)) = (self.open.get_mut(&cid), self.peers.get_mut(&from)) else {
            return;
        };
        match is {
            Presence::Have => {
                open.holders.insert(from);
                peer.usual.get_or_insert(now - peer.joined.max(open.told));
            }
            Presence::DontHave => {
                open.holders.remove(&from);
                if open.asked.is_some_and(|(asked, _)| asked == from) {
                    open.asked = None;
                    peer.asked = peer.asked.saturating_sub(1);
                }
            }
        }
    }

    /// A block is here. Says whether it was wanted.
    pub(crate) fn on_block(&mut self, from: PeerId, cid: Cid, now: Instant) -> bool {
        let Some(open) = self.open.remove(&cid) else {
            let before = self.waiting.len();
            self.waiting.retain(|waiting| *waiting != cid);
            return self.waiting.len() < before;
        };
        if let Some((asked, at)) = open.asked
            && let Some(peer) = self.peers.get_mut(&asked)
        {
            peer.asked = peer.asked.saturating_sub(1);
            if asked == from {
                peer.answered(now - at);
            }
        }
        let told = self.peers.keys();
        self.asks.extend(told.map(|peer| Ask { peer: *peer, cid, want: Want::Cancel }));
        true
    }

    /// Takes wants from peers that are silent: `heard` says when something of a
    /// block last came from a peer.
    pub(crate) fn on_time(&mut self, now: Instant, heard: impl Fn(&PeerId) -> Option<Instant>) {
        let mut repeat = Vec::new();
        for (cid, open) in &mut self.open {
            match open.asked {
                Some((asked, at)) => {
                    let Some(peer) = self.peers.get_mut(&asked) else { continue };
                    let last = heard(&asked).filter(|_| !peer.legacy).map_or(at, |at2| at2.max(at));
                    if now - last > self.terms.silence.max(peer.usual.unwrap_or(GUESS) * 4) {
                        self.timeouts += 1;
                        peer.asked = peer.asked.saturating_sub(1);
                        peer.limit = LEAST_LIMIT;
                        open.asked = None;
                        open.holders.remove(&asked);
                        self.asks.push(Ask { peer: asked, cid: *cid, want: Want::Cancel });
                        self.asks.push(Ask { peer: asked, cid: *cid, want: Want::Have });
                    }
                }
                None if open.holders.is_empty() && now - open.told > REPEAT => repeat.push(*cid),
                None => {}
            }
        }
        for cid in repeat {
            self.timeouts += u64::from(self.terms.policy == Policy::Broadcast);
            self.tell(cid, now);
        }
    }

    /// Takes back all wants.
    pub(crate) fn give_up(&mut self) -> Vec<Ask> {
        for cid in self.open.keys() {
            for peer in self.peers.keys() {
                self.asks.push(Ask { peer: *peer, cid: *cid, want: Want::Cancel });
            }
        }
        std::mem::take(&mut self.asks)
    }

    fn opening_want(&self) -> Want {
        match self.terms.policy {
            Policy::Session => Want::Have,
            Policy::Broadcast => Want::Block,
        }
    }

    /// In batches, so that a peer is told of many blocks in one message.
    fn open_more(&mut self, now: Instant) {
        let most = match self.terms.policy {
            Policy::Session => self.terms.window * LOOKAHEAD,
            Policy::Broadcast => self.terms.window,
        };
        if self.open.len() * 2 > most {
            return;
        }
        while self.open.len() < most
            && let Some(cid) = self.waiting.pop_front()
        {
            let open = Open { rank: self.opened, holders: BTreeSet::new(), asked: None, told: now };
            self.open.insert(cid, open);
            self.opened += 1;
            self.tell(cid, now);
        }
    }

    /// Tells all peers that a block is wanted.
    fn tell(&mut self, cid: Cid, now: Instant) {
        let want = self.opening_want();
        let Some(open) = self.open.get_mut(&cid) else { return };
        open.told = now;
        for (peer, view) in &self.peers {
            if view.legacy {
                open.holders.insert(*peer);
            }
            self.asks.push(Ask { peer: *peer, cid, want });
        }
    }

    /// Asks for one more block, if the window has room and somebody has one.
    fn ask_next(&mut self, now: Instant) -> bool {
        let asked: usize = self.peers.values().map(|peer| peer.asked).sum();
        if asked >= self.terms.window {
            return false;
        }
        let free = self.open.iter().filter(|(_, open)| open.asked.is_none());
        let candidates = free.filter_map(|(cid, open)| {
            let holder = self.best_of(&open.holders)?;
            let rarity = match self.terms.order {
                Order::Given => 0,
                Order::Rarest => open.holders.len(),
            };
            Some(((rarity, open.rank), *cid, holder))
        });
        let Some((_, cid, peer)) = candidates.min_by_key(|(key, ..)| *key) else { return false };
        if let (Some(open), Some(view)) = (self.open.get_mut(&cid), self.peers.get_mut(&peer)) {
            open.asked = Some((peer, now));
            view.asked += 1;
            self.asks.push(Ask { peer, cid, want: Want::Block });
        }
        true
    }

    fn best_of(&self, holders: &BTreeSet<PeerId>) -> Option<PeerId> {
        let views = holders.iter().filter_map(|peer| Some((peer, self.peers.get(peer)?)));
        let with_room = views.filter(|(_, view)| (view.asked as f64) < view.limit);
        let best = with_room.min_by(|(_, a), (_, b)| a.cost().total_cmp(&b.cost()));
        best.map(|(peer, _)| *peer)
    }
}

impl Peer {
    /// When an answer can be expected, with what it has been asked for already.
    fn cost(&self) -> f64 {
        let usual = self.usual.unwrap_or(GUESS).as_secs_f64();
        usual * (1.0 + self.asked as f64 / 8.0) * self.taste
    }

    fn answered(&mut self, took: Duration) {
        self.quickest = self.quickest.min(took);
        let usual = self.usual.map_or(took, |usual| usual.mul_f64(0.7) + took.mul_f64(0.3));
        self.usual = Some(usual);
        if took < self.quickest * 2 + PATIENCE / 4 {
            self.limit += 1.0;
        } else if took > self.quickest * 3 + PATIENCE {
            self.limit = (self.limit - 1.0).max(LEAST_LIMIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use groundswell_p2p::Identity;

    use super::*;
    use crate::RAW;

    fn peers(count: u64) -> Vec<PeerId> {
        (0..count).map(|index| Identity::derive(1, index, 0).peer()).collect()
    }

    fn cids(count: u8) -> Vec<Cid> {
        (0..count).map(|index| Cid::of(RAW, &[index])).collect()
    }

    fn session(count: u8, policy: Policy, now: Instant) -> Session {
        let silence = Duration::from_secs(1);
        let terms = Terms { policy, order: Order::Given, window: 8, silence };
        let mut session = Session::new(cids(count), terms, Rng::new(1, "test"));
        assert_eq!(session.take_asks(now), []);
        session
    }

    fn blocks(asks: &[Ask]) -> Vec<(PeerId, Cid)> {
        let blocks = asks.iter().filter(|ask| ask.want == Want::Block);
        blocks.map(|ask| (ask.peer, ask.cid)).collect()
    }

    #[test]
    fn a_block_is_asked_of_one_peer_that_has_it() {
        let now = Instant::now();
        let (peers, cids) = (peers(3), cids(4));
        let mut session = session(4, Policy::Session, now);
        for peer in &peers {
            session.on_peer(*peer, false, now);
        }
        let asks = session.take_asks(now);
        assert_eq!(asks.len(), 12);
        assert!(asks.iter().all(|ask| ask.want == Want::Have));

        session.on_presence(peers[1], cids[2], Presence::Have, now);
        assert_eq!(blocks(&session.take_asks(now)), [(peers[1], cids[2])]);
        session.on_presence(peers[2], cids[2], Presence::Have, now);
        session.on_presence(peers[0], cids[2], Presence::DontHave, now);
        assert_eq!(blocks(&session.take_asks(now)), []);

        assert!(session.on_block(peers[1], cids[2], now));
        let cancelled: Vec<_> = session.take_asks(now).iter().map(|ask| ask.want).collect();
        assert_eq!(cancelled, [Want::Cancel; 3]);
        assert!(!session.on_block(peers[2], cids[2], now), "a second copy is not wanted");
    }

    #[test]
    fn a_peer_that_goes_away_or_denies_is_replaced() {
        let now = Instant::now();
        let (peers, cids) = (peers(2), cids(1));
        let mut session = session(1, Policy::Session, now);
        for peer in &peers {
            session.on_peer(*peer, false, now);
            session.on_presence(*peer, cids[0], Presence::Have, now);
        }
        let (first, _) = blocks(&session.take_asks(now))[0];
        let other = peers[usize::from(first == peers[0])];
        session.on_peer_gone(first);
        assert_eq!(blocks(&session.take_asks(now)), [(other, cids[0])]);
        session.on_presence(other, cids[0], Presence::DontHave, now);
        assert_eq!(blocks(&session.take_asks(now)), []);
        session.on_presence(other, cids[0], Presence::Have, now);
        assert_eq!(blocks(&session.take_asks(now)), [(other, cids[0])]);
    }

    #[test]
    fn silence_gives_a_want_to_another_peer_and_noise_does_not() {
        let start = Instant::now();
        let (peers, cids) = (peers(2), cids(1));
        let mut session = session(1, Policy::Session, start);
        for peer in &peers {
            session.on_peer(*peer, false, start);
            session.on_presence(*peer, cids[0], Presence::Have, start);
        }
        let (first, _) = blocks(&session.take_asks(start))[0];
        let later = start + Duration::from_secs(10);
        session.on_time(later, |_| Some(later - Duration::from_millis(10)));
        assert_eq!(session.take_asks(later), []);
        session.on_time(later, |_| Some(start));
        let asks = session.take_asks(later);
        assert!(asks.contains(&Ask { peer: first, cid: cids[0], want: Want::Cancel }));
        assert_ne!(blocks(&asks)[0].0, first);
        assert_eq!(session.take_timeouts(), 1);
    }

    #[test]
    fn a_window_bounds_what_is_asked_for_and_a_peer_gets_more_as_it_answers() {
        let start = Instant::now();
        let (peers, cids) = (peers(1), cids(100));
        let mut session = session(100, Policy::Session, start);
        session.on_peer(peers[0], false, start);
        assert_eq!(session.take_asks(start).len(), 32, "four windows ahead");
        for cid in &cids[..32] {
            session.on_presence(peers[0], *cid, Presence::Have, start);
        }
        let mut outstanding: Vec<_> = blocks(&session.take_asks(start));
        assert_eq!(outstanding.len(), 4);
        let mut most = 0;
        for step in 1..30 {
            let (_, cid) = outstanding.remove(0);
            let at = start + Duration::from_millis(step);
            assert!(session.on_block(peers[0], cid, at));
            let asks = session.take_asks(at);
            for ask in asks.iter().filter(|ask| ask.want == Want::Have) {
                session.on_presence(peers[0], ask.cid, Presence::Have, at);
            }
            outstanding.extend(blocks(&asks));
            outstanding.extend(blocks(&session.take_asks(at)));
            most = most.max(outstanding.len());
        }
        assert_eq!(most, 8, "the window");
    }

    #[test]
    fn the_quickest_peers_get_most() {
        let start = Instant::now();
        let (peers, cids) = (peers(2), cids(100));
        let mut session = session(100, Policy::Session, start);
        for peer in &peers {
            session.on_peer(*peer, false, start);
        }
        let answer_time =
            |peer: PeerId| Duration::from_millis(if peer == peers[0] { 50 } else { 500 });
        let mut due = BTreeSet::new();
        let mut from = [0; 2];
        let mut now = start;
        loop {
            for ask in session.take_asks(now) {
                match ask.want {
                    Want::Have => {
                        due.insert((now + answer_time(ask.peer), ask.peer, ask.cid, false));
                    }
                    Want::Block => {
                        due.insert((now + answer_time(ask.peer), ask.peer, ask.cid, true));
                    }
                    Want::Cancel => {}
                }
            }
            let Some((at, peer, cid, block)) = due.pop_first() else { break };
            now = at;
            if block {
                assert!(session.on_block(peer, cid, now));
                from[usize::from(peer == peers[1])] += 1;
            } else {
                session.on_presence(peer, cid, Presence::Have, now);
            }
        }
        assert!(session.is_done());
        assert_eq!(from[0] + from[1], cids.len());
        assert!(from[0] > 70, "{from:?}");
    }

    #[test]
    fn a_broadcast_asks_all_for_every_block() {
        let now = Instant::now();
        let (peers, cids) = (peers(3), cids(2));
        let mut session = session(2, Policy::Broadcast, now);
        for peer in &peers {
            session.on_peer(*peer, false, now);
        }
        assert_eq!(blocks(&session.take_asks(now)).len(), 6);
        assert!(session.on_block(peers[0], cids[0], now));
        assert_eq!(session.take_asks(now).len(), 3);
        session.on_time(now + Duration::from_secs(9), |_| None);
        assert_eq!(blocks(&session.take_asks(now)).len(), 3, "what nobody answered is asked again");
    }

    #[test]
    fn a_legacy_peer_is_asked_without_having_said_what_it_has() {
        let now = Instant::now();
        let (peers, cids) = (peers(1), cids(1));
        let mut session = session(1, Policy::Session, now);
        session.on_peer(peers[0], true, now);
        assert_eq!(blocks(&session.take_asks(now)), [(peers[0], cids[0])]);
        session.on_time(now + Duration::from_secs(2), |_| Some(now + Duration::from_secs(2)));
        assert_eq!(session.take_timeouts(), 1, "that it says other things is no answer");
    }
}
