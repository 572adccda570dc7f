//! Answers instances that ask for names, on 127.0.0.11 in each one's own namespace.
//!
//! Who asks is known by the socket. One task watches the sockets of all instances of a share through one epoll, so
//! that an instance costs two sockets and nothing else; a question that has to be passed on, or that comes over a
//! stream, gets a task for as long as it takes.
//!
//! ```text
//! directory   which names there are          pure
//! message     questions and answers          pure
//! upstream    this host's own resolvers
//! ```
//!
//! Names of the run are known to everyone. Others are passed on for instances that may reach the Internet at that
//! moment; for all others there are none.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::ids::{InstanceId, RunId};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::directory::{Directory, Meaning};
use self::message::{Answer, Question};
use crate::network::Network;
use crate::network::wire::NameSockets;

pub mod directory;
mod message;
pub mod upstream;

/// Instances whose sockets wait to be served.
const NEW: usize = 64;
/// Questions and streams that are worked on at the same time.
const AT_ONCE: usize = 256;
/// Sockets looked at per round, and questions of one socket before the others have their turn.
const EVENTS: usize = 64;
const BATCH: usize = 16;
/// How long a stream may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// The pause after a stream could not be accepted, because there are too many descriptors for example.
const BREATH: Duration = Duration::from_millis(20);
/// The longest question in a datagram.
const LONGEST: usize = 4096;

/// Answers the instances of one share.
#[derive(Debug, Clone)]
pub struct Names {
    new: mpsc::Sender<(InstanceId, NameSockets)>,
}

/// What every answer needs.
pub struct Known {
    /// The run.
    pub run: RunId,
    /// Its names.
    pub directory: Directory,
    /// Who is where, and may reach what.
    pub network: Arc<dyn Network>,
    /// Who is asked for all other names.
    pub upstream: Vec<SocketAddr>,
}

impl Names {
    /// The handle, and the task that serves until `end`.
    ///
    /// # Errors
    /// When this host gives no descriptor for it.
    pub fn new(
        known: Known,
        end: CancellationToken,
    ) -> io::Result<(Self, impl Future<Output = ()>)> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (new, sockets) = mpsc::channel(NEW);
        let server = Server {
            known: Arc::new(known),
            epoll: watch(epoll)?,
            served: HashMap::new(),
            named: 0,
            room: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: JoinSet::new(),
        };
        Ok((Self { new }, server.run(sockets, end)))
    }

    /// Serves an instance.
    pub async fn serve(&self, instance: InstanceId, sockets: NameSockets) {
        // Nobody asks any more when the task has ended.
        let _ = self.new.send((instance, sockets)).await;
    }
}

/// An epoll that tokio can wait for.
#[derive(Debug)]
struct Watch(Epoll);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// Has the async runtime watch an epoll.
#[expect(unsafe_code, reason = "what is watched must stay open")]
fn watch(epoll: Epoll) -> io::Result<AsyncFd<Watch>> {
    // SAFETY: the epoll owns its descriptor for as long as it lives, and nothing closes or replaces it in there.
    Ok(unsafe { AsyncFd::register(Watch(epoll)) }?)
}

/// A socket of an instance.
enum Socket {
    Datagrams(Arc<UdpSocket>),
    Streams(TcpListener),
}

struct Server {
    known: Arc<Known>,
    epoll: AsyncFd<Watch>,
    served: HashMap<u64, (InstanceId, Socket)>,
    /// Names given to sockets so far. Instances behind one NAT are asked about by the same number.
    named: u64,
    room: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Server {
    async fn run(
        mut self,
        mut new: mpsc::Receiver<(InstanceId, NameSockets)>,
        end: CancellationToken,
    ) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        loop {
            while self.tasks.try_join_next().is_some() {}
            tokio::select! {
                () = end.cancelled() => return,
                Some((instance, sockets)) = new.recv() => {
                    if let Err(err) = self.add(instance, sockets) {
                        warn!(error = %err, instance = %instance, "names are not answered");
                    }
                }
                ready = self.epoll.readable() => {
                    let Ok(mut ready) = ready else { return };
                    let count = ready.get_inner().0.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
                    if count == 0 {
                        ready.clear_ready();
                    }
                    for event in &events[..count] {
                        self.look(event.data()).await;
                    }
                }
            }
        }
    }

    fn add(&mut self, instance: InstanceId, sockets: NameSockets) -> io::Result<()> {
        let epoll = &self.epoll.get_ref().0;
        let (datagrams, streams) = (self.named, self.named + 1);
        self.named += 2;
        epoll.add(&sockets.udp, EpollEvent::new(EpollFlags::EPOLLIN, datagrams))?;
        epoll.add(&sockets.tcp, EpollEvent::new(EpollFlags::EPOLLIN, streams))?;
        let socket = Socket::Datagrams(Arc::new(sockets.udp.into()));
        self.served.insert(datagrams, (instance, socket));
        self.served.insert(streams, (instance, Socket::Streams(sockets.tcp.into())));
        Ok(())
    }

    async fn look(&mut self, token: u64) {
        let Some((instance, socket)) = self.served.get(&token) else { return };
        let instance = *instance;
        match socket {
            Socket::Datagrams(socket) => {
                let socket = Arc::clone(socket);
                self.read(instance, &socket).await;
            }
            Socket::Streams(listener) => match listener.accept() {
                Ok((stream, _)) => self.converse(instance, stream),
                // Whoever came has gone again.
                Err(err) if is_about_one(err.kind()) => {}
                // It waits there still, and the epoll would say so without end.
                Err(err) => {
                    debug!(error = %err, instance = %instance, "a stream of questions waits");
                    sleep(BREATH).await;
                }
            },
        }
    }

    async fn read(&mut self, instance: InstanceId, socket: &Arc<UdpSocket>) {
        let mut buffer = [0; LONGEST];
        for _ in 0..BATCH {
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(err) if err.kind() == ErrorKind::WouldBlock => return,
                // It is about an answer that nobody waited for.
                Err(_) => continue,
            };
            let bytes = &buffer[..length];
            match self.known.answer(instance, bytes, false).await {
                Reply::Here(answer) => {
                    // An instance that does not read asks again.
                    let _ = socket.send_to(&answer, from);
                }
                Reply::None => {}
                Reply::Elsewhere => self.pass_on(bytes.to_vec(), Arc::clone(socket), from),
            }
        }
    }

    fn pass_on(&mut self, question: Vec<u8>, socket: Arc<UdpSocket>, from: SocketAddr) {
        // With too many under way it is as if the question was lost, and it comes again.
        let Ok(slot) = Arc::clone(&self.room).try_acquire_owned() else { return };
        let known = Arc::clone(&self.known);
        self.tasks.spawn(async move {
            let _slot = slot;
            if let Some(answer) = known.ask(&question, false).await {
                let _ = socket.send_to(&answer, from);
            }
        });
    }

    fn converse(&mut self, instance: InstanceId, stream: std::net::TcpStream) {
        let Ok(slot) = Arc::clone(&self.room).try_acquire_owned() else { return };
        let known = Arc::clone(&self.known);
        self.tasks.spawn(async move {
            let _slot = slot;
            let conversed = async {
                stream.set_nonblocking(true)?;
                known.converse(instance, TcpStream::from_std(stream)?).await
            };
            if let Err(err) = conversed.await {
                debug!(error = %err, instance = %instance, "a stream of questions ended");
            }
        });
    }
}

/// Whether an error is about the stream that was to be accepted, and about no other.
fn is_about_one(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::ConnectionAborted | ErrorKind::Interrupted)
}

/// What a question gets.
enum Reply {
    Here(Vec<u8>),
    Elsewhere,
    None,
}

impl Known {
    async fn answer(&self, instance: InstanceId, bytes: &[u8], stream: bool) -> Reply {
        let Some(question) = Question::read(bytes, stream) else { return Reply::None };
        let found = match self.directory.find(&question.name) {
            Meaning::Instances(_) | Meaning::Host(_) if !question.wants_address => Vec::new(),
            Meaning::Host(addresses) => addresses,
            Meaning::Instances(numbers) => {
                let mut addresses = Vec::new();
                // One more than fits, so that the answer says that there are more.
                for number in numbers.take(question.most_addresses() + 1) {
                    addresses.extend(self.network.address(&self.run, InstanceId(number)).await);
                }
                addresses
            }
            Meaning::Foreign if self.network.reaches_internet(&self.run, instance).await => {
                return Reply::Elsewhere;
            }
            Meaning::Foreign | Meaning::Nobody => {
                return here(question.answer(Answer::NoSuchName));
            }
        };
        here(question.answer(Answer::Addresses(&found)))
    }

    /// Asks this host's resolvers; a failure is an answer too.
    async fn ask(&self, question: &[u8], stream: bool) -> Option<Vec<u8>> {
        match upstream::ask(&self.upstream, question, stream).await {
            Some(answer) => Some(answer),
            None => Question::read(question, stream)?.answer(Answer::Failed),
        }
    }

    async fn converse(&self, instance: InstanceId, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut question = match timeout(IDLE, stream.read_u16()).await {
                Ok(Ok(length)) => vec![0; usize::from(length)],
                Ok(Err(err)) if err.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(err)) => return Err(err),
                Err(_) => return Ok(()),
            };
            timeout(IDLE, stream.read_exact(&mut question)).await??;
            let answer = match self.answer(instance, &question, true).await {
                Reply::Here(answer) => Some(answer),
                Reply::Elsewhere => self.ask(&question, true).await,
                Reply::None => None,
            };
            let Some(answer) = answer else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            timeout(IDLE, stream.write_u16(length)).await??;
            timeout(IDLE, stream.write_all(&answer)).await??;
        }
    }
}

fn here(answer: Option<Vec<u8>>) -> Reply {
    answer.map_or(Reply::None, Reply::Here)
}
