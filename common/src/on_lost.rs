//! What becomes of a run when a worker is lost and its instances with it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What becomes of a run that has lost instances. They are never replaced one by one: they have signalled already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum OnLost {
    /// It ends as an infrastructure failure.
    #[default]
    Fail,
    /// It is given out again as a whole, with a new log, so many times.
    RetryRun(u32),
    /// It goes on while no more than this share of its instances is lost, in hundredths of a percent.
    Tolerate(u32),
}

/// How the three are written.
const FORMS: &str = "write `fail`, `retry_run(2)` or `tolerate(5%)`";

/// The most often a run is given out again.
const MOST_RETRIES: u32 = 10;

impl OnLost {
    /// Reads `fail`, `retry_run(n)` or `tolerate(x%)`.
    ///
    /// # Errors
    /// When it is none of them; the text says how they are written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let argument = |name: &str| {
            text.strip_prefix(name)?.trim().strip_prefix('(')?.strip_suffix(')').map(str::trim)
        };
        if text == "fail" {
            return Ok(Self::Fail);
        }
        if let Some(times) = argument("retry_run") {
            let times = times.parse().ok().filter(|times| (1..=MOST_RETRIES).contains(times));
            return times
                .map(Self::RetryRun)
                .ok_or_else(|| format!("a run is tried again 1 to {MOST_RETRIES} times"));
        }
        if let Some(share) = argument("tolerate") {
            return share
                .strip_suffix('%')
                .and_then(|number| hundredths(number.trim()))
                .filter(|share| (1..10_000).contains(share))
                .map(Self::Tolerate)
                .ok_or_else(|| {
                    "a share is more than 0% and less than 100%, as in `5%`".to_owned()
                });
        }
        Err(FORMS.to_owned())
    }

    /// Whether `lost` of `total` instances are few enough to go on.
    #[must_use]
    pub fn tolerates(self, lost: u32, total: u32) -> bool {
        match self {
            Self::Fail | Self::RetryRun(_) => false,
            Self::Tolerate(share) => {
                u64::from(lost) * 10_000 <= u64::from(share) * u64::from(total)
            }
        }
    }

    /// How often the run is given out again.
    #[must_use]
    pub fn retries(self) -> u32 {
        match self {
            Self::RetryRun(times) => times,
            Self::Fail | Self::Tolerate(_) => 0,
        }
    }
}

/// A number with at most two decimals, times a hundred.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) {
        return None;
    }
    let part: u32 = format!("{part:0<2}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

impl fmt::Display for OnLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail => f.write_str("fail"),
            Self::RetryRun(times) => write!(f, "retry_run({times})"),
            Self::Tolerate(share) if share % 100 == 0 => write!(f, "tolerate({}%)", share / 100),
            Self::Tolerate(share) => write!(f, "tolerate({}.{:02}%)", share / 100, share % 100),
        }
    }
}

impl From<OnLost> for String {
    fn from(on_lost: OnLost) -> Self {
        on_lost.to_string()
    }
}

impl TryFrom<String> for OnLost {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read_and_written() {
        for text in ["fail", "retry_run(2)", "tolerate(5%)", "tolerate(0.50%)"] {
            assert_eq!(OnLost::parse(text).expect("it is one").to_string(), text);
        }
        assert_eq!(OnLost::parse("tolerate ( 2.5 % )"), Ok(OnLost::Tolerate(250)));
    }

    #[test]
    fn what_is_none_of_them_is_told_how_they_are_written() {
        for text in ["", "ignore", "retry_run", "retry_run(0)", "retry_run(11)", "tolerate(5)"] {
            assert!(OnLost::parse(text).is_err(), "{text}");
        }
        for text in ["tolerate(0%)", "tolerate(100%)", "tolerate(-1%)", "tolerate(1.234%)"] {
            assert!(OnLost::parse(text).is_err(), "{text}");
        }
        assert_eq!(OnLost::parse("never"), Err(FORMS.to_owned()));
    }

    #[test]
    fn a_share_is_of_the_whole_run() {
        let five = OnLost::Tolerate(500);
        assert!(five.tolerates(5, 100) && !five.tolerates(6, 100));
        assert!(!five.tolerates(1, 19) && five.tolerates(1, 20));
        assert!(!OnLost::Fail.tolerates(1, 1000));
    }
}
