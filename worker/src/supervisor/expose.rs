//! Passes connections to a port of this worker on to a port inside an instance, at its loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections to one port at a time; more wait.
const CONNECTIONS: usize = 64;
/// How long an instance may take to accept; at loopback a port is open or it is not.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted, because there are too many descriptors for example.
const BREATH: Duration = Duration::from_millis(100);

/// Listens on a free port of `here`. Connections go to `port` in the network namespace that `inside` is a socket
/// of, until `end`.
///
/// # Errors
/// When the namespace is not to be had or no port is free.
pub(super) async fn listen(
    here: IpAddr,
    inside: OwnedFd,
    port: u16,
    end: CancellationToken,
) -> io::Result<(SocketAddr, impl Future<Output = ()>)> {
    let namespace = Arc::new(namespace(inside.as_fd())?);
    let listener = TcpListener::bind((here, 0)).await?;
    Ok((listener.local_addr()?, serve(listener, namespace, port, end)))
}

async fn serve(listener: TcpListener, namespace: Arc<OwnedFd>, port: u16, end: CancellationToken) {
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
        let namespace = Arc::clone(&namespace);
        connections.spawn(async move {
            let _slot = slot;
            if let Err(err) = carry(outside, namespace, port).await {
                debug!(error = %err, port, "a connection to an exposed port ended");
            }
        });
    }
}

async fn carry(mut outside: TcpStream, namespace: Arc<OwnedFd>, port: u16) -> io::Result<()> {
    let dialed = tokio::task::spawn_blocking(move || dial(namespace.as_fd(), port)).await;
    let mut inside = TcpStream::from_std(dialed.map_err(io::Error::other)??)?;
    copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}

/// Connects from within a namespace, on a thread that ends there.
fn dial(namespace: BorrowedFd<'_>, port: u16) -> io::Result<std::net::TcpStream> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let stream = std::net::TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the dialing thread panicked")))
    })
}

/// The network namespace a socket is of.
#[expect(unsafe_code, reason = "SIOCGSKNS has no safe wrapper")]
fn namespace(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: the descriptor is open for as long as it is borrowed here; the call takes nothing else.
    let namespace = Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) })?;
    // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}
