//! Records what all instances report, and says which pairs are not as they should be.

use groundswell_sdk::{Ctx, Member, Result, ensure};

use crate::book::{Entry, Outcome};
use crate::case::{self, Case};
use crate::gaps::{Gaps, Pair, Verdict};

/// Judges the outcomes of all instances.
pub(crate) fn judge(
    cx: &Ctx,
    case: Case,
    book: &[Member<Entry>],
    told: &[Member<Vec<Outcome>>],
    gaps: &Gaps,
) -> Result {
    let (mut pairs, mut known) = (0_u32, 0_u32);
    for dialer in told {
        for outcome in &dialer.value {
            pairs += 1;
            let variant = match case::relay(&outcome.variant) {
                Some(relay) => format!("via {}", implementation(book, relay)),
                None => outcome.variant.clone(),
            };
            let pair = Pair {
                case: case.name(),
                dialer: implementation(book, dialer.index),
                listener: implementation(book, outcome.listener),
                variant: &variant,
            };
            let verdict = gaps.verdict(pair, outcome.error.as_deref());
            known += u32::from(matches!(verdict, Verdict::Gap(_)));
            record(cx, pair, outcome, &verdict);
        }
    }
    cx.point("pairs", pairs).unit("count").record();
    cx.point("known_gaps", known).unit("count").record();
    cx.message(format!("{pairs} attempts, {known} known gaps"));
    let silent = told.iter().find(|dialer| dialer.value.is_empty());
    ensure!(silent.is_none(), "instance {:?} tried nothing", silent.map(|dialer| dialer.index));
    Ok(())
}

fn record(cx: &Ctx, pair: Pair<'_>, outcome: &Outcome, verdict: &Verdict) {
    let Pair { dialer, listener, variant, .. } = pair;
    let who = format!("{dialer} to {listener} with {variant}");
    match verdict {
        Verdict::Works => {}
        Verdict::Broken(error) => {
            cx.check(false, format!("{who}: {error}"));
        }
        Verdict::Gap(why) => {
            let error = outcome.error.as_deref().unwrap_or_default();
            cx.message(format!("{who}: {error} (known: {why})"));
            return;
        }
        Verdict::GapGone(why) => {
            cx.check(false, format!("{who} works: take the gap `{why}` out of known-gaps.toml"));
        }
    }
    cx.point("pair_ok", outcome.error.is_none())
        .unit("ratio")
        .tag("dialer", dialer)
        .tag("listener", listener)
        .tag("variant", variant)
        .record();
    for (name, value) in &outcome.measures {
        cx.point(name, *value)
            .unit("s")
            .tag("dialer", dialer)
            .tag("listener", listener)
            .tag("variant", variant)
            .record();
    }
}

fn implementation(book: &[Member<Entry>], index: u32) -> &str {
    let found = book.iter().find(|member| member.index == index);
    found.map_or("nobody", |member| &member.value.implementation)
}
