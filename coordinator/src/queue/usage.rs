//! What each team and user has had of the cluster: instance-seconds, of which the older ones count less.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Owner;

/// Less than this is nothing.
const NOTHING: f64 = 0.01;

/// Decayed instance-seconds by team and user.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// The time of the values below, Unix milliseconds.
    at_ms: u64,
    teams: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Usage {
    /// Lets time pass in which nobody used anything, or nobody watched.
    pub fn rest(&mut self, now_ms: u64, half_life: Duration) {
        self.advance(now_ms, half_life, []);
    }

    /// Lets time pass in which these runs held so many instances.
    pub fn advance<'a>(
        &mut self,
        now_ms: u64,
        half_life: Duration,
        holding: impl IntoIterator<Item = (&'a Owner, u32)>,
    ) {
        // A clock that was set back makes no time pass.
        let passed = Duration::from_millis(now_ms.saturating_sub(self.at_ms)).as_secs_f64();
        let factor = 0.5_f64.powf(passed / half_life.as_secs_f64().max(1.0));
        for users in self.teams.values_mut() {
            users.values_mut().for_each(|used| *used *= factor);
        }
        for (owner, instances) in holding {
            let users = self.teams.entry(owner.team.clone()).or_default();
            *users.entry(owner.user.clone()).or_default() += f64::from(instances) * passed;
        }
        self.teams.retain(|_, users| {
            users.retain(|_, used| *used > NOTHING);
            !users.is_empty()
        });
        self.at_ms = now_ms;
    }

    /// The instance-seconds of a team.
    #[must_use]
    pub fn of_team(&self, team: &str) -> f64 {
        self.teams.get(team).map_or(0.0, |users| users.values().sum())
    }

    /// The instance-seconds of a user of a team.
    #[must_use]
    pub fn of_user(&self, owner: &Owner) -> f64 {
        let users = self.teams.get(&owner.team);
        users.and_then(|users| users.get(&owner.user)).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_used_counts_half_after_the_half_life() {
        let owner = Owner { team: "core".to_owned(), user: "ana".to_owned() };
        let mut usage = Usage::default();
        usage.rest(1_000_000, HOUR);
        usage.advance(1_010_000, HOUR, [(&owner, 100)]);
        assert!((usage.of_team("core") - 1_000.0).abs() < 1e-6, "{usage:?}");
        usage.rest(1_010_000 + 3_600_000, HOUR);
        assert!((usage.of_user(&owner) - 500.0).abs() < 1e-6, "{usage:?}");
        assert!(usage.of_team("others").abs() < 1e-6);
        usage.rest(1_010_000, HOUR);
        assert!((usage.of_team("core") - 500.0).abs() < 1e-6, "no time has passed");
        usage.rest(1_000_000_000_000, HOUR);
        assert_eq!(usage.teams.len(), 0);
    }
}
