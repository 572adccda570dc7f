//! A handle on a node's Bitswap.

use std::collections::BTreeMap;
use std::time::Duration;

use groundswell_p2p::{Node, NodeError, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{CURRENT, Engine, LEGACY};
use crate::session::{Order, Policy, Terms};
use crate::{Cid, Stats, Store};

const REQUESTS: usize = 64;

/// What a Bitswap is like.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whether it knows version 1.1 of the protocol only, and so can neither
    /// ask nor tell who has what.
    pub legacy: bool,
    /// How long it takes to get blocks from the store.
    pub store_delay: Duration,
    /// Bytes of blocks in a message, at least one block.
    pub message_bytes: usize,
    /// Draws the order of blocks and whom to prefer among equals.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { legacy: false, store_delay: Duration::ZERO, message_bytes: 256 << 10, seed: 42 }
    }
}

/// How a fetch is done.
#[derive(Debug, Clone, Copy)]
pub struct Fetch {
    /// Whom it asks. A Bitswap of version 1.1 broadcasts in any case.
    pub policy: Policy,
    /// In which order.
    pub order: Order,
    /// Blocks that are asked for at a time.
    pub window: usize,
    /// How long a peer may be silent before others are asked.
    pub silence: Duration,
    /// When it gives up.
    pub timeout: Duration,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            policy: Policy::Session,
            order: Order::Rarest,
            window: 32,
            silence: Duration::from_secs(3),
            timeout: Duration::from_secs(300),
        }
    }
}

/// How a fetch went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// From the call to the end.
    pub took: Duration,
    /// From the call to the first block.
    pub first_block: Option<Duration>,
    /// Blocks that came, without doubles and those that were here before.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From whom they came.
    pub from: BTreeMap<PeerId, u64>,
    /// What had not come when the time was over.
    pub missing: Vec<Cid>,
}

/// Why Bitswap did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BitswapError {
    /// It has been stopped, or its node has.
    #[error("the Bitswap has stopped")]
    Stopped,
    /// The node does not accept its streams.
    #[error("failed to start Bitswap")]
    Node(#[source] NodeError),
}

/// What a handle asks of the engine.
#[derive(Debug)]
pub(crate) enum Request {
    Fetch { cids: Vec<Cid>, terms: Terms, timeout: Duration, reply: oneshot::Sender<FetchReport> },
    Added { cids: Vec<Cid> },
    Stats { reply: oneshot::Sender<Stats> },
}

/// Bitswap on a node. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct Bitswap {
    store: Store,
    legacy: bool,
    requests: mpsc::Sender<Request>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Bitswap {
    /// Starts to serve a store and to fetch into it.
    pub async fn start(node: Node, store: Store, config: Config) -> Result<Self, BitswapError> {
        let (requests, received) = mpsc::channel(REQUESTS);
        let bitswap = Self {
            store: store.clone(),
            legacy: config.legacy,
            requests,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        let protocols = if config.legacy { vec![LEGACY] } else { vec![CURRENT, LEGACY] };
        let mut streams = Vec::new();
        for protocol in &protocols {
            streams.push(node.accept_streams(protocol).await.map_err(BitswapError::Node)?);
        }
        let (tasks, stop) = (bitswap.tasks.clone(), bitswap.stopping.clone());
        let engine = Engine::new(node, store, config, protocols, tasks, stop);
        bitswap.tasks.spawn(engine.run(received, streams));
        Ok(bitswap)
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Gets blocks from the peers that are connected, and those that connect
    /// meanwhile. Blocks that are here already are not fetched.
    pub async fn fetch(&self, cids: Vec<Cid>, how: Fetch) -> Result<FetchReport, BitswapError> {
        let policy = if self.legacy { Policy::Broadcast } else { how.policy };
        let (order, window, silence) = (how.order, how.window.max(1), how.silence);
        let terms = Terms { policy, order, window, silence };
        let timeout = how.timeout;
        self.ask(|reply| Request::Fetch { cids, terms, timeout, reply }).await
    }

    /// Tells peers that wait for them of blocks that have been put into the store.
    pub async fn added(&self, cids: Vec<Cid>) -> Result<(), BitswapError> {
        let added = Request::Added { cids };
        self.requests.send(added).await.map_err(|_| BitswapError::Stopped)
    }

    /// The counters.
    pub async fn stats(&self) -> Result<Stats, BitswapError> {
        self.ask(|reply| Request::Stats { reply }).await
    }

    /// Stops and waits until all its tasks have ended.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, BitswapError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| BitswapError::Stopped)?;
        answer.await.map_err(|_| BitswapError::Stopped)
    }
}
