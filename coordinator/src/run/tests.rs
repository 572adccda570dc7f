//! Single stories, then properties, then a simulation with workers whose messages are lost, doubled and late.

use groundswell_common::fidelity::{Grade, Histogram, LaneReport, NetworkReport};
use groundswell_common::ids::{Attempt, InstanceId};
use groundswell_common::link::LinkShape;
use groundswell_common::messages::{InstanceRange, Limits, RuntimeKind};
use groundswell_common::on_lost::OnLost;
use groundswell_common::outcome::{InstanceEnd, Outcome};
use groundswell_common::run::{SourceInfo, Verdict};
use proptest::prelude::*;

use super::*;
use crate::placement::{self, Capacity, Distribution, Gang, Party, Room, place};

mod kpis;
mod lost;
mod simulation;

const DELETE_LOG: Command = Command::DeleteLog { attempt: Attempt::FIRST };

fn worker(number: usize) -> WorkerId {
    WorkerId::from_lossy(&format!("w{number}"))
}

fn end(outcome: Outcome) -> InstanceEnd {
    InstanceEnd { outcome, reason: String::new(), exit: None, last_lines: Vec::new() }
}

fn spread(groups: &[u32], rooms: &[Room]) -> Vec<placement::Share> {
    let alone = |instances: &u32| Party { instances: *instances, together: 1, ..Party::default() };
    let gang = Gang {
        parties: groups.iter().map(alone).collect(),
        runtime: RuntimeKind::Netns,
        wish: Default::default(),
        distribution: Distribution::Spread,
    };
    place(&gang, rooms).expect("fits")
}

/// A run and the clock of its story.
struct Story {
    run: Run,
    now: Now,
    commands: Vec<Command>,
}

impl Story {
    fn new(groups: &[u32]) -> Self {
        Self::with(groups, OnLost::Fail)
    }

    fn with(groups: &[u32], on_lost: OnLost) -> Self {
        let now = Now { at: tokio::time::Instant::now().into_std(), unix_ms: 1_000 };
        let about = About {
            run: "c8k3vmlrirtj2p8lcec0".parse().expect("an id"),
            attempt: Attempt::FIRST,
            plan: "plan".to_owned(),
            case: "case".to_owned(),
            user: String::new(),
            source: SourceInfo::default(),
            groups: groups.iter().enumerate().map(|(n, c)| (format!("g{n}"), *c)).collect(),
            rules: Rules {
                limits: Limits::default(),
                no_room_patience: Duration::from_secs(10),
                fail_fast: Some(FAIL_FAST_QUIET),
                on_lost,
                retry_wait: Duration::from_secs(30),
            },
            judging: Default::default(),
        };
        let (run, commands) = Run::new(about, vec![], now);
        Self { run, now, commands }
    }

    fn feed(&mut self, event: Event) -> Vec<Command> {
        let commands = self.run.handle(event, self.now);
        self.commands.extend(commands.clone());
        commands
    }

    fn tell(&mut self, number: usize, what: ShareEvent) -> Vec<Command> {
        self.feed(Event::Told { worker: worker(number), what })
    }

    fn wait(&mut self, duration: Duration) -> Vec<Command> {
        self.now.at += duration;
        self.now.unix_ms += u64::try_from(duration.as_millis()).expect("short");
        self.feed(Event::DeadlinePassed)
    }

    /// Groups spread over two workers, up to the point where the workers prepare.
    fn preparing(groups: &[u32]) -> Self {
        Self::new(groups).prepare(groups)
    }

    fn prepare(self, groups: &[u32]) -> Self {
        let mut story = self;
        story.feed(Event::Built);
        let rooms: Vec<Room> = (0..2)
            .map(|n| Room::empty(worker(n), Capacity::of_slots(100), vec![RuntimeKind::Netns]))
            .collect();
        let shares = spread(groups, &rooms);
        assert!(story.feed(Event::Placed { shares }).contains(&Command::CreateLog));
        assert!(story.feed(Event::LogReady { attempt: Attempt::FIRST }).contains(&Command::Assign));
        story
    }

    fn running(groups: &[u32]) -> Self {
        Self::preparing(groups).run()
    }

    fn run(self) -> Self {
        let mut story = self;
        story.tell(0, ShareEvent::Prepared);
        assert!(story.tell(1, ShareEvent::Prepared).contains(&Command::AppendStart));
        story.feed(Event::StartAppended { attempt: Attempt::FIRST });
        story.tell(0, ShareEvent::Started);
        story.tell(1, ShareEvent::Started);
        assert_eq!(story.run.phase(), RunPhase::Running);
        story
    }

    fn ended(&mut self, number: usize, instances: &[(u32, Outcome)]) -> Vec<Command> {
        let instances = instances.iter().map(|(id, o)| (InstanceId(*id), end(*o))).collect();
        self.tell(number, ShareEvent::Ended { instances })
    }

    fn collected(&mut self) {
        for number in 0..2 {
            self.tell(number, ShareEvent::Collected { index: format!("index-{number}") });
        }
    }

    fn verdict(&mut self) -> (Verdict, String) {
        assert!(self.commands.contains(&Command::Conclude), "{:?}", self.run.phase());
        self.feed(Event::Recorded);
        let status = self.run.status();
        assert!(self.commands.contains(&DELETE_LOG));
        assert_eq!(self.run.accounts().open(), 0);
        (status.verdict.expect("over"), status.reason)
    }
}

#[test]
fn a_run_passes_when_every_instance_succeeded_and_everything_is_stored() {
    let mut story = Story::running(&[1, 1]);
    story.ended(0, &[(0, Outcome::Success)]);
    story.ended(1, &[(1, Outcome::Success)]);
    assert_eq!(story.run.phase(), RunPhase::Collecting);
    story.tell(0, ShareEvent::Collected { index: "a".to_owned() });
    assert!(!story.commands.contains(&Command::Conclude));
    story.tell(1, ShareEvent::Collected { index: "b".to_owned() });
    assert_eq!(story.verdict(), (Verdict::Passed, String::new()));
    story.tell(0, ShareEvent::Cleaned);
    assert!(story.tell(1, ShareEvent::Cleaned).contains(&Command::Forget));
    assert_eq!(story.run.want(), None);
}

#[test]
fn a_failed_instance_makes_the_run_fail_and_is_named() {
    let mut story = Story::running(&[2, 2]);
    story.ended(0, &[(0, Outcome::Success), (1, Outcome::Success)]);
    story.ended(1, &[(2, Outcome::Success), (3, Outcome::Failure)]);
    story.collected();
    let (verdict, reason) = story.verdict();
    assert_eq!(verdict, Verdict::Failed);
    assert_eq!(reason, "1 of 4 instances did not succeed; the first is g1[1]: failure");
}

#[test]
fn outputs_that_are_not_stored_are_never_a_pass() {
    let mut story = Story::running(&[2]);
    story.ended(0, &[(0, Outcome::Success)]);
    story.ended(1, &[(1, Outcome::Success)]);
    story.tell(0, ShareEvent::Collected { index: "a".to_owned() });
    story.tell(1, ShareEvent::CollectFailed { reason: "disk full".to_owned() });
    let (verdict, reason) = story.verdict();
    assert_eq!(verdict, Verdict::Infra);
    assert_eq!(reason, "the outputs of worker w1 are not stored: disk full");
}

#[test]
fn a_record_that_is_not_stored_is_never_a_pass() {
    let mut story = Story::running(&[2]);
    story.ended(0, &[(0, Outcome::Success)]);
    story.ended(1, &[(1, Outcome::Success)]);
    story.collected();
    story.feed(Event::RecordFailed { reason: "refused".to_owned() });
    assert_eq!(story.run.status().verdict, Some(Verdict::Infra));
}

#[test]
fn a_lost_worker_ends_the_run_as_infrastructure_failure_and_stops_the_others() {
    let mut story = Story::running(&[4]);
    story.ended(1, &[(2, Outcome::Failure)]);
    let lost = Event::WorkerLost { worker: worker(0), reason: "worker w0 is gone".to_owned() };
    assert!(story.feed(lost).contains(&Command::Assign));
    assert!(matches!(story.run.want(), Some(Want::Stop { outcome: Outcome::Aborted, .. })));
    // A dead worker's late word changes nothing.
    story.ended(0, &[(0, Outcome::Success)]);
    story.ended(1, &[(3, Outcome::Aborted)]);
    story.tell(1, ShareEvent::Collected { index: "b".to_owned() });
    let (verdict, reason) = story.verdict();
    assert_eq!(verdict, Verdict::Infra);
    assert_eq!(reason, "worker w0 is gone; 2 instances were lost with it");
    let counts = story.run.status().groups[0].1;
    assert_eq!((counts.lost, counts.failure, counts.aborted), (2, 1, 1));
}

#[test]
fn the_time_limit_stops_the_run_with_the_words_that_scripts_look_for() {
    let mut story = Story::running(&[2]);
    story.ended(0, &[(0, Outcome::Success)]);
    story.wait(Limits::default().run);
    let stop = Some(Want::Stop { reason: TIMED_OUT.to_owned(), outcome: Outcome::TimedOut });
    assert_eq!(story.run.want(), stop);
    story.ended(1, &[(1, Outcome::TimedOut)]);
    story.collected();
    assert_eq!(story.verdict(), (Verdict::TimedOut, TIMED_OUT.to_owned()));
}

#[test]
fn a_worker_that_never_reports_the_end_does_not_hold_the_run_for_ever() {
    let mut story = Story::running(&[2]);
    story.wait(Limits::default().run);
    story.wait(Duration::from_secs(120));
    assert!(matches!(story.run.want(), Some(Want::Kill { .. })));
    story.wait(Duration::from_secs(120));
    assert_eq!(story.run.accounts().open(), 0);
    story.wait(COLLECT_TIMEOUT);
    assert_eq!(story.verdict().0, Verdict::TimedOut);
}

#[test]
fn a_cancel_collects_what_is_there_and_a_second_one_kills() {
    let mut story = Story::running(&[2]);
    story.feed(Event::CancelRequested { reason: "asked".to_owned(), kill: false });
    assert!(matches!(story.run.want(), Some(Want::Stop { outcome: Outcome::Canceled, .. })));
    let again = story.feed(Event::CancelRequested { reason: "asked".to_owned(), kill: true });
    assert!(again.contains(&Command::Assign));
    assert!(matches!(story.run.want(), Some(Want::Kill { .. })));
    story.ended(0, &[(0, Outcome::Canceled)]);
    story.ended(1, &[(1, Outcome::Canceled)]);
    story.collected();
    assert_eq!(story.verdict(), (Verdict::Canceled, "asked".to_owned()));
}

#[test]
fn a_cancel_before_the_start_needs_no_worker() {
    let mut story = Story::preparing(&[2]);
    story.feed(Event::CancelRequested { reason: "asked".to_owned(), kill: false });
    assert_eq!(story.verdict(), (Verdict::Canceled, "asked".to_owned()));
    assert_eq!(story.run.status().groups[0].1.canceled, 2);
}

#[test]
fn a_build_that_fails_is_rejected_and_a_builder_that_fails_is_not() {
    for (fault_of_plan, verdict) in [(true, Verdict::Rejected), (false, Verdict::Infra)] {
        let mut story = Story::new(&[1]);
        story.feed(Event::BuildFailed { reason: "no".to_owned(), fault_of_plan });
        assert_eq!(story.verdict().0, verdict);
    }
}

#[test]
fn a_run_that_can_never_fit_is_rejected_and_one_that_may_fit_waits() {
    let mut story = Story::new(&[9]);
    story.feed(Event::Built);
    let no_room = |temporary| Event::NoRoom { reason: "needs more".to_owned(), temporary };
    for _ in 0..100 {
        story.feed(no_room(true));
        story.wait(Duration::from_secs(50));
    }
    assert_eq!(story.run.phase(), RunPhase::Queued);
    assert_eq!(story.run.status().doing, "needs more");
    story.feed(no_room(false));
    story.wait(Duration::from_secs(60));
    assert_eq!(story.verdict(), (Verdict::Unplaceable, "needs more".to_owned()));
}

#[test]
fn who_is_not_ready_in_time_is_named() {
    let mut story = Story::preparing(&[2]);
    story.tell(0, ShareEvent::Prepared);
    story.tell(1, ShareEvent::Progress { ready: 0, doing: "fetching the image".to_owned() });
    assert_eq!(story.run.status().doing, "worker w1: fetching the image");
    story.wait(Limits::default().prepare);
    let (verdict, reason) = story.verdict();
    assert_eq!(verdict, Verdict::Infra);
    assert_eq!(reason, "not ready within 600 s: worker w1 (0 of 1 ready, fetching the image)");
}

#[test]
fn silence_after_a_failure_stops_the_run_and_any_word_postpones_that() {
    let mut story = Story::running(&[2, 2]);
    story.ended(1, &[(3, Outcome::Failure)]);
    story.wait(FAIL_FAST_QUIET / 2);
    story.tell(0, ShareEvent::Said { instance: InstanceId(0), outcome: Outcome::Success });
    story.wait(FAIL_FAST_QUIET / 2);
    assert_eq!(story.run.want(), Some(Want::Run));
    story.wait(FAIL_FAST_QUIET / 2);
    let Some(Want::Stop { reason, outcome: Outcome::Failure }) = story.run.want() else {
        panic!("not stopped: {:?}", story.run.want());
    };
    assert_eq!(reason, "instance g1[1] ended with failure; the others were still waiting");
}

fn measured(packets: u64) -> ShareEvent {
    let mut report = NetworkReport { interface_drops: Some(0), ..NetworkReport::default() };
    let mut late = Histogram::default();
    (0..packets).for_each(|_| late.record(20_000));
    let shape = Some(LinkShape::default());
    report.lanes.push(LaneReport { shape, packets, late, ..LaneReport::default() });
    ShareEvent::Network { report }
}

#[test]
fn what_workers_measured_of_the_network_adds_up_whatever_comes_twice_or_late() {
    let mut story = Story::running(&[1, 1]);
    story.ended(0, &[(0, Outcome::Success)]);
    story.ended(1, &[(1, Outcome::Success)]);
    story.tell(0, measured(100));
    story.tell(0, measured(100));
    assert_eq!(story.run.status().network, None);
    story.tell(1, measured(50));
    // One worker cannot store its outputs; what it measured counts all the same.
    story.tell(0, ShareEvent::Collected { index: "a".to_owned() });
    story.tell(1, ShareEvent::CollectFailed { reason: "disk full".to_owned() });
    let line = "exact · 150 packets · late p50 20 µs p99 20 µs max 20 µs";
    assert!(story.commands.contains(&note("network", line)), "{:?}", story.commands);
    story.tell(1, measured(7));
    assert_eq!(story.verdict().0, Verdict::Infra);
    let network = story.run.status().network.expect("measured");
    assert_eq!((network.packets, network.grade), (150, Grade::Exact));
}

#[test]
fn a_worker_that_does_not_report_is_not_measured() {
    let mut story = Story::running(&[1, 1]);
    story.ended(0, &[(0, Outcome::Success)]);
    story.ended(1, &[(1, Outcome::Success)]);
    story.tell(0, measured(100));
    story.collected();
    assert_eq!(story.verdict().0, Verdict::Passed);
    let network = story.run.status().network.expect("one has reported");
    assert_eq!((network.unmeasured, network.grade), (vec![worker(1)], Grade::Degraded));

    let mut old = Story::running(&[1, 1]);
    old.ended(0, &[(0, Outcome::Success)]);
    old.ended(1, &[(1, Outcome::Success)]);
    old.collected();
    assert_eq!(old.verdict().0, Verdict::Passed);
    assert_eq!(old.run.status().network, None);
}

#[test]
fn a_log_that_comes_after_the_end_is_removed() {
    let mut story = Story::new(&[1]);
    story.feed(Event::Built);
    let range = InstanceRange { group: 0, first: InstanceId(0), first_in_group: 0, count: 1 };
    story.feed(Event::Placed { shares: vec![(worker(0), vec![range])] });
    story.feed(Event::CancelRequested { reason: "asked".to_owned(), kill: false });
    story.feed(Event::Recorded);
    assert!(story.feed(Event::LogReady { attempt: Attempt::FIRST }).contains(&DELETE_LOG));
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Success),
        1 => Just(Outcome::Failure),
        1 => Just(Outcome::Aborted),
        1 => Just(Outcome::Canceled),
        1 => Just(Outcome::Lost),
        1 => Just(Outcome::Killed),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let told = prop_oneof![
        Just(ShareEvent::Prepared),
        Just(ShareEvent::Started),
        Just(ShareEvent::Cleaned),
        Just(ShareEvent::Collected { index: "i".to_owned() }),
        Just(ShareEvent::CollectFailed { reason: "r".to_owned() }),
        Just(measured(3)),
        any::<bool>().prop_map(|fault_of_plan| ShareEvent::PrepareFailed {
            reason: "r".to_owned(),
            fault_of_plan
        }),
        any::<bool>()
            .prop_map(|fault_of_plan| ShareEvent::Broken { reason: "r".to_owned(), fault_of_plan }),
        prop::collection::vec((0_u32..8, outcome()), 0..8).prop_map(|ends| ShareEvent::Ended {
            instances: ends.into_iter().map(|(id, o)| (InstanceId(id), end(o))).collect()
        }),
    ];
    prop_oneof![
        12 => (0_usize..3, told)
            .prop_map(|(number, what)| Event::Told { worker: worker(number), what }),
        1 => Just(Event::StartAppended { attempt: Attempt::FIRST }),
        1 => Just(Event::StartFailed {
            attempt: Attempt::FIRST,
            reason: "r".to_owned(),
        }),
        1 => Just(Event::LogReady { attempt: Attempt::FIRST }),
        1 => Just(Event::Recorded),
        1 => Just(Event::RecordFailed { reason: "r".to_owned() }),
        1 => (0_usize..3)
            .prop_map(|number| Event::WorkerLost { worker: worker(number), reason: "r".to_owned() }),
        1 => any::<bool>()
            .prop_map(|kill| Event::CancelRequested { reason: "r".to_owned(), kill }),
        3 => Just(Event::DeadlinePassed),
    ]
}

/// Whether what is lost is no more than was allowed, and the rest is as it should be.
fn tolerated(run: &Run, rest: impl Fn(&Share) -> bool) -> bool {
    let (lost, total) = (run.accounts().lost(), run.accounts().total());
    let few = lost == 0 || run.about().rules.on_lost.tolerates(lost, total);
    few && run.accounts().shares().iter().all(|share| share.lost || rest(share))
}

/// What must hold after every step, whatever has happened.
fn check(run: &Run) {
    let status = run.status();
    let want: u32 = status.groups.iter().map(|(_, counts)| counts.want).sum();
    let ended: u32 = status.groups.iter().map(|(_, counts)| counts.ended()).sum();
    assert_eq!(usize::try_from(ended).expect("small"), run.accounts().ends().len());
    for (_, counts) in &status.groups {
        assert!(counts.ended() <= counts.want && counts.ended() + counts.running <= counts.want);
    }
    if !status.phase.is_over() {
        assert_eq!(status.verdict, None);
        return;
    }
    assert_eq!(ended, want, "every instance is accounted for");
    let all = |what: fn(Outcome) -> bool| run.accounts().count(what) == run.accounts().ends().len();
    match status.verdict.expect("a verdict") {
        Verdict::Passed => {
            assert!(all(|o| matches!(o, Outcome::Success | Outcome::Lost | Outcome::Killed)));
            assert!(tolerated(run, |share| share.index.is_some()));
        }
        Verdict::Failed => {
            assert!(all(|o| matches!(
                o,
                Outcome::Success | Outcome::Failure | Outcome::Lost | Outcome::Killed
            )));
            assert!(tolerated(run, |_| true));
        }
        Verdict::Inconclusive
        | Verdict::Infra
        | Verdict::TimedOut
        | Verdict::Canceled
        | Verdict::Rejected
        | Verdict::Unplaceable => {}
    }
}

#[test]
fn a_share_that_its_worker_removes_unasked_is_lost() {
    let mut story = Story::preparing(&[2, 2]);
    story.tell(0, ShareEvent::Prepared);
    story.tell(1, ShareEvent::Cleaned);
    let (verdict, reason) = story.verdict();
    assert_eq!(verdict, Verdict::Infra);
    assert!(reason.contains("removed its share unasked; 2 instances"), "{reason}");
}

proptest! {
    #[test]
    fn whatever_happens_the_books_balance_and_the_verdict_stays(
        events in prop::collection::vec((event(), 0_u64..400), 0..60),
        sizes in (1_u32..5, 1_u32..5),
        share in 0_u32..10_000,
    ) {
        let on_lost = if share == 0 { OnLost::Fail } else { OnLost::Tolerate(share) };
        let sizes = [sizes.0, sizes.1];
        let mut story = Story::with(&sizes, on_lost).prepare(&sizes);
        let mut first: std::collections::BTreeMap<InstanceId, InstanceEnd> = Default::default();
        let mut verdict = None;
        for (event, seconds) in events {
            story.now.at += Duration::from_secs(seconds);
            story.feed(event);
            check(&story.run);
            for (instance, end) in &first {
                prop_assert_eq!(Some(end), story.run.accounts().ends().get(instance));
            }
            first.clone_from(story.run.accounts().ends());
            let over = story.run.status().verdict;
            prop_assert!(verdict.is_none() || verdict == over);
            verdict = over;
        }
        let concluded = story.commands.iter().filter(|c| **c == Command::Conclude).count();
        prop_assert!(concluded <= 1);
        let starts = story.commands.iter().filter(|c| **c == Command::AppendStart).count();
        prop_assert!(starts <= 1);
    }
}
