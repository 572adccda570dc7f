//! What the run's narrative does to one instance's processes: which step is due, and where that leaves it.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use groundswell_common::messages::InstancePlace;
use groundswell_common::narrative::{Act, Step, steps_of};
use groundswell_common::outcome::Exit;
use tokio::time::Instant;

use super::Context;
use crate::events::{EventLog, Whom};
use crate::sync::FELLED;

/// Where the narrative has an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is left alone.
    Up,
    /// It stands still.
    Paused,
    /// It was killed or is being stopped.
    Felled {
        /// Whether it is not started again.
        for_good: bool,
    },
}

/// What the narrative has in store for an instance, and what it has done.
pub(crate) struct Fate {
    steps: VecDeque<Step>,
    /// When the run began.
    began: Option<Instant>,
    pub(super) state: State,
    /// Which of its lives it is in.
    pub(super) incarnation: u32,
    /// How its last life ended.
    pub(super) last: Option<Exit>,
    /// What each entry of the narrative is called.
    texts: Vec<String>,
    events: EventLog,
    whom: Whom,
}

impl Fate {
    /// The fate of an instance.
    pub(super) fn of(context: &Context, place: InstancePlace) -> Self {
        let strikes = context.strikes.as_deref().unwrap_or_default();
        let entries = &context.assignment.network.narrative.entries;
        Self {
            steps: steps_of(strikes, place.id).into(),
            began: None,
            state: State::Up,
            incarnation: 0,
            last: None,
            texts: entries.iter().map(|entry| entry.text.clone()).collect(),
            events: context.events.clone(),
            whom: Whom { group: context.group(place).to_owned(), instance: place.id },
        }
    }

    /// The run began then.
    pub(super) fn begin(&mut self, at: Instant) {
        self.began = Some(at);
    }

    /// When the next step is due. One that is running is not started again before it has ended.
    pub(super) fn due(&self, running: bool) -> Option<Instant> {
        let next = self.steps.front().filter(|next| !(running && next.act == Act::Start))?;
        Some(self.began? + next.at)
    }

    /// The next step, which is due.
    pub(super) fn next(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Somebody else ends the instance: nothing more happens to it.
    pub(super) fn cease(&mut self) {
        self.steps.clear();
        if self.state == (State::Felled { for_good: false }) {
            self.state = State::Up;
        }
    }

    /// Whether its end now is the narrative's doing.
    pub(super) fn is_felled(&self) -> bool {
        matches!(self.state, State::Felled { .. })
    }

    /// How long the run goes on.
    pub(super) fn now(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Writes down that a step is taken, before it is.
    pub(super) fn tell(&self, step: &Step, deed: impl fmt::Display) {
        let entry = self.texts.get(usize::from(step.entry)).map_or("", String::as_str);
        let text = format!(
            "{entry}: {deed}, incarnation {}; asked for at {:.3} s, done at {:.3} s",
            self.incarnation,
            step.at.as_secs_f64(),
            self.now().as_secs_f64()
        );
        self.events.add("strike", text, Some(self.whom.clone()));
    }

    /// Writes down that a life has ended as the narrative wanted.
    pub(super) fn tell_down(&self, exit: &Exit) {
        let text = format!("down: incarnation {} ended, {exit}", self.incarnation);
        self.events.add("instance_down", text, Some(self.whom.clone()));
    }

    /// Why it has ended, for everybody who asks.
    pub(super) fn reason(&self, step: &Step) -> String {
        let entry = self.texts.get(usize::from(step.entry)).map_or("", String::as_str);
        format!("{FELLED} at {:.1} s ({entry})", step.at.as_secs_f64())
    }
}
