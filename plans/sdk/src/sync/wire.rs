//! The wire format of the sync service: requests out, responses in.
//!
//! Two keys of a request are Groundswell's own: `once` (an instance signals this state at most once) and `after` (leave
//! out the first so many items), and so is the operation `inspect`. They are only sent to a service that says it knows
//! them.

use serde::{Deserialize, Serialize};

/// The header with which a client names its session, so that it can go on with it over another connection.
pub(crate) const SESSION_HEADER: &str = "x-groundswell-session";
/// The header with which a client that runs on its own machine says which instance it is.
pub(crate) const INSTANCE_HEADER: &str = "x-groundswell-instance";
/// The header of the answer of a service that knows sessions.
pub(crate) const KNOWS_HEADER: &str = "x-groundswell";

/// What is asked for. Names are whole keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Publish {
        topic: String,
        payload: serde_json::Value,
    },
    Subscribe {
        topic: String,
        #[serde(default, skip_serializing_if = "is_zero")]
        after: u64,
    },
    Barrier {
        state: String,
        target: u64,
    },
    SignalEntry {
        state: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        once: bool,
    },
    /// How far a state has come, and who of those that signalled `of` has not signalled it.
    Inspect {
        state: String,
        of: String,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Operation {
    /// Whether the service appends something for it, which must not happen twice.
    pub(crate) fn appends(&self) -> bool {
        match self {
            Self::Publish { .. } | Self::SignalEntry { .. } => true,
            Self::Subscribe { .. } | Self::Barrier { .. } | Self::Inspect { .. } => false,
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) is_cancel: bool,
    #[serde(flatten)]
    pub(crate) operation: Option<Operation>,
}

impl Request {
    pub(crate) fn text(id: u64, operation: Option<&Operation>) -> String {
        let is_cancel = operation.is_none();
        let request = Self { id: id.to_string(), is_cancel, operation: operation.cloned() };
        serde_json::to_string(&request).unwrap_or_default()
    }
}

/// A sequence number as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seq {
    pub(crate) seq: u64,
}

/// How far a state has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Inspection {
    pub(crate) count: u64,
    /// Instances that have not signalled it, at most ten.
    pub(crate) missing: Vec<u32>,
    pub(crate) missing_total: u64,
}

/// What the service says. Keys may be missing, null, or more than these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Response {
    pub(crate) id: String,
    pub(crate) error: Option<String>,
    pub(crate) publish: Option<Seq>,
    pub(crate) subscribe: Option<String>,
    pub(crate) signal_entry: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inspect: Option<Inspection>,
}

/// What a response means to the one who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The operation is done; publish and signal have a number.
    Done(Option<u64>),
    Item(String),
    Inspected(Inspection),
    Refused(String),
}

/// Reads a response. Nothing when it is none, or belongs to nobody.
pub(crate) fn read(message: &str) -> Option<(u64, Answer)> {
    let response: Response = serde_json::from_str(message).ok()?;
    let id = response.id.parse().ok()?;
    if let Some(error) = response.error.filter(|text| !text.is_empty()) {
        // Some services quote the error's text inside the text.
        let plain = serde_json::from_str::<String>(&error).unwrap_or(error);
        return Some((id, Answer::Refused(plain)));
    }
    let item = response.subscribe.filter(|text| !text.is_empty());
    let answer = match (item, response.inspect) {
        (Some(item), _) => Answer::Item(item),
        (None, Some(inspection)) => Answer::Inspected(inspection),
        (None, None) => Answer::Done(response.publish.or(response.signal_entry).map(|s| s.seq)),
    };
    Some((id, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_like_those_of_the_other_sdks() {
        let state = "run:r1:plan:p:case:c:states:ready".to_owned();
        let signal = Operation::SignalEntry { state: state.clone(), once: false };
        assert_eq!(
            Request::text(7, Some(&signal)),
            r#"{"id":"7","is_cancel":false,"signal_entry":{"state":"run:r1:plan:p:case:c:states:ready"}}"#
        );
        let barrier = Operation::Barrier { state, target: 8 };
        assert_eq!(
            Request::text(6, Some(&barrier)),
            r#"{"id":"6","is_cancel":false,"barrier":{"state":"run:r1:plan:p:case:c:states:ready","target":8}}"#
        );
        assert_eq!(Request::text(6, None), r#"{"id":"6","is_cancel":true}"#);
    }

    #[test]
    fn responses_are_read_whatever_the_service_leaves_out() {
        let cases = [
            (
                r#"{"id":"4","error":"","publish":{"seq":1},"subscribe":"","signal_entry":null}"#,
                Answer::Done(Some(1)),
            ),
            (r#"{"signal_entry":{"seq":3},"id":"4"}"#, Answer::Done(Some(3))),
            (r#"{"id":"4","error":null,"more":[1]}"#, Answer::Done(None)),
            (r#"{"id":"4","subscribe":"{\"a\":1}"}"#, Answer::Item(r#"{"a":1}"#.to_owned())),
            (r#"{"id":"4","error":"timeout"}"#, Answer::Refused("timeout".to_owned())),
            (r#"{"id":"4","error":"\"timeout\""}"#, Answer::Refused("timeout".to_owned())),
        ];
        for (message, answer) in cases {
            assert_eq!(read(message), Some((4, answer)), "{message}");
        }
        assert_eq!(read(r#"{"id":"x"}"#), None);
        assert_eq!(read("nonsense"), None);
    }
}
