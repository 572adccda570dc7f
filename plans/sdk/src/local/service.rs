//! A sync service in memory, that speaks the real protocol on a port of this machine.
//!
//! ```text
//! Service ──accept──► one task a connection ──► Shared, behind a lock
//!                          ▲                        │
//!                          └──── `changed` ─────────┘
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::server::{
    Callback, ErrorResponse, Request as Upgrade, Response as Upgraded,
};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::state::{Client, Next, Shared, answer};
use crate::sync::wire::{
    INSTANCE_HEADER, KNOWS_HEADER, Operation, Request, Response, SESSION_HEADER,
};

/// The run's knowledge, and a bell that rings when it changes.
#[derive(Debug, Clone)]
struct Run {
    shared: Arc<Mutex<Shared>>,
    changed: watch::Sender<u64>,
}

impl Run {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service. It serves until it is dropped.
#[derive(Debug)]
pub(super) struct Service {
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Service {
    /// Starts it on a free port. It belongs to the runtime it is started in.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let run = Run { shared: Arc::default(), changed: watch::Sender::new(0) };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, run));
        Ok(Self { address, tasks })
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }
}

async fn accept(listener: TcpListener, run: Run) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, run.clone()));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// One client's connection: what it waits for, and how far its subscriptions are.
struct Served {
    run: Run,
    client: Client,
    waits: BTreeMap<u64, (String, u64)>,
    follows: BTreeMap<u64, (String, u64)>,
}

async fn serve(stream: TcpStream, run: Run) {
    // Without it answers are only slower.
    let _ = stream.set_nodelay(true);
    let mut client = Client { session: String::new(), instance: u32::MAX };
    let Ok(socket) = accept_hdr_async(stream, Greeting(&mut client)).await else { return };
    let served = Served { run, client, waits: BTreeMap::new(), follows: BTreeMap::new() };
    // A client that is gone is no error.
    let _ = served.talk(socket).await;
}

/// Reads who the client is, and says that sessions are known here.
struct Greeting<'a>(&'a mut Client);

impl Callback for Greeting<'_> {
    fn on_request(self, request: &Upgrade, response: Upgraded) -> Result<Upgraded, ErrorResponse> {
        Ok(greet(request, response, self.0))
    }
}

fn greet(request: &Upgrade, mut response: Upgraded, client: &mut Client) -> Upgraded {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    client.session = header(SESSION_HEADER).unwrap_or_default().to_owned();
    client.instance =
        header(INSTANCE_HEADER).and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
    response.headers_mut().insert(KNOWS_HEADER, HeaderValue::from_static("1"));
    response
}

impl Served {
    async fn talk(
        mut self,
        mut socket: WebSocketStream<TcpStream>,
    ) -> Result<(), tungstenite::Error> {
        let mut changed = self.run.changed.subscribe();
        loop {
            let responses = tokio::select! {
                message = socket.next() => match message {
                    Some(message) => self.on_message(&message?),
                    None => return Ok(()),
                },
                _ = changed.changed() => self.news(),
            };
            for response in responses {
                let text = serde_json::to_string(&response).unwrap_or_default();
                socket.feed(Message::text(text)).await?;
            }
            socket.flush().await?;
        }
    }

    fn on_message(&mut self, message: &Message) -> Vec<Response> {
        let Ok(request) = serde_json::from_slice::<Request>(&message.clone().into_data()) else {
            return Vec::new();
        };
        let Ok(id) = request.id.parse::<u64>() else { return Vec::new() };
        let Some(operation) = request.operation.filter(|_| !request.is_cancel) else {
            self.waits.remove(&id);
            self.follows.remove(&id);
            return Vec::new();
        };
        self.perform(id, operation)
    }

    fn perform(&mut self, id: u64, operation: Operation) -> Vec<Response> {
        let appends = operation.appends();
        let next = self.run.lock().handle(&self.client, id, operation);
        if appends {
            self.run.changed.send_modify(|version| *version += 1);
        }
        match next {
            Next::Answer(response) => vec![response],
            Next::Wait { state, target } => {
                self.waits.insert(id, (state, target));
                Vec::new()
            }
            Next::Follow { topic, after } => {
                self.follows.insert(id, (topic, after));
                self.news()
            }
        }
    }

    /// What has come true since it was looked last.
    fn news(&mut self) -> Vec<Response> {
        let shared = self.run.lock();
        let mut responses = Vec::new();
        self.waits.retain(|id, (state, target)| {
            let waits = shared.count(state) < *target;
            if !waits {
                responses.push(answer(*id));
            }
            waits
        });
        for (id, (topic, at)) in &mut self.follows {
            let items = shared.items(topic, *at);
            *at += items.len() as u64;
            let item = |text: &String| Response { subscribe: Some(text.clone()), ..answer(*id) };
            responses.extend(items.iter().map(item));
        }
        responses
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}
