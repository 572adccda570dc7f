//! What one peer wants of this node, and what is still to be sent to it.

use std::collections::{BTreeMap, VecDeque};

use crate::wire::{Entry, Presence, Want};
use crate::{Cid, Store};

/// Blocks up to this size are sent at once to who asks whether they are here.
const SMALL: usize = 1024;

/// One peer's wants and the answers that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// What it wants and has not been sent.
    wants: BTreeMap<Cid, Want>,
    presences: VecDeque<(Cid, Presence)>,
    blocks: VecDeque<(Cid, usize)>,
}

/// What goes into the next message to a peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) presences: Vec<(Cid, Presence)>,
    pub(crate) blocks: Vec<Cid>,
    pub(crate) pending_bytes: u64,
}

impl Ledger {
    /// Takes lines of the peer's wantlist.
    pub(crate) fn on_wants(&mut self, entries: &[Entry], full: bool, store: &Store) {
        if full {
            self.wants.clear();
            self.blocks.clear();
        }
        for entry in entries {
            match entry.want {
                Want::Cancel => self.cancel(entry.cid),
                Want::Have | Want::Block => self.want(entry, store),
            }
        }
    }

    fn want(&mut self, entry: &Entry, store: &Store) {
        if self.blocks.iter().any(|(cid, _)| *cid == entry.cid) {
            return;
        }
        match store.size_of(&entry.cid) {
            Some(size) => {
                self.wants.insert(entry.cid, entry.want);
                self.have(entry.cid, size);
            }
            None => {
                // It is told later, when the block has come.
                let want = self.wants.entry(entry.cid).or_insert(entry.want);
                *want = entry.want.max(*want);
                if entry.send_dont_have {
                    self.presences.push_back((entry.cid, Presence::DontHave));
                }
            }
        }
    }

    fn cancel(&mut self, cid: Cid) {
        self.wants.remove(&cid);
        self.blocks.retain(|(queued, _)| *queued != cid);
    }

    /// Answers a want for a block that has come.
    pub(crate) fn on_block(&mut self, cid: Cid, size: usize) {
        if self.wants.contains_key(&cid) {
            self.have(cid, size);
        }
    }

    fn have(&mut self, cid: Cid, size: usize) {
        let want = self.wants.remove(&cid);
        if want == Some(Want::Block) || size <= SMALL {
            self.blocks.push_back((cid, size));
        } else {
            self.presences.push_back((cid, Presence::Have));
        }
    }

    /// Puts an answer that did not arrive back.
    pub(crate) fn answer_again(&mut self, lost: Answer) {
        self.presences.extend(lost.presences);
        // Their sizes only matter for how many go together.
        self.blocks.extend(lost.blocks.into_iter().map(|cid| (cid, 0)));
    }

    /// Whether there is something to send.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.presences.is_empty() || !self.blocks.is_empty()
    }

    /// Whether there is something to send that is waited for.
    pub(crate) fn has_blocks(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Takes what fits into a message of about `limit` bytes, at least one block.
    pub(crate) fn take(&mut self, limit: usize) -> Answer {
        let mut answer =
            Answer { presences: self.presences.drain(..).collect(), ..Answer::default() };
        let mut room = limit;
        while let Some((cid, size)) = self.blocks.front().copied() {
            if size > room && !answer.blocks.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            answer.blocks.push(cid);
            self.blocks.pop_front();
        }
        answer.pending_bytes = self.blocks.iter().map(|(_, size)| *size as u64).sum();
        answer
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Block, RAW};

    fn block(store: &Store, seed: u8, size: usize) -> Cid {
        let data = Bytes::from(vec![seed; size]);
        let cid = Cid::of(RAW, &data);
        store.put(cid, Block::Memory(data));
        cid
    }

    fn entry(cid: Cid, want: Want) -> Entry {
        Entry { cid, want, priority: 1, send_dont_have: true }
    }

    #[test]
    fn who_asks_whether_it_is_here_is_told_and_small_blocks_come_at_once() {
        let store = Store::default();
        let (large, small) = (block(&store, 1, 5000), block(&store, 2, 100));
        let missing = Cid::of(RAW, b"missing");
        let mut ledger = Ledger::default();
        let entries = [large, small, missing].map(|cid| entry(cid, Want::Have));
        ledger.on_wants(&entries, false, &store);
        let answer = ledger.take(1 << 20);
        let presences = vec![(large, Presence::Have), (missing, Presence::DontHave)];
        assert_eq!(answer, Answer { presences, blocks: vec![small], pending_bytes: 0 });
        assert!(!ledger.is_waiting());
    }

    #[test]
    fn a_block_that_comes_later_is_told_to_who_asked() {
        let store = Store::default();
        let cid = Cid::of(RAW, &[3; 5000]);
        let mut asks = Ledger::default();
        asks.on_wants(&[entry(cid, Want::Have)], false, &store);
        let mut wants = Ledger::default();
        wants.on_wants(&[entry(cid, Want::Have), entry(cid, Want::Block)], false, &store);
        let mut cancelled = Ledger::default();
        let entries = [entry(cid, Want::Block), entry(cid, Want::Cancel)];
        cancelled.on_wants(&entries, false, &store);
        for ledger in [&mut asks, &mut wants, &mut cancelled] {
            ledger.take(0);
            ledger.on_block(cid, 5000);
        }
        assert_eq!(asks.take(0).presences, [(cid, Presence::Have)]);
        assert_eq!(wants.take(0).blocks, [cid]);
        assert!(!cancelled.is_waiting());
        wants.on_block(cid, 5000);
        assert!(!wants.is_waiting(), "a want is answered once");
    }

    #[test]
    fn a_cancel_takes_back_a_block_that_waits_for_its_turn() {
        let store = Store::default();
        let cids: Vec<_> = (0..3).map(|seed| block(&store, seed, 5000)).collect();
        let mut ledger = Ledger::default();
        let entries: Vec<_> = cids.iter().map(|cid| entry(*cid, Want::Block)).collect();
        ledger.on_wants(&entries, false, &store);
        ledger.on_wants(&entries[..1], false, &store);
        let answer = ledger.take(6000);
        assert_eq!((answer.blocks, answer.pending_bytes), (vec![cids[0]], 10_000));
        ledger.on_wants(&[entry(cids[1], Want::Cancel)], false, &store);
        assert_eq!(ledger.take(1 << 20).blocks, [cids[2]]);
    }

    #[test]
    fn a_full_wantlist_replaces_the_one_before() {
        let store = Store::default();
        let (first, second) = (block(&store, 1, 5000), block(&store, 2, 5000));
        let mut ledger = Ledger::default();
        ledger.on_wants(&[entry(first, Want::Block)], false, &store);
        ledger.on_wants(&[entry(second, Want::Block)], true, &store);
        assert_eq!(ledger.take(1 << 20).blocks, [second]);
    }
}
