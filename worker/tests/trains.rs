//! Trains of packets through the switch, over real interfaces: they cross it whole, and nothing that is decided
//! about a packet depends on it. Needs root.

#[expect(dead_code, reason = "other tests need more of it")]
mod host;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use groundswell_common::ids::{InstanceId, RunId};
use groundswell_common::link::{LinkShape, NetworkConfig, RoutingPolicy};
use groundswell_worker::network::counters::{Counts, Fate};
use groundswell_worker::network::switch::Switch;
use groundswell_worker::network::{Attachment, Network as _};
use host::Host;
use nix::sys::socket::{setsockopt, sockopt};

const MS: Duration = Duration::from_millis(1);
/// What must happen happens within this.
const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 4001;
const ADDRESSES: [std::net::Ipv4Addr; 2] =
    [std::net::Ipv4Addr::new(16, 0, 0, 2), std::net::Ipv4Addr::new(16, 0, 0, 3)];

struct Net {
    switch: Switch,
    run: RunId,
    hosts: [Host; 2],
}

impl Net {
    async fn new(shape: LinkShape) -> Self {
        Self::of(ADDRESSES.map(Host::new), shape).await
    }

    async fn of(ends: [(Host, OwnedFd); 2], shape: LinkShape) -> Self {
        let (switch, run) = (Switch::new(2).expect("a switch"), RunId::new(1));
        switch.open(&run, "16.0.0.0/16".parse().expect("a subnet"), 7).await.expect("open");
        let [(one, first), (two, second)] = ends;
        let devices = [first, second].into_iter().zip(ADDRESSES);
        for ((device, address), instance) in devices.zip((0..).map(InstanceId)) {
            let attachment = Attachment { run: run.clone(), instance, device, address };
            switch.attach(attachment).await.expect("attached");
            let config = NetworkConfig {
                enable: true,
                ipv4: None,
                default: shape,
                rules: Vec::new(),
                callback_state: String::new(),
                routing_policy: RoutingPolicy::DenyAll,
            };
            switch.configure(&run, instance, &config).await.expect("configured");
        }
        Self { switch, run, hosts: [one, two] }
    }

    fn counts(&self) -> Counts {
        self.switch.counts(&self.run).expect("the run is open").1
    }

    /// Sends so many bytes in one stream, and asserts that they arrive as they were.
    fn stream(&self, bytes: u32) {
        let [one, two] = &self.hosts;
        let listener = two.enter(|| TcpListener::bind(("0.0.0.0", PORT)).expect("bound"));
        let to = (ADDRESSES[1], PORT).into();
        let mut client = one.enter(|| TcpStream::connect_timeout(&to, LIMIT).expect("connected"));
        let (mut server, _) = listener.accept().expect("accepted");
        let sent: Vec<u8> =
            (0..bytes).map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect();
        let received = std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut received = Vec::new();
                server.set_read_timeout(Some(LIMIT)).expect("a limit");
                server.read_to_end(&mut received).expect("read to the end");
                received
            });
            client.write_all(&sent).expect("sent");
            drop(client);
            reader.join().expect("no panic")
        });
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    }

    /// Which of 1,000 numbered packets arrive, when so many are sent at a time as one train.
    async fn survivors(&self, at_a_time: u16) -> BTreeSet<u16> {
        let [one, two] = &self.hosts;
        let bind = || UdpSocket::bind(("0.0.0.0", PORT)).expect("bound");
        let (sender, receiver) = (one.enter(bind), two.enter(bind));
        receiver.set_read_timeout(Some(LIMIT)).expect("a limit");
        // 100 bytes each: of all that is sent at once, the kernel makes packets of that size.
        setsockopt(&sender, sockopt::UdpGsoSegment, &100).expect("Linux 4.18");
        let mut arrived = BTreeSet::new();
        for first in (0..1_000_u16).step_by(at_a_time.into()) {
            let numbers = first..first + at_a_time;
            let words: Vec<u8> =
                numbers.clone().flat_map(|number| [number.to_be_bytes(); 50].concat()).collect();
            sender.send_to(&words, (ADDRESSES[1], PORT)).expect("sent");
            self.decided(numbers.end.into()).await;
            let delivered = self.counts().of(Fate::Delivered);
            while (arrived.len() as u64) < delivered {
                let mut packet = [0; 200];
                assert_eq!(receiver.recv(&mut packet).expect("received in time"), 100);
                arrived.insert(u16::from_be_bytes([packet[0], packet[1]]));
            }
        }
        arrived
    }

    async fn decided(&self, packets: u64) {
        let all = async {
            let mut look = tokio::time::interval(MS);
            while [Fate::Delivered, Fate::Lost]
                .map(|fate| self.counts().of(fate))
                .iter()
                .sum::<u64>()
                < packets
            {
                look.tick().await;
            }
        };
        tokio::time::timeout(LIMIT, all).await.expect("all are decided in time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_chance_does_to_a_packet_does_not_depend_on_the_train_it_is_in() {
    let lossy = LinkShape { loss_pct: 20.0, ..LinkShape::default() };
    let alone = Net::new(lossy).await.survivors(1).await;
    assert!((740..860).contains(&alone.len()), "{} of 1,000", alone.len());
    assert_eq!(Net::new(lossy).await.survivors(20).await, alone);
    assert_eq!(Net::new(lossy).await.survivors(50).await, alone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_whole_whatever_befalls_its_packets() {
    let plain = LinkShape { latency: MS, ..LinkShape::default() };
    for shape in [
        LinkShape::default(),
        plain,
        LinkShape { loss_pct: 1.0, ..plain },
        LinkShape { duplicate_pct: 5.0, ..plain },
        LinkShape { reorder_pct: 1.0, ..plain },
        LinkShape { jitter: MS / 2, ..plain },
        LinkShape { bandwidth_bps: 100_000_000, ..plain },
        LinkShape { bandwidth_bps: 2_000_000_000, ..plain },
    ] {
        let net = Net::new(shape).await;
        net.stream(2_000_000);
        // What was counted are packets as they would be on a wire, of 1,448 bytes and less.
        assert!(net.counts().of(Fate::Delivered) > 1_380, "{shape:?}: {:?}", net.counts());
        assert_eq!(net.counts().of(Fate::NotTaken), 0, "{shape:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_seen_by_the_receiver() {
    let damaging = LinkShape { corrupt_pct: 3.0, latency: MS, ..LinkShape::default() };
    let net = Net::new(damaging).await;
    net.stream(1_000_000);
    assert!(net.counts().of(Fate::Corrupted) > 10, "{:?}", net.counts());
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_with_and_without_trains_reach_each_other() {
    let [one, two] = ADDRESSES;
    Net::of([Host::new(one), Host::plain(two)], LinkShape::default()).await.stream(1_000_000);
    Net::of([Host::plain(one), Host::new(two)], LinkShape::default()).await.stream(1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_train_to_the_gateway_comes_back_to_nobody() {
    let net = Net::new(LinkShape::default()).await;
    let socket = net.hosts[0].enter(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("bound"));
    setsockopt(&socket, sockopt::UdpGsoSegment, &100).expect("Linux 4.18");
    let gateway = std::net::Ipv4Addr::new(16, 0, 0, 1);
    socket.send_to(&[7; 1_000], (gateway, PORT)).expect("sent");
    let refused = async {
        let mut look = tokio::time::interval(MS);
        while net.counts().of(Fate::NoSuchAddress) + net.counts().of(Fate::Delivered) < 10 {
            look.tick().await;
        }
    };
    tokio::time::timeout(LIMIT, refused).await.expect("all are decided in time");
    assert_eq!(net.counts().of(Fate::NoSuchAddress), 10, "{:?}", net.counts());
}
