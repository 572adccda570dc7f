//! What did not get through, of each run and in all, and how that is said. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Why a metric is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Too many were waiting: the oldest went.
    Overflow,
    /// The store does not take it.
    Refused,
    /// It is no line of the protocol.
    Malformed,
    /// This process ended before the store took it.
    Ended,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Overflow, Self::Refused, Self::Malformed, Self::Ended];

    /// The word in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Ended => "ended",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Overflow => "too many were waiting",
            Self::Refused => "refused by the store",
            Self::Malformed => "malformed",
            Self::Ended => "not sent before the end",
        }
    }
}

/// What did not get through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Losses {
    /// Metrics that are gone, by reason.
    pub lost: BTreeMap<Reason, u64>,
    /// Metrics that wait longer than they should.
    pub late: u64,
    /// Why they wait.
    pub why_late: String,
    /// What the store said last when it refused some.
    pub refusal: String,
}

impl Losses {
    /// How many metrics are not where they should be.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lost.values().sum::<u64>() + self.late
    }

    /// All of it in one sentence; `None` when nothing is missing. `place` says who has lost them.
    #[must_use]
    pub fn text(&self, place: &str) -> Option<String> {
        let count = self.count();
        let many = if count == 1 { "metric" } else { "metrics" };
        let verb = match (self.lost.is_empty(), self.late) {
            (true, 0) => return None,
            (_, 0) => "lost",
            (_, 1..) => "lost or late",
        };
        let mut text = format!("{count} {many} {verb}{place}: ");
        let mut before = "";
        for (reason, count) in &self.lost {
            let _ = write!(text, "{before}{} ({count})", reason.text());
            before = ", ";
            if *reason == Reason::Refused && !self.refusal.is_empty() {
                let _ = write!(text, ": {}", self.refusal);
            }
        }
        if self.late > 0 {
            let _ = write!(text, "{before}{} ({})", self.why_late, self.late);
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_one_sentence() {
        assert_eq!(Losses::default().text(""), None);
        let one = Losses { lost: BTreeMap::from([(Reason::Malformed, 1)]), ..Losses::default() };
        assert_eq!(one.text("").as_deref(), Some("1 metric lost: malformed (1)"));
        let several = Losses {
            lost: BTreeMap::from([(Reason::Refused, 3), (Reason::Overflow, 2)]),
            late: 4,
            why_late: "no connection".to_owned(),
            refusal: "401 unauthorized".to_owned(),
        };
        assert_eq!(
            several.text(" on worker w1").as_deref(),
            Some(
                "9 metrics lost or late on worker w1: too many were waiting (2), \
                 refused by the store (3): 401 unauthorized, no connection (4)"
            )
        );
    }
}
