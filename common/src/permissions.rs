//! What each role may do on the NATS servers: the users' part of a server's configuration.
//!
//! A worker is held to its own subjects: it appends to sync logs as itself only, makes no streams and no
//! consumers (a consumer could deliver one subject's messages into another, past every permission), never sees
//! the control state, and gets answers under a prefix of its own. What permissions cannot say, because a wildcard
//! stands for a whole token: a worker may read any run's sync log.

use std::fmt::Write as _;

use crate::ids::WorkerId;
use crate::subjects::{self, ASSIGN_STREAM, CONTROL_BUCKET};

/// Prefix of the inboxes of the command line.
pub const USER_INBOX: &str = "_INBOX_user";

/// Calls that change nothing.
const LOOKING: [&str; 8] = ["events", "grid", "info", "queue", "run", "runs", "whoami", "workers"];

/// Who a user of the bus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A coordinator: makes streams and buckets, and hears everything.
    Coordinator,
    /// The worker of this name.
    Worker(WorkerId),
    /// Submits, cancels and looks.
    Submitter,
    /// Looks.
    Viewer,
}

/// Subjects a role may publish to and listen on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permissions {
    /// Where it may publish.
    pub publish: Vec<String>,
    /// Where it may not, in spite of the above.
    pub publish_not: Vec<String>,
    /// Where it may listen.
    pub subscribe: Vec<String>,
    /// Whether it may answer requests, wherever the answer goes.
    pub answers: bool,
}

impl Role {
    /// Its name in files and flags.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker(_) => "worker",
            Self::Submitter => "submitter",
            Self::Viewer => "viewer",
        }
    }

    /// What it may do.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        match self {
            Self::Coordinator => Permissions {
                publish: vec![">".to_owned()],
                subscribe: vec![">".to_owned()],
                ..Permissions::default()
            },
            Self::Worker(worker) => of_worker(worker),
            Self::Submitter => of_user(vec![subjects::API_ALL.to_owned()]),
            Self::Viewer => of_user(LOOKING.iter().map(|call| subjects::api(call)).collect()),
        }
    }

    /// The user's entry in `authorization { users = [ … ] }` of a server.
    #[must_use]
    pub fn user(&self, public_key: &str) -> String {
        let Permissions { publish, publish_not, subscribe, answers } = self.permissions();
        let mut text = String::new();
        if let Self::Worker(worker) = self {
            let _ = writeln!(text, "# worker {worker}");
        } else {
            let _ = writeln!(text, "# {}", self.as_str());
        }
        let _ = writeln!(text, "{{\n  nkey: {public_key}\n  permissions: {{\n    publish: {{");
        list(&mut text, "allow", &publish);
        if !publish_not.is_empty() {
            list(&mut text, "deny", &publish_not);
        }
        text.push_str("    }\n    subscribe: {\n");
        list(&mut text, "allow", &subscribe);
        text.push_str("    }\n");
        if answers {
            text.push_str("    allow_responses: true\n");
        }
        text.push_str("  }\n}\n");
        text
    }
}

/// The prefix of a worker's inboxes.
#[must_use]
pub fn inbox(worker: &WorkerId) -> String {
    format!("_INBOX_{worker}")
}

fn of_worker(worker: &WorkerId) -> Permissions {
    let direct = "$JS.API.DIRECT.GET";
    let assignment = subjects::assign(worker);
    Permissions {
        publish: vec![
            "$JS.API.INFO".to_owned(),
            format!("$KV.*.{worker}.>"),
            format!("{direct}.*"),
            format!("{direct}.{ASSIGN_STREAM}.{assignment}"),
            subjects::register(worker),
            subjects::heartbeat(worker),
            subjects::report(worker),
            subjects::claim(worker),
            "gs.v1.event.*".to_owned(),
            "gs.v1.log.*.*".to_owned(),
        ],
        publish_not: vec![
            format!("$KV.{CONTROL_BUCKET}.>"),
            // By its own subject above; this form would name any worker's.
            format!("{direct}.{ASSIGN_STREAM}"),
            format!("{direct}.KV_{CONTROL_BUCKET}"),
        ],
        subscribe: vec![
            subjects::assigned(worker),
            subjects::address(worker),
            "gs.v1.sync.*.*.>".to_owned(),
            format!("{}.>", inbox(worker)),
        ],
        answers: true,
    }
}

fn of_user(calls: Vec<String>) -> Permissions {
    let mut publish = calls;
    publish.push("$JS.API.INFO".to_owned());
    Permissions {
        publish,
        subscribe: vec![
            subjects::STATUS_ALL.to_owned(),
            "gs.v1.event.*".to_owned(),
            "gs.v1.log.*.*".to_owned(),
            format!("{USER_INBOX}.>"),
        ],
        ..Permissions::default()
    }
}

fn list(text: &mut String, key: &str, subjects: &[String]) {
    let quoted: Vec<String> = subjects.iter().map(|one| format!("\"{one}\"")).collect();
    let _ = writeln!(text, "      {key}: [{}]", quoted.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_entry_can_be_pasted_into_a_servers_configuration() {
        let worker = Role::Worker(WorkerId::from_lossy("w1"));
        insta::assert_snapshot!(worker.user("UABC"), @r#"
        # worker w1
        {
          nkey: UABC
          permissions: {
            publish: {
              allow: ["$JS.API.INFO", "$KV.*.w1.>", "$JS.API.DIRECT.GET.*", "$JS.API.DIRECT.GET.GS_ASSIGN.gs.v1.assign.w1", "gs.v1.register.w1", "gs.v1.heartbeat.w1", "gs.v1.report.w1", "gs.v1.claim.w1", "gs.v1.event.*", "gs.v1.log.*.*"]
              deny: ["$KV.gs_ctl.>", "$JS.API.DIRECT.GET.GS_ASSIGN", "$JS.API.DIRECT.GET.KV_gs_ctl"]
            }
            subscribe: {
              allow: ["gs.v1.assigned.w1", "gs.v1.address.w1", "gs.v1.sync.*.*.>", "_INBOX_w1.>"]
            }
            allow_responses: true
          }
        }
        "#);
    }

    #[test]
    fn a_viewer_calls_nothing_that_changes_something() {
        let viewer = Role::Viewer.permissions().publish;
        for call in ["submit", "cancel", "priority"] {
            assert!(!viewer.contains(&subjects::api(call)), "{call}");
        }
        assert!(!viewer.contains(&subjects::API_ALL.to_owned()));
    }
}
