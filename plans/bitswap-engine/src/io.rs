//! The tasks at the ends of streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groundswell_p2p::{IncomingStream, Node, PeerId, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::frame::{framed, read_frame};
use crate::peer::{Heard, Outgoing};
use crate::wire::{Message, Presence};
use crate::{Cid, Store};

/// How long a stream may take to open.
const OPENING: Duration = Duration::from_secs(10);

/// What a task at a stream tells the engine.
#[derive(Debug)]
pub(crate) enum Input {
    /// A peer has opened a stream.
    Incoming { peer: PeerId, stream: StreamIn },
    /// A message has come.
    Received { peer: PeerId, message: Message, wire: usize },
    /// Something came that is no message.
    Bad,
    /// Something happened to a writer.
    Writer { to: WriterId, what: Progress },
}

/// A writer: its peer, and which of the peer's it is. What one tells that has
/// been replaced since is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriterId {
    pub(crate) peer: PeerId,
    pub(crate) number: u64,
}

/// What happens to a writer.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The stream to the peer is open.
    Opened { legacy: bool },
    /// The peer takes no stream.
    Refused,
    /// A message has been sent.
    Written { blocks: u64, data: u64, wire: u64 },
    /// The stream broke.
    Lost,
}

/// A stream that a peer has opened.
pub(crate) struct StreamIn(pub(crate) Stream);

impl std::fmt::Debug for StreamIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamIn")
    }
}

/// What all writers share.
#[derive(Debug)]
pub(crate) struct Writing {
    pub(crate) store: Store,
    pub(crate) protocols: Vec<&'static str>,
    /// How long it takes to get blocks from the store.
    pub(crate) delay: Duration,
    pub(crate) inputs: mpsc::Sender<Input>,
}

/// Hands streams of one protocol to the engine.
pub(crate) async fn accept(
    mut streams: mpsc::Receiver<IncomingStream>,
    inputs: mpsc::Sender<Input>,
    stop: CancellationToken,
) {
    while let Some(Some(IncomingStream { peer, stream })) =
        stop.run_until_cancelled(streams.recv()).await
    {
        if inputs.send(Input::Incoming { peer, stream: StreamIn(stream) }).await.is_err() {
            break;
        }
    }
}

/// Reads messages until the stream ends, and hashes their blocks here, so
/// that the engine does not wait for it.
pub(crate) async fn read_from(
    peer: PeerId,
    mut stream: Stream,
    heard: Heard,
    inputs: mpsc::Sender<Input>,
    stop: CancellationToken,
) {
    let reading = async {
        while let Ok(Some(frame)) = read_frame(&mut stream, || heard.now()).await {
            let wire = framed_len(&frame);
            let input = match Message::decode(&frame) {
                Ok(message) => {
                    if !message.blocks.is_empty() {
                        heard.now();
                    }
                    Input::Received { peer, message, wire }
                }
                Err(_) => Input::Bad,
            };
            if inputs.send(input).await.is_err() {
                break;
            }
        }
    };
    stop.run_until_cancelled(reading).await;
}

fn framed_len(frame: &Bytes) -> usize {
    let mut length = Vec::with_capacity(5);
    crate::wire::put_varint(&mut length, frame.len() as u64);
    length.len() + frame.len()
}

/// Opens a stream to a peer and sends what the engine hands over.
pub(crate) async fn write_to(
    to: WriterId,
    node: Node,
    shared: Arc<Writing>,
    messages: mpsc::Receiver<Outgoing>,
    stop: CancellationToken,
) {
    let tell = |what| shared.inputs.send(Input::Writer { to, what });
    let writing = async {
        let Some((stream, legacy)) = open(to.peer, &node, &shared.protocols).await else {
            // Fails when the engine has ended, which then needs no answer.
            let _ = tell(Progress::Refused).await;
            return;
        };
        if tell(Progress::Opened { legacy }).await.is_err() {
            return;
        }
        // An error is told as a loss: the engine opens another stream.
        if send_all(to, stream, &shared, messages).await.is_err() {
            let _ = tell(Progress::Lost).await;
        }
    };
    stop.run_until_cancelled(writing).await;
}

async fn open(peer: PeerId, node: &Node, protocols: &[&'static str]) -> Option<(Stream, bool)> {
    for protocol in protocols {
        if let Ok(Ok(stream)) = timeout(OPENING, node.open_stream(peer, protocol)).await {
            return Some((stream, *protocol != crate::engine::CURRENT));
        }
    }
    None
}

async fn send_all(
    to: WriterId,
    stream: Stream,
    shared: &Writing,
    mut messages: mpsc::Receiver<Outgoing>,
) -> std::io::Result<()> {
    let (mut incoming, mut stream) = tokio::io::split(stream);
    let mut watching = true;
    loop {
        tokio::select! {
            outgoing = messages.recv() => match outgoing {
                Some(outgoing) => send(to, outgoing, &mut stream, shared).await?,
                None => return stream.shutdown().await,
            },
            () = ended(&mut incoming), if watching => {
                watching = false;
                // The peer says nothing more, or has thrown the stream away.
                // In the latter case writing fails; an empty message means nothing.
                stream.write_all(&framed(b"")).await?;
                stream.flush().await?;
            }
        }
    }
}

/// Waits until the peer closes its side of a stream that only we send on.
async fn ended(incoming: &mut ReadHalf<Stream>) {
    let mut ignored = [0; 64];
    while incoming.read(&mut ignored).await.is_ok_and(|len| len > 0) {}
}

async fn send(
    to: WriterId,
    outgoing: Outgoing,
    stream: &mut WriteHalf<Stream>,
    shared: &Writing,
) -> std::io::Result<()> {
    let Outgoing { mut message, blocks } = outgoing;
    if !blocks.is_empty() && !shared.delay.is_zero() {
        tokio::time::sleep(shared.delay).await;
    }
    for cid in blocks {
        add_block(cid, &mut message, &shared.store);
    }
    let frame = framed(&message.encode());
    stream.write_all(&frame).await?;
    stream.flush().await?;
    let data = message.blocks.iter().map(|(_, data)| data.len() as u64).sum();
    let blocks = message.blocks.len() as u64;
    let what = Progress::Written { blocks, data, wire: frame.len() as u64 };
    shared
        .inputs
        .send(Input::Writer { to, what })
        .await
        .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
}

/// A block that is not there any more is denied.
fn add_block(cid: Cid, message: &mut Message, store: &Store) {
    match store.get(&cid).and_then(|block| block.read().ok()) {
        Some(data) => message.blocks.push((cid, data)),
        None => message.presences.push((cid, Presence::DontHave)),
    }
}
