//! Text with a unit: durations, sizes, rates, shares.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Text that is not what it should be; the message says what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not {0}")]
pub struct UnitError(pub(crate) &'static str);

const DURATION: UnitError = UnitError("a duration such as `100ms`, `1.5s` or `2m`");
const BYTES: UnitError = UnitError("a size such as `64KiB`, `10MB` or `4096`");
const RATE: UnitError = UnitError("a rate such as `10Mbit` or `1Gbit`");
const PERCENT: UnitError = UnitError("a share from 0 to 100 such as `10%` or `0.5%`");

/// Reads a duration; a number without a unit is seconds. Several parts may follow each other: `1m30s`.
///
/// # Errors
/// When the text is no duration.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| DURATION);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or(DURATION)?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let scale = match unit.trim() {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(DURATION),
        };
        let part = Duration::try_from_secs_f64(number * scale).map_err(|_| DURATION)?;
        total = total.checked_add(part).ok_or(DURATION)?;
        rest = next;
    }
    if text.trim().is_empty() { Err(DURATION) } else { Ok(total) }
}

fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, unit) = split_number(text.trim())?;
    let unit = unit.trim();
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    Some(number * scale)
}

/// A float that is to be a whole number of something.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, which is what an absurd number should become"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// Reads a type from text. A visitor, and not a `String` first, so that the error is made where the parameter's name
/// is known.
struct FromText<T>(PhantomData<T>);

impl<T: FromStr<Err = UnitError>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text with a unit")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|err| E::custom(format!("`{text}` {err}")))
    }
}

macro_rules! from_text {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(FromText(PhantomData))
            }
        }
    };
}

/// A number of bytes: `64KiB`, `10MB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const UNITS: &[(&str, f64)] = &[
            ("", 1.0),
            ("B", 1.0),
            ("kB", 1e3),
            ("KB", 1e3),
            ("MB", 1e6),
            ("GB", 1e9),
            ("KiB", 1024.0),
            ("MiB", 1_048_576.0),
            ("GiB", 1_073_741_824.0),
        ];
        scaled(text, UNITS).map(|bytes| Self(whole(bytes))).ok_or(BYTES)
    }
}

from_text!(Bytes);

/// Bits per second: `10Mbit`, `1Gbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const UNITS: &[(&str, f64)] =
            &[("", 1.0), ("bit", 1.0), ("kbit", 1e3), ("Kbit", 1e3), ("Mbit", 1e6), ("Gbit", 1e9)];
        let text = text.trim().trim_end_matches("/s").trim_end_matches("ps");
        scaled(text, UNITS).map(|bits| Self(whole(bits))).ok_or(RATE)
    }
}

from_text!(Rate);

/// A share in percent, 0 to 100: `10%`, or `10`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Percent(pub f64);

impl Percent {
    /// The share as a number from 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        self.0 / 100.0
    }

    /// This share of `count`, rounded.
    #[must_use]
    pub fn of(self, count: u32) -> u32 {
        u32::try_from(whole(f64::from(count) * self.ratio())).unwrap_or(count)
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let number: f64 = text.trim().trim_end_matches('%').trim().parse().map_err(|_| PERCENT)?;
        if (0.0..=100.0).contains(&number) { Ok(Self(number)) } else { Err(PERCENT) }
    }
}

from_text!(Percent);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_may_have_parts() {
        let cases = [
            ("100ms", 0.1),
            ("1.5s", 1.5),
            ("1m30s", 90.0),
            ("2h", 7200.0),
            ("7", 7.0),
            ("250 us", 0.000_25),
        ];
        for (text, seconds) in cases {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for bad in ["", "ms", "5 parsecs", "-1s", "1e400s", "1s2"] {
            assert_eq!(duration(bad), Err(DURATION), "{bad}");
        }
    }

    #[test]
    fn sizes_rates_and_shares_have_units() {
        assert_eq!("64MiB".parse(), Ok(Bytes(64 << 20)));
        assert_eq!("1.5 kB".parse(), Ok(Bytes(1500)));
        assert_eq!("64 mib".parse::<Bytes>(), Err(BYTES));
        assert_eq!("10Mbit/s".parse(), Ok(Rate(10_000_000)));
        assert_eq!("10Mbps".parse::<Rate>(), Err(RATE));
        assert_eq!("10 %".parse(), Ok(Percent(10.0)));
        assert_eq!(Percent(10.0).of(25), 3);
        for bad in ["101", "-1", "NaN", "ten"] {
            assert_eq!(bad.parse::<Percent>(), Err(PERCENT), "{bad}");
        }
    }
}
