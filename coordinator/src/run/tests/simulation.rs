//! Whole runs on workers and a bus that lose, delay and repeat what they are told, by a seed.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

/// A worker as far as a run can see it. It repeats what it has told until that is heard.
struct FakeWorker {
    id: WorkerId,
    instances: Vec<InstanceId>,
    said: Vec<ShareEvent>,
    heard: usize,
    open: Vec<InstanceId>,
    started: bool,
    dead: bool,
}

impl FakeWorker {
    fn say(&mut self, what: ShareEvent) {
        if !self.said.contains(&what) {
            self.said.push(what);
        }
    }

    fn end_one(&mut self, dice: &mut StdRng, outcome: Option<Outcome>) -> Option<Outcome> {
        if self.open.is_empty() {
            return None;
        }
        let instance = self.open.swap_remove(dice.random_range(0..self.open.len()));
        let drawn = if dice.random_bool(0.05) { Outcome::Failure } else { Outcome::Success };
        let outcome = outcome.unwrap_or(drawn);
        self.say(ShareEvent::Ended { instances: vec![(instance, end(outcome))] });
        Some(outcome)
    }

    /// Moves one step towards what it should be doing, by the last assignment it has seen.
    fn step(&mut self, want: Option<&Want>, log_started: bool, dice: &mut StdRng) {
        match want {
            None => self.say(ShareEvent::Cleaned),
            Some(Want::Run) if !self.started && !log_started => self.say(ShareEvent::Prepared),
            Some(Want::Run) if !self.started => {
                self.started = true;
                self.say(ShareEvent::Started);
            }
            Some(Want::Run) => {
                self.end_one(dice, None);
            }
            Some(Want::Stop { outcome, .. } | Want::Kill { outcome, .. }) => {
                while self.end_one(dice, Some(*outcome)).is_some() {}
            }
        }
        if want.is_some() && self.open.is_empty() {
            self.say(measured(3));
            let index = format!("index-{}", self.id);
            self.say(ShareEvent::Collected { index });
        }
    }
}

/// Everything in one place: a run, three workers, and a network that loses, doubles and delays.
struct World {
    story: Story,
    workers: Vec<FakeWorker>,
    /// Messages under way: when, from whom, how many things were said up to it.
    under_way: Vec<(u64, usize, usize)>,
    assigned: Vec<Option<Want>>,
    log_started: bool,
    dice: StdRng,
    step: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let groups = [dice.random_range(1..9), dice.random_range(0..5), dice.random_range(3..9)];
        let rooms: Vec<Room> = (0..3)
            .map(|n| Room {
                worker: worker(n),
                slots: 9,
                free: 9,
                runtimes: vec![RuntimeKind::Netns],
            })
            .collect();
        let shares = spread(&groups, &rooms);
        let workers = shares
            .iter()
            .map(|(id, ranges)| {
                let instances: Vec<InstanceId> = ranges
                    .iter()
                    .flat_map(|r| (r.first.0..r.first.0 + r.count).map(InstanceId))
                    .collect();
                FakeWorker {
                    id: id.clone(),
                    open: instances.clone(),
                    instances,
                    said: vec![],
                    heard: 0,
                    started: false,
                    dead: false,
                }
            })
            .collect::<Vec<_>>();
        let mut story = Story::new(&groups);
        story.feed(Event::Built);
        story.feed(Event::Placed { shares });
        story.feed(Event::LogReady);
        let assigned = workers.iter().map(|_| Some(Want::Run)).collect();
        Self { story, workers, under_way: vec![], assigned, log_started: false, dice, step: 0 }
    }

    fn advance(&mut self) {
        self.step += 1;
        self.story.wait(Duration::from_millis(700));
        self.effects();
        for number in 0..self.workers.len() {
            self.worker(number);
        }
        self.deliver();
        check(&self.story.run);
    }

    /// Carries out what the run wants done elsewhere, often late.
    fn effects(&mut self) {
        if self.story.commands.contains(&Command::AppendStart) && self.dice.random_bool(0.5) {
            self.log_started = true;
            self.story.feed(Event::StartAppended);
        }
        if self.story.commands.contains(&Command::Conclude) && self.dice.random_bool(0.5) {
            self.story.feed(Event::Recorded);
        }
        if self.dice.random_bool(0.003) {
            let kill = self.dice.random_bool(0.3);
            self.story.feed(Event::CancelRequested { reason: "asked".to_owned(), kill });
        }
    }

    fn worker(&mut self, number: usize) {
        if self.workers[number].dead {
            if self.dice.random_bool(0.02) {
                let (worker, reason) = (self.workers[number].id.clone(), "gone".to_owned());
                self.story.feed(Event::WorkerLost { worker, reason });
            }
            return;
        }
        if self.dice.random_bool(0.001) {
            self.workers[number].dead = true;
        }
        // Assignments are one stored message: what arrives is the newest, sooner or later.
        if self.dice.random_bool(0.4) {
            self.assigned[number] = self.story.run.want();
        }
        let want = self.assigned[number].clone();
        let fake = &mut self.workers[number];
        fake.step(want.as_ref(), self.log_started, &mut self.dice);
        if fake.heard < fake.said.len() {
            let said = fake.said.len();
            for _ in 0..self.dice.random_range(0..3) {
                self.under_way.push((self.step + self.dice.random_range(0..9), number, said));
            }
        }
    }

    /// A report carries everything that was not heard when it was sent, so it may repeat what was heard since.
    fn deliver(&mut self) {
        let step = self.step;
        let (due, later) = self.under_way.drain(..).partition(|(at, _, _)| *at <= step);
        self.under_way = later;
        let due: Vec<(u64, usize, usize)> = due;
        for (_, number, said) in due {
            let from = self.workers[number].heard.saturating_sub(2).min(said);
            let told: Vec<ShareEvent> = self.workers[number].said[from..said].to_vec();
            for what in told {
                self.story.tell(number, what);
            }
            let heard = &mut self.workers[number].heard;
            *heard = (*heard).max(said);
        }
    }

    fn is_over(&self) -> bool {
        self.story.run.phase() == RunPhase::Cleaned
    }
}

#[test]
fn a_thousand_runs_on_a_bad_network_all_end_with_balanced_books() {
    let mut verdicts = std::collections::BTreeMap::new();
    for seed in 0..1_000 {
        let mut world = World::new(seed);
        while !world.is_over() {
            assert!(world.step < 20_000, "seed {seed}: stuck in {:?}", world.story.run.phase());
            world.advance();
        }
        let status = world.story.run.status();
        let verdict = status.verdict.expect("a verdict");
        *verdicts.entry(verdict).or_insert(0) += 1;
        // Against what the workers know themselves: nothing that failed there passed here.
        let failed = world.workers.iter().flat_map(|fake| &fake.said).any(|what| {
            matches!(what, ShareEvent::Ended { instances }
                if instances.iter().any(|(_, end)| end.outcome != Outcome::Success))
        });
        assert!(verdict != Verdict::Passed || !failed, "seed {seed}: {verdict}");
        let instances: usize = world.workers.iter().map(|fake| fake.instances.len()).sum();
        assert_eq!(world.story.run.accounts().ends().len(), instances, "seed {seed}");
    }
    // The dice reach every kind of end that needs no build.
    for verdict in [Verdict::Passed, Verdict::Failed, Verdict::Infra, Verdict::Canceled] {
        assert!(verdicts.contains_key(&verdict), "{verdicts:?}");
    }
}
