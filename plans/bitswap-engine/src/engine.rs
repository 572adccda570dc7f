//! One task that carries messages between peers, their ledgers, the sessions
//! and the store.
//!
//! In: requests of the handle, what stream tasks tell, connections of the
//! node, time. Out: messages to the writers, replies. At most one message is
//! on its way to a peer's writer; what comes meanwhile goes into the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use groundswell_p2p::{Event, IncomingStream, Node, PeerId, Rng};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{Config, FetchReport, Request};
use crate::io::{Input, Progress, WriterId, Writing, accept, read_from, write_to};
use crate::peer::{Link, Peer};
use crate::session::{Ask, Session, Terms};
use crate::store::Block;
use crate::wire::{Message, Want};
use crate::{Cid, Stats, Store};

/// The current protocol.
pub(crate) const CURRENT: &str = "/ipfs/bitswap/1.2.0";
/// The protocol before: without questions who has what.
pub(crate) const LEGACY: &str = "/ipfs/bitswap/1.1.0";

const INPUTS: usize = 256;
/// How often sessions look for silence.
const TICK: Duration = Duration::from_millis(250);
/// When a peer that took no stream is asked again, while something is fetched.
const REFUSED: Duration = Duration::from_secs(2);

/// A fetch under way.
struct Running {
    session: Session,
    report: FetchReport,
    begun: Instant,
    ends: Instant,
    reply: oneshot::Sender<FetchReport>,
}

pub(crate) struct Engine {
    node: Node,
    store: Store,
    message_bytes: usize,
    rng: Rng,
    started: Instant,
    peers: BTreeMap<PeerId, Peer>,
    running: Vec<Running>,
    stats: Stats,
    writing: Arc<Writing>,
    inputs: mpsc::Receiver<Input>,
    tasks: TaskTracker,
    stop: CancellationToken,
    next_tick: Instant,
    /// Writers started so far.
    writers: u64,
}

impl Engine {
    pub(crate) fn new(
        node: Node,
        store: Store,
        config: Config,
        protocols: Vec<&'static str>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (sender, inputs) = mpsc::channel(INPUTS);
        let delay = config.store_delay;
        let writing = Writing { store: store.clone(), protocols, delay, inputs: sender };
        let now = Instant::now();
        Self {
            node,
            store,
            message_bytes: config.message_bytes,
            rng: Rng::new(config.seed, "bitswap"),
            started: now,
            peers: BTreeMap::new(),
            running: Vec::new(),
            stats: Stats::default(),
            writing: Arc::new(writing),
            inputs,
            tasks,
            stop,
            next_tick: now,
            writers: 0,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        streams: Vec<mpsc::Receiver<IncomingStream>>,
    ) {
        let mut events = self.node.events();
        self.count_connections().await;
        for incoming in streams {
            let accepting = accept(incoming, self.writing.inputs.clone(), self.stop.clone());
            self.tasks.spawn(accepting);
        }
        let stop = self.stop.clone();
        loop {
            let wake = self.wake();
            tokio::select! {
                // Connections first: what comes over a new one must not be
                // taken for news from the one before.
                biased;
                () = stop.cancelled() => break,
                event = events.recv() => match event {
                    Ok(event) => self.observe(&event),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.count_connections().await,
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                request = requests.recv() => match request {
                    Some(request) => self.obey(request),
                    None => break,
                },
                Some(input) = self.inputs.recv() => self.take_in(input),
                () = sleep_until(wake.unwrap_or(self.started)), if wake.is_some() => {}
            }
            self.go_on();
        }
        stop.cancel();
    }

    /// When something is due that nobody will tell.
    fn wake(&self) -> Option<Instant> {
        let messages = self.peers.values().filter_map(Peer::due).min();
        let tick = (!self.running.is_empty()).then_some(self.next_tick);
        messages.into_iter().chain(tick).min()
    }

    /// Catches up with connections, whose events may have been missed.
    async fn count_connections(&mut self) {
        let Ok(connections) = self.node.connections().await else { return };
        let there: Vec<_> = connections.iter().map(|connection| connection.peer).collect();
        let known: Vec<_> = self.peers.keys().copied().collect();
        for gone in known.into_iter().filter(|peer| !there.contains(peer)) {
            self.disconnected(gone);
        }
        for peer in there {
            self.peer(peer).connected = true;
        }
    }

    fn peer(&mut self, peer: PeerId) -> &mut Peer {
        let started = self.started;
        self.peers.entry(peer).or_insert_with(|| Peer::new(started))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a node tells much that is not for Bitswap")]
    fn observe(&mut self, event: &Event) {
        match event {
            Event::Connected { peer, .. } => self.peer(*peer).connected = true,
            Event::Disconnected { peer, left: 0, .. } => self.disconnected(*peer),
            _ => {}
        }
    }

    fn disconnected(&mut self, peer: PeerId) {
        if self.peers.remove(&peer).is_some() {
            for running in &mut self.running {
                running.session.on_peer_gone(peer);
            }
        }
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::Fetch { cids, terms, timeout, reply } => {
                self.fetch(cids, terms, timeout, reply);
            }
            Request::Added { cids } => {
                for cid in cids {
                    self.tell_block(cid);
                }
            }
            Request::Stats { reply } => {
                // Who has gone away does not need the answer.
                let _ = reply.send(self.stats.clone());
            }
        }
    }

    fn fetch(
        &mut self,
        mut cids: Vec<Cid>,
        terms: Terms,
        timeout: Duration,
        reply: oneshot::Sender<FetchReport>,
    ) {
        let now = Instant::now();
        cids.retain(|cid| !self.store.has(cid));
        let rng = Rng::new(self.rng.next_u64(), "session");
        let mut session = Session::new(cids, terms, rng);
        for (peer, view) in &mut self.peers {
            match view.link {
                Link::Open { legacy, .. } => session.on_peer(*peer, legacy, now),
                // It may have learnt to speak Bitswap since.
                Link::Refused { .. } => view.link = Link::Closed,
                Link::Closed | Link::Opening(_) => {}
            }
        }
        self.running.push(Running {
            session,
            report: FetchReport::default(),
            begun: now,
            ends: now + timeout,
            reply,
        });
        self.next_tick = now + TICK;
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Incoming { peer, stream } => {
                let view = self.peer(peer);
                view.connected = true;
                if matches!(view.link, Link::Refused { .. }) {
                    view.link = Link::Closed;
                }
                let heard = view.heard.clone();
                let (inputs, stop) = (self.writing.inputs.clone(), self.stop.clone());
                self.tasks.spawn(read_from(peer, stream.0, heard, inputs, stop));
            }
            Input::Received { peer, message, wire } => self.received(peer, message, wire),
            Input::Bad => self.stats.bad_messages += 1,
            Input::Writer { to, what } => self.progress(to, what),
        }
    }

    fn progress(&mut self, WriterId { peer, number }: WriterId, what: Progress) {
        if let Progress::Written { blocks, data, wire } = what {
            self.stats.msgs_sent += 1;
            self.stats.blks_sent += blocks;
            self.stats.data_sent += data;
            self.stats.stream_data_sent += wire;
        }
        let Some(view) = self.peers.get_mut(&peer).filter(|view| view.writer == number) else {
            return;
        };
        match what {
            Progress::Opened { legacy } => self.opened(peer, legacy),
            Progress::Refused => view.link = Link::Refused { at: Instant::now() },
            Progress::Written { .. } => {
                if let Link::Open { busy, .. } = &mut view.link {
                    *busy = false;
                }
            }
            Progress::Lost => {
                view.stream_lost();
                self.stats.streams_lost += 1;
            }
        }
    }

    fn opened(&mut self, peer: PeerId, legacy: bool) {
        let now = Instant::now();
        self.peer(peer).opened(legacy, now);
        for running in &mut self.running {
            running.session.on_peer(peer, legacy, now);
        }
    }

    fn received(&mut self, peer: PeerId, message: Message, wire: usize) {
        self.stats.msgs_rcvd += 1;
        self.stats.stream_data_rcvd += wire as u64;
        for entry in &message.wants {
            match entry.want {
                Want::Cancel => self.stats.cancels_rcvd += 1,
                Want::Have => self.stats.want_haves_rcvd += 1,
                Want::Block => self.stats.want_blocks_rcvd += 1,
            }
        }
        self.stats.wants_rcvd = self.stats.want_haves_rcvd + self.stats.want_blocks_rcvd;
        let store = self.store.clone();
        if message.full || !message.wants.is_empty() {
            self.peer(peer).ledger.on_wants(&message.wants, message.full, &store);
        }
        let now = Instant::now();
        for (cid, presence) in message.presences {
            match presence {
                crate::Presence::Have => self.stats.haves_rcvd += 1,
                crate::Presence::DontHave => self.stats.dont_haves_rcvd += 1,
            }
            for running in &mut self.running {
                running.session.on_presence(peer, cid, presence, now);
            }
        }
        for (cid, data) in message.blocks {
            self.received_block(peer, cid, data, now);
        }
    }

    fn received_block(&mut self, peer: PeerId, cid: Cid, data: bytes::Bytes, now: Instant) {
        let size = data.len() as u64;
        self.stats.blks_rcvd += 1;
        self.stats.data_rcvd += size;
        *self.stats.blocks_from.entry(peer).or_default() += 1;
        self.peer(peer).has_sent(&cid);
        let mut wanted = false;
        for running in &mut self.running {
            if running.session.on_block(peer, cid, now) {
                wanted = true;
                running.report.first_block.get_or_insert(now - running.begun);
                running.report.blocks += 1;
                running.report.bytes += size;
                *running.report.from.entry(peer).or_default() += 1;
            }
        }
        if wanted {
            self.store.put(cid, Block::Memory(data));
            self.tell_block(cid);
        } else {
            self.stats.dup_blks_rcvd += 1;
            self.stats.dup_data_rcvd += size;
        }
    }

    /// Answers those who wait for a block.
    fn tell_block(&mut self, cid: Cid) {
        let Some(size) = self.store.size_of(&cid) else { return };
        for peer in self.peers.values_mut() {
            peer.ledger.on_block(cid, size);
        }
    }

    /// What follows from whatever has just happened.
    fn go_on(&mut self) {
        let now = Instant::now();
        if now >= self.next_tick {
            self.tick(now);
        }
        for index in 0..self.running.len() {
            let asks = self.running[index].session.take_asks(now);
            self.stats.timeouts += self.running[index].session.take_timeouts();
            self.tell(asks);
        }
        self.end_fetches(now);
        self.open_streams();
        self.send_messages(now);
    }

    fn tick(&mut self, now: Instant) {
        self.next_tick = now + TICK;
        for view in self.peers.values_mut() {
            if matches!(view.link, Link::Refused { at } if now - at > REFUSED) {
                view.link = Link::Closed;
            }
        }
        let Self { peers, running, .. } = self;
        for running in running {
            let heard = |peer: &_| peers.get(peer).map(|peer: &Peer| peer.heard.last());
            running.session.on_time(now, heard);
        }
    }

    fn tell(&mut self, asks: Vec<Ask>) {
        for Ask { peer, cid, want } in asks {
            match want {
                Want::Have => self.stats.want_haves_sent += 1,
                Want::Block => self.stats.want_blocks_sent += 1,
                Want::Cancel => {}
            }
            if let Some(view) = self.peers.get_mut(&peer) {
                view.tell(cid, want);
            }
        }
    }

    fn end_fetches(&mut self, now: Instant) {
        let over = |running: &Running| running.session.is_done() || now >= running.ends;
        while let Some(index) = self.running.iter().position(over) {
            let mut ended = self.running.swap_remove(index);
            ended.report.took = now - ended.begun;
            ended.report.missing = ended.session.missing();
            self.tell(ended.session.give_up());
            // Who has gone away does not need the answer.
            let _ = ended.reply.send(ended.report);
        }
    }

    /// Opens streams to peers to which there is something to say, and while
    /// something is fetched to all.
    fn open_streams(&mut self) {
        for (peer, view) in &mut self.peers {
            let wanted = !self.running.is_empty() || view.has_something();
            if view.connected && wanted && matches!(view.link, Link::Closed) {
                let (writer, messages) = mpsc::channel(1);
                view.link = Link::Opening(writer);
                self.writers += 1;
                view.writer = self.writers;
                let (node, writing) = (self.node.clone(), Arc::clone(&self.writing));
                let (to, stop) = (WriterId { peer: *peer, number: view.writer }, self.stop.clone());
                self.tasks.spawn(write_to(to, node, writing, messages, stop));
            }
        }
    }

    fn send_messages(&mut self, now: Instant) {
        for view in self.peers.values_mut() {
            if view.due().is_some_and(|due| due <= now) {
                let outgoing = view.compose(self.message_bytes, now);
                if let Link::Open { writer, busy, .. } = &mut view.link {
                    // There is room: it is not busy. A writer that has ended tells it itself.
                    *busy = writer.try_send(outgoing).is_ok();
                }
            }
        }
    }
}
