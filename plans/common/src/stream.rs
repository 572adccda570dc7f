//! A plan's own protocols: byte streams between peers.

use futures::{AsyncRead, AsyncWrite};
use libp2p_identity::PeerId;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// A byte stream of one protocol over a connection, for tokio's read and
/// write methods.
pub type Stream = Compat<Box<dyn Duplex>>;

/// A byte stream of some version of rust-libp2p.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A stream that a peer has opened.
pub struct IncomingStream {
    /// Who opened it.
    pub peer: PeerId,
    /// The stream.
    pub stream: Stream,
}

pub(crate) fn boxed(stream: impl Duplex + 'static) -> Stream {
    let stream: Box<dyn Duplex> = Box::new(stream);
    stream.compat()
}
