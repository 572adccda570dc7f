//! What the schedule of a run does to single instances: kills, stops, pauses, other addresses.
//!
//! ```text
//! [[schedule]] ──compile──► Narrative ──draw, with the run's seed──► strikes ──► steps of one instance
//! ```
//!
//! The narrative travels with the assignment, and each worker draws all of it by itself. So what happens to an instance
//! depends on the seed and on nothing that a worker sees.

mod draw;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::InstanceId;
use crate::nat::{NatKind, NatPlan};

/// As often as instances may be struck in one run, each counted for itself.
pub const MOST_STRUCK: usize = 100_000;

/// What a schedule does to single instances. The default does nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Narrative {
    /// Events, in the order of the composition.
    pub entries: Vec<Entry>,
}

/// One event: what is done to whom, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is, for people.
    pub text: String,
    /// What is done.
    pub deed: Deed,
    /// Classes of the instances that it may be done to.
    pub classes: Vec<u16>,
    /// How many of them.
    pub choice: Choice,
    /// Whether it is done to the same ones each time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub same: bool,
    /// Whether each instance has times of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each: bool,
    /// When it begins, from the start of the run.
    pub at: Duration,
    /// How long until it happens again; absent is once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Every>,
    /// How often at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// From when on it does not happen any more.
    pub until: Duration,
}

/// What is done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// All its processes are killed.
    Kill {
        /// After which it is started again; absent is never.
        down: Option<Duration>,
    },
    /// Its first process is asked to end, and all are killed when it does not.
    Stop {
        /// How long it may take.
        grace: Duration,
        /// From the request to the next start; absent is never.
        down: Option<Duration>,
    },
    /// All its processes stand still.
    Pause {
        /// For how long.
        lasts: Duration,
    },
    /// Its routers forget all mappings.
    Rebind,
    /// It gets another address, or its router does.
    Readdress,
    /// The router next to it becomes one of another kind, and forgets its mappings.
    Nat {
        /// Which kind.
        to: NatKind,
        /// After which it is what it was; absent is never.
        lasts: Option<Duration>,
    },
}

impl Deed {
    /// How long an instance cannot be struck again: it is down, stands still, or its router is another one. The longest duration is for good.
    #[must_use]
    pub fn busy(self) -> Duration {
        match self {
            Self::Kill { down } | Self::Stop { down, .. } => down.unwrap_or(Duration::MAX),
            Self::Pause { lasts } => lasts,
            Self::Nat { lasts, .. } => lasts.unwrap_or_default(),
            Self::Rebind | Self::Readdress => Duration::ZERO,
        }
    }

    /// Whether it is about processes, and not about the network.
    #[must_use]
    pub fn is_of_processes(self) -> bool {
        match self {
            Self::Kill { .. } | Self::Stop { .. } | Self::Pause { .. } => true,
            Self::Rebind | Self::Readdress | Self::Nat { .. } => false,
        }
    }

    /// Whether an instance is started again after it.
    #[must_use]
    pub fn starts_again(self) -> bool {
        match self {
            Self::Kill { down } | Self::Stop { down, .. } => down.is_some(),
            Self::Pause { .. } | Self::Rebind | Self::Readdress | Self::Nat { .. } => false,
        }
    }
}

/// How many of the instances there are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// All of them.
    All,
    /// So many.
    Count(u32),
    /// So large a part, rounded, and one at least.
    Share(f64),
}

impl Choice {
    /// How many that are, of so many.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of at most one, of far less than 2^52 instances"
    )]
    pub fn of(self, instances: usize) -> usize {
        match self {
            Self::All => instances,
            Self::Count(count) => usize::try_from(count).unwrap_or(instances).min(instances),
            Self::Share(share) => {
                ((share * instances as f64).round() as usize).max(1).min(instances)
            }
        }
    }
}

/// The time from one firing to the next.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    /// Always the same.
    Fixed(Duration),
    /// Drawn: as likely to end now as at any other moment.
    Exponential {
        /// Its mean.
        mean: Duration,
    },
    /// Drawn as lifetimes are: with a shape below one many are short and some are very long.
    Weibull {
        /// The shape.
        shape: f64,
        /// The scale: 63 % are shorter.
        scale: Duration,
    },
}

/// A firing of an event as it was drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    /// When, from the start of the run.
    pub at: Duration,
    /// Which entry of the narrative it is of.
    pub entry: u16,
    /// What is done.
    pub deed: Deed,
    /// To whom, in order.
    pub instances: Vec<InstanceId>,
}

/// A narrative that would never be over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instances would be struck more than {MOST_STRUCK} times, most often by {text}")]
pub struct TooMany {
    /// The entry with the most firings.
    pub entry: usize,
    /// What it is called.
    pub text: String,
}

impl Entry {
    /// What it is, how many it strikes and how often, in a few words for people.
    #[must_use]
    pub fn title(&self) -> String {
        let mut words = vec![match self.choice {
            Choice::All => "all".to_owned(),
            Choice::Count(count) => count.to_string(),
            Choice::Share(share) => format!("{} %", short(share * 100.0)),
        }];
        if self.same {
            words.push("the same ones".to_owned());
        }
        let time = |time: Duration| humantime::format_duration(time).to_string();
        words.extend(self.every.map(|every| match every {
            Every::Fixed(every) => format!("every {}", time(every)),
            Every::Exponential { mean } => format!("every {} on average", time(mean)),
            Every::Weibull { shape, scale } => {
                format!("every Weibull({}, {})", short(shape), time(scale))
            }
        }));
        if self.each {
            words.push("each for itself".to_owned());
        }
        format!("{} ({})", self.text, words.join(", "))
    }
}

/// Two digits behind the point at most.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The times of something that has nobody to strike: those of `every` from `at` on, before `until`, at least `apart`
/// from each other. `number` tells it from others.
pub fn times(
    seed: u64,
    number: usize,
    every: Every,
    (at, until): (Duration, Duration),
    apart: Duration,
) -> impl Iterator<Item = Duration> {
    draw::times(seed, number, every, (at, until), apart)
}

impl Narrative {
    /// Whether it does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it kills, stops or pauses any instance.
    #[must_use]
    pub fn is_of_processes(&self) -> bool {
        self.entries.iter().any(|entry| entry.deed.is_of_processes())
    }

    /// Whether it starts instances of a class again.
    #[must_use]
    pub fn starts_again(&self, class: u16) -> bool {
        self.entries.iter().any(|one| one.deed.starts_again() && one.classes.contains(&class))
    }

    /// Everything that happens, in order of time, in a run with this seed whose classes have so many instances and
    /// are behind these NATs.
    ///
    /// # Errors
    /// When that is more than a run bears.
    pub fn draw(
        &self,
        seed: u64,
        sizes: &[u32],
        nats: &[Option<NatPlan>],
    ) -> Result<Vec<Strike>, TooMany> {
        draw::draw(self, seed, sizes, nats)
    }

    /// What an entry is called.
    #[must_use]
    pub fn text(&self, entry: u16) -> &str {
        self.entries.get(usize::from(entry)).map_or("", |entry| entry.text.as_str())
    }
}

/// Something that is done to one instance's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When, from the start of the run.
    pub at: Duration,
    /// The entry of the narrative it is of.
    pub entry: u16,
    /// What is done.
    pub act: Act,
}

/// What is done to one instance's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// All are killed. Whether that is for good.
    Kill {
        /// Whether it is not started again.
        for_good: bool,
    },
    /// The first one is asked to end. Whether that is for good.
    Terminate {
        /// Whether it is not started again.
        for_good: bool,
    },
    /// All are killed that a termination has left.
    KillLeft {
        /// Whether it is not started again.
        for_good: bool,
    },
    /// It is started again.
    Start,
    /// All stand still.
    Pause,
    /// All go on.
    Resume,
}

/// What is done to the processes of each instance, by instance and in order of time.
#[must_use]
pub fn steps_of(strikes: &[Strike], instance: InstanceId) -> Vec<Step> {
    let mut steps = Vec::new();
    for strike in strikes.iter().filter(|one| one.instances.binary_search(&instance).is_ok()) {
        let mut then = |after: Duration, act: Act| {
            steps.push(Step { at: strike.at.saturating_add(after), entry: strike.entry, act });
        };
        match strike.deed {
            Deed::Kill { down } => {
                then(Duration::ZERO, Act::Kill { for_good: down.is_none() });
                down.inspect(|down| then(*down, Act::Start));
            }
            Deed::Stop { grace, down } => {
                let for_good = down.is_none();
                then(Duration::ZERO, Act::Terminate { for_good });
                then(grace, Act::KillLeft { for_good });
                down.inspect(|down| then(*down, Act::Start));
            }
            Deed::Pause { lasts } => {
                then(Duration::ZERO, Act::Pause);
                then(lasts, Act::Resume);
            }
            Deed::Rebind | Deed::Readdress | Deed::Nat { .. } => {}
        }
    }
    steps.sort_by_key(|step| step.at);
    steps
}
