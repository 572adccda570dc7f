//! What instances say about themselves on `run_events`. No sender's name is in there: identity is the socket.

use serde_json::Value;

use super::LifecycleEvent;

/// Reads a message of `run_events`. What is no event of a known kind is `None`.
///
/// The bodies of crashes and failures are read leniently, because an outcome must not be lost to a missing key:
/// the Rust crate writes `groups` for `group`, and texts may be absent.
pub(crate) fn parse(payload: &str) -> Option<LifecycleEvent> {
    let value: Value = serde_json::from_str(payload).ok()?;
    let (kind, body) = value.as_object()?.iter().find(|(kind, _)| kind.ends_with("_event"))?;
    let text = |key: &str| match body.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    match kind.as_str() {
        "start_event" => Some(LifecycleEvent::Start),
        "message_event" => Some(LifecycleEvent::Message(text("message"))),
        "stage_start_event" => Some(LifecycleEvent::StageStart(text("name"))),
        "stage_end_event" => Some(LifecycleEvent::StageEnd(text("name"))),
        "success_event" => Some(LifecycleEvent::Success),
        "failure_event" => Some(LifecycleEvent::Failure(text("error"))),
        "crash_event" => {
            Some(LifecycleEvent::Crash { error: text("error"), stacktrace: text("stacktrace") })
        }
        _ => None,
    }
}

/// Reads an event as the SDKs print it to stdout: a line of JSON with the event under `event`.
pub(crate) fn printed(line: &str) -> Option<LifecycleEvent> {
    if !line.starts_with('{') {
        return None;
    }
    let line: Value = serde_json::from_str(line).ok()?;
    parse(&line.get("event")?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_the_sdks_is_understood() {
        assert_eq!(parse(r#"{"success_event":{"group":"single"}}"#), Some(LifecycleEvent::Success));
        assert_eq!(
            parse(r#"{"stage_start_event":{"name":"network-initialized","group":"rs"}}"#),
            Some(LifecycleEvent::StageStart("network-initialized".into()))
        );
        assert_eq!(
            parse(r#"{"message_event":{"message":"hello"}}"#),
            Some(LifecycleEvent::Message("hello".into()))
        );
        assert_eq!(parse(r#"{"start_event":{"runenv":{}}}"#), Some(LifecycleEvent::Start));
        assert_eq!(
            parse(r#"{"crash_event":{"groups":"g","error":"boom"}}"#),
            Some(LifecycleEvent::Crash { error: "boom".into(), stacktrace: String::new() })
        );
        assert_eq!(
            parse(r#"{"failure_event":{"error":{"code":3}}}"#),
            Some(LifecycleEvent::Failure(r#"{"code":3}"#.into()))
        );
        assert_eq!(
            parse(r#"{"failure_event":null}"#),
            Some(LifecycleEvent::Failure(String::new()))
        );
    }

    #[test]
    fn a_printed_event_is_the_one_that_is_published_and_other_lines_are_none() {
        let line = r#"{"ts":1,"msg":"","event":{"success_event":{"group":"all"}}}"#;
        assert_eq!(printed(line), Some(LifecycleEvent::Success));
        let line = r#"{"event":{"failure_event":{"group":"all","error":"no peers"}}}"#;
        assert_eq!(printed(line), Some(LifecycleEvent::Failure("no peers".into())));
        for line in ["success_event", r#"{"success_event":{}}"#, r#"{"event":"success_event"}"#] {
            assert_eq!(printed(line), None, "{line}");
        }
    }

    #[test]
    fn other_messages_are_no_events() {
        for payload in ["null", "7", "{}", r#"{"other":1}"#, r#"{"strange_event":{}}"#, "{"] {
            assert_eq!(parse(payload), None, "{payload}");
        }
    }
}
