//! How much gets through.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use crate::counters::Counters;
use crate::party::{DATAGRAMS, Party, STREAMS};

/// The payload of a datagram. It fits wherever packets go.
const PAYLOAD: usize = 1200;
/// Headers of IP and UDP.
const UDP_HEADERS: usize = 28;
/// What a packet of TCP carries, and how long it is, on an interface that takes 1500 bytes.
const TCP_PAYLOAD: (usize, usize) = (1448, 1500);
/// How much more than the link takes is sent as datagrams.
const OFFERED: f64 = 1.2;
/// What is due is sent this often.
const TICK: Duration = Duration::from_millis(1);
/// How much longer than it is measured something is sent.
const LONGER: Duration = Duration::from_secs(1);
/// After which a link that brings nothing is silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// What carries the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Carrier {
    Tcp,
    Udp,
}

impl Carrier {
    /// The name in tags.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// How many bytes a second are left of a rate when all headers have been sent.
    pub(crate) fn goodput(self, rate: Rate) -> f64 {
        let (payload, packet) = match self {
            Self::Tcp => TCP_PAYLOAD,
            Self::Udp => (PAYLOAD, PAYLOAD + UDP_HEADERS),
        };
        rate.0 as f64 / 8.0 * payload as f64 / packet as f64
    }

    /// Sends more than the link takes, for longer than is measured.
    pub(crate) async fn send(
        self,
        party: &Party,
        to: Ipv4Addr,
        rate: Rate,
        span: Duration,
        round: u32,
    ) -> Result {
        let until = Instant::now() + span + LONGER;
        match self {
            Self::Tcp => send_stream(to, until).await,
            Self::Udp => {
                let offered = self.goodput(rate) * OFFERED / PAYLOAD as f64;
                send_datagrams(&party.datagrams, to, offered, until, round).await
            }
        }
    }

    /// Measures the bytes per second that arrive.
    pub(crate) async fn receive(self, party: &Party, span: Duration, round: u32) -> Result<f64> {
        match self {
            Self::Tcp => {
                let accepted = timeout(PATIENCE, party.streams.accept()).await;
                let (stream, _) = accepted.map_err(|_| "nobody connected")??;
                receive_stream(stream, span).await
            }
            Self::Udp => receive_datagrams(&party.datagrams, span, round).await,
        }
    }
}

async fn send_stream(to: Ipv4Addr, until: Instant) -> Result {
    let connected = timeout(PATIENCE, TcpStream::connect((to, STREAMS))).await;
    let mut stream = connected.map_err(|_| format!("{to} does not answer"))??;
    let chunk = vec![0; 64 * 1024];
    // It ends with the receiver, which closes when it has measured. What the kernel still keeps is dropped then.
    while let Ok(Ok(())) = timeout_at(until, stream.write_all(&chunk)).await {}
    stream.set_zero_linger()?;
    Ok(())
}

async fn send_datagrams(
    socket: &UdpSocket,
    to: Ipv4Addr,
    per_second: f64,
    until: Instant,
    round: u32,
) -> Result {
    let mut bytes = [0; PAYLOAD];
    bytes[..4].copy_from_slice(&round.to_be_bytes());
    let begun = Instant::now();
    let mut ticks = interval(TICK);
    let mut sent = 0.0;
    while Instant::now() < until {
        ticks.tick().await;
        let due = begun.elapsed().as_secs_f64() * per_second;
        while sent < due {
            socket.send_to(&bytes, (to, DATAGRAMS)).await?;
            sent += 1.0;
        }
    }
    Ok(())
}

/// Bytes between two moments of arrival. Those that came with the first moment came before it.
#[derive(Debug)]
struct Meter {
    first: Instant,
    last: Instant,
    bytes: u64,
}

impl Meter {
    fn begin(now: Instant) -> Self {
        Self { first: now, last: now, bytes: 0 }
    }

    fn add(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes as u64;
        self.last = now;
    }

    fn has_measured(&self, span: Duration) -> bool {
        self.last - self.first >= span
    }

    fn per_second(&self) -> f64 {
        self.bytes as f64 / (self.last - self.first).as_secs_f64()
    }
}

async fn receive_stream(mut stream: TcpStream, span: Duration) -> Result<f64> {
    let mut buffer = vec![0; 64 * 1024];
    silent(stream.read(&mut buffer)).await?;
    let mut meter = Meter::begin(Instant::now());
    while !meter.has_measured(span) {
        let read = silent(stream.read(&mut buffer)).await?;
        ensure!(read > 0, "the stream ended after {} B", meter.bytes);
        meter.add(read, Instant::now());
    }
    Ok(meter.per_second())
}

async fn receive_datagrams(socket: &UdpSocket, span: Duration, round: u32) -> Result<f64> {
    let mut buffer = [0; PAYLOAD];
    let of_round = |buffer: &[u8]| buffer[..4] == round.to_be_bytes();
    loop {
        silent(socket.recv(&mut buffer)).await?;
        if of_round(&buffer) {
            break;
        }
    }
    let before = Counters::read()?;
    let mut meter = Meter::begin(Instant::now());
    while !meter.has_measured(span) {
        let length = silent(socket.recv(&mut buffer)).await?;
        if of_round(&buffer) {
            meter.add(length, Instant::now());
        }
    }
    // What this program was too slow for has arrived all the same.
    let full = Counters::read()?.since(before).full;
    meter.bytes += full * PAYLOAD as u64;
    Ok(meter.per_second())
}

/// Waits for what has to come, and says so when it does not.
async fn silent<T>(what: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    let came = timeout(PATIENCE, what).await;
    Ok(came.map_err(|_| format!("nothing has come for {} s", PATIENCE.as_secs()))??)
}

/// Lets what still waits in the link run out.
pub(crate) async fn run_out() {
    sleep(LONGER).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_count_for_the_rate() {
        assert_eq!(Carrier::Tcp.goodput(Rate(12_000_000)), 1_448_000.0);
        assert_eq!(Carrier::Udp.goodput(Rate(12_280_000)), 1_500_000.0);
    }

    #[test]
    fn what_comes_at_the_first_moment_is_not_measured() {
        let first = Instant::now();
        let mut meter = Meter::begin(first);
        meter.add(500, first + Duration::from_secs(1));
        assert!(!meter.has_measured(Duration::from_secs(2)));
        meter.add(500, first + Duration::from_secs(2));
        assert!(meter.has_measured(Duration::from_secs(2)));
        assert_eq!(meter.per_second(), 500.0);
    }
}
