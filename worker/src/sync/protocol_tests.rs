use super::*;

const PREFIX: &str = "run:r0000001:plan:probe:case:ping-pong:";

fn call(message: &str) -> Call<'_> {
    parse(message.as_bytes(), PREFIX).expect("JSON").call
}

fn reply(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("text")
}

#[test]
fn what_the_javascript_sdk_sends_is_understood() {
    let sent = br#"{"publish":{"topic":"run:r0000001:plan:probe:case:ping-pong:topics:peers","payload":{"ID":"js-1","Addrs":["/ip4/127.0.0.1/tcp/1"]}},"id":"7"}"#;
    let request = parse(sent, PREFIX).expect("a recorded frame");
    assert_eq!(request.id, "\"7\"");
    let payload = r#"{"ID":"js-1","Addrs":["/ip4/127.0.0.1/tcp/1"]}"#;
    assert_eq!(request.call, Call::Publish { topic: "topics:peers".into(), payload });
    assert_eq!(
        call(
            r#"{"barrier":{"state":"run:r0000001:plan:probe:case:ping-pong:states:ready","target":1},"id":"5"}"#
        ),
        Call::Barrier { state: "states:ready".into(), target: 1 }
    );
}

#[test]
fn what_the_rust_crate_sends_is_understood() {
    assert_eq!(
        call(
            r#"{"id":"3","is_cancel":false,"signal_entry":{"state":"run:r0000001:plan:probe:case:ping-pong:states:initialized_global"}}"#
        ),
        Call::Signal { state: "states:initialized_global".into(), once: false }
    );
    assert_eq!(
        call(
            r#"{"id":"10","is_cancel":false,"subscribe":{"topic":"run:r0000001:plan:probe:case:ping-pong:topics:peers"}}"#
        ),
        Call::Subscribe { topic: "topics:peers".into(), after: 0 }
    );
}

#[test]
fn responses_are_those_that_were_recorded() {
    assert_eq!(
        reply(|out| published(out, "\"0\"", 1)),
        r#"{"id":"0","error":"","publish":{"seq":1},"subscribe":"","signal_entry":null}"#
    );
    assert_eq!(
        reply(|out| signalled(out, "\"4\"", 1_234_567_890)),
        r#"{"id":"4","error":"","publish":null,"subscribe":"","signal_entry":{"seq":1234567890}}"#
    );
    assert_eq!(
        reply(|out| passed(out, "\"5\"")),
        r#"{"id":"5","error":"","publish":null,"subscribe":"","signal_entry":null}"#
    );
    let mut escaped = Vec::new();
    escape_into(r#"{"ID":"js-1","Addrs":["/ip4/127.0.0.1/tcp/1"]}"#, &mut escaped);
    let item = reply(|out| item(out, "\"8\"", &escaped));
    assert_eq!(
        item,
        r#"{"id":"8","error":"","publish":null,"subscribe":"{\"ID\":\"js-1\",\"Addrs\":[\"/ip4/127.0.0.1/tcp/1\"]}","signal_entry":null}"#
    );
    assert_eq!(item.len(), item_len("\"8\"", &escaped));
    assert_eq!(
        reply(|out| failed(out, "\"4\"", "topic is not writable")),
        r#"{"id":"4","error":"\"topic is not writable\"","publish":null,"subscribe":"","signal_entry":null}"#
    );
}

#[test]
fn a_target_may_be_any_number() {
    for (target, expected) in
        [("3", 3), ("3.0", 3), ("2.5", 3), ("0", 0), ("-4", 0), ("-0.5", 0), ("1e3", 1000)]
    {
        let sent =
            format!(r#"{{"id":"1","barrier":{{"state":"{PREFIX}states:s","target":{target}}}}}"#);
        assert_eq!(
            call(&sent),
            Call::Barrier { state: "states:s".into(), target: expected },
            "{target}"
        );
    }
}

#[test]
fn a_key_of_another_run_is_refused() {
    let sent =
        r#"{"id":"1","signal_entry":{"state":"run:other:plan:probe:case:ping-pong:states:s"}}"#;
    assert!(matches!(call(sent), Call::Refused(why) if why.contains("run:other")));
}

#[test]
fn what_is_json_but_no_request_gets_an_error_and_what_is_not_json_ends_the_connection() {
    for sent in ["null", "{}", r#"{"id":"1"}"#, r#"{"id":"1","teleport":{}}"#, "[1]", "7"] {
        assert!(matches!(call(sent), Call::Refused(_)), "{sent}");
    }
    let wrong = parse(br#"{"id":"9","barrier":{"state":"x","target":"many"}}"#, PREFIX);
    let wrong = wrong.expect("it is JSON");
    assert_eq!(wrong.id, "\"9\"");
    assert!(matches!(wrong.call, Call::Refused(_)));
    for sent in [&b"{"[..], b"", b"{\"id\":\"1\"} x", b"\xff"] {
        assert_eq!(parse(sent, PREFIX), Err(Malformed));
    }
}

#[test]
fn a_cancel_is_understood_and_an_absent_payload_is_null() {
    assert_eq!(call(r#"{"id":"1","is_cancel":true}"#), Call::Cancel);
    let sent = format!(r#"{{"id":"1","publish":{{"topic":"{PREFIX}topics:t"}}}}"#);
    assert_eq!(call(&sent), Call::Publish { topic: "topics:t".into(), payload: "null" });
}

#[test]
fn a_payload_that_is_too_large_is_refused_by_its_size() {
    let large = "x".repeat(MAX_PAYLOAD_BYTES);
    let sent =
        format!(r#"{{"id":"1","publish":{{"topic":"{PREFIX}topics:t","payload":"{large}"}}}}"#);
    assert!(matches!(call(&sent), Call::Refused(why) if why.contains("262146 bytes")));
}

#[test]
fn escaped_keys_and_numeric_ids_are_understood() {
    let sent = format!(r#"{{"id":7,"signal_entry":{{"state":"{PREFIX}states:\u0061\"b"}}}}"#);
    let request = parse(sent.as_bytes(), PREFIX).expect("JSON");
    assert_eq!(request.id, "\"7\"");
    assert_eq!(request.call, Call::Signal { state: "states:a\"b".into(), once: false });
}
