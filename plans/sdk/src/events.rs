//! What an instance tells about its life: lifecycle events for the platform, and `events.out` for those who read the
//! run afterwards.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

use crate::env::RunEnv;
use crate::lines::{LineFile, now_ns};
use crate::outcome::Outcome;

/// Largest `events.out`. What comes after is left out.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Something that happened, for `events.out`. Each is a line of JSON with the time as `ts` in nanoseconds, the
/// instance's number as `instance`, and the event's own keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A stage of the case begins.
    StageStart {
        /// Its name.
        name: &'a str,
    },
    /// A stage of the case ends.
    StageEnd {
        /// Its name.
        name: &'a str,
    },
    /// A node of the software under test appeared.
    Node {
        /// Its id.
        node: &'a str,
        /// Where others reach it.
        address: &'a str,
    },
    /// A node has a connection to another.
    Connected {
        /// Whose.
        node: &'a str,
        /// To whom.
        peer: &'a str,
    },
    /// A node has lost a connection to another.
    Disconnected {
        /// Whose.
        node: &'a str,
        /// To whom.
        peer: &'a str,
    },
    /// A node sent a message.
    Sent {
        /// Who.
        node: &'a str,
        /// To whom; empty for everybody.
        peer: &'a str,
        /// The message; the one who receives it names the same.
        message: &'a str,
        /// How large it is.
        bytes: u64,
    },
    /// A node received a message.
    Received {
        /// Who.
        node: &'a str,
        /// From whom.
        peer: &'a str,
        /// The message.
        message: &'a str,
        /// How large it is.
        bytes: u64,
    },
    /// Something else.
    Other {
        /// What.
        name: &'a str,
        /// More about it.
        data: Value,
    },
}

/// A line of `events.out`.
#[derive(Serialize)]
struct Line<'a> {
    ts: u64,
    instance: u32,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// Where events go.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    file: Arc<Mutex<LineFile>>,
    run: Arc<str>,
    group: Arc<str>,
}

impl Events {
    pub(crate) fn of(env: &RunEnv) -> Self {
        let path = env.outputs.as_ref().map(|dir| dir.join("events.out"));
        Self {
            file: Arc::new(Mutex::new(LineFile::open(path, MAX_BYTES))),
            run: env.run.as_str().into(),
            group: env.group.as_str().into(),
        }
    }

    /// Writes a line of `events.out`.
    pub(crate) fn record(&self, instance: u32, event: &Event<'_>) {
        if let Ok(line) = serde_json::to_value(Line { ts: now_ns(), instance, event }) {
            self.file.lock().unwrap_or_else(PoisonError::into_inner).write(&line);
        }
    }

    pub(crate) fn flush(&self) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }

    /// Prints a lifecycle event as a line that the platform and people read.
    pub(crate) fn print(&self, event: &Value) {
        let line = json!({
            "ts": now_ns(),
            "msg": "",
            "run_id": &*self.run,
            "group_id": &*self.group,
            "event": event,
        });
        print_line(&line.to_string());
    }
}

/// Prints a line to stdout. A reader that has gone is no reason to stop.
pub(crate) fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub(crate) fn start(env: &RunEnv) -> Value {
    json!({ "start_event": { "runenv": {
        "plan": env.plan,
        "case": env.case,
        "run": env.run,
        "instances": env.instances,
        "group": env.group,
        "group_instances": env.group_instances,
        "params": env.params.pack(),
        "test_sidecar": env.sidecar,
        "network": env.subnet.map(|subnet| subnet.to_string()),
        "start_time": env.start_time,
        "outputs_path": env.outputs,
        "temp_path": env.temp,
    } } })
}

pub(crate) fn message(text: &str) -> Value {
    json!({ "message_event": { "message": text } })
}

pub(crate) fn stage(name: &str, group: &str, begins: bool) -> Value {
    let key = if begins { "stage_start_event" } else { "stage_end_event" };
    json!({ key: { "name": name, "group": group } })
}

pub(crate) fn outcome(outcome: &Outcome, group: &str) -> Value {
    match outcome {
        Outcome::Success => json!({ "success_event": { "group": group } }),
        Outcome::Failure(error) => json!({ "failure_event": { "group": group, "error": error } }),
        Outcome::Crash { error, stacktrace } => json!({
            "crash_event": { "group": group, "error": error, "stacktrace": stacktrace }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_events_out_has_time_instance_and_the_events_own_keys() {
        let event = Event::Connected { node: "a", peer: "b" };
        let line = serde_json::to_string(&Line { ts: 7, instance: 3, event: &event }).unwrap();
        assert_eq!(line, r#"{"ts":7,"instance":3,"event":"connected","node":"a","peer":"b"}"#);
    }
}
