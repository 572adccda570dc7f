//! How one instance ends, decided from what it said and how its process ended. Pure.
//!
//! Only what an instance publishes counts: any failure or crash beats success, duplicates are tolerated,
//! and exit codes are diagnostics. One that ends without a word has failed, and the reason says all that
//! is known.

use std::fmt::Write as _;

use groundswell_common::outcome::{Exit, InstanceEnd, Outcome};

use crate::sync::{LifecycleEvent, Waiting};

/// What is said of an instance that may have failed because of us.
const CUT_OFF: &str = "its worker was restarted, which cut its connection to the sync, and it has not connected again";

/// What is said of an instance that no plan can have ended.
const FROM_OUTSIDE: &str = "was killed by something outside of it, such as a restart of its engine";

/// What is known of how an instance ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fold {
    said: Option<(Outcome, String)>,
    stopped: Option<(Outcome, String)>,
    exit: Option<Exit>,
    over: bool,
    waiting: Vec<Waiting>,
    last_lines: Vec<String>,
    /// Its connection to the sync was cut by a restart of its worker, and it has not connected again.
    cut: bool,
    /// The failure it has told may come from that.
    doubtful: bool,
    /// The run's narrative has asked it to end.
    ending: bool,
    /// The narrative has ended it for good, and why.
    felled: Option<String>,
}

impl Fold {
    /// Takes in what the instance published. Returns its outcome when that has changed by it.
    pub(crate) fn on_said(&mut self, event: &LifecycleEvent) -> Option<Outcome> {
        let (outcome, reason) = match event {
            LifecycleEvent::Success => (Outcome::Success, String::new()),
            LifecycleEvent::Failure(error) => (Outcome::Failure, error.clone()),
            LifecycleEvent::Crash { error, .. } => (Outcome::Failure, format!("crashed: {error}")),
            LifecycleEvent::Start
            | LifecycleEvent::Message(_)
            | LifecycleEvent::StageStart(_)
            | LifecycleEvent::StageEnd(_) => return None,
        };
        let news = match &self.said {
            None => true,
            Some((before, _)) => *before == Outcome::Success && outcome == Outcome::Failure,
        };
        if !news {
            return None;
        }
        // What it says while it is being ended is an echo of that.
        if self.ending && outcome == Outcome::Failure {
            return None;
        }
        if self.said.is_none() && self.stopped.is_some() {
            return None;
        }
        self.said = Some((outcome, reason));
        Some(outcome)
    }

    /// Takes in what the instance printed about itself. Returns as [`Fold::on_said`].
    pub(crate) fn on_printed(&mut self, event: &LifecycleEvent) -> Option<Outcome> {
        let outcome = self.on_said(event)?;
        // What it says through the sync it has said before it was cut off, or after it came back.
        self.doubtful = self.cut && outcome == Outcome::Failure;
        Some(outcome)
    }

    /// Takes in that its connection to the sync was cut because its worker was restarted.
    pub(crate) fn on_cut(&mut self) {
        self.cut = true;
    }

    /// Takes in that it has connected to the sync again.
    pub(crate) fn on_connected(&mut self) {
        self.cut = false;
    }

    /// Takes in that the narrative has asked it to end. What it says of a success still counts.
    pub(crate) fn on_ending(&mut self) {
        self.ending = true;
    }

    /// Takes in that the narrative ends it for good. What it has said before counts, also when that arrives later.
    pub(crate) fn on_felled(&mut self, reason: String) {
        self.felled = Some(reason);
    }

    /// Takes in that the narrative has started it again.
    pub(crate) fn on_back(&mut self) {
        self.ending = false;
    }

    /// Takes in that the instance is ended from outside, unless it has ended by itself.
    pub(crate) fn on_stop(&mut self, outcome: Outcome, reason: &str) {
        if !self.over && self.stopped.is_none() {
            self.stopped = Some((outcome, reason.to_owned()));
        }
    }

    /// Takes in the barriers it waits in. The first answer stays: later ones are seen from its end.
    pub(crate) fn on_waiting(&mut self, waiting: Vec<Waiting>) {
        if self.waiting.is_empty() {
            self.waiting = waiting;
        }
    }

    /// Takes in that it is over; `exit` is absent for one that never ran.
    pub(crate) fn on_over(&mut self, exit: Option<Exit>, last_lines: Vec<String>) {
        self.exit = exit;
        self.over = true;
        self.last_lines = last_lines;
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether nothing that could still arrive is worth waiting for.
    pub(crate) fn is_settled(&self) -> bool {
        self.over && (self.said.is_some() || self.stopped.is_some() || self.exit.is_none())
    }

    /// The end, from everything that is known so far.
    pub(crate) fn end(&self) -> InstanceEnd {
        let (outcome, reason) = match (&self.said, &self.stopped) {
            (None, _) if self.felled.is_some() => {
                (Outcome::Killed, self.felled.clone().unwrap_or_default())
            }
            // Whatever it failed of: it may be our doing, so it is nothing that the plan has shown.
            (Some((Outcome::Failure, error)), _) if self.cut && self.doubtful => {
                (Outcome::Lost, format!("{CUT_OFF}: {error}"))
            }
            (None, None) if self.cut => {
                (Outcome::Lost, self.with_waiting(format!("{CUT_OFF}: {}", self.silent())))
            }
            (None, None) if self.is_from_outside() => {
                (Outcome::Lost, self.with_waiting(FROM_OUTSIDE.to_owned()))
            }
            (Some((outcome, reason)), _) => (*outcome, reason.clone()),
            (None, Some((outcome, reason))) => (*outcome, self.with_waiting(reason.clone())),
            (None, None) => (Outcome::Failure, self.with_waiting(self.silent())),
        };
        let last_lines =
            if outcome == Outcome::Success { Vec::new() } else { self.last_lines.clone() };
        InstanceEnd { outcome, reason, exit: self.exit.clone(), last_lines }
    }

    fn is_from_outside(&self) -> bool {
        self.exit.as_ref().is_some_and(|exit| exit.from_outside && !exit.oom_killed)
    }

    fn silent(&self) -> String {
        let exit = self.exit.clone().unwrap_or_default();
        format!("ended without outcome, {exit}")
    }

    fn with_waiting(&self, mut reason: String) -> String {
        for waiting in &self.waiting {
            let Waiting { state, count, target, .. } = waiting;
            let _ = write!(reason, "; waited in barrier `{state}` ({count} of {target})");
            if !waiting.missing.is_empty() {
                let names: Vec<String> =
                    waiting.missing.iter().map(|missing| waiting.name(*missing)).collect();
                let _ = write!(reason, ", missing: instances {}", names.join(", "));
                let more = waiting.missing_total.saturating_sub(names.len() as u64);
                if more > 0 {
                    let _ = write!(reason, " and {more} more");
                }
            }
        }
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundswell_common::ids::InstanceId;
    use proptest::prelude::*;

    fn exit(code: i32) -> Option<Exit> {
        Some(Exit { code: Some(code), ..Exit::default() })
    }

    fn failure() -> LifecycleEvent {
        LifecycleEvent::Failure("no peers".into())
    }

    fn said() -> impl Strategy<Value = LifecycleEvent> {
        prop_oneof![
            Just(LifecycleEvent::Start),
            Just(LifecycleEvent::Message("hello".into())),
            Just(LifecycleEvent::Success),
            Just(failure()),
            Just(LifecycleEvent::Crash { error: "panic".into(), stacktrace: String::new() }),
        ]
    }

    #[test]
    fn an_instance_that_was_killed_from_outside_is_lost_unless_it_has_said_otherwise() {
        let ended = |oom_killed, said: Option<LifecycleEvent>| {
            let mut fold = Fold::default();
            let _news = said.and_then(|event| fold.on_said(&event));
            let exit = Exit { signal: Some(9), oom_killed, from_outside: true, ..Exit::default() };
            fold.on_over(Some(exit), Vec::new());
            fold.end().outcome
        };
        assert_eq!(ended(false, None), Outcome::Lost);
        assert_eq!(ended(true, None), Outcome::Failure, "its memory was its own");
        assert_eq!(ended(false, Some(LifecycleEvent::Success)), Outcome::Success);
        assert_eq!(ended(false, Some(failure())), Outcome::Failure);
    }

    #[test]
    fn an_instance_that_was_cut_off_and_did_not_come_back_is_lost_unless_it_has_said_otherwise() {
        let ended = |prepare: &dyn Fn(&mut Fold)| {
            let mut fold = Fold::default();
            prepare(&mut fold);
            fold.on_over(exit(1), Vec::new());
            fold.end().outcome
        };
        assert_eq!(ended(&Fold::on_cut), Outcome::Lost);
        let back = |fold: &mut Fold| {
            fold.on_cut();
            fold.on_connected();
        };
        assert_eq!(ended(&back), Outcome::Failure, "it came back");
        let said = |fold: &mut Fold| {
            fold.on_cut();
            fold.on_said(&failure());
        };
        assert_eq!(ended(&said), Outcome::Failure, "said before the cut, and read again");
        let printed = |fold: &mut Fold| {
            fold.on_cut();
            fold.on_printed(&failure());
        };
        assert_eq!(ended(&printed), Outcome::Lost);
        let succeeded = |fold: &mut Fold| {
            fold.on_cut();
            fold.on_printed(&LifecycleEvent::Success);
        };
        assert_eq!(ended(&succeeded), Outcome::Success);
        let stopped = |fold: &mut Fold| {
            fold.on_cut();
            fold.on_stop(Outcome::Canceled, "asked");
        };
        assert_eq!(ended(&stopped), Outcome::Canceled);
    }

    proptest! {
        #[test]
        fn any_failure_beats_success_whatever_the_order_and_the_exit_code(
            events in prop::collection::vec(said(), 0..8), code in 0..3,
        ) {
            let mut fold = Fold::default();
            for event in &events {
                fold.on_said(event);
            }
            fold.on_over(exit(code), Vec::new());
            let failed = events.iter().any(|event| {
                matches!(event, LifecycleEvent::Failure(_) | LifecycleEvent::Crash { .. })
            });
            let succeeded = !failed && events.contains(&LifecycleEvent::Success);
            let wanted = if succeeded { Outcome::Success } else { Outcome::Failure };
            prop_assert_eq!(fold.end().outcome, wanted);
        }
    }

    #[test]
    fn one_that_ends_without_a_word_has_failed_and_the_reason_says_all() {
        let mut fold = Fold::default();
        fold.on_waiting(vec![Waiting {
            state: "ready".into(),
            count: 3,
            target: 15,
            missing: vec![InstanceId(4), InstanceId(7)],
            missing_total: 12,
            felled: vec![(InstanceId(7), "killed by the narrative at 32.0 s (kill)".into())],
        }]);
        let exit = Exit { signal: Some(9), oom_killed: true, ..Exit::default() };
        fold.on_over(Some(exit), vec!["last words".into()]);
        assert!(!fold.is_settled(), "its outcome may be on its way");
        let end = fold.end();
        assert_eq!(end.outcome, Outcome::Failure);
        assert_eq!(
            end.reason,
            "ended without outcome, out of memory, killed by signal 9; waited in barrier `ready` \
             (3 of 15), missing: instances 4, 7 [killed by the narrative at 32.0 s (kill)] and 10 more"
        );
        assert_eq!(end.last_lines, ["last words"]);
    }

    #[test]
    fn what_it_said_before_it_was_ended_counts_and_what_it_says_then_does_not() {
        let mut early = Fold::default();
        assert_eq!(early.on_said(&LifecycleEvent::Success), Some(Outcome::Success));
        early.on_stop(Outcome::TimedOut, "time was over");
        early.on_over(exit(0), Vec::new());
        assert_eq!(early.end().outcome, Outcome::Success);

        let mut late = Fold::default();
        late.on_stop(Outcome::TimedOut, "time was over");
        assert_eq!(late.on_said(&failure()), None);
        late.on_over(exit(1), Vec::new());
        assert_eq!(late.end().outcome, Outcome::TimedOut);
        assert_eq!(late.end().reason, "time was over");
    }

    #[test]
    fn one_that_the_narrative_ends_for_good_is_killed_unless_it_has_said_how_it_went() {
        let ended = |prepare: &dyn Fn(&mut Fold)| {
            let mut fold = Fold::default();
            prepare(&mut fold);
            fold.on_over(Some(Exit { signal: Some(9), ..Exit::default() }), Vec::new());
            fold
        };
        let silent = ended(&|fold| fold.on_felled("killed by the narrative at 3.0 s".into()));
        assert!(!silent.is_settled(), "its outcome may be on its way");
        let end = silent.end();
        assert_eq!(end.outcome, Outcome::Killed);
        assert_eq!(end.reason, "killed by the narrative at 3.0 s");

        let mut late = silent.clone();
        assert_eq!(late.on_said(&failure()), Some(Outcome::Failure), "it was said before the kill");
        assert_eq!(late.end().outcome, Outcome::Failure);

        let stopped = ended(&|fold| {
            fold.on_ending();
            fold.on_felled("stopped".into());
            assert_eq!(fold.on_said(&failure()), None, "an echo of the request");
        });
        assert_eq!(stopped.end().outcome, Outcome::Killed);

        let back = ended(&|fold| {
            fold.on_ending();
            fold.on_back();
        });
        assert_eq!(back.end().outcome, Outcome::Failure, "it died by itself in its next life");
    }

    #[test]
    fn a_repeated_word_is_no_news_and_an_exit_code_no_veto() {
        let mut fold = Fold::default();
        assert_eq!(fold.on_said(&LifecycleEvent::Success), Some(Outcome::Success));
        assert_eq!(fold.on_said(&LifecycleEvent::Success), None);
        fold.on_over(exit(3), Vec::new());
        assert!(fold.is_settled());
        assert_eq!(fold.end().outcome, Outcome::Success);
    }
}
