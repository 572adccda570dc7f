//! How instances and runs end.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How one instance, or a whole run, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It said that it succeeded, and nothing it said contradicts that.
    Success,
    /// It said that it failed, it crashed, or it ended without saying anything.
    Failure,
    /// The run's time was over before it ended.
    TimedOut,
    /// Someone canceled the run.
    Canceled,
    /// Groundswell could not do its part: never the fault of the software under test.
    Aborted,
    /// Its worker was lost with it.
    Lost,
    /// The run's schedule killed or stopped it for good before it had said how it ended. Nobody has failed.
    Killed,
}

impl Outcome {
    /// The word used in every output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Aborted => "aborted",
            Self::Lost => "lost",
            Self::Killed => "killed",
        }
    }

    /// Whether the cause is Groundswell or its machines and not the software under test.
    #[must_use]
    pub fn is_infrastructure(self) -> bool {
        matches!(self, Self::Aborted | Self::Lost)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the first process of an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, when it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the instance for want of memory, by the cgroup's own counter.
    pub oom_killed: bool,
    /// Whether Groundswell's own process in the instance was killed, and the instance with it: by whoever runs the
    /// host, or by an engine that was restarted. No plan can do that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_outside: bool,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oom_killed {
            f.write_str("out of memory, ")?;
        }
        match (self.signal, self.code) {
            (Some(signal), _) => write!(f, "killed by signal {signal}"),
            (None, Some(code)) => write!(f, "exit code {code}"),
            (None, None) => f.write_str("exit status unknown"),
        }
    }
}

/// Everything known of how one instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceEnd {
    /// The verdict.
    pub outcome: Outcome,
    /// Why, in one sentence fragment; empty for a plain success.
    #[serde(default)]
    pub reason: String,
    /// How its first process ended; absent when it never started or is still unknown.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// The last lines it printed, when it did not succeed.
    #[serde(default)]
    pub last_lines: Vec<String>,
}
