//! What is decided at the door: who may submit what, and which waiting runs a new one replaces.

use std::time::Duration;

use groundswell_common::api::{RefusalKind, SubmitRequest};
use groundswell_common::diagnostic::suggest;

use super::policy::{NO_TEAM, Policy};
use crate::placement::thousands;

/// A run that somebody wants to submit.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// On whose account.
    pub team: &'a str,
    /// Who submits it.
    pub user: &'a str,
    /// Its instances.
    pub instances: u32,
    /// How long it may take.
    pub run_time: Duration,
    /// Runs of the team that wait.
    pub queued: u32,
    /// Slots of all workers.
    pub slots: u64,
}

/// Why a run is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// There are teams, and this is none of them.
    #[error("there is no team `{team}`")]
    NoTeam {
        /// Which.
        team: String,
        /// What to do.
        help: String,
    },
    /// The team has others.
    #[error("user `{user}` is not in team `{team}`")]
    NotInTeam {
        /// Who.
        user: String,
        /// Which.
        team: String,
    },
    /// It could never start.
    #[error(
        "needs {} slots, the cluster has {}, the quota of team `{team}` is {}",
        thousands((*wanted).into()),
        thousands(*slots),
        thousands((*quota).into())
    )]
    TooLarge {
        /// Which team.
        team: String,
        /// Its instances.
        wanted: u32,
        /// Slots there are.
        slots: u64,
        /// What the team may have.
        quota: u32,
    },
    /// It may take longer than the team's runs may.
    #[error(
        "may take {}, runs of team `{team}` {} at most",
        humantime::format_duration(*wanted),
        humantime::format_duration(*quota)
    )]
    TooLong {
        /// Which team.
        team: String,
        /// Its limit.
        wanted: Duration,
        /// What the team may have.
        quota: Duration,
    },
    /// The team has enough runs that wait.
    #[error("team `{team}` has {queued} runs waiting, its quota is {quota}")]
    TooMany {
        /// Which team.
        team: String,
        /// How many wait.
        queued: u32,
        /// What the team may have.
        quota: u32,
    },
}

impl NotAdmitted {
    /// What kind of trouble that is.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::NoTeam { .. } | Self::NotInTeam { .. } | Self::TooLong { .. } => {
                RefusalKind::Invalid
            }
            Self::TooLarge { .. } => RefusalKind::Unplaceable,
            Self::TooMany { .. } => RefusalKind::Unavailable,
        }
    }

    /// What to do.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::NoTeam { help, .. } => help.clone(),
            Self::NotInTeam { .. } => "name another with --team".to_owned(),
            Self::TooLarge { .. } => "ask for fewer instances".to_owned(),
            Self::TooLong { quota, .. } => {
                let limit = humantime::format_duration(*quota).to_string();
                format!("submit with --timeout {}", limit.replace(' ', ""))
            }
            Self::TooMany { .. } => {
                "wait until some have started, or cancel some: `coordinator queue`".to_owned()
            }
        }
    }
}

/// Lets a run in, or says why not.
///
/// # Errors
/// When its team may not have it.
pub fn admit(policy: &Policy, arrival: &Arrival<'_>) -> Result<(), NotAdmitted> {
    let Arrival { team: name, user, instances, run_time, queued, slots } = *arrival;
    let team = || name.to_owned();
    // Where teams are set, nobody makes one up to have a quota of its own.
    if !policy.teams.is_empty() && name != NO_TEAM && !policy.teams.contains_key(name) {
        let known: Vec<&str> = policy.teams.keys().map(String::as_str).collect();
        return Err(NotAdmitted::NoTeam { team: team(), help: suggest(name, known) });
    }
    let set = policy.team(name);
    if !set.users.is_empty() && !set.users.contains(user) {
        return Err(NotAdmitted::NotInTeam { user: user.to_owned(), team: team() });
    }
    let quota = &set.quota;
    if let Some(quota) = quota.instances.filter(|quota| instances > *quota) {
        return Err(NotAdmitted::TooLarge { team: team(), wanted: instances, slots, quota });
    }
    if let Some(quota) = quota.run_time.filter(|quota| run_time > *quota) {
        return Err(NotAdmitted::TooLong { team: team(), wanted: run_time, quota });
    }
    if let Some(quota) = quota.queued.filter(|quota| queued >= *quota) {
        return Err(NotAdmitted::TooMany { team: team(), queued, quota });
    }
    Ok(())
}

/// How much of an instance's stdout and of its stderr is kept, when the instances of a run together may print so
/// much.
#[must_use]
pub fn log_cap(asked: u64, log_bytes: Option<u64>, instances: u32) -> u64 {
    log_bytes.map_or(asked, |all| asked.min(all / (2 * u64::from(instances.max(1)))))
}

/// How much one instance may leave in its outputs, when the instances of a run together may leave so much.
#[must_use]
pub fn outputs_cap(asked: u64, outputs_bytes: Option<u64>, instances: u32) -> u64 {
    outputs_bytes.map_or(asked, |all| asked.min(all / u64::from(instances.max(1))))
}

/// Whether `new` takes the place of `old`, as in Testground where a task of the same repository and branch cancels
/// the one that still waits. Of one submit with several compositions or runs none replaces another.
#[must_use]
pub fn replaces(new: &SubmitRequest, old: &SubmitRequest) -> bool {
    let (from, to) = (&new.source_info, &old.source_info);
    new.queue.replace
        && !from.repo.is_empty()
        && !from.branch.is_empty()
        && (&from.repo, &from.branch) == (&to.repo, &to.branch)
        && (&new.composition_name, &new.run) == (&old.composition_name, &old.run)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::policy::{Quota, Team};
    use super::*;

    fn policy() -> Policy {
        let quota = Quota {
            instances: Some(2_000),
            queued: Some(3),
            run_time: Some(Duration::from_secs(1800)),
            ..Quota::default()
        };
        let core = Team { users: ["ana".to_owned()].into(), quota, ..Team::default() };
        Policy { teams: BTreeMap::from([("core".to_owned(), core)]), ..Policy::default() }
    }

    const ARRIVAL: Arrival<'_> = Arrival {
        team: "core",
        user: "ana",
        instances: 2_000,
        run_time: Duration::from_secs(1800),
        queued: 2,
        slots: 4_000,
    };

    fn refused(arrival: Arrival<'_>) -> (String, String) {
        let refused = admit(&policy(), &arrival).expect_err("refused");
        (refused.to_string(), refused.help())
    }

    #[test]
    fn a_team_has_what_its_quota_allows_and_is_told_what_is_too_much() {
        assert_eq!(admit(&policy(), &ARRIVAL), Ok(()));
        assert_eq!(
            refused(Arrival { instances: 12_000, ..ARRIVAL }).0,
            "needs 12,000 slots, the cluster has 4,000, the quota of team `core` is 2,000"
        );
        assert_eq!(
            refused(Arrival { run_time: Duration::from_secs(5400), ..ARRIVAL }),
            (
                "may take 1h 30m, runs of team `core` 30m at most".to_owned(),
                "submit with --timeout 30m".to_owned()
            )
        );
        assert_eq!(
            refused(Arrival { queued: 3, ..ARRIVAL }).0,
            "team `core` has 3 runs waiting, its quota is 3"
        );
    }

    #[test]
    fn nobody_makes_up_a_team_where_there_are_teams() {
        let made_up = Arrival { team: "cora", ..ARRIVAL };
        assert_eq!(
            refused(made_up),
            ("there is no team `cora`".to_owned(), "did you mean `core`?".to_owned())
        );
        assert_eq!(admit(&Policy::default(), &made_up), Ok(()));
        assert_eq!(admit(&policy(), &Arrival { team: NO_TEAM, ..ARRIVAL }), Ok(()));
        let other = Arrival { user: "ben", ..ARRIVAL };
        assert_eq!(refused(other).0, "user `ben` is not in team `core`");
    }

    #[test]
    fn a_quota_of_logs_is_shared_by_the_streams_of_all_instances() {
        assert_eq!(log_cap(64, None, 10), 64);
        assert_eq!(log_cap(64, Some(200), 10), 10);
        assert_eq!(log_cap(64, Some(1 << 30), 10), 64);
        assert_eq!(outputs_cap(64, None, 10), 64);
        assert_eq!(outputs_cap(64, Some(200), 10), 20);
    }
}
