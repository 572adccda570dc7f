//! Three regions. The first one filters its packets to the second; everyone dials everyone and compares what
//! happens with what the filter says.

use std::borrow::Cow;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use ipnetwork::IpNetwork;
use serde_json::json;
use testground::client::Client;
use testground::network_conf::{
    DEFAULT_DATA_NETWORK, FilterAction, LinkRule, LinkShape, NetworkConfiguration,
    RoutingPolicyType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PORT: u16 = 8765;
/// A dropped packet is never answered, so a dial that takes so long has met a drop.
const PATIENCE: Duration = Duration::from_secs(3);
/// A rejection is an answer.
const AT_ONCE: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    seq: u64,
    address: Ipv4Addr,
}

impl Peer {
    fn region(self) -> u64 {
        self.seq % 3
    }

    /// Whether a filter lies between the two, in one direction or the other.
    fn is_split_from(self, other: Self) -> bool {
        self.region() + other.region() == 1
    }
}

/// What became of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialed {
    Reached,
    RefusedAtOnce,
    Silence,
}

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::new_and_init().await?;
    match split(&client).await {
        Ok(()) => client.record_success().await?,
        Err(err) => client.record_failure(err.to_string()).await?,
    }
    Ok(())
}

async fn split(client: &Client) -> Result<()> {
    let parameters = client.run_parameters();
    let all = parameters.test_instance_count;
    let Some(IpAddr::V4(address)) = parameters.data_network_ip()? else {
        return Err("no IPv4 address on the data network".into());
    };
    let me = Peer { seq: client.global_seq(), address };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    tokio::spawn(answer(listener));
    let peers = meet(client, me, all).await?;

    let case = parameters.test_case.as_str();
    let filter = || match case {
        "reject" => FilterAction::Reject,
        "drop" => FilterAction::Drop,
        _ => FilterAction::Accept,
    };
    let filtered: Vec<Peer> =
        peers.iter().copied().filter(|peer| me.region() == 0 && peer.region() == 1).collect();
    configure(client, me, &filtered, filter).await?;
    client.signal_and_wait("configured", all).await?;

    let others: Vec<Peer> = peers.iter().copied().filter(|peer| *peer != me).collect();
    let dials = join_all(others.iter().map(|peer| dial(*peer))).await;
    // Nobody stops to answer before all have asked.
    client.signal_and_wait("dialed", all).await?;
    let mut wrong = Vec::new();
    for (peer, dialed) in others.iter().zip(dials) {
        let split = case != "accept" && me.is_split_from(*peer);
        let right = match (split, me.region(), case) {
            (false, ..) => dialed == Dialed::Reached,
            (true, 0, "reject") => dialed == Dialed::RefusedAtOnce,
            (true, ..) => dialed == Dialed::Silence,
        };
        if !right {
            let (from, to) = (me.region(), peer.region());
            wrong.push(format!("region {from} to region {to} ({}): {dialed:?}", peer.address));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(wrong.join("; ").into())
}

/// Tells everyone who it is, and hears who the others are.
async fn meet(client: &Client, me: Peer, all: u64) -> Result<Vec<Peer>> {
    let mine = json!({ "seq": me.seq, "address": me.address.to_string() });
    client.publish("peers", Cow::Owned(mine)).await?;
    let mut stream = client.subscribe("peers", u16::MAX.into()).await;
    let mut peers = Vec::new();
    while (peers.len() as u64) < all {
        let item = stream.next().await.ok_or("the subscription ended early")??;
        let seq = item["seq"].as_u64().ok_or("a peer without a number")?;
        let address = item["address"].as_str().ok_or("a peer without an address")?.parse()?;
        peers.push(Peer { seq, address });
    }
    Ok(peers)
}

async fn configure(
    client: &Client,
    me: Peer,
    filtered: &[Peer],
    filter: impl Fn() -> FilterAction,
) -> Result<()> {
    let rules = filtered
        .iter()
        .map(|peer| LinkRule {
            link_shape: shape(filter()),
            subnet: IpNetwork::from(IpAddr::V4(peer.address)),
        })
        .collect();
    let config = NetworkConfiguration {
        network: DEFAULT_DATA_NETWORK.to_owned(),
        ipv4: None,
        ipv6: None,
        enable: true,
        default: shape(FilterAction::Accept),
        rules: Some(rules),
        callback_state: format!("reconfigured-{}", me.seq),
        callback_target: Some(1),
        routing_policy: RoutingPolicyType::DenyAll,
    };
    Ok(client.configure_network(config).await?)
}

fn shape(filter: FilterAction) -> LinkShape {
    LinkShape {
        latency: 0,
        jitter: 0,
        bandwidth: 0,
        filter,
        loss: 0.0,
        corrupt: 0.0,
        corrupt_corr: 0.0,
        reorder: 0.0,
        reorder_corr: 0.0,
        duplicate: 0.0,
        duplicate_corr: 0.0,
    }
}

async fn answer(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move { stream.write_all(b"hello").await });
    }
}

async fn dial(peer: Peer) -> Dialed {
    let start = Instant::now();
    let greeting = async {
        let mut stream = TcpStream::connect((peer.address, PORT)).await?;
        let mut words = [0; 5];
        stream.read_exact(&mut words).await
    };
    match timeout(PATIENCE, greeting).await {
        Ok(Ok(_)) => Dialed::Reached,
        Ok(Err(_)) if start.elapsed() < AT_ONCE => Dialed::RefusedAtOnce,
        Ok(Err(_)) | Err(_) => Dialed::Silence,
    }
}
