//! Two instances shape their links, pick new addresses and measure the round trip over TCP.
//!
//! The plan fails when the round trip is not what the shape says: twice the latency, and at most
//! `tolerance_ms` more.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnetwork::Ipv4Network;
use testground::client::Client;
use testground::network_conf::{
    DEFAULT_DATA_NETWORK, FilterAction, LinkShape, NetworkConfiguration, RoutingPolicyType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PORT: u16 = 1234;
const PINGS: u32 = 3;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::new_and_init().await?;
    match play(&client).await {
        Ok(()) => client.record_success().await?,
        Err(err) => client.record_failure(err.to_string()).await?,
    }
    Ok(())
}

async fn play(client: &Client) -> Result<()> {
    let parameters = Parameters::read(client)?;
    let address = address_of(client, client.global_seq())?;
    configure(client, "first", parameters.latency, Some(address)).await?;

    let mut stream = meet(client, address).await?;
    stream.set_nodelay(true)?;

    let mut measured = vec![(parameters.latency, measure(client, &mut stream, "first").await?)];
    if !parameters.second_latency.is_zero() {
        configure(client, "second", parameters.second_latency, None).await?;
        let second = measure(client, &mut stream, "second").await?;
        measured.push((parameters.second_latency, second));
    }
    // Judged at the end, so that nobody waits for one that has failed.
    measured.into_iter().try_for_each(|(latency, best)| judge(latency, best, parameters.tolerance))
}

struct Parameters {
    latency: Duration,
    second_latency: Duration,
    tolerance: Duration,
}

impl Parameters {
    fn read(client: &Client) -> Result<Self> {
        let given = client.run_parameters().test_instance_params;
        let milliseconds = |name: &str| -> Result<Duration> {
            let text = given.get(name).ok_or_else(|| format!("parameter `{name}` is missing"))?;
            Ok(Duration::from_millis(
                text.parse()
                    .map_err(|_| format!("parameter `{name}` is `{text}`, not a number"))?,
            ))
        };
        Ok(Self {
            latency: milliseconds("latency_ms")?,
            second_latency: milliseconds("second_latency_ms")?,
            tolerance: milliseconds("tolerance_ms")?,
        })
    }
}

/// The address the plan gives to the instance with sequence number `seq`: `X.Y.(seq>>8)+1.(seq&255)`.
fn address_of(client: &Client, seq: u64) -> Result<Ipv4Addr> {
    let IpAddr::V4(network) = client.run_parameters().test_subnet.network() else {
        return Err("the data network is not IPv4".into());
    };
    let [first, second, ..] = network.octets();
    Ok(Ipv4Addr::new(first, second, u8::try_from(seq >> 8)? + 1, (seq & 255) as u8))
}

async fn configure(
    client: &Client,
    step: &str,
    latency: Duration,
    address: Option<Ipv4Addr>,
) -> Result<()> {
    let all = client.run_parameters().test_instance_count;
    let config = NetworkConfiguration {
        network: DEFAULT_DATA_NETWORK.to_owned(),
        ipv4: address.map(|address| Ipv4Network::new(address, 16)).transpose()?,
        ipv6: None,
        enable: true,
        default: LinkShape {
            latency: u64::try_from(latency.as_nanos())?,
            jitter: 0,
            bandwidth: 10 << 20,
            filter: FilterAction::Accept,
            loss: 0.0,
            corrupt: 0.0,
            corrupt_corr: 0.0,
            reorder: 0.0,
            reorder_corr: 0.0,
            duplicate: 0.0,
            duplicate_corr: 0.0,
        },
        rules: None,
        callback_state: format!("network-{step}"),
        callback_target: Some(all),
        routing_policy: RoutingPolicyType::DenyAll,
    };
    Ok(client.configure_network(config).await?)
}

/// Gives the two instances one connection: the first one listens, the other one dials.
async fn meet(client: &Client, own_address: Ipv4Addr) -> Result<TcpStream> {
    let all = client.run_parameters().test_instance_count;
    if client.global_seq() == 1 {
        let listener = TcpListener::bind((own_address, PORT)).await?;
        client.signal_and_wait("listening", all).await?;
        return Ok(listener.accept().await?.0);
    }
    client.signal_and_wait("listening", all).await?;
    Ok(TcpStream::connect((address_of(client, 1)?, PORT)).await?)
}

/// The shortest of a few round trips.
async fn measure(client: &Client, stream: &mut TcpStream, step: &str) -> Result<Duration> {
    let all = client.run_parameters().test_instance_count;
    let mut best = Duration::MAX;
    for ping in 0..PINGS {
        best = best.min(round_trip(stream, client.global_seq() == 1).await?);
        client.signal_and_wait(format!("ping-{step}-{ping}"), all).await?;
    }
    client.record_message(format!("{step}: round trip {:.1} ms", best.as_secs_f64() * 1e3));
    Ok(best)
}

fn judge(latency: Duration, best: Duration, tolerance: Duration) -> Result<()> {
    let (least, most) = (latency * 2, latency * 2 + tolerance);
    if best < least || best > most {
        return Err(format!("a round trip of {best:?} is not within {least:?} and {most:?}").into());
    }
    Ok(())
}

/// Both ends measure, one after the other.
async fn round_trip(stream: &mut TcpStream, first: bool) -> Result<Duration> {
    if first {
        let elapsed = ping(stream).await?;
        pong(stream).await?;
        return Ok(elapsed);
    }
    pong(stream).await?;
    ping(stream).await
}

async fn ping(stream: &mut TcpStream) -> Result<Duration> {
    let start = Instant::now();
    stream.write_all(&[1]).await?;
    stream.read_u8().await?;
    Ok(start.elapsed())
}

async fn pong(stream: &mut TcpStream) -> Result<()> {
    let byte = stream.read_u8().await?;
    Ok(stream.write_all(&[byte]).await?)
}
