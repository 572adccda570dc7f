//! Several nodes in one process.
//!
//! A process of its own for each node costs little, so that this is for nodes
//! of which there are many and which do little: Sybils, an idle crowd.

use crate::{Identity, Node, NodeConfig, NodeError};

/// The nodes of an instance.
#[derive(Debug, Clone)]
pub struct Pool {
    nodes: Vec<Node>,
}

impl Pool {
    /// Starts `count` nodes with identities that follow from the run's seed
    /// and the instance's sequence number; `configure` makes the rest.
    pub async fn start(
        count: usize,
        seed: u64,
        instance: u64,
        mut configure: impl FnMut(usize, Identity) -> NodeConfig,
    ) -> Result<Self, NodeError> {
        let identity = |index| Identity::derive(seed, instance, index as u64);
        Self::of((0..count).map(|index| configure(index, identity(index)))).await
    }

    /// Starts nodes of these configurations.
    pub async fn of(configs: impl IntoIterator<Item = NodeConfig>) -> Result<Self, NodeError> {
        let mut nodes = Vec::new();
        for config in configs {
            nodes.push(Node::start(config).await?);
        }
        Ok(Self { nodes })
    }

    /// The nodes, in the order of their index.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Stops all of them.
    pub async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}
