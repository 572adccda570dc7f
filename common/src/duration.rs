//! Durations as text with a unit, `30s` or `1h 5m`, in every file and on every command line.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, Serializer};

/// Writes `value` as text with units.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*value))
}

/// Reads a duration written as text with units.
///
/// # Errors
/// When the text is not a duration.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|err| {
        serde::de::Error::custom(format!("`{text}` is not a duration such as `30s`: {err}"))
    })
}
