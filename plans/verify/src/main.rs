//! Instances tell each other all their addresses, and reach each other by those of the data network alone.

use std::borrow::Cow;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};
use testground::client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PORT: u16 = 8765;
const PATIENCE: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::new_and_init().await?;
    match verify(&client).await {
        Ok(()) => client.record_success().await?,
        Err(err) => client.record_failure(err.to_string()).await?,
    }
    Ok(())
}

async fn verify(client: &Client) -> Result<()> {
    let parameters = client.run_parameters();
    let all = parameters.test_instance_count;
    let data = parameters.data_network_ip()?.ok_or("no address on the data network")?;
    let interfaces = if_addrs::get_if_addrs()?;
    let own = interfaces.iter().find(|interface| interface.ip() == data);
    let own = own.ok_or("no interface has the address on the data network")?.name.clone();
    // What its interface has in IPv6 is the same address written in another way.
    let is_beside = |one: &&if_addrs::Interface| {
        let address = one.ip();
        !one.is_loopback() && address != data && !(one.name == own && address.is_ipv6())
    };
    let beside: Vec<IpAddr> =
        interfaces.iter().filter(is_beside).map(if_addrs::Interface::ip).collect();
    tokio::spawn(answer(listen().await?, data));
    let peers = meet(client, data, &beside, all).await?;

    let mut wrong = Vec::new();
    for peer in peers.iter().filter(|peer| peer.data != data) {
        if hello(peer.data).await != Some(peer.data) {
            wrong.push(format!("{} is not reached on the data network", peer.data));
        }
    }
    let others: Vec<IpAddr> = peers.iter().flat_map(|peer| peer.beside.iter().copied()).collect();
    for (address, heard) in others.iter().zip(join_all(others.iter().map(|one| hello(*one))).await)
    {
        if heard.is_some_and(|other| other != data) {
            wrong.push(format!("{address} is reached beside the data network"));
        }
    }
    // Nobody stops to answer before all have asked.
    client.signal_and_wait("asked", all).await?;
    if wrong.is_empty() {
        return Ok(());
    }
    Err(wrong.join("; ").into())
}

/// The addresses of an instance.
struct Peer {
    data: IpAddr,
    /// Those that do not belong to the data network.
    beside: Vec<IpAddr>,
}

/// Listens on all addresses of both versions; on a host without IPv6 on those it has.
async fn listen() -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await,
    }
}

/// Tells everyone where it is, and hears where the others are.
async fn meet(client: &Client, data: IpAddr, beside: &[IpAddr], all: u64) -> Result<Vec<Peer>> {
    let texts: Vec<String> = beside.iter().map(ToString::to_string).collect();
    let mine = json!({ "data": data.to_string(), "beside": texts });
    client.publish("peers", Cow::Owned(mine)).await?;
    let mut stream = client.subscribe("peers", u16::MAX.into()).await;
    let mut peers = Vec::new();
    while (peers.len() as u64) < all {
        let item = stream.next().await.ok_or("the subscription ended early")??;
        let address = |value: &Value| -> Result<IpAddr> {
            Ok(value.as_str().ok_or("an address is no text")?.parse()?)
        };
        let listed = item["beside"].as_array().ok_or("a peer without addresses")?;
        let beside = listed.iter().map(address).collect::<Result<_>>()?;
        peers.push(Peer { data: address(&item["data"])?, beside });
    }
    Ok(peers)
}

/// Says to everyone who asks which address it has on the data network.
async fn answer(listener: TcpListener, data: IpAddr) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move { stream.write_all(data.to_string().as_bytes()).await });
    }
}

async fn hello(address: IpAddr) -> Option<IpAddr> {
    let asked = async {
        let mut stream = TcpStream::connect(SocketAddr::from((address, PORT))).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    timeout(PATIENCE, asked).await.ok()?.ok()?.parse().ok()
}
