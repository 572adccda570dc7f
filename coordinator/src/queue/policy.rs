//! What the queue goes by: teams, their weights and their quotas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The team of a user whom no team lists.
pub const NO_TEAM: &str = "default";

/// How much of the cluster a team may have. Absent is without limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quota {
    /// Instances of its runs that hold room at the same time.
    pub instances: Option<u32>,
    /// Runs that hold room at the same time.
    pub runs: Option<u32>,
    /// Runs that wait.
    pub queued: Option<u32>,
    /// How long one run may take.
    pub run_time: Option<Duration>,
    /// How much the instances of one run may print that is kept, in bytes.
    pub log_bytes: Option<u64>,
    /// How much the instances of one run may leave in their outputs, in bytes.
    pub outputs_bytes: Option<u64>,
}

/// A team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// Its share beside the shares of other teams; at least 1.
    pub weight: u32,
    /// Its users; empty is whoever names it.
    pub users: BTreeSet<String>,
    /// What it may have.
    pub quota: Quota,
}

impl Default for Team {
    fn default() -> Self {
        Self { weight: 1, users: BTreeSet::new(), quota: Quota::default() }
    }
}

/// What the queue goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// After this time what a team has used counts half.
    pub half_life: Duration,
    /// After each time as long as this a waiting run counts as one class more urgent; zero is never.
    pub aging: Duration,
    /// The teams with a table of their own.
    pub teams: BTreeMap<String, Team>,
    /// All others.
    pub others: Team,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            half_life: Duration::from_secs(3600),
            aging: Duration::from_secs(1800),
            teams: BTreeMap::new(),
            others: Team::default(),
        }
    }
}

impl Policy {
    /// What is set for a team.
    #[must_use]
    pub fn team(&self, name: &str) -> &Team {
        self.teams.get(name).unwrap_or(&self.others)
    }

    /// The team of a run: the one that is asked for, or else the one that lists the user.
    #[must_use]
    pub fn team_of(&self, asked: Option<&str>, user: &str) -> String {
        let lists = |(_, team): &(&String, &Team)| team.users.contains(user);
        let listed = || self.teams.iter().find(lists).map(|(name, _)| name.as_str());
        asked.or_else(listed).unwrap_or(NO_TEAM).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_in_the_team_that_is_asked_for_or_lists_the_user() {
        let core = Team { users: BTreeSet::from(["ana".to_owned()]), ..Team::default() };
        let policy =
            Policy { teams: BTreeMap::from([("core".to_owned(), core)]), ..Policy::default() };
        assert_eq!(policy.team_of(None, "ana"), "core");
        assert_eq!(policy.team_of(None, "ben"), NO_TEAM);
        assert_eq!(policy.team_of(Some("infra"), "ana"), "infra");
    }
}
