//! What a table says about a link, with only what it says.

use std::time::Duration;

use crate::composition::quantity;
use crate::diagnostic::suggest;
use crate::document::{At, Data, Findings, Table};
use crate::link::{AccessLink, Distribution, Filter, LONGEST_DELAY, LinkShape, Quantiles};

/// What may be said about a link; what is not said stays as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ShapeWish {
    pub(super) latency: Option<Duration>,
    pub(super) jitter: Option<Duration>,
    pub(super) distribution: Option<Distribution>,
    pub(super) upload: Option<u64>,
    pub(super) download: Option<u64>,
    pub(super) filter: Option<Filter>,
    /// In the order of [`SHARES`].
    pub(super) shares: [Option<f32>; 8],
}

/// Keys that take a percentage.
const SHARES: [&str; 8] = [
    "loss",
    "loss_correlation",
    "duplicate",
    "duplicate_correlation",
    "corrupt",
    "corrupt_correlation",
    "reorder",
    "reorder_correlation",
];

/// No delay and no time of an event is longer; sums of them stay far from where a duration ends.
pub(super) const LONGEST: Duration = LONGEST_DELAY;

/// Whose link a table is about; it decides which keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// An instance's own: it has an upload and a download.
    Access,
    /// A path between groups: it has one rate and a filter.
    Path,
}

impl ShapeWish {
    pub(super) fn read(findings: &Findings, table: &Table<'_>, of: Of) -> Self {
        let mut wish = Self {
            latency: time(findings, table, "latency"),
            jitter: time(findings, table, "jitter"),
            distribution: distribution(findings, table),
            ..Self::default()
        };
        match of {
            Of::Access => {
                wish.upload = rate(findings, table, "upload");
                wish.download = rate(findings, table, "download");
            }
            Of::Path => {
                wish.upload = rate(findings, table, "bandwidth");
                wish.filter = filter(findings, table);
            }
        }
        for (slot, key) in wish.shares.iter_mut().zip(SHARES) {
            *slot = share(findings, table, key);
        }
        wish
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The shape with everything that is said replaced.
    pub(super) fn over(&self, base: LinkShape) -> LinkShape {
        let share = |slot: usize, base: f32| self.shares[slot].unwrap_or(base);
        LinkShape {
            latency: self.latency.unwrap_or(base.latency),
            jitter: self.jitter.unwrap_or(base.jitter),
            distribution: self.distribution.unwrap_or(base.distribution),
            bandwidth_bps: self.upload.unwrap_or(base.bandwidth_bps),
            filter: self.filter.unwrap_or(base.filter),
            loss_pct: share(0, base.loss_pct),
            loss_corr_pct: share(1, base.loss_corr_pct),
            duplicate_pct: share(2, base.duplicate_pct),
            duplicate_corr_pct: share(3, base.duplicate_corr_pct),
            corrupt_pct: share(4, base.corrupt_pct),
            corrupt_corr_pct: share(5, base.corrupt_corr_pct),
            reorder_pct: share(6, base.reorder_pct),
            reorder_corr_pct: share(7, base.reorder_corr_pct),
        }
    }

    /// The access link with everything that is said replaced.
    pub(super) fn over_access(&self, base: AccessLink) -> AccessLink {
        AccessLink {
            sends: self.over(base.sends),
            download_bps: self.download.unwrap_or(base.download_bps),
        }
    }

    /// The same keys with the values they have in `link`: what undoes the wish.
    pub(super) fn undone(&self, link: &AccessLink) -> Self {
        let was = Self::whole(link);
        let mut shares = [None; 8];
        for (slot, (said, was)) in shares.iter_mut().zip(self.shares.iter().zip(was.shares)) {
            *slot = said.and(was);
        }
        Self {
            latency: self.latency.and(was.latency),
            jitter: self.jitter.and(was.jitter),
            distribution: self.distribution.and(was.distribution),
            upload: self.upload.and(was.upload),
            download: self.download.and(was.download),
            filter: self.filter.and(was.filter),
            shares,
        }
    }

    /// A wish that says everything.
    fn whole(link: &AccessLink) -> Self {
        let shape = &link.sends;
        Self {
            latency: Some(shape.latency),
            jitter: Some(shape.jitter),
            distribution: Some(shape.distribution),
            upload: Some(shape.bandwidth_bps),
            download: Some(link.download_bps),
            filter: Some(shape.filter),
            shares: [
                shape.loss_pct,
                shape.loss_corr_pct,
                shape.duplicate_pct,
                shape.duplicate_corr_pct,
                shape.corrupt_pct,
                shape.corrupt_corr_pct,
                shape.reorder_pct,
                shape.reorder_corr_pct,
            ]
            .map(Some),
        }
    }

    /// The wish on the way from `from`: at `part` 1 it is reached. What cannot be gone through, such as
    /// from no limit to one, changes at the end.
    pub(super) fn partly(&self, from: &AccessLink, part: f64) -> Self {
        if part >= 1.0 {
            return self.clone();
        }
        let was = self.undone(from);
        let time = |was: Option<Duration>, to: Option<Duration>| {
            let (was, to) = (was?, to?);
            Some(Duration::from_secs_f64(between(was.as_secs_f64(), to.as_secs_f64(), part)))
        };
        let mut shares = [None; 8];
        for (slot, (was, to)) in shares.iter_mut().zip(was.shares.iter().zip(self.shares)) {
            #[expect(clippy::cast_possible_truncation, reason = "it lies between two of them")]
            let share = |(was, to)| between(f64::from(was), f64::from(to), part) as f32;
            *slot = was.zip(to).map(share);
        }
        Self {
            latency: time(was.latency, self.latency),
            jitter: time(was.jitter, self.jitter),
            distribution: self.distribution,
            upload: was.upload.zip(self.upload).and_then(|(was, to)| rate_between(was, to, part)),
            download: was
                .download
                .zip(self.download)
                .and_then(|(was, to)| rate_between(was, to, part)),
            filter: None,
            shares,
        }
    }
}

fn between(from: f64, to: f64, part: f64) -> f64 {
    from + (to - from) * part
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate between two rates, to the bit is not needed"
)]
fn rate_between(was: u64, to: u64, part: f64) -> Option<u64> {
    (was > 0 && to > 0).then(|| between(was as f64, to as f64, part).round().max(1.0) as u64)
}

/// A duration; the message says what to write.
pub(super) fn time(findings: &Findings, table: &Table<'_>, key: &'static str) -> Option<Duration> {
    let text = quantity_text(findings, table, key, "\"50ms\"")?;
    let parsed = quantity::duration(&text.value).filter(|time| *time <= LONGEST);
    if parsed.is_none() {
        findings.error(
            text.span,
            format!("`{key}` is `{}`, not a duration from 0 to 30 days", text.value),
            format!("write a number with a unit, such as `{key} = \"50ms\"` or `\"1.5s\"`"),
        );
    }
    parsed
}

fn rate(findings: &Findings, table: &Table<'_>, key: &'static str) -> Option<u64> {
    let text = quantity_text(findings, table, key, "\"10Mbit\"")?;
    let parsed = bits_per_second(&text.value);
    if parsed.is_none() {
        findings.error(
            text.span,
            format!("`{key}` is `{}`, not a rate", text.value),
            format!("write bits per second such as `{key} = \"10Mbit\"`, `\"500kbit\"` or `\"1Gbit\"`; leave it out for no limit"),
        );
    }
    parsed
}

/// `10Mbit`, `10 Mbit/s`, `10Mbps`: bits per second, at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is positive, and the cast saturates"
)]
pub(in crate::composition) fn bits_per_second(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim();
    let unit = unit.strip_suffix("/s").or_else(|| unit.strip_suffix("ps")).unwrap_or(unit);
    let factor = match unit {
        "bit" | "b" => 1.0,
        "kbit" | "Kbit" | "kb" | "Kb" => 1e3,
        "Mbit" | "mbit" | "Mb" => 1e6,
        "Gbit" | "gbit" | "Gb" => 1e9,
        _ => return None,
    };
    Some((number * factor).round() as u64).filter(|rate| *rate > 0)
}

pub(super) fn share(findings: &Findings, table: &Table<'_>, key: &'static str) -> Option<f32> {
    let text = quantity_text(findings, table, key, "\"1%\"")?;
    let number = text.value.trim().strip_suffix('%').and_then(|one| one.trim().parse::<f32>().ok());
    match number {
        Some(number) if (0.0..=100.0).contains(&number) => Some(number),
        Some(number) => {
            findings.error(
                text.span,
                format!("`{key}` is {number} %, not between 0 and 100"),
                format!("write a percentage such as `{key} = \"1%\"`"),
            );
            None
        }
        None => {
            findings.error(
                text.span,
                format!("`{key}` is `{}`, not a percentage", text.value),
                format!("write a percentage such as `{key} = \"1%\"` or `\"0.5%\"`"),
            );
            None
        }
    }
}

/// A quantity has a unit and so is a text; a bare number could mean anything.
fn quantity_text(
    findings: &Findings,
    table: &Table<'_>,
    key: &'static str,
    example: &str,
) -> Option<At<String>> {
    let node = table.get(key)?;
    if let Data::Text(text) = &node.value {
        return Some(At { value: text.clone(), span: node.span.clone() });
    }
    findings.error(
        node.span.clone(),
        format!("`{key}` needs a unit"),
        format!("write it in quotes, such as `{key} = {example}`"),
    );
    None
}

fn distribution(findings: &Findings, table: &Table<'_>) -> Option<Distribution> {
    const NAMES: [(&str, Distribution); 3] = [
        ("uniform", Distribution::Uniform),
        ("normal", Distribution::Normal),
        ("pareto", Distribution::Pareto),
    ];
    let node = table.get("distribution")?;
    if let Data::Array(values) = &node.value {
        let numbers: Vec<f64> = values
            .iter()
            .map(|one| one.scalar().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN))
            .collect();
        return match Quantiles::new(&numbers) {
            Ok(table) => Some(Distribution::Table(table)),
            Err(err) => {
                let help = "write rising quantiles in multiples of the jitter, such as `[-1, -0.2, 0, 0.3, 4]`";
                findings.error(node.span.clone(), err.to_string(), help);
                None
            }
        };
    }
    let text = node.scalar().unwrap_or_default();
    let found = NAMES.iter().find(|(name, _)| *name == text);
    if found.is_none() {
        findings.error(
            node.span.clone(),
            format!("there is no distribution `{text}`"),
            suggest(&text, NAMES.map(|(name, _)| name)),
        );
    }
    found.map(|(_, distribution)| *distribution)
}

fn filter(findings: &Findings, table: &Table<'_>) -> Option<Filter> {
    const NAMES: [(&str, Filter); 3] =
        [("accept", Filter::Accept), ("reject", Filter::Reject), ("drop", Filter::Drop)];
    let text = table.text("filter")?;
    let found = NAMES.iter().find(|(name, _)| *name == text.value);
    if found.is_none() {
        findings.error(
            text.span,
            format!("there is no filter `{}`", text.value),
            suggest(&text.value, NAMES.map(|(name, _)| name)),
        );
    }
    found.map(|(_, filter)| *filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_per_second() {
        for (text, bits) in [
            ("10Mbit", 10_000_000),
            ("1.5 Gbit/s", 1_500_000_000),
            ("500kbps", 500_000),
            ("9600bit", 9600),
        ] {
            assert_eq!(bits_per_second(text), Some(bits), "{text}");
        }
        for text in ["", "10", "10MB", "-1Mbit", "0bit", "fast", "10MB/s"] {
            assert_eq!(bits_per_second(text), None, "{text}");
        }
    }

    #[test]
    fn half_way_is_half_way_and_a_limit_from_nothing_comes_at_the_end() {
        let from = AccessLink {
            sends: LinkShape {
                latency: Duration::from_millis(10),
                loss_pct: 1.0,
                ..LinkShape::default()
            },
            download_bps: 1000,
        };
        let mut wish = ShapeWish {
            latency: Some(Duration::from_millis(30)),
            upload: Some(500),
            download: Some(2000),
            ..ShapeWish::default()
        };
        wish.shares[0] = Some(3.0);
        let half = wish.partly(&from, 0.5).over_access(from);
        assert_eq!(half.sends.latency, Duration::from_millis(20));
        assert_eq!((half.sends.bandwidth_bps, half.download_bps), (0, 1500));
        assert!((half.sends.loss_pct - 2.0).abs() < 1e-6);
        assert_eq!(wish.partly(&from, 1.0).over_access(from).sends.bandwidth_bps, 500);
        assert_eq!(wish.undone(&from).over_access(half), from);
    }
}
