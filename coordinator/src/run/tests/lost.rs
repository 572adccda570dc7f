//! What becomes of runs that lose instances.

use super::*;

fn worker_lost(story: &mut Story, number: usize) -> Vec<Command> {
    story.feed(Event::WorkerLost { worker: worker(number), reason: "it is silent".to_owned() })
}

/// Ten instances on each of two workers, running.
fn twenty(on_lost: OnLost) -> Story {
    Story::with(&[20], on_lost).prepare(&[20]).run()
}

fn succeed(story: &mut Story, number: usize) {
    let share = &story.run.accounts().shares()[number];
    let all: Vec<_> = share.instances().map(|id| (id.0, Outcome::Success)).collect();
    story.ended(number, &all);
}

#[test]
fn what_is_lost_ends_a_run_that_does_not_say_otherwise() {
    let mut story = twenty(OnLost::Fail);
    worker_lost(&mut story, 1);
    succeed(&mut story, 0);
    story.collected();
    let (verdict, reason) = story.verdict();
    assert_eq!(verdict, Verdict::Infra);
    assert_eq!(reason, "it is silent; 10 instances were lost with it");
}

#[test]
fn a_loss_that_is_tolerated_is_a_warning_and_told_to_those_who_wait() {
    let mut story = twenty(OnLost::Tolerate(5_000));
    let commands = worker_lost(&mut story, 1);
    let gone =
        (0..20).filter(|id| !story.run.accounts().shares()[0].instances().any(|i| i.0 == *id));
    let gone: Vec<_> = gone.map(InstanceId).collect();
    assert!(commands.contains(&Command::MarkGone { gone, reason: "it is silent".to_owned() }));
    story.wait(FAIL_FAST_QUIET * 2);
    assert_eq!(story.run.phase(), RunPhase::Running, "the others go on");
    succeed(&mut story, 0);
    story.collected();
    assert_eq!(story.verdict(), (Verdict::Passed, String::new()));
    let warnings = story.run.status().warnings;
    assert_eq!(
        warnings,
        [
            "it is silent; 10 instances were lost with it (10 of 20 are lost; on_lost = tolerate(50%))"
        ]
    );
}

#[test]
fn a_failure_beside_a_tolerated_loss_is_a_failure_and_one_loss_too_many_is_not_tolerated() {
    let mut story = twenty(OnLost::Tolerate(5_000));
    worker_lost(&mut story, 1);
    let first = story.run.accounts().shares()[0].instances().next().expect("one").0;
    story.ended(0, &[(first, Outcome::Failure)]);
    succeed(&mut story, 0);
    story.collected();
    assert_eq!(story.verdict().0, Verdict::Failed);

    let mut story = twenty(OnLost::Tolerate(4_999));
    worker_lost(&mut story, 1);
    assert_eq!(story.run.phase(), RunPhase::Collecting, "it is being stopped");
}

#[test]
fn outputs_that_are_lost_with_their_worker_are_as_lost_as_its_instances() {
    for (share, verdict) in [(5_000, Verdict::Passed), (4_000, Verdict::Infra)] {
        let mut story = twenty(OnLost::Tolerate(share));
        succeed(&mut story, 0);
        succeed(&mut story, 1);
        worker_lost(&mut story, 1);
        story.tell(0, ShareEvent::Collected { index: "i".to_owned() });
        assert_eq!(story.verdict().0, verdict);
    }
}

#[test]
fn nothing_starts_without_those_that_are_lost_before() {
    let mut story = Story::with(&[20], OnLost::Tolerate(9_000)).prepare(&[20]);
    worker_lost(&mut story, 1);
    assert_eq!(story.verdict().0, Verdict::Infra);
}

/// An attempt that is over because of a lost worker.
fn resting() -> Story {
    let mut story = twenty(OnLost::RetryRun(1));
    worker_lost(&mut story, 1);
    succeed(&mut story, 0);
    story.tell(0, ShareEvent::Collected { index: "i".to_owned() });
    assert_eq!((story.run.phase(), story.run.want()), (RunPhase::Queued, None));
    assert!(story.commands.contains(&DELETE_LOG) && !story.commands.contains(&Command::Conclude));
    story
}

#[test]
fn a_run_is_tried_again_as_a_whole_once_the_attempt_before_is_gone() {
    let mut story = resting();
    assert_eq!(story.run.attempt_to_go_on_with(), Attempt(2));
    story.wait(Duration::from_secs(40));
    assert!(!story.run.is_queued(), "a worker has not cleaned up yet");
    let commands = story.tell(0, ShareEvent::Cleaned);
    assert!(commands.contains(&Command::NextAttempt) && commands.contains(&Command::Place));
    assert!(story.run.is_queued());
    assert_eq!(story.run.about().attempt, Attempt(2));
    assert_eq!((story.run.accounts().open(), story.run.started_ms()), (20, None));
    // What comes late of the first attempt's log changes nothing.
    let late = story.feed(Event::LogReady { attempt: Attempt::FIRST });
    assert!(late.contains(&DELETE_LOG));

    let rooms = [Room::empty(worker(0), Capacity::of_slots(100), vec![RuntimeKind::Netns])];
    story.feed(Event::Placed { shares: spread(&[20], &rooms) });
    story.feed(Event::LogReady { attempt: Attempt(2) });
    story.tell(0, ShareEvent::Prepared);
    story.feed(Event::StartAppended { attempt: Attempt(2) });
    story.tell(0, ShareEvent::Started);
    succeed(&mut story, 0);
    story.tell(0, ShareEvent::Collected { index: "j".to_owned() });
    story.feed(Event::Recorded);
    let status = story.run.status();
    assert_eq!((status.verdict, status.reason.as_str()), (Some(Verdict::Passed), ""));
    assert!(
        status.warnings[0].starts_with("attempt 1 was an infrastructure failure: it is silent")
    );
}

#[test]
fn a_run_that_has_no_attempt_left_ends_as_what_it_is() {
    let mut story = resting();
    story.tell(0, ShareEvent::Cleaned);
    story.wait(Duration::from_secs(31));
    let rooms = [Room::empty(worker(0), Capacity::of_slots(100), vec![RuntimeKind::Netns])];
    story.feed(Event::Placed { shares: spread(&[20], &rooms) });
    worker_lost(&mut story, 0);
    assert!(story.commands.contains(&Command::Conclude));
    story.feed(Event::Recorded);
    assert_eq!(story.run.status().verdict, Some(Verdict::Infra));
}

#[test]
fn a_failure_of_the_plan_is_never_tried_again_and_a_cancel_ends_the_rest() {
    let mut story = twenty(OnLost::RetryRun(3));
    story.ended(0, &[(0, Outcome::Failure)]);
    succeed(&mut story, 0);
    succeed(&mut story, 1);
    story.collected();
    assert_eq!(story.verdict().0, Verdict::Failed);

    let mut story = resting();
    story.feed(Event::Trouble { reason: "late news".to_owned() });
    assert_eq!(story.run.phase(), RunPhase::Queued);
    story.feed(Event::CancelRequested { reason: "asked".to_owned(), kill: false });
    assert!(story.commands.contains(&Command::Conclude));
    story.feed(Event::Recorded);
    assert_eq!(story.run.status().verdict, Some(Verdict::Canceled));
    assert!(story.tell(0, ShareEvent::Cleaned).contains(&Command::Forget));
}
