//! Instances ask for the Internet, or ask to be kept from it, and try to fetch something there.

use std::error::Error;
use std::time::{Duration, Instant};

use testground::client::Client;
use testground::network_conf::{
    DEFAULT_DATA_NETWORK, FilterAction, LinkShape, NetworkConfiguration, RoutingPolicyType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a fetch may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is not allowed is refused, and does not take until somebody loses patience.
const AT_ONCE: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::new_and_init().await?;
    match traffic(&client).await {
        Ok(()) => client.record_success().await?,
        Err(err) => client.record_failure(err.to_string()).await?,
    }
    Ok(())
}

async fn traffic(client: &Client) -> Result<()> {
    let parameters = client.run_parameters();
    let url = parameters.test_instance_params.get("url").ok_or("parameter `url` is missing")?;
    // Nobody has asked for anything yet.
    blocked(url).await?;
    if parameters.test_case == "traffic-blocked" {
        configure(client, "blocked", RoutingPolicyType::DenyAll).await?;
        return blocked(url).await;
    }
    configure(client, "allowed", RoutingPolicyType::AllowAll).await?;
    let length = timeout(PATIENCE, fetch(url)).await??;
    client.record_message(format!("{length} bytes from {url}"));
    configure(client, "blocked", RoutingPolicyType::DenyAll).await?;
    blocked(url).await
}

async fn blocked(url: &str) -> Result<()> {
    let start = Instant::now();
    match timeout(AT_ONCE, fetch(url)).await {
        Err(_) => Err(format!("{url} is not refused within {AT_ONCE:?}").into()),
        Ok(Ok(_)) => Err(format!("{url} is fetched, although that is not allowed").into()),
        Ok(Err(err)) => {
            println!("refused after {:?}: {err}", start.elapsed());
            Ok(())
        }
    }
}

async fn configure(client: &Client, step: &str, routing_policy: RoutingPolicyType) -> Result<()> {
    let config = NetworkConfiguration {
        network: DEFAULT_DATA_NETWORK.to_owned(),
        ipv4: None,
        ipv6: None,
        enable: true,
        default: LinkShape {
            latency: 0,
            jitter: 0,
            bandwidth: 0,
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
        callback_state: format!("traffic-{step}"),
        callback_target: Some(client.run_parameters().test_instance_count),
        routing_policy,
    };
    Ok(client.configure_network(config).await?)
}

/// Fetches a page by HTTP and returns how long its answer is.
async fn fetch(url: &str) -> Result<usize> {
    let rest = url.strip_prefix("http://").ok_or("only http is fetched")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let server = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let ok = answer.starts_with(b"HTTP/1.") && answer.get(9) == Some(&b'2');
    if ok { Ok(answer.len()) } else { Err("the answer is not a page".into()) }
}
