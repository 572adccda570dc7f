//! Instances ask for the Internet, or ask to be kept from it, and try to fetch something there.

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testground::client::Client;
use testground::network_conf::{
    DEFAULT_DATA_NETWORK, FilterAction, LinkShape, NetworkConfiguration, RoutingPolicyType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
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
    let page = Page::of(url)?;
    // Nobody has asked for anything yet.
    page.is_out_of_reach().await?;
    if parameters.test_case == "traffic-blocked" {
        configure(client, "blocked", RoutingPolicyType::DenyAll).await?;
        return page.is_out_of_reach().await;
    }
    configure(client, "allowed", RoutingPolicyType::AllowAll).await?;
    let (address, length) = timeout(PATIENCE, page.fetch()).await??;
    client.record_message(format!("{length} bytes from {url}"));
    configure(client, "blocked", RoutingPolicyType::DenyAll).await?;
    page.is_out_of_reach().await?;
    // Also for who knows where it is.
    blocked(address).await
}

/// Connects, which has to be refused because it is not allowed, and for no other reason.
async fn blocked(address: SocketAddr) -> Result<()> {
    let start = Instant::now();
    match timeout(AT_ONCE, TcpStream::connect(address)).await {
        Err(_) => Err(format!("{address} is not refused within {AT_ONCE:?}").into()),
        Ok(Ok(_)) => Err(format!("{address} is reached, although that is not allowed").into()),
        Ok(Err(err)) if says_prohibited(err.kind()) => {
            println!("{address} refused after {:?}: {err}", start.elapsed());
            Ok(())
        }
        Ok(Err(err)) => Err(format!("{address} is not kept away, but fails: {err}").into()),
    }
}

/// Whether an error is what a network says that lets nothing pass. A host that refuses by itself has been reached.
fn says_prohibited(kind: ErrorKind) -> bool {
    use ErrorKind::{HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut};
    matches!(kind, HostUnreachable | NetworkUnreachable | PermissionDenied | TimedOut)
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

/// What is fetched.
struct Page<'a> {
    /// As the request names it.
    host: &'a str,
    /// Host and port.
    server: String,
    path: &'a str,
}

impl<'a> Page<'a> {
    fn of(url: &'a str) -> Result<Self> {
        let rest = url.strip_prefix("http://").ok_or("only http is fetched")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let server = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        Ok(Self { host, server, path })
    }

    /// Looks it up, which has to lead nowhere: names outside are for who may reach them. Where it leads somewhere
    /// all the same, as a bare address does, nothing may be there.
    async fn is_out_of_reach(&self) -> Result<()> {
        let found = match timeout(AT_ONCE, lookup_host(&self.server)).await {
            Err(_) => return Err(format!("{} is not refused within {AT_ONCE:?}", self.host).into()),
            Ok(Err(err)) => {
                println!("{} has no address: {err}", self.host);
                return Ok(());
            }
            Ok(Ok(found)) => found,
        };
        for address in found {
            blocked(address).await?;
        }
        Ok(())
    }

    /// Fetches it by HTTP and returns where it is and how long the answer.
    async fn fetch(&self) -> Result<(SocketAddr, usize)> {
        let mut stream = TcpStream::connect(&self.server).await?;
        let address = stream.peer_addr()?;
        let request = format!("GET /{} HTTP/1.0\r\nHost: {}\r\n\r\n", self.path, self.host);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let ok = answer.starts_with(b"HTTP/1.") && answer.get(9) == Some(&b'2');
        if ok { Ok((address, answer.len())) } else { Err("the answer is not a page".into()) }
    }
}
