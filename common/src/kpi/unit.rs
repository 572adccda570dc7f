//! Units of measures: those that say the same are brought to one base, so that values can be merged and compared.

/// Units with another base, and how many of that base each is.
const KNOWN: [(&str, &str, f64); 19] = [
    ("ns", "s", 1e-9),
    ("us", "s", 1e-6),
    ("µs", "s", 1e-6),
    ("ms", "s", 1e-3),
    ("s", "s", 1.0),
    ("min", "s", 60.0),
    ("h", "s", 3600.0),
    ("B", "B", 1.0),
    ("kB", "B", 1e3),
    ("KB", "B", 1e3),
    ("MB", "B", 1e6),
    ("GB", "B", 1e9),
    ("TB", "B", 1e12),
    ("KiB", "B", 1024.0),
    ("MiB", "B", 1_048_576.0),
    ("GiB", "B", 1_073_741_824.0),
    ("TiB", "B", 1_099_511_627_776.0),
    ("%", "ratio", 0.01),
    ("ratio", "ratio", 1.0),
];

/// The base of a unit and how many of it the unit is. A unit nobody knows is its own base.
#[must_use]
pub fn base(unit: &str) -> (&str, f64) {
    let found = KNOWN.iter().find(|(known, _, _)| *known == unit);
    found.map_or((unit, 1.0), |(_, base, factor)| (*base, *factor))
}

/// A number and perhaps a unit: `0.5`, `50ms`, `1.5 MiB`, `90 %`.
#[must_use]
pub fn amount(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let is_number = |length: &usize| text[..*length].trim_end().parse::<f64>().is_ok();
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    // The longest beginning that is a number: `1e3` is one, and so is `1` in `1 e`.
    let length = ends.filter(|at| *at > 0).rfind(is_number)?;
    let value: f64 =
        text[..length].trim_end().parse().ok().filter(|value: &f64| value.is_finite())?;
    Some((value, text[length..].trim()))
}

/// An amount for people: four figures at most after the first, and its unit.
#[must_use]
pub fn shown(value: f64, unit: &str) -> String {
    let (value, unit) = match unit {
        "s" if value != 0.0 && value.abs() < 1e-3 => (value * 1e6, "µs"),
        "s" if value != 0.0 && value.abs() < 1.0 => (value * 1e3, "ms"),
        "B" if value.abs() >= 1e9 => (value / 1e9, "GB"),
        "B" if value.abs() >= 1e6 => (value / 1e6, "MB"),
        "B" if value.abs() >= 1e4 => (value / 1e3, "kB"),
        _ => (value, unit),
    };
    let number = figures(value);
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

fn figures(value: f64) -> String {
    if value.abs() >= 1e15 || (value != 0.0 && value.abs() < 1e-4) {
        return format!("{value:.3e}");
    }
    let decimals = match value.abs() {
        size if size >= 1000.0 => 1,
        size if size >= 100.0 => 2,
        size if size >= 1.0 => 3,
        _ => 4,
    };
    let text = format!("{value:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_numbers_with_or_without_a_unit() {
        assert_eq!(amount("50ms"), Some((50.0, "ms")));
        assert_eq!(amount(" 1.5 MiB "), Some((1.5, "MiB")));
        assert_eq!(amount("-2e3"), Some((-2000.0, "")));
        assert_eq!(amount("90 %"), Some((90.0, "%")));
        assert_eq!(amount("3 µs"), Some((3.0, "µs")));
        for wrong in ["", "ms", "$timeout", "fast", "inf", "NaN s"] {
            assert_eq!(amount(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn units_that_say_the_same_have_one_base() {
        assert_eq!(base("ms"), ("s", 1e-3));
        assert_eq!(base("KiB"), ("B", 1024.0));
        assert_eq!(base("%"), ("ratio", 0.01));
        assert_eq!(base("hops"), ("hops", 1.0));
    }

    #[test]
    fn people_read_few_figures() {
        let texts = [
            (0.0123, "s"),
            (0.000_002, "s"),
            (12.5, "s"),
            (3.0, ""),
            (1_500_000.0, "B"),
            (0.85, "ratio"),
            (0.0, "s"),
        ]
        .map(|(value, unit)| shown(value, unit));
        assert_eq!(texts, ["12.3 ms", "2 µs", "12.5 s", "3", "1.5 MB", "0.85 ratio", "0 s"]);
        assert_eq!(shown(1234.56, "count"), "1234.6 count");
    }
}
