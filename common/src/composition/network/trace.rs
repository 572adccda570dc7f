//! Link traces of mahimahi: each line is the millisecond at which one packet of full size may leave.
//!
//! Played back here is the rate of each window of a trace, not each single opportunity. After its last line a
//! trace begins anew.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::shape::LONGEST;
use crate::diagnostic::{Diagnostic, SourceFile};

/// Bits of one opportunity: a packet of 1,500 bytes.
const OPPORTUNITY_BITS: u64 = 1500 * 8;

/// The rates of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trace {
    /// How long each rate holds, in milliseconds, and the rate in bits per second; never 0.
    pub rates: Vec<(u64, u64)>,
}

impl Trace {
    /// Reads a trace and takes the rate of each window. A window in which nothing may leave is made longer
    /// until something may: a rate of nothing would drop everything.
    pub(super) fn read(
        source: &std::sync::Arc<SourceFile>,
        window: Duration,
    ) -> Result<Self, Diagnostic> {
        let help = "a line is a whole number of milliseconds, not smaller than the one before";
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1);
        let (mut rates, mut start, mut end, mut count) = (Vec::new(), 0, window, 0_u64);
        let mut last = 0;
        for line in source.text.lines().filter(|line| !line.trim().is_empty()) {
            let at = line.as_ptr() as usize - source.text.as_ptr() as usize;
            let time = line.trim().parse::<u64>().ok().filter(|time| *time >= last);
            let Some(time) = time else {
                let message = format!("`{}` is not a time of a trace", line.trim());
                return Err(Diagnostic::error(source, at..at + line.len(), message, help));
            };
            if Duration::from_millis(time) > LONGEST {
                let message = format!("`{}` is later than 30 days", line.trim());
                let help = "times count from the beginning of the trace: subtract the first line's";
                return Err(Diagnostic::error(source, at..at + line.len(), message, help));
            }
            last = time;
            if time > end {
                if count > 0 {
                    rates.push(rate(end - start, count));
                    (start, count) = (end, 0);
                }
                end += (time - end).div_ceil(window) * window;
            }
            count += 1;
        }
        if last == 0 {
            return Err(Diagnostic::error(source, None, "the trace has no length", help));
        }
        if count > 0 {
            rates.push(rate(last - start, count));
        }
        Ok(Self { rates })
    }
}

/// The rate of so many opportunities in so many milliseconds. A rate of 0 would be none at all.
fn rate(millis: u64, count: u64) -> (u64, u64) {
    (millis, (count * OPPORTUNITY_BITS * 1000 / millis).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(text: &str) -> Result<Vec<(u64, u64)>, Diagnostic> {
        let source = SourceFile::new("cell.trace", text);
        Trace::read(&source, Duration::from_millis(100)).map(|trace| trace.rates)
    }

    #[test]
    fn a_trace_is_the_rate_of_each_window() {
        // One packet each 10 ms is 1.2 Mbit/s; then nothing for 200 ms, then two.
        let steady: String = (1..=10).map(|k| format!("{}\n", k * 10 - 5)).collect();
        let found = rates(&format!("{steady}350\n400\n")).expect("a trace");
        assert_eq!(found, [(100, 1_200_000), (300, 80_000)]);
    }

    #[test]
    fn a_long_silence_is_one_window_and_never_a_rate_of_nothing() {
        assert_eq!(rates("50\n2592000000\n"), Ok(vec![(100, 120_000), (2_591_999_900, 1)]));
        let refused = rates("7\n1700000000000000000\n").expect_err("refused");
        assert_eq!(refused.line(), Some(2));
        assert!(refused.to_string().contains("later than 30 days"), "{refused}");
    }

    #[test]
    fn what_is_no_trace_is_refused_at_its_line() {
        assert_eq!(rates("5\n4\n").map_err(|err| err.line()), Err(Some(2)));
        assert_eq!(rates("5\nx\n").map_err(|err| err.line()), Err(Some(2)));
        assert!(rates("").is_err());
    }
}
