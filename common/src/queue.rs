//! The queue of runs as people and the command line see it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::RunId;

/// How urgent a run is. Every waiting run of a more urgent class goes before those of the others, until these have
/// waited long.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody is sitting there and waiting.
    Interactive,
    /// Nothing is said.
    #[default]
    Normal,
    /// Any time will do.
    Batch,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Batch];

    /// The word used in every file and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Normal => "normal",
            Self::Batch => "batch",
        }
    }

    /// The class that a word means.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == word)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a submit says about the queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueWish {
    /// How urgent; absent is what the composition says.
    pub priority: Option<Priority>,
    /// On whose account; absent is the team that lists the user.
    pub team: Option<String>,
    /// The same key with the same content is the same run, however often it is submitted.
    pub key: Option<String>,
    /// Whether it takes the place of the runs of the same repository, branch and composition that still wait.
    pub replace: bool,
}

/// A run that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// Its place; the first one is 1.
    pub place: u32,
    /// The run.
    pub run: RunId,
    /// Its two-word name.
    pub name: String,
    /// The plan.
    pub plan: String,
    /// The case.
    pub case: String,
    /// On whose account.
    pub team: String,
    /// Who submitted it.
    pub user: String,
    /// How urgent.
    pub priority: Priority,
    /// Instances it needs.
    pub instances: u32,
    /// Milliseconds since it was submitted.
    pub waited_ms: u64,
    /// Why it does not run, in one sentence.
    pub reason: String,
}

/// Asks for another priority of a run that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorityRequest {
    /// Which.
    pub run: RunId,
    /// How urgent.
    pub priority: Priority,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_read_as_it_is_written() {
        for priority in Priority::ALL {
            assert_eq!(Priority::parse(priority.as_str()), Some(priority));
        }
        assert_eq!(Priority::parse("urgent"), None);
        assert!(Priority::Interactive < Priority::Batch);
    }
}
