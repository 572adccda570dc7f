//! Round trips over UDP.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const PORT: u16 = 7007;
/// As `ping` sends it.
const LENGTH: usize = 64;
/// What takes longer is not answered.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends everything back to where it came from, until the set is dropped.
pub(crate) async fn echo(ip: Ipv4Addr, tasks: &mut JoinSet<()>) -> Result {
    let socket = UdpSocket::bind((ip, PORT)).await?;
    tasks.spawn(async move {
        let mut buffer = [0; LENGTH];
        loop {
            // An error is an answer that somebody did not want, and no reason to stop.
            if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                drop(socket.send_to(&buffer[..length], from).await);
            }
        }
    });
    Ok(())
}

/// Pings to one address.
pub(crate) struct Pings {
    socket: UdpSocket,
    number: u64,
}

impl Pings {
    /// From one address to another.
    pub(crate) async fn between(from: Ipv4Addr, to: Ipv4Addr) -> Result<Self> {
        let socket = UdpSocket::bind((from, 0)).await?;
        socket.connect((to, PORT)).await?;
        Ok(Self { socket, number: 0 })
    }

    /// The time of one round trip; nothing when no answer came.
    pub(crate) async fn ping(&mut self) -> Option<Duration> {
        self.number += 1;
        let mut sent = [0; LENGTH];
        sent[..8].copy_from_slice(&self.number.to_be_bytes());
        let begun = Instant::now();
        let answered = timeout(PATIENCE, async {
            self.socket.send(&sent).await?;
            let mut buffer = [0; LENGTH];
            // The answer to an earlier one, which was given up, is none to this.
            while buffer != sent {
                self.socket.recv(&mut buffer).await?;
            }
            std::io::Result::Ok(begun.elapsed())
        });
        // That there is no way to the address is no answer either.
        answered.await.ok()?.ok()
    }
}
