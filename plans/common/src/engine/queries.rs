//! Kademlia's queries, from the command to the answer.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::libp2p::kad::store::RecordStore;
use super::libp2p::kad::{self, QueryId, QueryResult};
use super::{Engine, compat};
use crate::command::Reply;
use crate::{
    Closest, KadMode, NodeError, PeerFound, PeerId, Providers, QueryReport, RoutingEntry, Values,
};

/// A query under way.
pub(super) struct Query {
    started: Instant,
    dials_failed: u64,
    asked: Asked,
}

/// What was asked, and what has come so far.
enum Asked {
    Bootstrap(Reply<QueryReport>),
    Closest(Reply<Closest>),
    Peer(PeerId, Reply<PeerFound>),
    Provide(Reply<QueryReport>),
    Providers {
        want: usize,
        seen: BTreeSet<PeerId>,
        answer: Providers,
        reply: Reply<Providers>,
    },
    Put(Reply<QueryReport>),
    Get {
        want: usize,
        answer: Values,
        reply: Reply<Values>,
    },
    /// It has its answer and runs on to its end.
    Done,
}

impl Engine {
    /// The Kademlia of this node.
    pub(super) fn kad(
        &mut self,
    ) -> Result<&mut kad::Behaviour<kad::store::MemoryStore>, NodeError> {
        self.swarm.behaviour_mut().kad.as_mut().ok_or(NodeError::Without("Kademlia"))
    }

    pub(super) fn set_kad_mode(&mut self, mode: KadMode) -> Result<(), NodeError> {
        self.kad()?.set_mode(super::behaviour::kad_mode(mode));
        Ok(())
    }

    pub(super) fn bootstrap(&mut self, reply: Reply<QueryReport>) {
        let started = self.kad().and_then(|kad| {
            kad.bootstrap().map_err(|_| NodeError::Query("no peers are known".to_owned()))
        });
        self.begin(started, reply, Asked::Bootstrap);
    }

    pub(super) fn closest(&mut self, key: Vec<u8>, reply: Reply<Closest>) {
        let started = self.kad().map(|kad| kad.get_closest_peers(key));
        self.begin(started, reply, Asked::Closest);
    }

    pub(super) fn find_peer(&mut self, peer: PeerId, reply: Reply<PeerFound>) {
        let started = self.kad().map(|kad| kad.get_closest_peers(compat::peer_in(peer)));
        self.begin(started, reply, |reply| Asked::Peer(peer, reply));
    }

    pub(super) fn provide(&mut self, key: &[u8], reply: Reply<QueryReport>) {
        let started = self.kad().and_then(|kad| {
            let key = kad::RecordKey::new(&key);
            kad.start_providing(key).map_err(|err| NodeError::Query(err.to_string()))
        });
        self.begin(started, reply, Asked::Provide);
    }

    pub(super) fn providers(&mut self, key: &[u8], want: usize, reply: Reply<Providers>) {
        let started = self.kad().map(|kad| kad.get_providers(kad::RecordKey::new(&key)));
        let answer = Providers { found: Vec::new(), report: QueryReport::default() };
        let seen = BTreeSet::new();
        self.begin(started, reply, |reply| Asked::Providers { want, seen, answer, reply });
    }

    pub(super) fn put_value(
        &mut self,
        key: &[u8],
        value: Vec<u8>,
        expires: Option<std::time::Instant>,
        reply: Reply<QueryReport>,
    ) {
        let started = self.kad().and_then(|kad| {
            let mut record = kad::Record::new(kad::RecordKey::new(&key), value);
            record.expires = expires;
            kad.put_record(record, kad::Quorum::One)
                .map_err(|err| NodeError::Query(err.to_string()))
        });
        self.begin(started, reply, Asked::Put);
    }

    pub(super) fn get_value(&mut self, key: &[u8], want: usize, reply: Reply<Values>) {
        let started = self.kad().map(|kad| kad.get_record(kad::RecordKey::new(&key)));
        let answer = Values { found: Vec::new(), report: QueryReport::default() };
        self.begin(started, reply, |reply| Asked::Get { want, answer, reply });
    }

    pub(super) fn routing_table(&mut self) -> Result<Vec<RoutingEntry>, NodeError> {
        let mut entries = Vec::new();
        for bucket in self.kad()?.kbuckets() {
            for entry in bucket.iter() {
                entries.push(RoutingEntry {
                    peer: compat::peer_out(*entry.node.key.preimage()),
                    addresses: entry.node.value.iter().map(compat::address_out).collect(),
                });
            }
        }
        Ok(entries)
    }

    pub(super) fn records_held(&mut self, keys: &[Vec<u8>]) -> Result<usize, NodeError> {
        let own = *self.swarm.local_peer_id();
        let store = self.kad()?.store_mut();
        let values = store.records().count();
        let for_key = |key: &Vec<u8>| {
            let providers = store.providers(&kad::RecordKey::new(key));
            providers.into_iter().filter(|record| record.provider != own).count()
        };
        Ok(values + keys.iter().map(for_key).sum::<usize>())
    }

    fn begin<T>(
        &mut self,
        started: Result<QueryId, NodeError>,
        reply: Reply<T>,
        asked: impl FnOnce(Reply<T>) -> Asked,
    ) {
        match started {
            Ok(id) => {
                let dials_failed = self.stats.all_dials_failed();
                let query = Query { started: Instant::now(), dials_failed, asked: asked(reply) };
                self.queries.insert(id, query);
            }
            Err(err) => answer(reply, Err(err)),
        }
    }

    /// Takes a step of a query, which may be its last.
    pub(super) fn step(
        &mut self,
        id: QueryId,
        result: QueryResult,
        stats: &kad::QueryStats,
        last: bool,
    ) {
        // Queries that Kademlia began by itself have no one to answer.
        let Some(mut query) = self.queries.remove(&id) else { return };
        let mut report = QueryReport {
            requests: stats.num_requests(),
            successes: stats.num_successes(),
            failures: stats.num_failures(),
            dials_failed: self.stats.all_dials_failed() - query.dials_failed,
            took: query.started.elapsed(),
            timed_out: false,
        };
        let enough = query.take(result, &mut report);
        if last || enough {
            if let Some(mut query) = self.kad().ok().and_then(|kad| kad.query_mut(&id)) {
                query.finish();
            }
            query.end(report);
        } else {
            self.queries.insert(id, query);
        }
    }
}

impl Query {
    /// Takes what has come in and says whether the query can end here.
    fn take(&mut self, result: QueryResult, report: &mut QueryReport) -> bool {
        let at = report.took;
        match (&mut self.asked, result) {
            (Asked::Bootstrap(_), QueryResult::Bootstrap(Err(_)))
            | (Asked::Provide(_), QueryResult::StartProviding(Err(_))) => report.timed_out = true,
            (Asked::Providers { want, seen, answer, .. }, QueryResult::GetProviders(found)) => {
                report.timed_out = found.is_err();
                if let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = found {
                    let new = providers.into_iter().map(compat::peer_out);
                    answer
                        .found
                        .extend(new.filter(|peer| seen.insert(*peer)).map(|peer| (peer, at)));
                }
                return answer.found.len() >= *want;
            }
            (Asked::Get { want, answer, .. }, QueryResult::GetRecord(found)) => {
                report.timed_out = matches!(found, Err(kad::GetRecordError::Timeout { .. }));
                if let Ok(kad::GetRecordOk::FoundRecord(found)) = found {
                    answer.found.push((found.record.value, at));
                }
                return answer.found.len() >= *want;
            }
            (Asked::Closest(_) | Asked::Peer(..), QueryResult::GetClosestPeers(result)) => {
                self.close_to(result, report);
            }
            (Asked::Put(_), QueryResult::PutRecord(Err(err))) => {
                report.timed_out = matches!(err, kad::PutRecordError::Timeout { .. });
                self.fail(err.to_string());
            }
            (_, _) => {}
        }
        false
    }

    /// Answers a search among the closest peers, which comes in one step.
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other query looks for peers")]
    fn close_to(&mut self, result: kad::GetClosestPeersResult, report: &mut QueryReport) {
        let (peers, timed_out) = compat::closest_peers(result);
        report.timed_out = timed_out;
        match std::mem::replace(&mut self.asked, Asked::Done) {
            Asked::Closest(reply) => {
                let peers = peers.into_iter().map(|(peer, _)| peer).collect();
                answer(reply, Ok(Closest { peers, report: *report }));
            }
            Asked::Peer(wanted, reply) => {
                let found = peers.into_iter().find(|(peer, _)| *peer == wanted);
                let (found, addresses) = found.map_or((false, Vec::new()), |(_, at)| (true, at));
                answer(reply, Ok(PeerFound { found, addresses, report: *report }));
            }
            other => self.asked = other,
        }
    }

    fn fail(&mut self, error: String) {
        let asked = std::mem::replace(&mut self.asked, Asked::Done);
        if let Asked::Put(reply) = asked {
            answer(reply, Err(NodeError::Query(error)));
        } else {
            self.asked = asked;
        }
    }

    fn end(self, report: QueryReport) {
        match self.asked {
            Asked::Bootstrap(reply) | Asked::Provide(reply) if report.timed_out => {
                answer(reply, Err(NodeError::QueryTimeout(report)));
            }
            Asked::Bootstrap(reply) | Asked::Provide(reply) | Asked::Put(reply) => {
                answer(reply, Ok(report));
            }
            Asked::Closest(reply) => answer(reply, Ok(Closest { peers: Vec::new(), report })),
            Asked::Peer(_, reply) => {
                answer(reply, Ok(PeerFound { found: false, addresses: Vec::new(), report }));
            }
            Asked::Providers { answer: found, reply, .. } => {
                answer(reply, Ok(Providers { report, ..found }));
            }
            Asked::Get { answer: found, reply, .. } => {
                answer(reply, Ok(Values { report, ..found }))
            }
            Asked::Done => {}
        }
    }
}

/// Sends an answer to whoever still waits for it.
pub(super) fn answer<T>(reply: Reply<T>, result: Result<T, NodeError>) {
    // One who has given up waiting needs no answer.
    let _ = reply.send(result);
}
