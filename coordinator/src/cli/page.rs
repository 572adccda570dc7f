//! The web page and the HTTP API beside a coordinator.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use groundswell_common::bus::Bus;
use groundswell_common::objects::Objects;
use groundswell_coordinator::http::{self, HttpParts};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::exit::Exit;
use super::{Session, Trouble};

/// Where it is when nothing is said and nobody else is there.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7600);
/// How long answers that are under way may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where the web page is served.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Listen {
    /// Address of the web page and the HTTP API, or `off`; 127.0.0.1:7600 otherwise, or a free port if that is taken
    #[arg(long, value_name = "ADDR", env = "GROUNDSWELL_LISTEN")]
    listen: Option<String>,
    /// Another name under which browsers reach it when its address is a loopback one
    #[arg(long, value_name = "NAME")]
    listen_name: Option<String>,
}

/// The page while it is served.
pub(crate) struct Page {
    /// Where it is.
    pub(crate) url: String,
    shutdown: CancellationToken,
    server: JoinSet<std::io::Result<()>>,
}

impl Page {
    /// Serves the page, if it is wanted.
    pub(crate) async fn start(
        session: &Session,
        listen: &Listen,
        bus: Bus,
        objects: Objects,
    ) -> Result<Option<Self>, Trouble> {
        let listener = match listen.listen.as_deref() {
            Some("off") => return Ok(None),
            Some(address) => TcpListener::bind(address).await.map_err(|err| (address, err)),
            None => usual().await.map_err(|err| ("127.0.0.1", err)),
        };
        let listener = listener.map_err(|(address, err)| {
            let message = format!("the web page cannot be served on {address}: {err}");
            Trouble::new(Exit::Usage, message, "choose another one with --listen, or --listen off")
        })?;
        let address =
            listener.local_addr().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
        if !address.ip().is_loopback() {
            session.out.warning(
                "the web page speaks HTTP without TLS on an address that others reach; put a proxy with TLS before \
                 it, and let `[tokens]` of the configuration decide who may do what",
            );
        }
        let url = format!("http://{address}/");
        let shutdown = CancellationToken::new();
        let parts = HttpParts { bus, objects, name: listen.listen_name.clone() };
        let mut server = JoinSet::new();
        server.spawn(http::serve(listener, parts, shutdown.clone()));
        session.out.note(format_args!("the web page: {url}"));
        Ok(Some(Self { url, shutdown, server }))
    }

    /// Ends all streams and waits a moment for other answers.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let _ = timeout(LAST_WORDS, self.server.join_next()).await;
    }
}

async fn usual() -> std::io::Result<TcpListener> {
    match TcpListener::bind(USUAL).await {
        Err(err) if err.kind() == ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        }
        bound => bound,
    }
}
