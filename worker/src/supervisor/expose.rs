//! Passes connections to a port of this worker on to a port inside an instance, at its loopback.
//!
//! A socket belongs to the network namespace it was made in, whoever connects it. So the instance's runtime makes
//! it, and the worker need not enter the namespace, which without root it may not.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::runtime::Instance;

/// Connections to one port at a time; more wait.
const CONNECTIONS: usize = 64;
/// How long an instance may take to accept; at loopback a port is open or it is not.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted, because there are too many descriptors for example.
const BREATH: Duration = Duration::from_millis(100);

/// Listens on a free port of `here`. Connections go to `port` of `instance`, until `end`.
///
/// # Errors
/// When no port is free.
pub(super) async fn listen(
    here: IpAddr,
    instance: Arc<dyn Instance>,
    port: u16,
    end: CancellationToken,
) -> io::Result<(SocketAddr, impl Future<Output = ()>)> {
    let listener = TcpListener::bind((here, 0)).await?;
    Ok((listener.local_addr()?, serve(listener, instance, port, end)))
}

async fn serve(
    listener: TcpListener,
    instance: Arc<dyn Instance>,
    port: u16,
    end: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accept = async {
            let slot = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            () = end.cancelled() => return,
            accepted = accept => accepted,
        };
        let Ok((outside, _)) = accepted else {
            sleep(BREATH).await;
            continue;
        };
        let instance = Arc::clone(&instance);
        connections.spawn(async move {
            let _slot = slot;
            if let Err(err) = carry(outside, instance.as_ref(), port).await {
                debug!(error = %err, port, "a connection to an exposed port ended");
            }
        });
    }
}

async fn carry(mut outside: TcpStream, instance: &dyn Instance, port: u16) -> io::Result<()> {
    let socket = instance.socket().await.map_err(io::Error::other)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let dialed = timeout(PATIENCE, socket.connect((Ipv4Addr::LOCALHOST, port).into())).await;
    let mut inside = dialed??;
    copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}
