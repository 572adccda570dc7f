//! `[[schedule]]`: what happens to the network while the run goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::selector::{self, Member, Selector};
use super::shape::{self, Of, ShapeWish};
use super::strike::{self, Whom};
use super::trace::Trace;
use super::{Source, Span};
use crate::composition::Composition;
use crate::diagnostic::suggest;
use crate::document::{At, Data, Findings, Table};
use crate::narrative::{Deed, Every};

/// Window of a trace whose event does not say.
const WINDOW: Duration = Duration::from_millis(100);
/// Every kind of event.
const KINDS: [&str; 11] = [
    "kill",
    "stop",
    "pause",
    "nat",
    "readdress",
    "rebind",
    "partition",
    "heal",
    "flap",
    "reshape",
    "trace",
];

/// One event as the file has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EventWish {
    pub(super) span: Span,
    pub(super) name: Option<At<String>>,
    pub(super) at: Duration,
    pub(super) every: Option<Every>,
    pub(super) times: Option<u32>,
    /// From when on it does not happen any more.
    pub(super) until: Option<Duration>,
    /// Which instances, when not all.
    pub(super) whom: Whom,
    pub(super) lasts: Option<Duration>,
    pub(super) ramp: Option<Duration>,
    pub(super) what: What,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    Partition { from: Vec<At<Selector>>, to: Vec<At<Selector>> },
    Heal { of: Vec<At<String>> },
    Flap { on: Vec<At<Selector>>, carrier: bool },
    Access { on: Vec<At<Selector>>, wish: ShapeWish },
    Path { from: Vec<At<Selector>>, to: Vec<At<Selector>>, both: bool, wish: ShapeWish },
    Trace { on: Vec<At<Selector>>, trace: String, upload: bool, download: bool },
    Rebind { on: Vec<At<Selector>> },
    Readdress { on: Vec<At<Selector>> },
    Strike { on: Vec<At<Selector>>, deed: Deed },
}

impl EventWish {
    pub(super) fn selectors(&self) -> Vec<&At<Selector>> {
        match &self.what {
            What::Partition { from, to } | What::Path { from, to, .. } => {
                from.iter().chain(to).collect()
            }
            What::Heal { .. } => Vec::new(),
            What::Flap { on, .. }
            | What::Access { on, .. }
            | What::Trace { on, .. }
            | What::Rebind { on }
            | What::Readdress { on }
            | What::Strike { on, .. } => on.iter().collect(),
        }
    }

    /// What it does to single instances, and to which groups; absent when it is about links or whole groups.
    pub(super) fn strikes(&self) -> Option<(Deed, &[At<Selector>])> {
        let single = self.whom != Whom::default() || self.is_drawn();
        match &self.what {
            What::Strike { on, deed } => Some((*deed, on)),
            What::Rebind { on } if single => Some((Deed::Rebind, on)),
            What::Readdress { on } if single => Some((Deed::Readdress, on)),
            What::Partition { .. }
            | What::Heal { .. }
            | What::Flap { .. }
            | What::Access { .. }
            | What::Path { .. }
            | What::Trace { .. }
            | What::Rebind { .. }
            | What::Readdress { .. } => None,
        }
    }

    /// Whether chance decides when it happens.
    pub(super) fn is_drawn(&self) -> bool {
        matches!(self.every, Some(Every::Exponential { .. } | Every::Weibull { .. }))
    }
}

/// Reads one event.
pub(super) fn event(
    findings: &Findings,
    table: &Table<'_>,
    source: Source<'_>,
    traces: &mut BTreeMap<String, Trace>,
) -> Option<EventWish> {
    let name = table.text("name");
    let at = shape::time(findings, table, "at");
    if table.get("at").is_none() {
        let help = "write `at = \"10s\"`: how long after the start of the run";
        findings.error(table.span.clone(), "an event has no time", help);
    }
    let every = strike::every(findings, table);
    let until = positive(findings, table, "until");
    let whom = Whom::read(findings, table);
    let times = table.count("times");
    let lasts = positive(findings, table, "for");
    let ramp = positive(findings, table, "ramp");
    let kind = table.text("kind");
    let Some(kind) = kind else {
        let help = suggest("", KINDS);
        findings.error(
            table.span.clone(),
            "an event has no kind",
            format!("write `kind = \"…\"`; {help}"),
        );
        return None;
    };
    let what = match kind.value.as_str() {
        "partition" => partition(findings, table),
        "heal" => Some(What::Heal { of: names(findings, table, "of") }),
        "flap" => flap(findings, table),
        "reshape" => reshape(findings, table),
        "trace" => playback(findings, table, source, traces),
        "rebind" => selector::read(findings, table, "on").map(|on| What::Rebind { on }),
        "readdress" => selector::read(findings, table, "on").map(|on| What::Readdress { on }),
        "kill" | "stop" | "pause" | "nat" => strike::read(findings, table, &kind.value, lasts),
        "crash" | "restart" => {
            let help = "write `kind = \"kill\"`; with `for = \"5s\"` it is started again after 5 s";
            let message = format!("there is no kind of event `{}`", kind.value);
            findings.error(kind.span.clone(), message, help);
            None
        }
        other => {
            findings.error(
                kind.span.clone(),
                format!("there is no kind of event `{other}`"),
                suggest(other, KINDS),
            );
            None
        }
    };
    let event = EventWish {
        span: table.span.clone(),
        name,
        at: at?,
        every,
        times: times.as_ref().map(|times| times.value),
        until,
        whom,
        lasts,
        ramp,
        what: what?,
    };
    check(findings, &event, times.as_ref());
    Some(event)
}

fn check(findings: &Findings, event: &EventWish, times: Option<&At<u32>>) {
    let reshapes = matches!(event.what, What::Access { .. } | What::Path { .. });
    let wrong = |message: &str, help: &str| findings.error(event.span.clone(), message, help);
    if event.ramp.is_some() && !reshapes {
        wrong("only `reshape` takes a `ramp`", "remove `ramp`");
    }
    if event.lasts.is_some() && matches!(event.what, What::Heal { .. }) {
        wrong("`heal` takes no `for`", "remove `for`; a partition takes it");
    }
    if event.lasts.is_some() && matches!(event.what, What::Rebind { .. } | What::Readdress { .. }) {
        wrong("`rebind` and `readdress` take no `for`", "remove `for`; `every` repeats them");
    }
    if event.lasts.zip(event.ramp).is_some_and(|(lasts, ramp)| lasts < ramp) {
        wrong("`for` is shorter than `ramp`", "the ramp is a part of it; make `for` longer");
    }
    if let (Some(Every::Fixed(every)), Some(lasts)) = (event.every, event.lasts)
        && lasts > every
        && event.strikes().is_none()
    {
        wrong("`for` is longer than `every`", "an event has to end before it happens again");
    }
    if event.every.is_none() && times.is_some() {
        wrong("`times` without `every`", "write for example `every = \"30s\"`");
    }
    strike::check(findings, event);
}

pub(super) fn positive(
    findings: &Findings,
    table: &Table<'_>,
    key: &'static str,
) -> Option<Duration> {
    let time = shape::time(findings, table, key)?;
    if time.is_zero() {
        let span = table.get(key).map(|node| node.span.clone());
        findings.error(
            span,
            format!("`{key}` is 0"),
            format!("write `{key} = \"10s\"`, or leave it out"),
        );
        return None;
    }
    Some(time)
}

fn partition(findings: &Findings, table: &Table<'_>) -> Option<What> {
    let (from, to) =
        (selector::read(findings, table, "from"), selector::read(findings, table, "to"));
    Some(What::Partition { from: from?, to: to? })
}

fn flap(findings: &Findings, table: &Table<'_>) -> Option<What> {
    const MODES: [&str; 2] = ["carrier", "silent"];
    let on = selector::read(findings, table, "on");
    let mode = table.text("mode");
    if let Some(mode) = &mode
        && !MODES.contains(&mode.value.as_str())
    {
        let message = format!("there is no mode `{}` of a flap", mode.value);
        findings.error(mode.span.clone(), message, suggest(&mode.value, MODES));
    }
    if table.get("for").is_none() && table.text("name").is_none() {
        let help = "write `for = \"2s\"`, or give it a `name` that a `heal` names";
        findings.error(table.span.clone(), "a flap has no end", help);
    }
    Some(What::Flap { on: on?, carrier: mode.is_none_or(|mode| mode.value == "carrier") })
}

/// An access link with `on`, or a path with `from` and `to`.
fn reshape(findings: &Findings, table: &Table<'_>) -> Option<What> {
    let what = if table.get("on").is_some() {
        let on = selector::read(findings, table, "on");
        What::Access { on: on?, wish: ShapeWish::read(findings, table, Of::Access) }
    } else {
        let (from, to) =
            (selector::read(findings, table, "from"), selector::read(findings, table, "to"));
        let both = table.bool("both").unwrap_or(true);
        let wish = ShapeWish::read(findings, table, Of::Path);
        What::Path { from: from?, to: to?, both, wish }
    };
    if let What::Access { wish, .. } | What::Path { wish, .. } = &what
        && wish.is_empty()
    {
        let help = "write for example `latency = \"200ms\"` or `loss = \"5%\"`";
        findings.error(table.span.clone(), "a reshape changes nothing", help);
    }
    Some(what)
}

fn playback(
    findings: &Findings,
    table: &Table<'_>,
    source: Source<'_>,
    traces: &mut BTreeMap<String, Trace>,
) -> Option<What> {
    const DIRECTIONS: [&str; 3] = ["upload", "download", "both"];
    let on = selector::read(findings, table, "on");
    let window = positive(findings, table, "window").unwrap_or(WINDOW);
    let direction = table.text("direction");
    if let Some(direction) = &direction
        && !DIRECTIONS.contains(&direction.value.as_str())
    {
        let message = format!("there is no direction `{}`", direction.value);
        findings.error(direction.span.clone(), message, suggest(&direction.value, DIRECTIONS));
    }
    let Some(path) = table.text("file") else {
        let help = "write `file = \"…\"`: a link trace of mahimahi";
        findings.error(table.span.clone(), "a trace has no file", help);
        return None;
    };
    let key = format!("{}@{}ms", path.value, window.as_millis());
    let trace = match source {
        Source::Known(attachments) => attachments.traces.get(&key).cloned(),
        Source::Files(load) => {
            let file = super::file(findings, &path, load)?;
            Trace::read(&file, window).map_err(|wrong| findings.push(wrong)).ok()
        }
    };
    traces.insert(key.clone(), trace?);
    let direction = direction.map_or_else(|| "upload".to_owned(), |direction| direction.value);
    Some(What::Trace {
        on: on?,
        trace: key,
        upload: direction != "download",
        download: direction != "upload",
    })
}

/// A name or a list of them; absent is none.
fn names(findings: &Findings, table: &Table<'_>, key: &'static str) -> Vec<At<String>> {
    let Some(node) = table.get(key) else { return Vec::new() };
    let nodes = if let Data::Array(nodes) = &node.value {
        nodes.as_slice()
    } else {
        std::slice::from_ref(node)
    };
    let mut names = Vec::new();
    for node in nodes {
        if let Data::Text(name) = &node.value {
            names.push(At { value: name.clone(), span: node.span.clone() });
        } else {
            findings.error(
                node.span.clone(),
                format!("`{key}` names no event"),
                format!("write `{key} = \"the name of an event\"`"),
            );
        }
    }
    names
}

/// Checks that what is about NATs is behind one.
pub(super) fn check_rebinds(findings: &Findings, composition: &Composition) {
    let groups = &composition.groups;
    let behind = |selector: &At<Selector>| {
        groups.iter().filter(|group| group.nat.is_some()).any(|group| {
            let mut ids = composition.runs.iter().flat_map(|run| &run.groups);
            let region = group.region.as_ref().map(|region| region.value.as_str());
            let built = group.id.value.as_str();
            let member = |id| Member { id, group: built, region, nat: true };
            selector.value.selects(&member(built))
                || ids.any(|one| {
                    one.group_id.value == built && selector.value.selects(&member(&one.id.value))
                })
        })
    };
    for event in &composition.network.schedule {
        let (on, message) = match &event.what {
            What::Rebind { on } => (on, "nothing that is rebound is behind a NAT"),
            What::Strike { on, deed: Deed::Nat { .. } } => {
                (on, "nothing whose NAT becomes another one is behind a NAT")
            }
            What::Partition { .. }
            | What::Heal { .. }
            | What::Flap { .. }
            | What::Access { .. }
            | What::Path { .. }
            | What::Trace { .. }
            | What::Readdress { .. }
            | What::Strike { .. } => continue,
        };
        if !on.iter().any(behind) {
            let help = "write `[groups.nat]` in a group that it names";
            findings.error(event.span.clone(), message, help);
        }
    }
}

/// Checks that names are there once, and that what is healed can be.
pub(super) fn check_names(findings: &Findings, schedule: &[EventWish]) {
    let named: Vec<&At<String>> = schedule.iter().filter_map(|event| event.name.as_ref()).collect();
    for (number, name) in named.iter().enumerate() {
        if named[..number].iter().any(|other| other.value == name.value) {
            let message = format!("event `{}` is there twice", name.value);
            findings.error(name.span.clone(), message, "give each its own name");
        }
    }
    let cuts =
        |event: &&EventWish| matches!(event.what, What::Partition { .. } | What::Flap { .. });
    let healable: Vec<&str> = schedule
        .iter()
        .filter(cuts)
        .filter_map(|event| event.name.as_ref())
        .map(|name| name.value.as_str())
        .collect();
    for event in schedule {
        let What::Heal { of } = &event.what else { continue };
        for name in of.iter().filter(|name| !healable.contains(&name.value.as_str())) {
            findings.error(
                name.span.clone(),
                format!("there is no partition or flap `{}`", name.value),
                suggest(&name.value, healable.clone()),
            );
        }
    }
}
