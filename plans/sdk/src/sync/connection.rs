//! The task that owns the connection to the sync service.
//!
//! ```text
//! handles ──Command──► Connection ──WebSocket──► service
//!    ▲                     │
//!    └──answers, items─────┘        connects again when the connection breaks
//! ```

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::SyncError;
use super::calls::{Caller, Calls, Next, Paused};
use super::wire::{self, INSTANCE_HEADER, KNOWS_HEADER, Operation, Request, SESSION_HEADER};

/// How long the service may be away.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often waits that nobody waits for are looked for.
const SWEEP: Duration = Duration::from_millis(500);
/// Most calls that are taken before they are sent.
const AT_ONCE: usize = 256;

/// What a handle asks of the connection.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) operation: Operation,
    pub(super) caller: Caller,
}

/// Where the service is, and as whom to speak to it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Names this client to the service over all its connections.
    pub(crate) session: String,
    /// The instance's number, which only a service of this machine reads.
    pub(crate) instance: Option<u32>,
}

type Socket = WebSocketStream<TcpStream>;

/// Why the connection is left.
enum End {
    /// All handles are gone and everything is said.
    Finished,
    /// It broke.
    Broken(String),
}

#[derive(Debug)]
pub(crate) struct Connection {
    target: Target,
    commands: mpsc::Receiver<Command>,
    calls: Calls,
    /// Subscriptions whose readers are behind, each until there is room.
    paused: FuturesUnordered<BoxFuture<'static, Option<Paused>>>,
}

impl Connection {
    pub(super) fn new(target: Target, commands: mpsc::Receiver<Command>) -> Self {
        Self { target, commands, calls: Calls::default(), paused: FuturesUnordered::new() }
    }

    /// Runs until all handles are gone, or the service is away for too long.
    pub(crate) async fn run(mut self) {
        let mut broken: Option<String> = None;
        loop {
            let socket = match self.connect().await {
                Ok(socket) => socket,
                Err(why) => return self.give_up(why).await,
            };
            if let Some(why) = broken.take()
                && !self.calls.extended
            {
                // Whether it has done what was not answered, it cannot say.
                return self.give_up(why).await;
            }
            match self.talk(socket).await {
                End::Finished => return,
                End::Broken(why) => broken = Some(why),
            }
        }
    }

    /// Connects; tries again for as long as there is patience.
    async fn connect(&mut self) -> Result<Socket, String> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match self.try_connect().await {
                Ok(socket) => return Ok(socket),
                Err(why) if begun.elapsed() > PATIENCE => return Err(why),
                Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn try_connect(&mut self) -> Result<Socket, String> {
        let Target { host, port, session, instance } = &self.target;
        let place = format!("{host}:{port}");
        let failed = |err: &dyn std::fmt::Display| {
            format!("failed to connect to the sync service at `{place}`: {err}")
        };
        let stream =
            TcpStream::connect((host.as_str(), *port)).await.map_err(|err| failed(&err))?;
        stream.set_nodelay(true).map_err(|err| failed(&err))?;
        let mut request =
            format!("ws://{place}/").into_client_request().map_err(|err| failed(&err))?;
        let headers = request.headers_mut();
        headers.insert(SESSION_HEADER, HeaderValue::from_str(session).map_err(|err| failed(&err))?);
        if let Some(instance) = instance {
            headers.insert(INSTANCE_HEADER, HeaderValue::from(*instance));
        }
        let (socket, response) = client_async(request, stream).await.map_err(|err| failed(&err))?;
        self.calls.extended = response.headers().contains_key(KNOWS_HEADER);
        Ok(socket)
    }

    async fn talk(&mut self, mut socket: Socket) -> End {
        let again = self.calls.repeat();
        if let Err(err) = send(&mut socket, again).await {
            return End::Broken(err.to_string());
        }
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut handles = true;
        loop {
            if !handles && self.calls.is_settled() {
                // The service may be gone already, which is all the same now.
                let _ = socket.close(None).await;
                return End::Finished;
            }
            let sent = tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(message)) => {
                        let texts = self.on_message(&message);
                        send(&mut socket, texts).await
                    }
                    Some(Err(err)) => Err(err),
                    None => Err(tungstenite::Error::ConnectionClosed),
                },
                command = self.commands.recv(), if handles && self.calls.has_room() => match command {
                    Some(command) => {
                        let texts = self.on_commands(command);
                        send(&mut socket, texts).await
                    }
                    None => {
                        handles = false;
                        Ok(())
                    }
                },
                Some(ready) = self.paused.next(), if !self.paused.is_empty() => {
                    let texts = ready.and_then(|paused| self.calls.resume(paused)).into_iter().collect();
                    send(&mut socket, texts).await
                }
                _ = sweep.tick() => {
                    let ids = self.calls.abandoned();
                    let texts = ids.into_iter().map(|id| Request::text(id, None)).collect();
                    send(&mut socket, texts).await
                }
            };
            if let Err(err) = sent {
                return End::Broken(format!("the connection to the sync service broke: {err}"));
            }
        }
    }

    /// Takes a call, and those that wait behind it.
    fn on_commands(&mut self, first: Command) -> Vec<String> {
        let mut texts = Vec::from_iter(self.calls.begin(first.operation, first.caller));
        while texts.len() < AT_ONCE && self.calls.has_room() {
            let Ok(command) = self.commands.try_recv() else { break };
            texts.extend(self.calls.begin(command.operation, command.caller));
        }
        texts
    }

    fn on_message(&mut self, message: &Message) -> Vec<String> {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                return Vec::new();
            }
        };
        let Some((id, answer)) = wire::read(text) else { return Vec::new() };
        match self.calls.answer(id, answer) {
            Next::Nothing => Vec::new(),
            Next::Cancel(id) => vec![Request::text(id, None)],
            Next::Pause(id, paused) => {
                self.paused.push(Box::pin(until_there_is_room(paused)));
                vec![Request::text(id, None)]
            }
        }
    }

    /// Answers everything that is open and everything that still comes with an error.
    async fn give_up(mut self, why: String) {
        let why = SyncError::Lost(why);
        self.calls.fail(&why);
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            self.calls.begin(command.operation, command.caller);
            self.calls.fail(&why);
        }
    }
}

/// Sends messages, all of them in one write.
async fn send(socket: &mut Socket, texts: Vec<String>) -> Result<(), tungstenite::Error> {
    for text in texts {
        socket.feed(Message::text(text)).await?;
    }
    // Also without messages of ours: an answer to a ping may wait.
    socket.flush().await
}

/// Waits until a reader has made room for half of what its buffer holds. Nothing when it is gone.
async fn until_there_is_room(paused: Paused) -> Option<Paused> {
    let half = paused.to.max_capacity().div_ceil(2);
    let room = paused.to.reserve_many(half).await.is_ok();
    room.then_some(paused)
}
