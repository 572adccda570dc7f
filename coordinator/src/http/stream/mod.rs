//! One stream of server-sent events for everything a page wants to know. docs/http-api.md, "The stream".

mod feed;
mod hub;
mod log;
mod topic;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

pub(super) use self::hub::Hub;
use self::hub::{Joined, Listens};
use self::log::Message;
use self::topic::Topic;
use super::ask::{Caller, Params};
use super::failure::Failure;
use super::{Shared, Web};

/// Topics that one stream may have.
const MOST_TOPICS: usize = 16;
/// After how much silence a comment says that the server lives.
const ALIVE: Duration = Duration::from_secs(15);
/// How long a page waits before it asks again.
const RETRY: Duration = Duration::from_secs(2);

/// What a page wants to know.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    topics: String,
}

pub(super) async fn listen(
    State(web): Shared,
    caller: Caller,
    Params(wanted): Params<Wanted>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Failure> {
    let topics = topics(&web, &caller, &wanted.topics).await?;
    let listens = web.hub.listen(&caller, &topics).await?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let joined = web.hub.join(&listens.channels, last.and_then(|id| web.hub.sequence_of(id)));
    let hello = json!({
        "api": 1,
        "epoch": web.hub.epoch(),
        "topics": topics.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "resumed": joined.resumed,
    });
    let id = web.hub.id(last_before(&joined));
    let hello = Event::default().id(id).event("hello").retry(RETRY).data(hello.to_string());
    let ended = web.hub.ended();
    let hub = web.hub.clone();
    let told = told(hub.clone(), listens, joined).filter_map(move |message| {
        let said = message.said.as_ref();
        let id = hub.id(message.sequence);
        ready(said.map(|(event, data)| Event::default().id(id).event(event).data(data)))
    });
    // The server's end ends all streams, which would hold it up.
    let all = stream::iter([hello]).chain(told).take_until(ended).map(Ok::<_, Infallible>);
    Ok(Sse::new(all).keep_alive(KeepAlive::new().interval(ALIVE).text("")))
}

/// What is wanted, with the runs that were meant.
async fn topics(web: &Web, caller: &Caller, text: &str) -> Result<Vec<Topic>, Failure> {
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    if words.len() > MOST_TOPICS {
        return Err(Failure::invalid(&format!("a stream has {MOST_TOPICS} topics at most"), ""));
    }
    let (mut topics, mut runs) = (Vec::new(), BTreeMap::new());
    for word in words {
        let mut topic: Topic = word.parse()?;
        if let Some(selector) = topic.selector() {
            if !runs.contains_key(&selector) {
                runs.insert(selector.clone(), web.run(caller, &selector).await?.run);
            }
            topic.is_about(&runs[&selector]);
        }
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    Ok(topics)
}

/// The sequence that `hello` goes on from.
fn last_before(joined: &Joined) -> u64 {
    let first = joined.first.first().map(|message| message.sequence);
    first.filter(|_| joined.resumed).map_or(joined.sequence, |first| first.saturating_sub(1))
}

/// What is told on the channels of a listener, as it comes. It ends when one of them does: the token is gone.
fn told(hub: Hub, listens: Listens, joined: Joined) -> impl Stream<Item = Arc<Message>> {
    let Joined { first, rest, sequence, .. } = joined;
    let start = (hub, listens, rest, sequence);
    let follow = stream::unfold(start, async |(hub, listens, mut rest, mut seen)| {
        let messages = loop {
            match rest.recv().await {
                Ok(message) if message.sequence <= seen => {}
                Ok(message) if !listens.channels.contains(&message.channel) => {}
                Ok(message) if message.said.is_none() => return None,
                Ok(message) => break vec![message],
                // Too slow: what was missed is in the full states.
                Err(RecvError::Lagged(_)) => {
                    let (full, last) = hub.full(&listens.channels);
                    seen = last;
                    break full;
                }
                Err(RecvError::Closed) => return None,
            }
        };
        Some((stream::iter(messages), (hub, listens, rest, seen)))
    });
    stream::iter(first).chain(follow.flatten())
}
