//! Nodes on loopback, of all versions of this build and between them.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "also what helps the tests may panic"
)]

use std::time::Duration;

use groundswell_p2p::{
    AutonatConfig, AutonatVerdict, Event, GossipConfig, Identity, KadConfig, KadMode, Node,
    NodeConfig, NodeError, PeerId, Protocol, RelayLimits, Version, truth,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(30);

fn config(version: Version, instance: u64) -> NodeConfig {
    NodeConfig {
        version,
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        ..NodeConfig::new(Identity::derive(7, instance, 0))
    }
}

/// Every pair of versions, in both directions.
fn pairs() -> impl Iterator<Item = (Version, Version)> {
    Version::ALL.iter().flat_map(|a| Version::ALL.iter().map(|b| (*a, *b)))
}

async fn kad_network(versions: impl Iterator<Item = Version>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for (instance, version) in versions.enumerate() {
        let kad = KadConfig { query_timeout: LIMIT, ..KadConfig::default() };
        let config = NodeConfig { kad: Some(kad), ..config(version, instance as u64) };
        nodes.push(Node::start(config).await.unwrap());
    }
    let first = nodes[0].address().await.unwrap();
    for node in &nodes[1..] {
        node.dial(first.clone()).await.unwrap();
        node.add_address(nodes[0].peer(), first.clone()).await.unwrap();
        node.bootstrap().await.unwrap();
    }
    nodes
}

#[tokio::test]
async fn a_dial_connects_and_both_ends_count_it() {
    for (dialer, listener) in pairs() {
        let a = Node::start(config(dialer, 0)).await.unwrap();
        let b = Node::start(config(listener, 1)).await.unwrap();
        let mut events = b.events();
        let peer = a.dial(b.address().await.unwrap()).await.unwrap();
        assert_eq!(peer, b.peer());
        let limit = LIMIT;
        let seen = Node::wait_for(&mut events, "a connection", limit, |event| match event {
            Event::Connected { peer, dialer, .. } => Some((*peer, *dialer)),
            _ => None,
        });
        assert_eq!(seen.await.unwrap(), (a.peer(), false));
        let stats = a.stats().await.unwrap();
        assert_eq!((stats.peers, stats.dials_ok, stats.accepted), (1, 1, 0));
        assert!(stats.bytes_in > 0 && stats.bytes_out > 0, "{stats:?}");
    }
}

#[tokio::test]
async fn every_transport_that_is_built_in_connects_all_versions() {
    let transports = [
        "/ip4/127.0.0.1/tcp/0",
        #[cfg(feature = "ws")]
        "/ip4/127.0.0.1/tcp/0/ws",
        #[cfg(feature = "quic")]
        "/ip4/127.0.0.1/udp/0/quic-v1",
    ];
    for transport in transports {
        for (dialer, listener) in pairs() {
            let a = Node::start(config(dialer, 0)).await.unwrap();
            let listen = vec![transport.parse().unwrap()];
            let b = Node::start(NodeConfig { listen, ..config(listener, 1) }).await.unwrap();
            let address = b.address().await.unwrap();
            let end = transport.rsplit("/0").next().unwrap();
            assert!(address.to_string().contains(end), "{address}");
            assert_eq!(a.dial(address).await.unwrap(), b.peer(), "{dialer} to {listener}");
        }
    }
}

#[tokio::test]
async fn a_stop_closes_the_connections_and_ends_the_node() {
    for (dialer, listener) in pairs() {
        let a = Node::start(config(dialer, 0)).await.unwrap();
        let b = Node::start(config(listener, 1)).await.unwrap();
        a.dial(b.address().await.unwrap()).await.unwrap();
        let mut events = a.events();
        let gone = b.clone();
        b.stop().await;
        let closed = Node::wait_for(&mut events, "the end", LIMIT, |event| match event {
            Event::Disconnected { peer, left, .. } => Some((*peer, *left)),
            _ => None,
        });
        assert_eq!(closed.await.unwrap(), (gone.peer(), 0));
        assert!(matches!(gone.stats().await, Err(NodeError::Stopped)));
    }
}

#[tokio::test]
async fn a_dial_to_nobody_fails_with_its_kind() {
    for version in Version::ALL {
        let node = Node::start(config(*version, 0)).await.unwrap();
        let err = node.dial("/ip4/127.0.0.1/tcp/1".parse().unwrap()).await.unwrap_err();
        assert!(
            matches!(&err, NodeError::Dial { kind, .. } if kind.name() == "refused"),
            "{version}: {err}"
        );
        let wrong = Node::start(config(*version, 1)).await.unwrap();
        let mut address = wrong.address().await.unwrap();
        address.pop();
        let other = Identity::derive(7, 99, 0).peer();
        let err = node.dial(address.with(Protocol::P2p(other))).await.unwrap_err();
        assert!(
            matches!(&err, NodeError::Dial { kind, .. } if kind.name() == "wrong-peer"),
            "{version}: {err}"
        );
        assert_eq!(node.stats().await.unwrap().all_dials_failed(), 2);
    }
}

#[tokio::test]
async fn streams_carry_bytes_between_versions() {
    for (dialer, listener) in pairs() {
        let a = Node::start(config(dialer, 0)).await.unwrap();
        let b = Node::start(config(listener, 1)).await.unwrap();
        let mut incoming = b.accept_streams("/echo/1").await.unwrap();
        a.dial(b.address().await.unwrap()).await.unwrap();
        let mut out = a.open_stream(b.peer(), "/echo/1").await.unwrap();
        out.write_all(b"ping").await.unwrap();
        out.flush().await.unwrap();
        let mut taken = incoming.recv().await.unwrap();
        assert_eq!(taken.peer, a.peer());
        let mut bytes = [0; 4];
        taken.stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        let err = a.open_stream(b.peer(), "/other/1").await.err().map(|err| err.to_string());
        assert!(err.is_some_and(|err| err.contains("/other/1")), "the protocol is not spoken");
    }
}

#[tokio::test]
async fn streams_that_come_at_once_all_arrive() {
    for (dialer, listener) in pairs() {
        let a = Node::start(config(dialer, 0)).await.unwrap();
        let b = Node::start(config(listener, 1)).await.unwrap();
        let mut incoming = b.accept_streams("/many/1").await.unwrap();
        a.dial(b.address().await.unwrap()).await.unwrap();
        let opening = (0..50_u8).map(|number| {
            let (a, peer) = (a.clone(), b.peer());
            async move {
                let mut stream = a.open_stream(peer, "/many/1").await.unwrap();
                stream.write_all(&[number]).await.unwrap();
                stream.flush().await.unwrap();
                stream
            }
        });
        let _open = futures::future::join_all(opening).await;
        let mut numbers = Vec::new();
        for _ in 0..50 {
            let taken = tokio::time::timeout(LIMIT, incoming.recv()).await.unwrap();
            numbers.push(taken.unwrap().stream.read_u8().await.unwrap());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn old_and_new_nodes_find_providers_peers_and_values_of_each_other() {
    let nodes = kad_network((0..10).map(|i| Version::ALL[i % Version::ALL.len()])).await;
    let all: Vec<PeerId> = nodes.iter().map(Node::peer).collect();
    for (provider, searcher) in [(2, 3), (3, 2), (4, 6), (5, 7)] {
        let key = vec![1, u8::try_from(provider).unwrap()];
        nodes[provider].provide(key.clone()).await.unwrap();
        let answer = nodes[searcher].providers(key, 1).await.unwrap();
        assert_eq!(answer.found.first().map(|(peer, _)| *peer), Some(all[provider]));
        assert!(answer.report.requests > 0 && !answer.report.timed_out, "{answer:?}");

        let found = nodes[searcher].find_peer(all[provider]).await.unwrap();
        assert!(found.found);

        let key = vec![2, u8::try_from(provider).unwrap()];
        nodes[provider].put_value(key.clone(), b"value".to_vec(), None).await.unwrap();
        let values = nodes[searcher].get_value(key, 1).await.unwrap();
        assert_eq!(values.found.first().map(|(value, _)| value.as_slice()), Some(&b"value"[..]));
    }
    let closest = nodes[4].closest(b"some key".to_vec()).await.unwrap();
    let others = all.iter().copied().filter(|peer| *peer != all[4]);
    let truth = truth::closest(b"some key", 20, others);
    assert_eq!(closest.peers, truth, "ten nodes know each other");
    assert_eq!(nodes[4].routing_table().await.unwrap().len(), 9);
    assert!(nodes[1].stats().await.unwrap().kad_requests_in > 0);
}

#[tokio::test]
async fn a_key_that_nobody_provides_is_not_found() {
    let nodes = kad_network(std::iter::repeat_n(Version::oldest(), 4)).await;
    let answer = nodes[1].providers(b"nothing".to_vec(), 1).await.unwrap();
    assert!(answer.found.is_empty());
    let values = nodes[1].get_value(b"nothing".to_vec(), 1).await.unwrap();
    assert!(values.found.is_empty());
    let absent = nodes[1].find_peer(Identity::derive(7, 77, 0).peer()).await.unwrap();
    assert!(!absent.found);
}

#[tokio::test]
async fn a_client_of_the_dht_stays_out_of_routing_tables() {
    for version in Version::ALL {
        let server = KadConfig::default();
        let client = KadConfig { mode: KadMode::Client, ..server.clone() };
        let a = NodeConfig { kad: Some(server), ..config(*version, 0) };
        let b = NodeConfig { kad: Some(client), ..config(*version, 1) };
        let (a, b) = (Node::start(a).await.unwrap(), Node::start(b).await.unwrap());
        let address = a.address().await.unwrap();
        b.add_address(a.peer(), address).await.unwrap();
        let mut events = a.events();
        b.bootstrap().await.unwrap();
        let who = b.peer();
        let identified = Node::wait_for(&mut events, "identify", LIMIT, |event| match event {
            Event::Identified { peer, .. } if *peer == who => Some(()),
            _ => None,
        });
        identified.await.unwrap();
        assert_eq!(a.routing_table().await.unwrap().len(), 0);
        assert_eq!(b.routing_table().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_node_without_a_protocol_says_so() {
    let node = Node::start(config(Version::oldest(), 0)).await.unwrap();
    let err = node.bootstrap().await.unwrap_err().to_string();
    assert_eq!(err, "the node was started without Kademlia");
    let err = node.subscribe("topic").await.unwrap_err().to_string();
    assert_eq!(err, "the node was started without gossipsub");
}

#[tokio::test]
async fn messages_of_a_topic_reach_nodes_of_all_versions() {
    for (publisher, reader) in pairs() {
        let gossip = || Some(GossipConfig { d_out: 0, ..GossipConfig::default() });
        let a = NodeConfig { gossip: gossip(), ..config(publisher, 0) };
        let b = NodeConfig { gossip: gossip(), ..config(reader, 1) };
        let (a, b) = (Node::start(a).await.unwrap(), Node::start(b).await.unwrap());
        let (mut of_a, mut of_b) = (a.events(), b.events());
        b.subscribe("news").await.unwrap();
        a.subscribe("news").await.unwrap();
        a.dial(b.address().await.unwrap()).await.unwrap();
        Node::wait_for(&mut of_a, "a subscription", LIMIT, |event| match event {
            Event::Subscription { joined: true, .. } => Some(()),
            _ => None,
        })
        .await
        .unwrap();
        a.publish("news", b"hello".to_vec()).await.unwrap();
        let read = Node::wait_for(&mut of_b, "a message", LIMIT, |event| match event {
            Event::Message { source, data, .. } => Some((*source, data.clone())),
            _ => None,
        });
        assert_eq!(read.await.unwrap(), (Some(a.peer()), b"hello".to_vec()));
    }
}

#[tokio::test]
async fn a_node_without_listeners_is_reached_through_a_relay() {
    for (relay, others) in pairs() {
        let limits = RelayLimits::default();
        let relay = NodeConfig { relay_server: Some(limits), ..config(relay, 0) };
        let hidden = NodeConfig { listen: vec![], relay_client: true, ..config(others, 1) };
        let dialer = NodeConfig { relay_client: true, ..config(others, 2) };
        let relay = Node::start(relay).await.unwrap();
        let address = relay.address().await.unwrap();
        // A relay offers itself at addresses that it is sure of.
        relay.add_external(address.clone()).await.unwrap();
        let hidden = Node::start(hidden).await.unwrap();
        let dialer = Node::start(dialer).await.unwrap();
        let circuit = hidden.reserve(address, LIMIT).await.unwrap();
        assert_eq!(dialer.dial(circuit).await.unwrap(), hidden.peer());
        let connections = dialer.connections().await.unwrap();
        let to_hidden = connections.iter().find(|one| one.peer == hidden.peer()).unwrap();
        assert!(to_hidden.relayed && to_hidden.dialer, "{to_hidden:?}");
        assert_eq!(dialer.stats().await.unwrap().relayed, 1);
    }
}

#[tokio::test]
async fn a_circuit_is_one_and_streams_go_the_direct_way_where_there_is_one() {
    for (relay, others) in pairs() {
        // Enough for handshakes.
        let limits = RelayLimits { circuit_bytes: 64 << 10, ..RelayLimits::default() };
        let relay = NodeConfig { relay_server: Some(limits), ..config(relay, 0) };
        let relay = Node::start(relay).await.unwrap();
        let address = relay.address().await.unwrap();
        relay.add_external(address.clone()).await.unwrap();
        let client = |number| NodeConfig { relay_client: true, ..config(others, number) };
        let listener = Node::start(client(1)).await.unwrap();
        let dialer = Node::start(client(2)).await.unwrap();
        let direct = listener.address().await.unwrap();
        let circuit = listener.reserve(address, LIMIT).await.unwrap();
        // In any order: neither kind takes the place of the other.
        for address in [&direct, &circuit, &direct, &circuit] {
            assert_eq!(dialer.dial(address.clone()).await.unwrap(), listener.peer());
        }
        let kinds = async || {
            let all = dialer.connections().await.unwrap();
            let to_it = all.iter().filter(|one| one.peer == listener.peer());
            to_it.map(|one| one.relayed).collect::<Vec<_>>()
        };
        assert_eq!(kinds().await, [false, true], "one of each kind");

        let mut tasks = tokio::task::JoinSet::new();
        groundswell_p2p::echo::serve(&listener, &mut tasks).await.unwrap();
        let back = groundswell_p2p::echo::through(&dialer, listener.peer(), 1 << 20, LIMIT).await;
        assert_eq!(back, 1 << 20, "a circuit carries less");
    }
}

#[tokio::test]
async fn a_node_finds_out_that_it_is_public_and_becomes_a_server() {
    for (server, node) in pairs() {
        let autonat = || {
            Some(AutonatConfig {
                boot_delay: Duration::from_millis(100),
                retry: Duration::from_millis(300),
                ..AutonatConfig::default()
            })
        };
        let kad = KadConfig { mode: KadMode::Auto, ..KadConfig::default() };
        let server = NodeConfig { autonat: autonat(), ..config(server, 0) };
        let node = NodeConfig { autonat: autonat(), kad: Some(kad), ..config(node, 1) };
        let server = Node::start(server).await.unwrap();
        let node = Node::start(node).await.unwrap();
        let mut events = node.events();
        let address = server.address().await.unwrap();
        node.autonat_server(server.peer(), address.clone()).await.unwrap();
        node.dial(address).await.unwrap();
        let (mut public, mut serves) = (false, false);
        let what = format!("the verdict of {} on {}", server.version(), node.version());
        Node::wait_for(&mut events, &what, LIMIT, |event| {
            public |= matches!(event, Event::Autonat(AutonatVerdict::Public(_)));
            serves |= *event == Event::KadServer(true);
            (public && serves).then_some(())
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_ping_measures_the_round_trip() {
    for (dialer, listener) in pairs() {
        let ping = Some(Duration::from_millis(100));
        let a = Node::start(NodeConfig { ping, ..config(dialer, 0) }).await.unwrap();
        let b = Node::start(NodeConfig { ping, ..config(listener, 1) }).await.unwrap();
        a.dial(b.address().await.unwrap()).await.unwrap();
        let rtt = a.ping(b.peer(), LIMIT).await.unwrap();
        assert!(rtt > Duration::ZERO && rtt < LIMIT);
    }
}
