//! Plays the schedule through before the run starts: what is left is a list of changes with their times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::compile::{Draft, pairs};
use super::schedule::{EventWish, What};
use super::selector::{self, Member};
use super::shape::ShapeWish;
use super::strike;
use super::trace::Trace;
use crate::composition::Composition;
use crate::document::{At, Findings};
use crate::link::AccessLink;
use crate::narrative;
use crate::network::{Action, Firing, MOST_FIRINGS};

/// Time between the steps of a ramp, unless it is so long that there would be too many.
const STEP: Duration = Duration::from_millis(100);
const MOST_STEPS: u32 = 100;
/// No rate of a trace holds for less; one that claims to would never end.
const SHORTEST_RATE: Duration = Duration::from_millis(1);

/// Works the schedule out, up to `end`.
pub(super) fn compile(
    findings: &Findings,
    composition: &Composition,
    members: &[Member<'_>],
    draft: Draft,
    end: Duration,
) -> Vec<Firing> {
    let network = &composition.network;
    let traces = &network.attachments.traces;
    let mut player = Player {
        members,
        traces,
        draft,
        cuts: Vec::new(),
        due: BTreeMap::new(),
        appointed: 0,
        events: 0,
        firings: Vec::new(),
        seed: composition.global.seed.unwrap_or_default(),
        end,
    };
    for event in network.schedule.iter().filter(|event| event.strikes().is_none()) {
        player.appoint(findings, event);
    }
    let mut number = 0;
    while let Some(((at, ..), (event, moment))) = player.due.pop_first() {
        player.now(at, event, moment, &mut number);
        if player.firings.len() > MOST_FIRINGS {
            findings.error(
                event.span.clone(),
                format!("the schedule has more than {MOST_FIRINGS} changes"),
                "make `every` or `window` longer, or end the event with `times` or `for`",
            );
            return Vec::new();
        }
    }
    player.firings
}

/// What is to be done with an event at some time.
enum Moment {
    /// It happens.
    Begin,
    /// A ramp goes on: which part of the way is gone, where each class or pair came from.
    Step(f64, Vec<(Target, AccessLink)>),
    /// A trace goes on with the rate of this number.
    Rate(usize),
    /// It is over: what it changed was this before.
    End(Vec<(Target, AccessLink)>),
    /// The cut it made is over.
    Heal(u16),
}

impl Moment {
    /// What comes first of what is at the same time: a ramp reaches its end before it is over, and what is
    /// over is so before it happens again.
    fn rank(&self) -> u8 {
        match self {
            Self::Step(..) | Self::Rate(_) => 0,
            Self::End(_) | Self::Heal(_) => 1,
            Self::Begin => 2,
        }
    }
}

/// Whose link changes: that of a class, or the path of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Access(u16),
    Path(u16, u16),
}

struct Player<'a> {
    members: &'a [Member<'a>],
    traces: &'a BTreeMap<String, Trace>,
    /// The links as they are at the time that is played.
    draft: Draft,
    /// Every cut so far: the event that made it.
    cuts: Vec<&'a EventWish>,
    /// By time; at the same time by rank, and then in the order of appointment.
    due: BTreeMap<(Duration, u8, usize), (&'a EventWish, Moment)>,
    appointed: usize,
    /// How many events were appointed.
    events: usize,
    firings: Vec<Firing>,
    seed: u64,
    end: Duration,
}

impl<'a> Player<'a> {
    /// Puts every time an event happens on the list.
    fn appoint(&mut self, findings: &Findings, event: &'a EventWish) {
        let apart = event.lasts.unwrap_or_default();
        // What has a number of times happens that often, also after the run is over.
        let end = if event.times.is_some() { Duration::MAX } else { self.end };
        let until = event.until.map_or(end, |until| until.min(end));
        let number = usize::MAX - self.events;
        self.events += 1;
        let times: Vec<Duration> = match event.every {
            None => vec![event.at],
            Some(every) => {
                let most = event.times.and_then(|times| usize::try_from(times).ok());
                narrative::times(self.seed, number, every, (event.at, until), apart)
                    .take(most.unwrap_or(usize::MAX).min(MOST_FIRINGS + 1))
                    .collect()
            }
        };
        for at in times {
            self.later(at, event, Moment::Begin);
        }
        warn_of_late(findings, event, self.end);
    }

    fn later(&mut self, at: Duration, event: &'a EventWish, moment: Moment) {
        self.appointed += 1;
        self.due.insert((at, moment.rank(), self.appointed), (event, moment));
    }

    fn now(&mut self, at: Duration, event: &'a EventWish, moment: Moment, number: &mut u16) {
        match (moment, &event.what) {
            (Moment::Begin, What::Partition { from, to }) => {
                let (from, to) = (self.classes(from), self.classes(to));
                self.cut(at, event, Action::Cut { cut: *number, from, to, carrier: false });
                *number = number.saturating_add(1);
            }
            (Moment::Begin, What::Flap { on, carrier }) => {
                let (from, to) = (self.classes(on), self.all());
                self.cut(at, event, Action::Cut { cut: *number, from, to, carrier: *carrier });
                *number = number.saturating_add(1);
            }
            (Moment::Begin, What::Heal { of }) => self.heal(at, event, of),
            (Moment::Begin, What::Access { .. } | What::Path { .. }) => self.reshape(at, event),
            (Moment::Begin, What::Rebind { on }) => {
                let classes = self.classes(on);
                let behind = |class: &u16| self.members[usize::from(*class)].nat;
                let classes = classes.into_iter().filter(behind).collect();
                self.fire(at, title(event), Action::Rebind { classes });
            }
            (Moment::Begin, What::Readdress { on }) => {
                let classes = self.classes(on);
                self.fire(at, title(event), Action::Readdress { classes });
            }
            (Moment::Begin, What::Trace { .. }) => {
                let before = self.before(event);
                if let Some(lasts) = event.lasts {
                    self.later(at.saturating_add(lasts), event, Moment::End(before));
                }
                self.rate(at, event, 0, at);
            }
            (Moment::Step(part, from), What::Access { wish, .. } | What::Path { wish, .. }) => {
                let percent = (part * 100.0).round();
                let wishes = from.iter().map(|(target, was)| (*target, wish.partly(was, part)));
                let wishes: Vec<_> = wishes.collect();
                self.change(at, &format!("{}, {percent} % of the way", title(event)), wishes);
            }
            (Moment::Rate(next), What::Trace { .. }) => self.rate(at, event, next, at),
            (Moment::End(before), what) => {
                let undo = |was: &AccessLink| match what {
                    What::Access { wish, .. } | What::Path { wish, .. } => wish.undone(was),
                    What::Trace { upload, download, .. } => ShapeWish {
                        upload: upload.then_some(was.sends.bandwidth_bps),
                        download: download.then_some(was.download_bps),
                        ..ShapeWish::default()
                    },
                    What::Partition { .. }
                    | What::Heal { .. }
                    | What::Flap { .. }
                    | What::Rebind { .. }
                    | What::Readdress { .. }
                    | What::Strike { .. } => ShapeWish::default(),
                };
                let wishes = before.iter().map(|(target, was)| (*target, undo(was))).collect();
                self.due.retain(|_, (other, moment)| {
                    !(std::ptr::eq(*other, event) && matches!(moment, Moment::Rate(_)))
                });
                self.change(at, &format!("{} is over", title(event)), wishes);
            }
            (Moment::Heal(cut), _) => {
                self.fire(
                    at,
                    format!("{} is over", title(event)),
                    Action::Heal { cuts: vec![cut] },
                );
            }
            // A ramp is of a reshape, a rate of a trace; what strikes single instances is not played here.
            (Moment::Step(..) | Moment::Rate(_), _) | (Moment::Begin, What::Strike { .. }) => {}
        }
    }

    fn classes(&self, selectors: &[At<selector::Selector>]) -> Vec<u16> {
        selector::classes(selectors, self.members)
    }

    fn all(&self) -> Vec<u16> {
        (0_u16..).zip(self.members).map(|(class, _)| class).collect()
    }

    fn fire(&mut self, at: Duration, text: String, action: Action) {
        self.firings.push(Firing { at, text, action });
    }

    fn cut(&mut self, at: Duration, event: &'a EventWish, action: Action) {
        if let (Some(lasts), Action::Cut { cut, .. }) = (event.lasts, &action) {
            self.later(at.saturating_add(lasts), event, Moment::Heal(*cut));
        }
        self.cuts.push(event);
        self.fire(at, title(event), action);
    }

    /// Ends the named cuts, or all.
    fn heal(&mut self, at: Duration, event: &EventWish, of: &[At<String>]) {
        let named = |cut: &EventWish| {
            let name = cut.name.as_ref().map(|name| &name.value);
            of.is_empty() || of.iter().any(|one| Some(&one.value) == name)
        };
        let numbered = (0_u16..).zip(&self.cuts);
        let cuts: Vec<u16> =
            numbered.filter(|(_, cut)| named(cut)).map(|(number, _)| number).collect();
        self.fire(at, title(event), Action::Heal { cuts });
    }

    /// The links an event changes, as they are.
    fn before(&self, event: &EventWish) -> Vec<(Target, AccessLink)> {
        let targets: BTreeSet<Target> = match &event.what {
            What::Access { on, .. } | What::Trace { on, .. } => {
                self.classes(on).into_iter().map(Target::Access).collect()
            }
            What::Path { from, to, both, .. } => {
                pairs(&self.classes(from), &self.classes(to), *both)
                    .into_iter()
                    .map(|(from, to)| Target::Path(from, to))
                    .collect()
            }
            What::Partition { .. }
            | What::Heal { .. }
            | What::Flap { .. }
            | What::Rebind { .. }
            | What::Readdress { .. }
            | What::Strike { .. } => BTreeSet::new(),
        };
        targets.into_iter().map(|target| (target, self.link(target))).collect()
    }

    fn link(&self, target: Target) -> AccessLink {
        match target {
            Target::Access(class) => self.draft.access[usize::from(class)],
            Target::Path(from, to) => {
                AccessLink { sends: *self.draft.path(from, to), download_bps: 0 }
            }
        }
    }

    fn reshape(&mut self, at: Duration, event: &'a EventWish) {
        let before = self.before(event);
        if let Some(lasts) = event.lasts {
            self.later(at.saturating_add(lasts), event, Moment::End(before.clone()));
        }
        let Some(ramp) = event.ramp else {
            let (What::Access { wish, .. } | What::Path { wish, .. }) = &event.what else { return };
            let wishes = before.iter().map(|(target, _)| (*target, wish.clone())).collect();
            return self.change(at, &title(event), wishes);
        };
        let steps = ramp.as_millis().div_ceil(STEP.as_millis());
        let steps = u32::try_from(steps).unwrap_or(MOST_STEPS).clamp(1, MOST_STEPS);
        for step in 1..=steps {
            let part = f64::from(step) / f64::from(steps);
            self.later(
                at.saturating_add(ramp.mul_f64(part)),
                event,
                Moment::Step(part, before.clone()),
            );
        }
    }

    /// Plays the next rate of a trace.
    fn rate(&mut self, at: Duration, event: &'a EventWish, number: usize, now: Duration) {
        let What::Trace { on, trace, upload, download } = &event.what else { return };
        let Some(trace) = self.traces.get(trace) else { return };
        let Some((millis, bps)) = trace.rates.get(number % trace.rates.len().max(1)) else {
            return;
        };
        let wish = ShapeWish {
            upload: upload.then_some(*bps),
            download: download.then_some(*bps),
            ..ShapeWish::default()
        };
        let targets = self.classes(on).into_iter().map(Target::Access);
        let wishes = targets.map(|target| (target, wish.clone())).collect();
        self.change(at, &format!("{} at {bps} bit/s", title(event)), wishes);
        let next = now.saturating_add(Duration::from_millis(*millis).max(SHORTEST_RATE));
        if next < self.end {
            self.later(next, event, Moment::Rate(number + 1));
        }
    }

    /// Changes links. Those that come to be the same are one firing.
    fn change(&mut self, at: Duration, text: &str, wishes: Vec<(Target, ShapeWish)>) {
        let mut same: Vec<(AccessLink, Vec<Target>)> = Vec::new();
        for (target, wish) in wishes {
            let link = wish.over_access(self.link(target));
            match target {
                Target::Access(class) => self.draft.access[usize::from(class)] = link,
                Target::Path(from, to) => *self.draft.path_mut(from, to) = link.sends,
            }
            match same.iter_mut().find(|(known, _)| *known == link) {
                Some((_, targets)) => targets.push(target),
                None => same.push((link, vec![target])),
            }
        }
        for (link, targets) in same {
            let class = |target: &Target| match target {
                Target::Access(class) => Some(*class),
                Target::Path(..) => None,
            };
            let pair = |target: &Target| match target {
                Target::Access(_) => None,
                Target::Path(from, to) => Some((*from, *to)),
            };
            let classes: Vec<u16> = targets.iter().filter_map(class).collect();
            let pairs: Vec<(u16, u16)> = targets.iter().filter_map(pair).collect();
            if !classes.is_empty() {
                self.fire(at, text.to_owned(), Action::Access { classes, link });
            }
            if !pairs.is_empty() {
                self.fire(at, text.to_owned(), Action::Path { pairs, shape: link.sends });
            }
        }
    }
}

/// An event that never comes is a slip.
pub(super) fn warn_of_late(findings: &Findings, event: &EventWish, end: Duration) {
    if event.at >= end {
        findings.warning(
            event.span.clone(),
            format!(
                "the event comes {} s after the start, when the run is over",
                event.at.as_secs()
            ),
            "make `timeout` longer, or `at` earlier",
        );
    }
}

/// What an event is called in messages.
pub(super) fn title(event: &EventWish) -> String {
    let kind = match &event.what {
        What::Partition { .. } => "partition",
        What::Heal { .. } => "heal",
        What::Flap { .. } => "flap",
        What::Access { .. } | What::Path { .. } => "reshape",
        What::Trace { .. } => "trace",
        What::Rebind { .. } => "rebind",
        What::Readdress { .. } => "readdress",
        What::Strike { deed, .. } => strike::kind(*deed),
    };
    match &event.name {
        Some(name) => format!("{kind} `{}`", name.value),
        None => kind.to_owned(),
    }
}
