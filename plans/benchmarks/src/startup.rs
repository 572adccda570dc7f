//! How long instances take to begin.

use std::time::Duration;

use groundswell_sdk::prelude::*;

use self::clock::seconds_of;
use crate::begin;

/// Records how long after the run's start this instance has begun, and how far apart all have.
pub(crate) async fn startup(cx: Ctx) -> Result {
    let now = begin::at();
    // The start time has whole seconds, so an instance that begins at once would be early.
    let started = Duration::from_secs(seconds_of(&cx.env().start_time)?);
    cx.point("time_to_start_secs", now.saturating_sub(started)).record();

    let all = cx.exchange("begun", &now).await?;
    cx.point("all_there_s", begin::elapsed()).record();
    if cx.index() == 0 {
        let times = || all.iter().map(|member| member.value);
        let (first, last) = (times().min().unwrap_or(now), times().max().unwrap_or(now));
        cx.point("start_spread_s", last - first).record();
    }
    Ok(())
}

mod clock {
    //! Reads the one form of time that the platform writes.

    /// `text` is not a time.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct NoTime(String);

    impl std::error::Error for NoTime {}

    impl std::fmt::Display for NoTime {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "the start time `{}` is not like 2026-01-02T03:04:05Z", self.0)
        }
    }

    /// Seconds from 1970 to an RFC 3339 time; fractions are dropped.
    pub(super) fn seconds_of(text: &str) -> Result<u64, NoTime> {
        read(text).ok_or_else(|| NoTime(text.to_owned()))
    }

    fn read(text: &str) -> Option<u64> {
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let fraction = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        let offset = match fraction {
            "Z" => 0,
            zone => {
                let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60
                    + zone.get(4..6)?.parse::<i64>().ok()?;
                if zone.starts_with('-') { -minutes } else { minutes }
            }
        };
        let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        u64::try_from(seconds - offset * 60).ok()
    }

    /// Days from 1970 to a date of the Gregorian calendar.
    fn days(year: i64, month: i64, day: i64) -> i64 {
        // Years begin in March here, so that a leap day is the last of its year.
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn times_are_read() {
            assert_eq!(seconds_of("1970-01-01T00:00:00Z"), Ok(0));
            assert_eq!(seconds_of("2000-02-29T12:00:00Z"), Ok(951_825_600));
            assert_eq!(seconds_of("2026-01-02T03:04:05.678Z"), Ok(1_767_323_045));
            assert_eq!(seconds_of("2026-01-02T05:04:05+02:00"), Ok(1_767_323_045));
            for bad in ["", "yesterday", "2026-01-02", "2026-01-02T03:04:05"] {
                assert_eq!(seconds_of(bad), Err(NoTime(bad.to_owned())), "{bad}");
            }
        }
    }
}
