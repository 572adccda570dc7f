//! Events of the schedule that strike single instances: who, how often, and what.

use std::time::Duration;

use super::nat::kind as nat_kind;
use super::play::{title, warn_of_late};
use super::schedule::{EventWish, What, positive};
use super::selector::{self, Member};
use super::shape;
use crate::composition::Composition;
use crate::document::{At, Data, Findings, Table};
use crate::narrative::{Choice, Deed, Entry, Every, Narrative};
use crate::network::NetworkPlan;

/// How long an instance that is stopped may take when nothing else is said.
const GRACE: Duration = Duration::from_secs(10);
/// What a `every` may be besides a time.
const DRAWN: &str = "write `every = \"30s\"`, `{ exponential = \"30s\" }` or `{ weibull = { shape = 0.6, scale = \"40s\" } }`";

/// Which instances of the groups an event strikes. The default is all.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Whom {
    choice: Option<Choice>,
    /// The same ones each time.
    same: bool,
    /// Each at times of its own.
    each: bool,
}

impl Whom {
    /// Reads `share`, `count`, `same` and `each`.
    pub(super) fn read(findings: &Findings, table: &Table<'_>) -> Self {
        let share = shape::share(findings, table, "share");
        let share = share.map(|percent| Choice::Share(f64::from(percent) / 100.0));
        let count = table.count("count").map(|count| Choice::Count(count.value));
        if share.is_some() && count.is_some() {
            let help = "keep one of `share` and `count`";
            findings.error(table.span.clone(), "`share` beside `count`", help);
        }
        Self {
            choice: share.or(count),
            same: table.bool("same").unwrap_or(false),
            each: table.bool("each").unwrap_or(false),
        }
    }
}

/// Reads `every`: a time, or what it is drawn from.
pub(super) fn every(findings: &Findings, table: &Table<'_>) -> Option<Every> {
    let node = table.get("every")?;
    if !matches!(node.value, Data::Table(_)) {
        return positive(findings, table, "every").map(Every::Fixed);
    }
    let drawn = Table::new(findings, "every", node);
    let mean = positive(findings, &drawn, "exponential");
    let weibull = drawn.table("weibull");
    let every = match (mean, weibull) {
        (Some(mean), None) => Some(Every::Exponential { mean }),
        (None, Some(weibull)) => read_weibull(findings, weibull),
        (mean, weibull) => {
            if mean.is_some() == weibull.is_some()
                && drawn.get("exponential").is_some() == mean.is_some()
            {
                findings.error(node.span.clone(), "`every` is drawn from one distribution", DRAWN);
            }
            None
        }
    };
    drawn.finish(&[]);
    every
}

fn read_weibull(findings: &Findings, table: Table<'_>) -> Option<Every> {
    let scale = positive(findings, &table, "scale");
    let shape = table.float("shape");
    let sound = |shape: &At<f64>| (0.1..=100.0).contains(&shape.value);
    if let Some(shape) = shape.as_ref().filter(|shape| !sound(shape)) {
        let message = format!("`shape` is {}, not between 0.1 and 100", shape.value);
        let help = "below 1 many times are short and some very long, 1 is exponential, above 3 they are much alike";
        findings.error(shape.span.clone(), message, help);
    }
    if table.get("scale").is_none() || table.get("shape").is_none() {
        findings.error(table.span.clone(), "a Weibull distribution has a shape and a scale", DRAWN);
    }
    table.finish(&[]);
    Some(Every::Weibull { shape: shape.filter(sound)?.value, scale: scale? })
}

/// Reads what `kill`, `stop`, `pause` and `nat` have of their own.
pub(super) fn read(
    findings: &Findings,
    table: &Table<'_>,
    kind: &str,
    lasts: Option<Duration>,
) -> Option<What> {
    let on = selector::read(findings, table, "on");
    let deed = match (kind, lasts) {
        ("kill", down) => Some(Deed::Kill { down }),
        ("stop", down) => {
            let grace = positive(findings, table, "grace").unwrap_or(GRACE);
            if down.is_some_and(|down| down <= grace) {
                let message = format!(
                    "`for` is {}, and the instance may take {} to stop (`grace`)",
                    humantime::format_duration(down.unwrap_or_default()),
                    humantime::format_duration(grace)
                );
                let help = "make `for` longer than `grace`: both count from the event";
                findings.error(table.span.clone(), message, help);
            }
            Some(Deed::Stop { grace, down })
        }
        ("nat", lasts) => nat_kind(findings, table, "to").map(|to| Deed::Nat { to, lasts }),
        (_, Some(lasts)) => Some(Deed::Pause { lasts }),
        (_, None) => {
            if table.get("for").is_none() {
                let help = "write `for = \"2s\"`";
                findings.error(table.span.clone(), "a pause has no end", help);
            }
            None
        }
    };
    Some(What::Strike { on: on?, deed: deed? })
}

/// The word for what is done to instances.
pub(super) fn kind(deed: Deed) -> &'static str {
    match deed {
        Deed::Kill { .. } => "kill",
        Deed::Stop { .. } => "stop",
        Deed::Pause { .. } => "pause",
        Deed::Rebind => "rebind",
        Deed::Readdress => "readdress",
        Deed::Nat { .. } => "nat",
    }
}

/// Checks what an event says about whom and when.
pub(super) fn check(findings: &Findings, event: &EventWish) {
    let wrong = |message: &str, help: &str| findings.error(event.span.clone(), message, help);
    let Whom { choice, same, each } = &event.whom;
    let of_instances = event.strikes().is_some();
    if !of_instances && event.whom != Whom::default() {
        wrong(
            "only `kill`, `stop`, `pause`, `nat`, `readdress` and `rebind` strike some instances of a group",
            "remove `share`, `count`, `same` and `each`, and put the instances that it is about into a group of their own",
        );
        return;
    }
    if *each && event.every.is_none() {
        wrong("`each` without `every`", "write for example `every = { exponential = \"30s\" }`");
    }
    if *each && *same {
        wrong("`same` beside `each`", "remove `same`: with `each` they are the same ones anyway");
    }
    if *same && choice.is_none() {
        wrong("`same` without `share` or `count`", "write for example `share = \"10%\"`");
    }
    if event.until.is_some() && event.every.is_none() {
        wrong("`until` without `every`", "write for example `every = \"30s\"`");
    }
    if event.until.is_some_and(|until| until <= event.at) {
        wrong("`until` is not after `at`", "both count from the start of the run");
    }
}

/// What strikes single instances, for a run with these groups.
pub(super) fn compile(
    composition: &Composition,
    members: &[Member<'_>],
    end: Duration,
) -> Narrative {
    let entry = |event: &EventWish| {
        let (deed, on) = event.strikes()?;
        Some(Entry {
            text: title(event),
            deed,
            classes: selector::classes(on, members),
            choice: event.whom.choice.unwrap_or(Choice::All),
            same: event.whom.same,
            each: event.whom.each,
            at: event.at,
            every: event.every,
            times: event.times,
            until: event.until.map_or(end, |until| until.min(end)),
        })
    };
    Narrative { entries: composition.network.schedule.iter().filter_map(entry).collect() }
}

/// Checks what is only known with the sizes of the groups.
pub(super) fn check_plan(
    findings: &Findings,
    composition: &Composition,
    plan: &NetworkPlan,
    sizes: &[u32],
    end: Duration,
) {
    let schedule = &composition.network.schedule;
    let events: Vec<_> = schedule.iter().filter(|event| event.strikes().is_some()).collect();
    for (event, entry) in events.iter().zip(&plan.narrative.entries) {
        warn_of_late(findings, event, end);
        let size = |class: &u16| sizes.get(usize::from(*class)).copied().unwrap_or_default();
        let all: u32 = entry.classes.iter().map(size).sum();
        if let Choice::Count(count) = entry.choice
            && count > all
        {
            let message = format!("`count` is {count}, and the groups have {all} instances");
            findings.error(event.span.clone(), message, format!("write `count = {all}` or less"));
        }
    }
    if let Some(event) = schedule.iter().find(|event| {
        event.strikes().is_none() && event.is_drawn() && composition.global.seed.is_none()
    }) {
        let message =
            format!("{} happens at times that are drawn, and there is no seed", title(event));
        findings.error(event.span.clone(), message, "write `seed = 1` under `[global]`");
    }
    // Other seeds draw about as many.
    let seed = composition.global.seed.unwrap_or_default();
    if let Err(err) = plan.strikes(seed, sizes) {
        let help = "make `every` longer, lower `share` or `count`, or end the event with `times` or `until`";
        let span = events.get(err.entry).map(|event| event.span.clone());
        findings.error(span, err.to_string(), help);
    }
}
