//! A dial, and what becomes of it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use groundswell_sdk::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const PORT: u16 = 8765;
const GREETING: &[u8; 5] = b"hello";
/// A packet that is dropped is never answered: who waits for so long has met a drop.
const PATIENCE: Duration = Duration::from_secs(3);

/// What became of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// The other end said hello.
    Reached,
    /// Something said at once that there is no way.
    Refused,
    /// Nothing was heard.
    Silence,
}

impl Dialled {
    /// The name in tags.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Refused => "refused",
            Self::Silence => "silence",
        }
    }
}

/// Says hello to everybody who connects, until the set is dropped.
pub(crate) async fn greet(ip: Ipv4Addr, tasks: &mut JoinSet<()>) -> Result {
    let listener = TcpListener::bind((ip, PORT)).await?;
    tasks.spawn(async move {
        let mut greetings = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            // Whoever has gone does not hear it.
            greetings.spawn(async move { drop(stream.write_all(GREETING).await) });
            while greetings.try_join_next().is_some() {}
        }
    });
    Ok(())
}

/// Dials an instance and waits for its hello; how it went, and how long it took.
pub(crate) async fn dial(ip: Ipv4Addr) -> (Dialled, Duration) {
    let begun = Instant::now();
    let greeted = async {
        let mut stream = TcpStream::connect(SocketAddrV4::new(ip, PORT)).await?;
        let mut heard = [0; GREETING.len()];
        stream.read_exact(&mut heard).await
    };
    let dialled = match timeout(PATIENCE, greeted).await {
        Ok(Ok(_)) => Dialled::Reached,
        // The kernel's own patience is a silence, too.
        Ok(Err(error)) if error.kind() != ErrorKind::TimedOut => Dialled::Refused,
        Ok(Err(_)) | Err(_) => Dialled::Silence,
    };
    (dialled, begun.elapsed())
}
