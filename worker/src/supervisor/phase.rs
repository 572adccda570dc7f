//! The life of one share, as a pure machine: what happened and the time in, what to do next out.
//!
//! ```text
//! preparing -> ready -> running -> collecting -> done -> removing -> gone
//!     |          |         |           ^
//!     `----------`---------`-> stopping'            (from anywhere, when it is released: removing)
//! ```

use std::time::{Duration, Instant};

use groundswell_common::messages::{Limits, ShareEvent, Want};
use groundswell_common::outcome::Outcome;
use groundswell_common::timing::KILL_TIME;

/// Where a share is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its instances are being made.
    Preparing {
        /// When that has taken too long.
        until: Instant,
    },
    /// Every instance is ready; none has run an instruction.
    Ready,
    /// Its instances run.
    Running,
    /// Its instances are being ended.
    Stopping {
        /// When the next, harder step is due; absent when there is none left.
        until: Option<Instant>,
        /// Whether they were killed already.
        killed: bool,
    },
    /// Its outputs are being stored.
    Collecting,
    /// Nothing is left to do until it is released.
    Done,
    /// Everything of it is being removed from the host.
    Removing,
    /// Nothing is left of it.
    Gone,
}

impl Phase {
    /// The word used in logs and events.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Preparing { .. } => "preparing",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Stopping { .. } => "stopping",
            Self::Collecting => "collecting",
            Self::Done => "done",
            Self::Removing => "removing",
            Self::Gone => "gone",
        }
    }
}

/// What happened to a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Every instance is ready.
    Prepared,
    /// An instance could not be made.
    PrepareFailed {
        /// Why.
        reason: String,
        /// Whether the plan or its image is the cause.
        fault_of_plan: bool,
    },
    /// The start record was seen in the log.
    Started,
    /// Every instance was let go.
    LetGo,
    /// No instance is left, and none is being made.
    AllEnded,
    /// What the coordinator wants of it.
    Wanted(Want),
    /// Network or sync cannot keep their promise.
    Broken {
        /// Why.
        reason: String,
        /// Whether the plan is the cause.
        fault_of_plan: bool,
    },
    /// Outputs are stored: the index's key, or why they are not.
    Collected(Result<String, String>),
    /// It is not listed any more.
    Released,
    /// Everything of it was removed.
    Removed,
    /// The deadline may have passed.
    DeadlinePassed,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// Tell the coordinator.
    Report(ShareEvent),
    /// Stop making instances.
    AbortPrepare,
    /// Let every instance go.
    Start,
    /// End every instance; those without a word of their own get this outcome.
    Stop {
        /// The outcome.
        outcome: Outcome,
        /// Why.
        reason: String,
        /// Whether to do so at once.
        kill: bool,
    },
    /// The grace is over: kill every instance that is left.
    Kill,
    /// Killing did not help either: count what is left as ended.
    GiveUp,
    /// Store outputs and logs.
    Collect,
    /// Remove everything, wherever it is.
    Remove,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    phase: Phase,
    limits: Limits,
}

impl Machine {
    /// A share whose preparation begins at `now`.
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self { phase: Phase::Preparing { until: now + limits.prepare }, limits }
    }

    /// Where it is.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// When [`Event::DeadlinePassed`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Preparing { until } => Some(until),
            Phase::Stopping { until, .. } => until,
            Phase::Ready
            | Phase::Running
            | Phase::Collecting
            | Phase::Done
            | Phase::Removing
            | Phase::Gone => None,
        }
    }

    /// Advances the machine and returns what to do next, in order.
    pub(crate) fn handle(&mut self, event: Event, now: Instant) -> Vec<Command> {
        let late = self.deadline().is_some_and(|deadline| deadline <= now);
        let (phase, commands) = match (self.phase, event) {
            (Phase::Removing, Event::Removed) => {
                (Phase::Gone, vec![Command::Report(ShareEvent::Cleaned)])
            }
            (Phase::Removing | Phase::Gone, _) => return Vec::new(),
            (_, Event::Released) => (Phase::Removing, vec![Command::Remove]),
            (phase, Event::Broken { reason, fault_of_plan }) => {
                (phase, vec![Command::Report(ShareEvent::Broken { reason, fault_of_plan })])
            }

            (Phase::Preparing { .. }, Event::Prepared) => {
                (Phase::Ready, vec![Command::Report(ShareEvent::Prepared)])
            }
            (Phase::Preparing { .. }, Event::PrepareFailed { reason, fault_of_plan }) => {
                self.unprepared(reason, fault_of_plan, now)
            }
            (Phase::Preparing { .. }, Event::DeadlinePassed) if late => {
                let limit = humantime::format_duration(self.limits.prepare);
                self.unprepared(format!("instances were not ready within {limit}"), false, now)
            }
            (Phase::Ready, Event::Started) => (Phase::Running, vec![Command::Start]),
            (Phase::Running, Event::LetGo) => {
                (Phase::Running, vec![Command::Report(ShareEvent::Started)])
            }
            (Phase::Running | Phase::Stopping { .. }, Event::AllEnded) => {
                (Phase::Collecting, vec![Command::Collect])
            }

            (
                Phase::Preparing { .. } | Phase::Ready | Phase::Running,
                Event::Wanted(Want::Stop { reason, outcome }),
            ) => self.stop(reason, outcome, false, now),
            (
                Phase::Preparing { .. } | Phase::Ready | Phase::Running,
                Event::Wanted(Want::Kill { reason, outcome }),
            ) => self.stop(reason, outcome, true, now),
            (Phase::Stopping { killed: false, .. }, Event::Wanted(Want::Kill { .. })) => {
                (killing(now), vec![Command::Kill])
            }
            (Phase::Stopping { killed: false, .. }, Event::DeadlinePassed) if late => {
                (killing(now), vec![Command::Kill])
            }
            (Phase::Stopping { killed: true, .. }, Event::DeadlinePassed) if late => {
                (Phase::Stopping { until: None, killed: true }, vec![Command::GiveUp])
            }

            (Phase::Collecting, Event::Collected(Ok(index))) => {
                (Phase::Done, vec![Command::Report(ShareEvent::Collected { index })])
            }
            (Phase::Collecting, Event::Collected(Err(reason))) => {
                (Phase::Done, vec![Command::Report(ShareEvent::CollectFailed { reason })])
            }

            // The desired state is told again and again, and notes of tasks arrive late: what does not
            // fit the phase changes nothing.
            (_, _) => return Vec::new(),
        };
        self.phase = phase;
        commands
    }

    fn stop(
        &self,
        reason: String,
        outcome: Outcome,
        kill: bool,
        now: Instant,
    ) -> (Phase, Vec<Command>) {
        let until = now + if kill { KILL_TIME } else { self.limits.stop_grace };
        let mut commands = Vec::new();
        if matches!(self.phase, Phase::Preparing { .. }) {
            commands.push(Command::AbortPrepare);
        }
        commands.push(Command::Stop { outcome, reason, kill });
        (Phase::Stopping { until: Some(until), killed: kill }, commands)
    }

    fn unprepared(
        &self,
        reason: String,
        fault_of_plan: bool,
        now: Instant,
    ) -> (Phase, Vec<Command>) {
        let failed = ShareEvent::PrepareFailed { reason: reason.clone(), fault_of_plan };
        let (phase, mut commands) =
            self.stop(format!("preparing failed: {reason}"), Outcome::Aborted, true, now);
        commands.insert(0, Command::Report(failed));
        (phase, commands)
    }
}

fn killing(now: Instant) -> Phase {
    Phase::Stopping { until: Some(now + KILL_TIME), killed: true }
}

/// The shortest time a wait for a deadline takes, so that a clock that lags never spins.
pub(crate) const DEADLINE_SLACK: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epoch() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn stop() -> Event {
        Event::Wanted(Want::Stop { reason: "canceled".into(), outcome: Outcome::Canceled })
    }

    fn kill() -> Event {
        Event::Wanted(Want::Kill { reason: "canceled".into(), outcome: Outcome::Canceled })
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Prepared),
            1 => Just(Event::PrepareFailed { reason: "no disk".into(), fault_of_plan: false }),
            3 => Just(Event::Started),
            2 => Just(Event::LetGo),
            3 => Just(Event::AllEnded),
            1 => Just(Event::Wanted(Want::Run)),
            1 => Just(stop()),
            1 => Just(kill()),
            1 => Just(Event::Broken { reason: "hole".into(), fault_of_plan: false }),
            2 => Just(Event::Collected(Ok("index".into()))),
            1 => Just(Event::Collected(Err("no store".into()))),
            1 => Just(Event::Released),
            2 => Just(Event::Removed),
            2 => Just(Event::DeadlinePassed),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_each_step_is_taken_at_most_once_and_in_order(
            events in prop::collection::vec((event(), 0..400_u64), 0..60),
        ) {
            let mut now = epoch();
            let mut machine = Machine::new(Limits::default(), now);
            let mut done: Vec<&str> = Vec::new();
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                let gone = machine.phase() == Phase::Gone;
                for command in machine.handle(event, now) {
                    prop_assert!(!gone, "a share that is gone did {:?}", command);
                    let name = match command {
                        Command::Start => "start",
                        Command::Stop { .. } => "stop",
                        Command::Collect => "collect",
                        Command::Remove => "remove",
                        Command::GiveUp => "give up",
                        Command::Report(ShareEvent::Cleaned) => "cleaned",
                        Command::Report(_) | Command::AbortPrepare | Command::Kill => continue,
                    };
                    prop_assert!(!done.contains(&name), "{} twice", name);
                    prop_assert!(name == "cleaned" || !done.contains(&"remove"), "{} after removal", name);
                    prop_assert!(name != "start" || !done.contains(&"stop"), "started after a stop");
                    prop_assert!(name != "cleaned" || done.last() == Some(&"remove"));
                    done.push(name);
                }
            }
        }

        #[test]
        fn a_stopped_share_always_ends_when_its_instances_do(
            events in prop::collection::vec(event(), 0..20), killed in any::<bool>(),
        ) {
            let now = epoch();
            let mut machine = Machine::new(Limits::default(), now);
            for event in events.into_iter().filter(|event| *event != Event::Released) {
                machine.handle(event, now);
            }
            machine.handle(if killed { kill() } else { stop() }, now);
            machine.handle(Event::AllEnded, now);
            machine.handle(Event::Collected(Ok("index".into())), now);
            prop_assert_eq!(machine.phase(), Phase::Done);
        }
    }

    #[test]
    fn grace_is_followed_by_a_kill_and_a_kill_that_does_not_help_by_giving_up() {
        let mut now = epoch();
        let limits = Limits::default();
        let mut machine = Machine::new(limits, now);
        machine.handle(Event::Prepared, now);
        machine.handle(Event::Started, now);
        let commands = machine.handle(stop(), now);
        assert!(matches!(commands[..], [Command::Stop { kill: false, .. }]));
        assert_eq!(machine.handle(Event::DeadlinePassed, now), [], "not due yet");
        now += limits.stop_grace;
        assert_eq!(machine.handle(Event::DeadlinePassed, now), [Command::Kill]);
        now += KILL_TIME;
        assert_eq!(machine.handle(Event::DeadlinePassed, now), [Command::GiveUp]);
        assert_eq!(machine.deadline(), None);
    }

    #[test]
    fn a_share_that_cannot_be_prepared_says_why_and_ends_by_itself() {
        let now = epoch();
        let mut machine = Machine::new(Limits::default(), now);
        let failed = Event::PrepareFailed { reason: "no such command".into(), fault_of_plan: true };
        let commands = machine.handle(failed, now);
        assert!(matches!(
            &commands[..],
            [
                Command::Report(ShareEvent::PrepareFailed { fault_of_plan: true, .. }),
                Command::AbortPrepare,
                Command::Stop { outcome: Outcome::Aborted, kill: true, .. }
            ]
        ));
        assert_eq!(machine.handle(Event::AllEnded, now), [Command::Collect]);
    }
}
