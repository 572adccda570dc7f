//! Draws what happens in a run from its seed. Nothing here depends on workers or on a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Choice, Entry, Every, MOST_STRUCK, Narrative, Strike, TooMany};
use crate::chance::Chance;
use crate::ids::InstanceId;
use crate::nat::NatPlan;

/// No firing follows another of the same event sooner.
const SHORTEST: Duration = Duration::from_millis(1);

/// Two uses of chance that must not share numbers.
#[derive(Clone, Copy)]
enum Use {
    /// The times of an event, or of one instance in it.
    Times = 1,
    /// Whom a firing strikes.
    Whom = 2,
}

/// The numbers for one use, in one entry.
fn chance_of(seed: u64, entry: usize, what: Use, number: u64) -> Chance {
    let entry = u64::try_from(entry).unwrap_or(u64::MAX);
    Chance::of(seed, &[entry, what as u64, number])
}

impl Every {
    /// The time to the next firing, to the millisecond, so that no rounding of logarithms can show.
    fn draw(self, chance: &mut Chance) -> Duration {
        let seconds = match self {
            Self::Fixed(every) => return every.max(SHORTEST),
            Self::Exponential { mean } => mean.as_secs_f64() * -chance.part().ln(),
            Self::Weibull { shape, scale } => {
                scale.as_secs_f64() * (-chance.part().ln()).powf(shape.recip())
            }
        };
        let millis = Duration::try_from_secs_f64((seconds * 1e3).round() / 1e3);
        millis.unwrap_or(Duration::MAX).max(SHORTEST)
    }
}

/// Firings of one event, or of one instance in it.
struct Stream<'a> {
    number: usize,
    entry: &'a Entry,
    /// The instance whose times these are.
    of: Option<u32>,
    chance: Chance,
    fired: u32,
}

impl<'a> Stream<'a> {
    fn new(seed: u64, number: usize, entry: &'a Entry, of: Option<u32>) -> Self {
        let own = of.map_or(u64::MAX, u64::from);
        Self { number, entry, of, chance: chance_of(seed, number, Use::Times, own), fired: 0 }
    }

    fn first(&mut self) -> Duration {
        match self.entry.every {
            Some(Every::Fixed(every)) if self.entry.each => {
                let part = every.mul_f64(self.chance.part()).as_millis();
                self.entry.at + Duration::from_millis(u64::try_from(part).unwrap_or(u64::MAX))
            }
            Some(Every::Fixed(_)) | None => self.entry.at,
            Some(drawn) => self.entry.at.saturating_add(drawn.draw(&mut self.chance)),
        }
    }

    /// The firing after that at `at`, if there is one.
    fn next(&mut self, at: Duration) -> Option<Duration> {
        self.fired += 1;
        let every = self.entry.every?;
        (self.entry.times.is_none_or(|times| self.fired < times))
            .then(|| at.saturating_add(every.draw(&mut self.chance)))
    }
}

pub(super) fn times(
    seed: u64,
    number: usize,
    every: Every,
    (at, until): (Duration, Duration),
    apart: Duration,
) -> impl Iterator<Item = Duration> {
    let mut chance = chance_of(seed, number, Use::Times, u64::MAX);
    let first = match every {
        Every::Fixed(_) => at,
        Every::Exponential { .. } | Every::Weibull { .. } => {
            at.saturating_add(every.draw(&mut chance))
        }
    };
    let next = move |at: &Duration| Some(at.saturating_add(every.draw(&mut chance).max(apart)));
    std::iter::successors(Some(first), next).take_while(move |at| *at < until)
}

pub(super) fn draw(
    narrative: &Narrative,
    seed: u64,
    sizes: &[u32],
    nats: &[Option<NatPlan>],
) -> Result<Vec<Strike>, TooMany> {
    let mut drawing = Drawing {
        seed,
        candidates: narrative.entries.iter().map(|one| candidates(one, sizes, nats)).collect(),
        due: BTreeMap::new(),
        appointed: 0,
        busy: BTreeMap::new(),
        strikes: Vec::new(),
        struck: vec![0; narrative.entries.len()],
    };
    for (number, entry) in narrative.entries.iter().enumerate() {
        drawing.begin(number, entry);
    }
    while let Some(((at, _), stream)) = drawing.due.pop_first() {
        drawing.fire(at, stream);
        if drawing.struck.iter().sum::<usize>() > MOST_STRUCK {
            let most = (0..drawing.struck.len()).max_by_key(|entry| drawing.struck[*entry]);
            let entry = most.unwrap_or_default();
            return Err(TooMany { entry, text: narrative.entries[entry].text.clone() });
        }
    }
    Ok(drawing.strikes)
}

/// The instances an event may strike: what has an address of its own, if it is about addresses.
fn candidates(entry: &Entry, sizes: &[u32], nats: &[Option<NatPlan>]) -> Vec<u32> {
    let mut all = Vec::new();
    let mut first = 0_u32;
    for (class, size) in sizes.iter().enumerate() {
        let nat = nats.get(class).and_then(Option::as_ref);
        let chosen = u16::try_from(class).is_ok_and(|class| entry.classes.contains(&class));
        let is_one = |in_group: &u32| match entry.deed {
            super::Deed::Kill { .. } | super::Deed::Stop { .. } | super::Deed::Pause { .. } => true,
            super::Deed::Rebind | super::Deed::Nat { .. } => {
                nat.is_some_and(|nat| nat.front(*in_group) == *in_group)
            }
            super::Deed::Readdress => nat.is_none_or(|nat| nat.front(*in_group) == *in_group),
        };
        if chosen {
            all.extend((0..*size).filter(is_one).map(|in_group| first + in_group));
        }
        first = first.saturating_add(*size);
    }
    all
}

struct Drawing<'a> {
    seed: u64,
    /// For each event, those it may strike.
    candidates: Vec<Vec<u32>>,
    /// By time, and at the same time in the order of appointment.
    due: BTreeMap<(Duration, usize), Stream<'a>>,
    appointed: usize,
    /// Until when instances are down or stand still.
    busy: BTreeMap<u32, Duration>,
    strikes: Vec<Strike>,
    /// How often each event has fired, and how many it has struck.
    struck: Vec<usize>,
}

impl<'a> Drawing<'a> {
    fn begin(&mut self, number: usize, entry: &'a Entry) {
        if entry.same || entry.each {
            self.candidates[number] = pick(
                std::mem::take(&mut self.candidates[number]),
                entry.choice,
                &mut chance_of(self.seed, number, Use::Whom, 0),
            );
        }
        let streams: Vec<Stream<'a>> = if entry.each {
            let own = self.candidates[number].iter();
            own.map(|one| Stream::new(self.seed, number, entry, Some(*one))).collect()
        } else {
            vec![Stream::new(self.seed, number, entry, None)]
        };
        for mut stream in streams {
            let first = stream.first();
            self.appoint(first, stream);
        }
    }

    fn appoint(&mut self, at: Duration, stream: Stream<'a>) {
        let ends = stream.entry.times == Some(0);
        if at < stream.entry.until && !ends {
            self.appointed += 1;
            self.due.insert((at, self.appointed), stream);
        }
    }

    fn fire(&mut self, at: Duration, mut stream: Stream<'a>) {
        let (number, entry) = (stream.number, stream.entry);
        let victims = self.victims(at, &stream);
        self.struck[number] += victims.len().max(1);
        let busy = at.saturating_add(entry.deed.busy());
        if busy > at {
            self.busy.extend(victims.iter().map(|one| (*one, busy)));
        }
        if !victims.is_empty() {
            self.strikes.push(Strike {
                at,
                entry: u16::try_from(number).unwrap_or(u16::MAX),
                deed: entry.deed,
                instances: victims.into_iter().map(InstanceId).collect(),
            });
        }
        if let Some(next) = stream.next(at) {
            self.appoint(next, stream);
        }
    }

    /// Whom a firing strikes: of those who are up, as many as of all.
    fn victims(&self, at: Duration, stream: &Stream<'_>) -> Vec<u32> {
        let is_up = |one: &u32| self.busy.get(one).is_none_or(|until| *until <= at);
        let all = &self.candidates[stream.number];
        let up = || all.iter().copied().filter(is_up).collect::<Vec<_>>();
        if let Some(one) = stream.of {
            return Some(one).filter(is_up).into_iter().collect();
        }
        if stream.entry.same {
            return up();
        }
        let most = Choice::Count(u32::try_from(stream.entry.choice.of(all.len())).unwrap_or(0));
        let number = u64::from(stream.fired) + 1;
        pick(up(), most, &mut chance_of(self.seed, stream.number, Use::Whom, number))
    }
}

/// As many of `from` as are chosen, in order.
fn pick(mut from: Vec<u32>, choice: Choice, chance: &mut Chance) -> Vec<u32> {
    let wanted = choice.of(from.len());
    if wanted < from.len() {
        for place in 0..wanted {
            let other = place + chance.below(from.len() - place);
            from.swap(place, other);
        }
        from.truncate(wanted);
        from.sort_unstable();
    }
    from
}
