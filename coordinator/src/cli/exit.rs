//! The exit codes: their meaning, and which one wins. They are stable.

use std::process::ExitCode;

use groundswell_common::api::RefusalKind;
use groundswell_common::run::Verdict;

/// What the process says with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Passed = 0,
    Internal = 1,
    Usage = 2,
    Invalid = 3,
    NothingSelected = 4,
    Unreachable = 5,
    Failures = 10,
    Threshold = 11,
    Regression = 12,
    Inconclusive = 13,
    Infra = 20,
    TimedOut = 21,
    NoCapacity = 22,
    StillRunning = 124,
    Interrupted = 130,
    Killed = 137,
    Terminated = 143,
}

/// Code, meaning, and whether trying again may help.
pub(crate) const TABLE: [(Exit, &str, &str); 17] = [
    (Exit::Passed, "passed, or the command did what it was asked for", ""),
    (Exit::Internal, "internal error: please report it", ""),
    (Exit::Usage, "wrong usage of the command line", ""),
    (Exit::Invalid, "composition, manifest or plan invalid; a build that fails", ""),
    (Exit::NothingSelected, "no such run, file, instance, group or worker", ""),
    (
        Exit::Unreachable,
        "NATS, coordinator or credentials do not work; no usable nats-server",
        "maybe",
    ),
    (Exit::Failures, "instances failed", ""),
    (Exit::Threshold, "an expectation is broken, or another threshold", ""),
    (Exit::Regression, "a regression against the baseline", ""),
    (
        Exit::Inconclusive,
        "inconclusive: it would have failed, and the machines were not fit to tell; a comparison that cannot tell",
        "yes",
    ),
    (
        Exit::Infra,
        "infrastructure: a worker or the object store was lost; outputs not collected",
        "yes",
    ),
    (Exit::TimedOut, "the run's time was over", ""),
    (Exit::NoCapacity, "no capacity: the run does not fit", "yes"),
    (Exit::StillRunning, "`wait --timeout` ran out; the run goes on", "yes"),
    (
        Exit::Interrupted,
        "canceled, by Ctrl-C or by someone else; the run was stopped gracefully",
        "",
    ),
    (Exit::Killed, "canceled and killed", ""),
    (Exit::Terminated, "canceled by SIGTERM; the run was stopped gracefully", ""),
];

/// Which code wins when several hold. What is not listed comes last.
const PRECEDENCE: [Exit; 15] = [
    Exit::Killed,
    Exit::Terminated,
    Exit::Interrupted,
    Exit::Internal,
    Exit::Unreachable,
    Exit::Infra,
    Exit::NoCapacity,
    Exit::TimedOut,
    Exit::Invalid,
    Exit::NothingSelected,
    Exit::Failures,
    Exit::Threshold,
    Exit::Regression,
    Exit::Inconclusive,
    Exit::StillRunning,
];

impl Exit {
    /// The number the shell sees.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The code of a run that ended like this, when nobody here stopped it.
    pub(crate) fn of_verdict(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passed => Self::Passed,
            Verdict::Failed => Self::Failures,
            Verdict::Inconclusive => Self::Inconclusive,
            Verdict::Infra => Self::Infra,
            Verdict::TimedOut => Self::TimedOut,
            Verdict::Canceled => Self::Interrupted,
            Verdict::Rejected => Self::Invalid,
            Verdict::Unplaceable => Self::NoCapacity,
        }
    }

    /// The code of a call the coordinator refused.
    pub(crate) fn of_refusal(kind: RefusalKind) -> Self {
        match kind {
            RefusalKind::Invalid => Self::Invalid,
            RefusalKind::NotFound => Self::NothingSelected,
            RefusalKind::Unplaceable => Self::NoCapacity,
            RefusalKind::Forbidden | RefusalKind::Unavailable => Self::Unreachable,
        }
    }

    /// The one that wins among several; none is [`Exit::Passed`].
    pub(crate) fn strongest(all: &[Self]) -> Self {
        PRECEDENCE.into_iter().find(|exit| all.contains(exit)).unwrap_or(Self::Passed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_beats_trouble_and_trouble_beats_failures() {
        let strongest = Exit::strongest(&[Exit::Failures, Exit::Infra, Exit::Interrupted]);
        assert_eq!(strongest, Exit::Interrupted);
        assert_eq!(Exit::strongest(&[Exit::Failures, Exit::Infra]), Exit::Infra);
        assert_eq!(Exit::strongest(&[Exit::Inconclusive, Exit::Threshold]), Exit::Threshold);
        assert_eq!(Exit::strongest(&[]), Exit::Passed);
    }

    #[test]
    fn every_code_is_in_the_table_once_and_in_order() {
        let codes: Vec<u8> = TABLE.iter().map(|(exit, _, _)| exit.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b));
        let listed = |exit: &Exit| TABLE.iter().any(|(known, _, _)| known == exit);
        assert!(PRECEDENCE.iter().all(listed));
    }
}
