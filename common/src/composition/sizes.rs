//! How many instances each group of a run has: a count, a percentage of the run, or the rest.

use super::resolve::build_group;
use super::{Composition, Instances, Run, RunGroup, quantity};
use crate::document::{At, Data, Findings, Table};

/// More than the rounding of fractions like `0.1` adds up to.
const TINY: f64 = 1e-6;

/// Reads `instances`.
pub(super) fn read(findings: &Findings, table: &Table<'_>) -> Instances {
    let Some(node) = table.get("instances") else { return Instances::default() };
    let table = Table::new(findings, "instances", node);
    let (count, percentage) = (table.count("count"), percentage(findings, &table));
    let rest = table.bool("rest").unwrap_or(false).then(|| node.span.clone());
    let has_count = count.as_ref().is_some_and(|count| count.value > 0);
    let share = percentage.as_ref().filter(|percentage| percentage.value > 0.0);
    if let (true, Some(share)) = (has_count, share) {
        let (message, help) =
            ("`percentage` beside `count`", "`count` wins; remove one of the two");
        if findings.strict {
            findings.error(share.span.clone(), message, help);
        } else {
            findings.warning(share.span.clone(), message, help);
        }
    }
    if let Some(rest) = &rest
        && (has_count || share.is_some())
    {
        let help = "the rest is what the other groups leave; keep one of them";
        findings.error(rest.clone(), "`rest` beside `count` or `percentage`", help);
    }
    table.finish(&["enabled"]);
    Instances { count, percentage, rest }
}

/// A fraction of the run, `0.1` or `"10%"`.
fn percentage(findings: &Findings, table: &Table<'_>) -> Option<At<f64>> {
    let node = table.get("percentage")?;
    let read = match &node.value {
        Data::Text(text) => {
            let number =
                text.trim().strip_suffix('%').and_then(|one| quantity::quantity(one.trim()));
            let Some(number) = number else {
                let message = format!("`percentage` is `{text}`, not a percentage");
                findings.error(node.span.clone(), message, "write `percentage = \"10%\"` or `0.1`");
                return None;
            };
            At { value: number / 100.0, span: node.span.clone() }
        }
        Data::Integer(_)
        | Data::Float(_)
        | Data::Bool(_)
        | Data::Time(_)
        | Data::Array(_)
        | Data::Table(_) => table.float("percentage")?,
    };
    if !(0.0..=1.0).contains(&read.value) {
        findings.error(
            read.span.clone(),
            format!(
                "percentage {} is not a fraction of the run",
                node.scalar().unwrap_or_default()
            ),
            "write `0.5` or `\"50%\"` for half of the instances",
        );
    }
    Some(read)
}

/// What a group of a run says about how many it has.
enum Wanted {
    Count(u32),
    Share(At<f64>),
    Rest(std::ops::Range<usize>),
    Nothing,
}

/// A run's own word goes over that of the group it is built as; a count that is not zero goes over a percentage.
fn wanted(composition: &Composition, one: &RunGroup) -> Wanted {
    let nothing = Instances::default();
    let inherited = build_group(composition, one).map_or(&nothing, |group| &group.instances);
    let own = &one.instances;
    let given = |count: &&At<u32>| count.value > 0;
    let own_share = own.percentage.is_some() || own.rest.is_some();
    let inherited_count = inherited.count.as_ref().filter(given).filter(|_| own.rest.is_none());
    if let Some(count) = own.count.as_ref().filter(given).or(inherited_count) {
        return Wanted::Count(count.value);
    }
    let from = if own_share { own } else { inherited };
    if let Some(rest) = &from.rest {
        return Wanted::Rest(rest.clone());
    }
    match from.percentage.clone().filter(|share| share.value > 0.0) {
        Some(share) => Wanted::Share(share),
        None => Wanted::Nothing,
    }
}

/// Instances of each group of the run. None where that cannot be said.
pub(super) fn count(findings: &Findings, composition: &Composition, run: &Run) -> Vec<Option<u32>> {
    let wanted: Vec<Wanted> = run.groups.iter().map(|one| wanted(composition, one)).collect();
    let counted: u64 = wanted
        .iter()
        .map(|one| match one {
            Wanted::Count(count) => u64::from(*count),
            Wanted::Share(_) | Wanted::Rest(_) | Wanted::Nothing => 0,
        })
        .sum();
    let Some(total) = run.total_instances.as_ref().map(|total| total.value) else {
        return without_total(findings, run, &wanted);
    };
    let shares: Vec<&At<f64>> = wanted
        .iter()
        .filter_map(|one| match one {
            Wanted::Share(share) => Some(share),
            Wanted::Count(_) | Wanted::Rest(_) | Wanted::Nothing => None,
        })
        .collect();
    if !check_shares(findings, &shares) {
        return vec![None; wanted.len()];
    }
    let has_rest = wanted.iter().any(|one| matches!(one, Wanted::Rest(_)));
    let parts: Vec<f64> = shares.iter().map(|share| share.value * f64::from(total)).collect();
    let open = u64::from(total).saturating_sub(counted);
    let mut parts = apportion(&parts, (!has_rest).then_some(open)).into_iter();
    let mut taken: u64 = counted;
    let mut counts: Vec<Option<u32>> = Vec::new();
    for (one, group) in wanted.iter().zip(&run.groups) {
        counts.push(match one {
            Wanted::Count(count) => Some(*count),
            Wanted::Share(_) => parts.next().inspect(|part| taken += u64::from(*part)),
            Wanted::Rest(_) => None,
            Wanted::Nothing => Some(nobody(findings, group)),
        });
    }
    give_rest(findings, &wanted, (u64::from(total), taken), &mut counts);
    counts
}

/// Who has the rest gets it. At most one can.
fn give_rest(
    findings: &Findings,
    wanted: &[Wanted],
    (total, taken): (u64, u64),
    counts: &mut [Option<u32>],
) {
    let mut known = false;
    for (one, count) in wanted.iter().zip(counts) {
        let Wanted::Rest(span) = one else { continue };
        if std::mem::replace(&mut known, true) {
            let help = "give all but one of them a `count` or a `percentage`";
            findings.error(span.clone(), "two groups have the rest", help);
            continue;
        }
        match total.checked_sub(taken).map(u32::try_from) {
            Some(Ok(0)) => {
                let message = format!("nothing of {total} instances is left for the rest");
                findings.warning(span.clone(), message, "give the other groups fewer instances");
                *count = Some(0);
            }
            Some(Ok(rest)) => *count = Some(rest),
            Some(Err(_)) | None => {
                let message = format!(
                    "the other groups have {taken} of {total} instances, {} too many",
                    taken.saturating_sub(total)
                );
                findings.error(
                    span.clone(),
                    message,
                    "give them fewer, or raise `total_instances`",
                );
            }
        }
    }
}

/// A run that does not say how many it has takes counts only.
fn without_total(findings: &Findings, run: &Run, wanted: &[Wanted]) -> Vec<Option<u32>> {
    let count = |(one, group): (&Wanted, &RunGroup)| {
        let (span, what) = match one {
            Wanted::Count(count) => return Some(*count),
            Wanted::Nothing => return Some(nobody(findings, group)),
            Wanted::Share(share) => (share.span.clone(), "a percentage"),
            Wanted::Rest(span) => (span.clone(), "the rest"),
        };
        findings.error(
            span,
            format!("{what} of run `{}`, which does not say of how many", run.id.value),
            "write `total_instances` in the run, or under `[global]` when there are no runs",
        );
        None
    };
    wanted.iter().zip(&run.groups).map(count).collect()
}

fn nobody(findings: &Findings, group: &RunGroup) -> u32 {
    findings.warning(
        group.id.span.clone(),
        format!("group `{}` has no instances", group.id.value),
        "write `instances = { count = 2 }` if it should have some",
    );
    0
}

/// Percentages are of the whole run, so they are 100 % at most.
fn check_shares(findings: &Findings, shares: &[&At<f64>]) -> bool {
    let sum: f64 = shares.iter().map(|share| share.value).sum();
    let Some(last) = shares.last().filter(|_| sum > 1.0 + TINY) else { return true };
    findings.error(
        last.span.clone(),
        format!("the percentages add up to {}, {} too much", percent(sum), percent(sum - 1.0)),
        "lower one of them; a group with `instances = { rest = true }` takes what is left",
    );
    false
}

fn percent(part: f64) -> String {
    let text = format!("{:.2}", part * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Whole numbers for these parts, by largest remainder: each is rounded down or up, and together they are as many as
/// `open`, where that is what rounding can make of them, or else the sum of the parts, rounded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "parts of a u32 that add up to no more than it"
)]
fn apportion(parts: &[f64], open: Option<u64>) -> Vec<u32> {
    let exact: f64 = parts.iter().sum();
    let reach = parts.len() as f64 / 2.0;
    let sum =
        open.filter(|open| (*open as f64 - exact).abs() <= reach).unwrap_or(exact.round() as u64);
    let mut whole: Vec<u32> = parts.iter().map(|part| (part + TINY).floor() as u32).collect();
    let down: u64 = whole.iter().map(|one| u64::from(*one)).sum();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    // The sort is stable: of equal remainders the earlier group is rounded up.
    let left = |at: &usize| parts[*at] - f64::from(whole[*at]);
    order.sort_by(|one, other| left(other).total_cmp(&left(one)));
    let up = usize::try_from(sum.saturating_sub(down)).unwrap_or(0).min(parts.len());
    for at in &order[..up] {
        whole[*at] += 1;
    }
    whole
}

/// What to do when the groups do not add up to the run. `each` lists them.
pub(super) fn what_to_change(total: u64, sum: u64, each: &str) -> String {
    let change = format!("change `total_instances` or the groups: {each}");
    if sum >= total {
        return change;
    }
    format!("{change}; `instances = {{ rest = true }}` in a group takes the {} left", total - sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn remainders_go_to_the_largest_and_equal_ones_to_the_first() {
        let of = |parts: &[f64], open| apportion(parts, open);
        assert_eq!(of(&[3.33, 3.33, 3.33], Some(10)), [4, 3, 3]);
        assert_eq!(of(&[0.4, 0.35, 0.25], Some(1)), [1, 0, 0]);
        assert_eq!(of(&[2.5, 2.5], Some(5)), [3, 2]);
        assert_eq!(of(&[100.0, 100.0], Some(1000)), [100, 100], "800 is not left by rounding");
        assert_eq!(of(&[1.6, 1.7], None), [1, 2], "3.3 are 3");
    }

    proptest! {
        #[test]
        fn nothing_is_rounded_by_one_or_more(
            parts in prop::collection::vec(0.0..500.0_f64, 1..9),
        ) {
            let whole = apportion(&parts, None);
            for (part, whole) in parts.iter().zip(&whole) {
                prop_assert!((part - f64::from(*whole)).abs() < 1.0 + TINY);
            }
            let sum: f64 = whole.iter().map(|one| f64::from(*one)).sum();
            prop_assert!((sum - parts.iter().sum::<f64>()).abs() <= 0.5 + TINY);
        }
    }
}
