//! Bytes there and back over a connection, to see that it carries something.

use std::io;
use std::time::Duration;

use libp2p_identity::PeerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{Node, NodeError};

const PROTOCOL: &str = "/groundswell/echo/1";
/// What is sent before its answer is waited for.
const CHUNK: usize = 4096;

/// Gives back to everybody what they send, until `tasks` is dropped.
///
/// # Errors
/// When the node has stopped.
pub async fn serve(node: &Node, tasks: &mut JoinSet<()>) -> Result<(), NodeError> {
    let mut streams = node.accept_streams(PROTOCOL).await?;
    tasks.spawn(async move {
        let mut echoes = JoinSet::new();
        while let Some(incoming) = streams.recv().await {
            echoes.spawn(async move {
                let (mut from, mut to) = tokio::io::split(incoming.stream);
                // A connection that breaks is seen at its other end.
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
            while echoes.try_join_next().is_some() {}
        }
    });
    Ok(())
}

/// Sends so many bytes to a peer that [serves](serve), over whatever connection there is, and returns how many came
/// back before it broke or `limit` was over.
pub async fn through(node: &Node, peer: PeerId, bytes: u64, limit: Duration) -> u64 {
    let mut back = 0;
    // However it ends, what came back is the answer.
    let _ = timeout(limit, exchange(node, peer, bytes, &mut back)).await;
    back
}

async fn exchange(node: &Node, peer: PeerId, bytes: u64, back: &mut u64) -> io::Result<()> {
    let mut stream = node.open_stream(peer, PROTOCOL).await.map_err(io::Error::other)?;
    let mut answer = vec![0; CHUNK];
    while *back < bytes {
        let size = usize::try_from(bytes - *back).unwrap_or(CHUNK).min(CHUNK);
        let question = vec![u8::try_from(*back % 251).unwrap_or(0); size];
        stream.write_all(&question).await?;
        stream.flush().await?;
        stream.read_exact(&mut answer[..size]).await?;
        if answer[..size] != question {
            return Err(io::Error::other("another answer than the question"));
        }
        *back += size as u64;
    }
    Ok(())
}
