//! Records what all instances report, and says which pairs are not as they should be.

use std::collections::BTreeSet;

use groundswell_interop::{Entry, Outcome, kind};
use groundswell_sdk::{Ctx, Member, Result, ensure};

use crate::case::{self, Case, P};
use crate::gaps::{Gaps, Pair, Verdict};

/// Judges the outcomes of all instances.
pub(crate) fn judge(
    cx: &Ctx,
    case: Case,
    p: &P,
    book: &[Member<Entry>],
    told: &[Member<Vec<Outcome>>],
    gaps: &Gaps,
) -> Result {
    let mut counts = Counts::default();
    for dialer in told {
        let wanted: BTreeSet<_> = case.attempts(p, book, dialer.index).into_iter().collect();
        counts.wanted += wanted.len();
        check_tried(cx, book, dialer, &wanted);
        for outcome in &dialer.value {
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
            counts.add(&verdict);
            record(cx, pair, outcome, &verdict);
        }
    }
    counts.record(cx);
    ensure!(counts.wanted > 0, "the groups of this run make no pairs");
    Ok(())
}

/// How many attempts there were, and what they meant.
#[derive(Default)]
struct Counts {
    /// What the case and the run's groups ask for.
    wanted: usize,
    understood: usize,
    misunderstood: usize,
    gaps: usize,
}

impl Counts {
    fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Works => self.understood += 1,
            Verdict::Gap(_) => self.gaps += 1,
            Verdict::Broken(_) | Verdict::GapGone(_) => self.misunderstood += 1,
        }
    }

    fn record(&self, cx: &Ctx) {
        let tried = self.understood + self.misunderstood + self.gaps;
        let all = [
            ("pairs_wanted", self.wanted),
            ("pairs", tried),
            ("understood", self.understood),
            ("misunderstood", self.misunderstood),
            ("known_gaps", self.gaps),
        ];
        for (name, count) in all {
            cx.point(name, count).unit("count").record();
        }
        cx.message(format!(
            "{tried} attempts of {}: {} understood, {} known gaps",
            self.wanted, self.understood, self.gaps
        ));
    }
}

/// An instance in another language may leave something out, or try what nobody asked for.
fn check_tried(
    cx: &Ctx,
    book: &[Member<Entry>],
    dialer: &Member<Vec<Outcome>>,
    wanted: &BTreeSet<(String, u32)>,
) {
    let tried: Vec<_> =
        dialer.value.iter().map(|outcome| (outcome.variant.clone(), outcome.listener)).collect();
    let distinct: BTreeSet<_> = tried.iter().cloned().collect();
    let as_asked = distinct == *wanted && distinct.len() == tried.len();
    let who = implementation(book, dialer.index);
    let (tried, wanted) = (tried.len(), wanted.len());
    cx.check(
        as_asked,
        format!(
            "instance {} ({who}) made {tried} attempts, and not the {wanted} of this case",
            dialer.index
        ),
    );
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
    let point = |name: &str, value: f64| {
        let unit = if name.ends_with("_s") { "s" } else { "ratio" };
        cx.point(name, value)
            .unit(unit)
            .tag("dialer", dialer)
            .tag("listener", listener)
            .tag("variant", variant)
            .tag("dialer_kind", kind(dialer))
            .tag("listener_kind", kind(listener))
            .record();
    };
    point("pair_ok", f64::from(u8::from(outcome.error.is_none())));
    for (name, value) in &outcome.measures {
        point(name, *value);
    }
}

fn implementation(book: &[Member<Entry>], index: u32) -> &str {
    let found = book.iter().find(|member| member.index == index);
    found.map_or("nobody", |member| &member.value.implementation)
}
