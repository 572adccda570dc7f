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
use crate::runtime::{Instance, LinkState, RuntimeError};

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

type Reply = oneshot::Sender<Result<(), Failure>>;

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
        while let Ok(Some((message, _))) = self.receive().await {
            match message {
                FromInit::Done(done) => {
                    let waiting =
                        self.replies.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    if let Some(waiting) = waiting {
                        // Who asked may have stopped waiting.
                        let _stopped = waiting.send(done);
                    }
                }
                FromInit::Exited(exit) => self.state.send_modify(|state| state.exit = Some(exit)),
                FromInit::Ready { .. } | FromInit::Failed(_) => {}
            }
        }
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.state.send_modify(|state| {
            let killed = || Exit { signal: Some(libc::SIGKILL), ..Exit::default() };
            state.exit.get_or_insert_with(killed);
            state.gone = true;
        });
    }

    /// Asks without waiting for an answer. Small messages always fit into the socket.
    fn tell(&self, request: &ToInit) -> io::Result<()> {
        send(self.socket.get_ref().as_fd(), request, &[])
    }

    async fn ask(&self, request: &ToInit, doing: &str) -> Result<(), RuntimeError> {
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
    pub(super) channel: Arc<Channel>,
    pub(super) leaf: Leaf,
    /// Keeps the spawner.
    pub(super) _runtime: Arc<Inner>,
}

impl Drop for NetnsInstance {
    fn drop(&mut self) {
        self.channel.hang_up();
    }
}

#[async_trait]
impl Instance for NetnsInstance {
    async fn start(&self) -> Result<(), RuntimeError> {
        self.channel.ask(&ToInit::Start, "start the instance").await
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
        self.channel.ask(&ToInit::SetLink { up, address, prefix }, "set the data interface").await
    }

    async fn remove(&self) -> Result<(), RuntimeError> {
        self.kill().await;
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
