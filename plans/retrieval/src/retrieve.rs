//! What a user waits for: find, connect, fetch.

use std::time::Duration;

use groundswell_bitswap::{Cid, File};
use groundswell_p2p::{Event, Node, PeerId};
use groundswell_sdk::Result;
use tokio::time::Instant;

use crate::rig::{Offer, Rig};

/// How long a relayed connection may take to become a direct one before the
/// fetch begins.
const PUNCH: Duration = Duration::from_secs(3);
/// Providers that a search is content with.
const PROVIDERS: usize = 3;

/// How blocks came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// By a connection that was dialled directly.
    Direct,
    /// Through a relay.
    Relay,
    /// By a connection through both NATs, made with a relay's help.
    Punched,
}

impl Path {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Punched => "punched",
        }
    }
}

/// How a retrieval went, from when the user asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retrieved {
    /// Until a connection to a provider stood.
    pub(crate) discover: Duration,
    /// Until the first block.
    pub(crate) first_byte: Duration,
    /// Until the last.
    pub(crate) total: Duration,
    pub(crate) blocks: u64,
    path: Path,
}

impl Rig {
    /// Finds and fetches a file, and records how it went. A retrieval that
    /// fails is recorded and is not an error: expectations judge it.
    pub(crate) async fn retrieve(&self, offer: &Offer, tag: (&str, &str)) -> Result<bool> {
        let outcome = self.try_retrieve(offer).await;
        let (key, value) = tag;
        let point = |name: &str, of: Duration| {
            self.cx.point(name, of).tag(key, value).record();
        };
        match &outcome {
            Ok(got) => {
                point("time_to_discover_s", got.discover);
                point("time_to_first_byte_s", got.first_byte);
                point("time_to_fetch_s", got.total);
                let after = got.first_byte.saturating_sub(got.discover);
                point("first_byte_after_discover_s", after);
                let path = self.cx.point("retrieved", 1).unit("count");
                path.tag("path", got.path.name()).tag(key, value).record();
                let direct = f64::from(u8::from(got.path != Path::Relay));
                self.cx.point("direct_ratio", direct).unit("ratio").tag(key, value).record();
                let blocks = self.cx.point("blocks_fetched", got.blocks).unit("count");
                blocks.tag(key, value).record();
            }
            Err(err) => self.cx.message(format!("a retrieval failed: {err}")),
        }
        let success = f64::from(u8::from(outcome.is_ok()));
        self.cx.point("success_ratio", success).unit("ratio").tag(key, value).record();
        Ok(outcome.is_ok())
    }

    /// Finds and fetches a file and checks every byte of it.
    pub(crate) async fn try_retrieve(&self, offer: &Offer) -> Result<Retrieved> {
        let begun = Instant::now();
        let root = offer.cid()?;
        let mut path = Path::Direct;
        if !self.bitswap.store().has(&root) {
            path = self.find(root, begun).await?;
        }
        self.fetch(offer, begun, path).await
    }

    /// Fetches a file from those who are connected, without a search.
    pub(crate) async fn fetch_known(&self, offer: &Offer) -> Result<Retrieved> {
        self.fetch(offer, Instant::now(), Path::Direct).await
    }

    async fn fetch(&self, offer: &Offer, begun: Instant, path: Path) -> Result<Retrieved> {
        let discover = begun.elapsed();
        let fetched = self.bitswap.fetch_file(offer.cid()?, self.params.fetch()).await?;
        let total = begun.elapsed();
        if File::check(&fetched.node, self.bitswap.store()) != Ok(offer.sha256()) {
            return Err("what came is not what was added".into());
        }
        let first_byte = discover + fetched.report.first_block.unwrap_or_default();
        Ok(Retrieved { discover, first_byte, total, blocks: fetched.report.blocks, path })
    }

    /// Looks for providers until it is connected to one.
    async fn find(&self, root: Cid, begun: Instant) -> Result<Path> {
        let limit = begun + self.params.find_timeout;
        let mut last = "the DHT knows no provider".to_owned();
        while Instant::now() < limit {
            let found = self.node.providers(root.multihash(), PROVIDERS).await?.found;
            let mut paths = Vec::new();
            for (peer, _) in found.into_iter().filter(|(peer, _)| *peer != self.me.peer) {
                match self.connect(peer).await {
                    Ok(path) => paths.push(path),
                    Err(err) => last = format!("failed to connect to the provider {peer}: {err}"),
                }
            }
            let best = paths.iter().find(|path| **path != Path::Relay).or(paths.first());
            if let Some(path) = best {
                return Ok(*path);
            }
        }
        Err(last.into())
    }

    async fn connect(&self, peer: PeerId) -> Result<Path> {
        let mut events = self.node.events();
        let addresses = self.addresses_of(&peer).await?;
        self.node.dial_peer(peer, addresses).await?;
        if self.is_direct(peer).await? {
            return Ok(Path::Direct);
        }
        let direct = Node::wait_for(&mut events, "a direct connection", PUNCH, |event| {
            let direct = |who: &PeerId, relayed: bool| *who == peer && !relayed;
            matches!(event, Event::Connected { peer: who, relayed, .. } if direct(who, *relayed))
                .then_some(())
        });
        Ok(if direct.await.is_ok() { Path::Punched } else { Path::Relay })
    }

    async fn is_direct(&self, peer: PeerId) -> Result<bool> {
        let connections = self.node.connections().await?;
        Ok(connections.iter().any(|connection| connection.peer == peer && !connection.relayed))
    }
}
