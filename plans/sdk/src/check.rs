//! Checks that did not hold.

use std::sync::{Mutex, PoisonError};

/// How many are told in the outcome.
const TOLD: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Checks(Mutex<(usize, Vec<String>)>);

impl Checks {
    pub(crate) fn failed(&self, what: String) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.0 += 1;
        if failed.1.len() < TOLD {
            failed.1.push(what);
        }
    }

    /// What to say of them; nothing when all held.
    pub(crate) fn verdict(&self) -> Option<String> {
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, told) = &*failed;
        let more = match count.checked_sub(told.len()) {
            None | Some(0) => String::new(),
            Some(more) => format!("; and {more} more"),
        };
        let word = if *count == 1 { "check" } else { "checks" };
        (*count > 0).then(|| format!("{count} {word} failed: {}{more}", told.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failed_checks_are_told_and_the_rest_counted() {
        let checks = Checks::default();
        assert_eq!(checks.verdict(), None);
        checks.failed("a".to_owned());
        assert_eq!(checks.verdict().unwrap(), "1 check failed: a");
        for what in ["b", "c", "d", "e"] {
            checks.failed(what.to_owned());
        }
        assert_eq!(checks.verdict().unwrap(), "5 checks failed: a; b; c; and 2 more");
    }
}
