//! The worker's end of an instance: asks its init process, and hears what becomes of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use groundswell_common::outcome::Exit;
use nix::libc;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use super::channel::{Failure, FromInit, ToInit, receive, send};
use super::sys::watch as watch_socket;
use super::{Inner, host};
use crate::runtime::cgroup::Leaf;
use crate::runtime::{Instance, LinkState, RuntimeError, Tie};

/// Messages of init are small.
const BUFFER: usize = 16 * 1024;
/// How long the kernel may take to empty a cgroup whose processes have been killed, in steps of 2 ms.
const CGROUP_PATIENCE: u32 = 2_500;

/// What is known of an instance.
#[derive(Debug, Clone, Default)]
struct State {
    exit: Option<Exit>,
    gone: bool,
}

/// What a request gets: the descriptors that come with its answer.
type Reply = oneshot::Sender<Result<Vec<OwnedFd>, Failure>>;

/// The channel to an instance's init process.
#[derive(Debug)]
pub(super) struct Channel {
    socket: AsyncFd<OwnedFd>,
    state: watch::Sender<State>,
    /// Who waits for an answer; answers come in the order of the requests.
    replies: Mutex<VecDeque<Reply>>,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let state = watch::Sender::new(State::default());
        Ok(Self { socket: watch_socket(socket)?, state, replies: Mutex::default() })
    }

    /// The next message and its descriptors. `None` is the end.
    pub(super) async fn receive(&self) -> io::Result<Option<(FromInit, Vec<OwnedFd>)>> {
        let read = |socket: &OwnedFd| receive(socket.as_fd(), &mut vec![0; BUFFER]);
        self.socket.async_io(Interest::READABLE, read).await
    }

    /// Hears what becomes of the instance, to its end.
    pub(super) async fn follow(self: Arc<Self>) {
        while let Ok(Some((message, descriptors))) = self.receive().await {
            match message {
                FromInit::Done(done) => {
                    let waiting =
                        self.replies.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    if let Some(waiting) = waiting {
                        // Who asked may have stopped waiting.
                        let _stopped = waiting.send(done.map(|()| descriptors));
                    }
                }
                FromInit::Exited(exit) => self.state.send_modify(|state| state.exit = Some(exit)),
                FromInit::Ready { .. } | FromInit::Failed(_) | FromInit::Attached { .. } => {}
            }
        }
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.state.send_modify(|state| {
            let killed =
                || Exit { signal: Some(libc::SIGKILL), from_outside: true, ..Exit::default() };
            state.exit.get_or_insert_with(killed);
            state.gone = true;
        });
    }

    /// Takes the place of an earlier life of the worker. Returns whether the instance was let go in it.
    pub(super) async fn attach(&self) -> Result<bool, RuntimeError> {
        let doing = "attach to the instance";
        self.tell(&ToInit::Attach).map_err(|err| host(doing, err))?;
        loop {
            let heard = self.receive().await.map_err(|err| host(doing, err))?;
            let gone = || host(doing, io::Error::other("its first process has ended"));
            // What comes before was meant for the earlier life.
            if let (FromInit::Attached { started, exit }, _) = heard.ok_or_else(gone)? {
                self.state.send_modify(|state| state.exit = exit);
                return Ok(started);
            }
        }
    }

    /// Asks without waiting for an answer. Small messages always fit into the socket.
    fn tell(&self, request: &ToInit) -> io::Result<()> {
        send(self.socket.get_ref().as_fd(), request, &[])
    }

    async fn ask(&self, request: &ToInit, doing: &str) -> Result<Vec<OwnedFd>, RuntimeError> {
        let (reply, answer) = oneshot::channel();
        {
            // One lock over both, so that answers and those who wait for them are in the same order.
            let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
            self.tell(request).map_err(|err| host(doing, err))?;
            replies.push_back(reply);
        }
        match answer.await {
            Ok(done) => done.map_err(RuntimeError::from),
            Err(_) => Err(host(doing, io::Error::other("the instance has ended"))),
        }
    }

    /// Ends the instance: init ends when its channel does.
    fn hang_up(&self) {
        // It may have ended already.
        let _ended = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }
}

/// An instance made of namespaces.
pub(super) struct NetnsInstance {
    channel: Arc<Channel>,
    leaf: Leaf,
    /// Whether an earlier life of the worker has let it go.
    started: bool,
    /// Keeps the spawner.
    _runtime: Arc<Inner>,
}

impl NetnsInstance {
    pub(super) fn new(
        channel: Arc<Channel>,
        leaf: Leaf,
        started: bool,
        runtime: Arc<Inner>,
    ) -> Self {
        Self { channel, leaf, started, _runtime: runtime }
    }
}

impl Drop for NetnsInstance {
    fn drop(&mut self) {
        self.channel.hang_up();
    }
}

#[async_trait]
impl Instance for NetnsInstance {
    async fn start(&self) -> Result<(), RuntimeError> {
        if self.started {
            return Ok(());
        }
        self.channel.ask(&ToInit::Start, "start the instance").await.map(drop)
    }

    async fn again(&self, incarnation: u32) -> Result<(), RuntimeError> {
        // Its end was heard before anybody could ask for this, and the next one is heard after the answer.
        self.channel.state.send_modify(|state| state.exit = None);
        let request = ToInit::Again { incarnation };
        self.channel.ask(&request, "start the instance again").await.map(drop)
    }

    async fn pause(&self) {
        let _ended = self.channel.tell(&ToInit::Pause);
    }

    async fn resume(&self) {
        let _ended = self.channel.tell(&ToInit::Resume);
    }

    async fn part(&self) {
        let _ended = self.channel.tell(&ToInit::Part);
    }

    async fn wait(&self) -> Exit {
        let mut state = self.channel.state.subscribe();
        let ended = state.wait_for(|state| state.exit.is_some()).await;
        ended.ok().and_then(|state| state.exit.clone()).unwrap_or_default()
    }

    async fn terminate(&self) {
        // An instance that has ended cannot be asked to.
        let _ended = self.channel.tell(&ToInit::Terminate);
    }

    async fn kill(&self) {
        let _ended = self.channel.tell(&ToInit::Kill);
    }

    async fn set_link(&self, link: LinkState) -> Result<(), RuntimeError> {
        let LinkState { up, address, prefix } = link;
        let request = ToInit::SetLink { up, address, prefix };
        self.channel.ask(&request, "set the data interface").await.map(drop)
    }

    async fn socket(&self) -> Result<OwnedFd, RuntimeError> {
        let doing = "make a socket in the instance";
        let socket = self.channel.ask(&ToInit::Socket, doing).await?.pop();
        socket.ok_or_else(|| host(doing, io::ErrorKind::InvalidData.into()))
    }

    fn tie(&self) -> Option<Tie<'_>> {
        let descriptor = self.channel.socket.get_ref().as_fd();
        Some(Tie { descriptor, note: Vec::new(), container: None })
    }

    async fn remove(&self) -> Result<(), RuntimeError> {
        self.kill().await;
        // One that is gone has left.
        let _gone = self.channel.tell(&ToInit::Leave);
        let mut state = self.channel.state.subscribe();
        // An error means that the channel is gone, and the instance with it.
        drop(state.wait_for(|state| state.gone).await);
        let mut removed = self.leaf.remove();
        for _ in 0..CGROUP_PATIENCE {
            if removed.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            removed = self.leaf.remove();
        }
        removed.map_err(|err| host("remove the instance's cgroup", err))
    }
}
