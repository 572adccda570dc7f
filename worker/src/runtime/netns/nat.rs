//! Routers in a process of their own: a fork of the spawner, which may have network namespaces also without root.
//!
//! The process keeps the routers of one address for as long as its channel is open. It ends with the spawner, too.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};

use async_trait::async_trait;
use groundswell_common::nat::NatKind;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use super::channel::{Doing as _, Failure, ToNat, receive, send};
use super::host;
use super::sys::{close_all_but, watch};
use crate::network::nat::{NatError, Tree, TreeSpec};
use crate::runtime::{Nat, RuntimeError};

/// Messages are small.
const BUFFER: usize = 4096;

/// Is the process.
pub(super) fn keep(channel: &OwnedFd, spec: &TreeSpec) -> Result<(), Failure> {
    set_pdeathsig(Signal::SIGKILL).doing("tie a NAT to the spawner")?;
    close_all_but(channel.as_fd()).doing("close the spawner's descriptors")?;
    let answer = |done: Result<(), NatError>, fds: &[RawFd]| {
        let done = done.map_err(|err| failure(&err));
        send(channel.as_fd(), &done, fds).doing("answer the worker")
    };
    let (mut tree, device) = match Tree::new(spec) {
        Ok(made) => made,
        Err(err) => return answer(Err(err), &[]),
    };
    answer(Ok(()), &[device.as_raw_fd()])?;
    drop(device);
    let mut buffer = vec![0; BUFFER];
    while let Some((asked, namespaces)) =
        receive(channel.as_fd(), &mut buffer).doing("hear from the worker")?
    {
        let done = match asked {
            ToNat::Join { member } => {
                namespaces.iter().try_for_each(|namespace| tree.join(member, namespace.as_fd()))
            }
            ToNat::Rebind => tree.rebind(),
            ToNat::Become { kind } => tree.become_kind(kind),
            ToNat::Readdress { address } => tree.readdress(address),
        };
        answer(done, &[])?;
    }
    Ok(())
}

fn failure(err: &NatError) -> Failure {
    let source = groundswell_common::chain::Chain(err).to_string();
    match err {
        NatError::Refused(_) => Failure::plan(source),
        NatError::NoProgram
        | NatError::Ruleset { .. }
        | NatError::Empty
        | NatError::Host { .. } => {
            Failure { plan: false, doing: "put instances behind a NAT".to_owned(), source }
        }
    }
}

/// The worker's end of such a process.
pub(super) struct Kept {
    /// One question at a time, until it is answered.
    socket: Mutex<AsyncFd<OwnedFd>>,
}

impl Kept {
    /// Waits until the routers are made. Returns their device as well.
    pub(super) async fn made(socket: OwnedFd) -> Result<(Self, OwnedFd), RuntimeError> {
        let socket = watch(socket).map_err(|err| host("watch a NAT", err))?;
        let device = hear(&socket).await?.pop();
        let none = || host("make a NAT", io::Error::other("too few descriptors can be open"));
        Ok((Self { socket: Mutex::new(socket) }, device.ok_or_else(none)?))
    }

    async fn ask(&self, what: ToNat, namespace: Option<OwnedFd>) -> Result<(), RuntimeError> {
        let socket = self.socket.lock().await;
        let fds: Vec<RawFd> = namespace.iter().map(|one| one.as_raw_fd()).collect();
        let sent = send(socket.get_ref().as_fd(), &what, &fds);
        sent.map_err(|err| host("reach a NAT", err))?;
        hear(&socket).await.map(drop)
    }
}

async fn hear(socket: &AsyncFd<OwnedFd>) -> Result<Vec<OwnedFd>, RuntimeError> {
    let read = |socket: &OwnedFd| receive(socket.as_fd(), &mut vec![0; BUFFER]);
    let heard = socket.async_io(Interest::READABLE, read).await;
    let heard = heard.map_err(|err| host("hear from a NAT", err))?;
    let ended = || host("hear from a NAT", io::Error::other("its process has ended"));
    let (done, fds): (Result<(), Failure>, _) = heard.ok_or_else(ended)?;
    done.map(|()| fds).map_err(RuntimeError::from)
}

#[async_trait]
impl Nat for Kept {
    async fn join(&self, member: u32, namespace: OwnedFd) -> Result<(), RuntimeError> {
        self.ask(ToNat::Join { member }, Some(namespace)).await
    }

    async fn rebind(&self) -> Result<(), RuntimeError> {
        self.ask(ToNat::Rebind, None).await
    }

    async fn become_kind(&self, kind: Option<NatKind>) -> Result<(), RuntimeError> {
        self.ask(ToNat::Become { kind }, None).await
    }

    async fn readdress(&self, address: Ipv4Addr) -> Result<(), RuntimeError> {
        self.ask(ToNat::Readdress { address }, None).await
    }

    async fn close(&self) {
        let socket = self.socket.lock().await;
        // Its process ends when it has nobody to listen to; then its end of the channel closes.
        let _ended = shutdown(socket.as_raw_fd(), Shutdown::Write);
        while hear(&socket).await.is_ok() {}
    }
}
