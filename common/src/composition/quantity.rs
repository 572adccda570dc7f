//! Quantities as Kubernetes writes them and durations as Go writes them.

use std::time::Duration;

/// A quantity such as `512Mi`, `1.5`, `100m` or `2e3`.
#[must_use]
pub fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("", 1.0),
    ];
    let text = text.trim();
    let (number, factor) =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))?;
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    number.parse::<f64>().ok().map(|value| value * factor).filter(|value| value.is_finite())
}

/// A quantity of bytes.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    // Below 2^53 a float holds every byte; above, a byte more or less is no matter.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a quantity is finite and not negative, and the cast saturates"
    )]
    quantity(text).map(|value| value.ceil() as u64)
}

/// A duration such as `45s`, `1m30s`, `1.5h` or `10 minutes`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    go_duration(text.trim()).or_else(|| humantime::parse_duration(text).ok())
}

fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("d", 86400.0),
    ];
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let length = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let factor = UNITS.iter().find(|(unit, _)| *unit == &rest[..length])?.1;
        seconds += number * factor;
        rest = &rest[length..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        assert_eq!(bytes("512Mi"), Some(512 << 20));
        assert_eq!(bytes("1G"), Some(1_000_000_000));
        assert_eq!(bytes("128974848"), Some(128_974_848));
        assert_eq!(bytes("1e3"), Some(1000));
        assert_eq!(quantity("100m"), Some(0.1));
        assert_eq!(quantity("0.5"), Some(0.5));
        for wrong in ["", "-1", "12 apples", "Mi", "inf"] {
            assert_eq!(quantity(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_those_of_go_and_of_people() {
        assert_eq!(duration("45s"), Some(Duration::from_secs(45)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("300ms"), Some(Duration::from_millis(300)));
        assert_eq!(duration("10 minutes"), Some(Duration::from_secs(600)));
        assert_eq!(duration("soon"), None);
        assert_eq!(duration(""), None);
    }
}
