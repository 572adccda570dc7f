//! A relay between two switches that loses, doubles, reorders and delays on purpose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What happens to a packet by its number. Probes always pass.
pub(crate) type Treatment = fn(u64) -> Fate;

/// What happens to one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It passes.
    Pass,
    /// It is dropped.
    Drop,
    /// It passes twice.
    Double,
    /// It passes after the next one.
    AfterNext,
}

/// A relay. Each switch takes the relay's nearer end for the other switch.
pub(crate) struct Relay {
    /// Where the first switch sends.
    pub(crate) towards_two: SocketAddr,
    /// Where the second switch sends.
    pub(crate) towards_one: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// `treatment` is for packets of the first of `ends`, `delay` for all.
    pub(crate) async fn start(
        ends: (SocketAddr, SocketAddr),
        treatment: Treatment,
        delay: Duration,
    ) -> Self {
        let bind = || UdpSocket::bind("127.0.0.1:0");
        let near_one = Arc::new(bind().await.expect("bound"));
        let near_two = Arc::new(bind().await.expect("bound"));
        let towards_two = near_one.local_addr().expect("bound");
        let towards_one = near_two.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        let ways = [
            (Arc::clone(&near_one), Arc::clone(&near_two), ends.1, treatment),
            (near_two, near_one, ends.0, (|_| Fate::Pass) as Treatment),
        ];
        for (from, to, end, treatment) in ways {
            let (queue, queued) = mpsc::channel(4096);
            tasks.spawn(take(from, queue, treatment, delay));
            tasks.spawn(pass_on(queued, to, end));
        }
        Self { towards_two, towards_one, _tasks: tasks }
    }
}

async fn take(
    from: Arc<UdpSocket>,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
    treatment: Treatment,
    delay: Duration,
) {
    let mut buffer = vec![0; 65_536];
    let mut held = None;
    loop {
        let length = from.recv(&mut buffer).await.expect("it lives");
        let datagram = buffer[..length].to_vec();
        let due = Instant::now() + delay;
        let number = u64::from_be_bytes(datagram[24..32].try_into().expect("eight bytes"));
        let is_packet = datagram[3] == 0;
        let fate = if is_packet { treatment(number) } else { Fate::Pass };
        let before = if is_packet { held.take() } else { None };
        let copies = match fate {
            Fate::Drop => Vec::new(),
            Fate::Pass => vec![datagram],
            Fate::Double => vec![datagram.clone(), datagram],
            Fate::AfterNext => {
                held = Some(datagram);
                Vec::new()
            }
        };
        for datagram in copies.into_iter().chain(before) {
            queue.send((due, datagram)).await.expect("the other half lives");
        }
    }
}

async fn pass_on(
    mut queued: mpsc::Receiver<(Instant, Vec<u8>)>,
    to: Arc<UdpSocket>,
    end: SocketAddr,
) {
    while let Some((due, datagram)) = queued.recv().await {
        sleep_until(due).await;
        to.send_to(&datagram, end).await.expect("sent");
    }
}
