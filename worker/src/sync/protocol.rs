//! The Testground wire format: requests in, responses out.
//!
//! A response always has all five keys in one order, because the Rust crate panics without them. An error's text is
//! JSON in itself, a quoted string inside the string, because the Rust crate parses it. A payload passes through
//! as the bytes it came in.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use groundswell_common::ids::InstanceId;
use groundswell_common::sync::MAX_PAYLOAD_BYTES;

/// The id of a response no client waits for: it resets the one-hour timer of the Go SDK.
pub(crate) const KEEP_ALIVE_ID: &str = "\"18446744073709551615\"";

/// Longest name of a state or topic. All of a batch's names have to fit into one message of the bus.
const MAX_KEY_BYTES: usize = 4096;
/// Longest id of a request; it is kept until the request is answered.
const MAX_ID_BYTES: usize = 1024;
/// How much of a wrong key is said back.
const SHOWN_KEY_BYTES: usize = 256;

/// What a client asks for. `id` is the JSON string it sent, quotes included, and is echoed as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) id: Cow<'a, str>,
    pub(crate) call: Call<'a>,
}

/// One of the four operations, the withdrawal of an earlier one, or something that gets an error. Keys have
/// lost the run's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call<'a> {
    Publish {
        topic: Cow<'a, str>,
        payload: &'a str,
    },
    Subscribe {
        topic: Cow<'a, str>,
        after: u64,
    },
    Barrier {
        state: Cow<'a, str>,
        target: u64,
    },
    Signal {
        state: Cow<'a, str>,
        once: bool,
    },
    /// How far a state has come, and who of those that signalled `of` has not signalled it.
    Inspect {
        state: Cow<'a, str>,
        of: Cow<'a, str>,
    },
    Cancel,
    Refused(String),
}

/// A message that is not JSON, or has an id beyond all measure. The connection ends with code 1007.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

#[derive(Deserialize)]
struct WireRequest<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    is_cancel: Option<bool>,
    #[serde(borrow, default)]
    publish: Option<WirePublish<'a>>,
    #[serde(borrow, default)]
    subscribe: Option<WireTopic<'a>>,
    #[serde(borrow, default)]
    barrier: Option<WireBarrier<'a>>,
    #[serde(borrow, default)]
    signal_entry: Option<WireState<'a>>,
    #[serde(borrow, default)]
    inspect: Option<WireInspect<'a>>,
}

#[derive(Deserialize)]
struct WirePublish<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireTopic<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    /// How many items to leave out. Groundswell's own.
    #[serde(default)]
    after: u64,
}

#[derive(Deserialize)]
struct WireState<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    /// Whether it counts at most once for the instance. Groundswell's own.
    #[serde(default)]
    once: bool,
}

/// Groundswell's own.
#[derive(Deserialize)]
struct WireInspect<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    of: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WireBarrier<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(default)]
    target: Option<serde_json::Number>,
}

/// Reads one message. `prefix` is `run:<R>:plan:<P>:case:<C>:`.
pub(crate) fn parse<'a>(message: &'a [u8], prefix: &str) -> Result<Request<'a>, Malformed> {
    match serde_json::from_slice::<WireRequest<'_>>(message) {
        Ok(wire) if wire.id.is_some_and(|id| id.get().len() > MAX_ID_BYTES) => Err(Malformed),
        Ok(wire) => Ok(understand(wire, prefix)),
        Err(err) if err.is_data() => misshapen(message, &err),
        Err(_) => Err(Malformed),
    }
}

/// JSON that is no request: it gets an error under its id, if it has one.
fn misshapen<'a>(message: &[u8], err: &serde_json::Error) -> Result<Request<'a>, Malformed> {
    let value: serde_json::Value = serde_json::from_slice(message).map_err(|_| Malformed)?;
    let id = match value.get("id") {
        Some(serde_json::Value::String(text)) if text.len() > MAX_ID_BYTES => {
            return Err(Malformed);
        }
        Some(serde_json::Value::String(text)) => quoted(text),
        Some(serde_json::Value::Number(number)) => quoted(&number.to_string()),
        _ => "\"\"".to_owned(),
    };
    Ok(Request { id: id.into(), call: Call::Refused(format!("request is not understood: {err}")) })
}

fn understand<'a>(wire: WireRequest<'a>, prefix: &str) -> Request<'a> {
    let id = match wire.id.map_or("", RawValue::get) {
        text if text.starts_with('"') => Cow::Borrowed(text),
        "" | "null" => Cow::Borrowed("\"\""),
        other => Cow::Owned(quoted(other)),
    };
    if wire.is_cancel == Some(true) {
        return Request { id, call: Call::Cancel };
    }
    let asked = (wire.publish, wire.subscribe, wire.barrier, wire.signal_entry);
    let call = match asked {
        (Some(publish), None, None, None) => understand_publish(publish, prefix),
        (None, Some(body), None, None) => {
            own(body.topic, prefix, |topic| Call::Subscribe { topic, after: body.after })
        }
        (None, None, Some(body), None) => {
            let target = body.target.as_ref().map_or(0, whole);
            own(body.state, prefix, |state| Call::Barrier { state, target })
        }
        (None, None, None, Some(body)) => {
            own(body.state, prefix, |state| Call::Signal { state, once: body.once })
        }
        (None, None, None, None) => match wire.inspect {
            Some(body) => understand_inspect(body, prefix),
            None => Call::Refused("request names no operation".to_owned()),
        },
        _ => Call::Refused("request names more than one operation".to_owned()),
    };
    Request { id, call }
}

fn understand_publish<'a>(publish: WirePublish<'a>, prefix: &str) -> Call<'a> {
    // The JavaScript SDK leaves the key out when the value is `undefined`.
    let payload = publish.payload.map_or("null", RawValue::get);
    if payload.len() > MAX_PAYLOAD_BYTES {
        let size = payload.len();
        return Call::Refused(format!(
            "payload of {size} bytes is larger than {MAX_PAYLOAD_BYTES} bytes"
        ));
    }
    own(publish.topic, prefix, |topic| Call::Publish { topic, payload })
}

fn understand_inspect<'a>(body: WireInspect<'a>, prefix: &str) -> Call<'a> {
    own(body.of, prefix, |of| own(body.state, prefix, |state| Call::Inspect { state, of }))
}

/// The number of a request, where its id is one.
pub(crate) fn number(id: &str) -> Option<u64> {
    id.trim_matches('"').parse().ok()
}

/// Takes the prefix off a key, and refuses the key of another run.
fn own<'a>(
    key: Cow<'a, str>,
    prefix: &str,
    call: impl FnOnce(Cow<'a, str>) -> Call<'a>,
) -> Call<'a> {
    let stripped = match key {
        Cow::Borrowed(text) => text.strip_prefix(prefix).map(Cow::Borrowed).ok_or(key),
        Cow::Owned(text) => match text.strip_prefix(prefix) {
            Some(rest) => Ok(Cow::Owned(rest.to_owned())),
            None => Err(Cow::Owned(text)),
        },
    };
    match stripped {
        Ok(rest) if rest.len() > MAX_KEY_BYTES => {
            let size = rest.len();
            Call::Refused(format!("a name of {size} bytes is longer than {MAX_KEY_BYTES} bytes"))
        }
        Ok(rest) => call(rest),
        Err(key) => {
            let shown = &key[..key.floor_char_boundary(SHOWN_KEY_BYTES)];
            Call::Refused(format!("key `{shown}` is not of this run, plan and case"))
        }
    }
}

/// A target as a count: a fraction counts as the next whole number, what is not above zero as zero.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates floats, which is what an absurd wire number should become"
)]
fn whole(number: &serde_json::Number) -> u64 {
    number.as_u64().unwrap_or_else(|| number.as_f64().unwrap_or(0.0).ceil() as u64)
}

fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    escape_into(text, &mut out);
    String::from_utf8(out).expect("escaping keeps text text")
}

/// Appends `text` as a JSON string with its quotes.
pub(crate) fn escape_into(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("text can be written to memory");
}

const AFTER_ID: &[u8] = br#","error":"","publish":"#;

/// The answer to a publish.
pub(crate) fn published(out: &mut Vec<u8>, id: &str, seq: u64) {
    begin(out, id);
    out.extend_from_slice(br#"{"seq":"#);
    decimal(out, seq);
    out.extend_from_slice(br#"},"subscribe":"","signal_entry":null}"#);
}

/// The answer to a signal.
pub(crate) fn signalled(out: &mut Vec<u8>, id: &str, seq: u64) {
    begin(out, id);
    out.extend_from_slice(br#"null,"subscribe":"","signal_entry":{"seq":"#);
    decimal(out, seq);
    out.extend_from_slice(b"}}");
}

/// The answer to a barrier that has been reached, and the keep-alive.
pub(crate) fn passed(out: &mut Vec<u8>, id: &str) {
    begin(out, id);
    out.extend_from_slice(br#"null,"subscribe":"","signal_entry":null}"#);
}

/// The answer to an inspection.
pub(crate) fn inspected(
    out: &mut Vec<u8>,
    id: &str,
    count: u64,
    missing: &[InstanceId],
    missing_total: u64,
) {
    begin(out, id);
    out.extend_from_slice(br#"null,"subscribe":"","signal_entry":null,"inspect":{"count":"#);
    decimal(out, count);
    out.extend_from_slice(br#","missing":["#);
    for (at, instance) in missing.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        decimal(out, u64::from(instance.0));
    }
    out.extend_from_slice(br#"],"missing_total":"#);
    decimal(out, missing_total);
    out.extend_from_slice(b"}}");
}

/// An item of a subscription. `item` is a JSON string with its quotes.
pub(crate) fn item(out: &mut Vec<u8>, id: &str, item: &[u8]) {
    begin(out, id);
    out.extend_from_slice(br#"null,"subscribe":"#);
    out.extend_from_slice(item);
    out.extend_from_slice(br#","signal_entry":null}"#);
}

/// How long [`item`] is.
pub(crate) fn item_len(id: &str, item: &[u8]) -> usize {
    r#"{"id":,"error":"","publish":null,"subscribe":,"signal_entry":null}"#.len()
        + id.len()
        + item.len()
}

/// The answer to a call that failed.
pub(crate) fn failed(out: &mut Vec<u8>, id: &str, why: &str) {
    out.extend_from_slice(br#"{"id":"#);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(br#","error":"#);
    escape_into(&quoted(why), out);
    out.extend_from_slice(br#","publish":null,"subscribe":"","signal_entry":null}"#);
}

fn begin(out: &mut Vec<u8>, id: &str) {
    out.extend_from_slice(br#"{"id":"#);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(AFTER_ID);
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
