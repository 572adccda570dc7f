use groundswell_common::messages::RuntimeKind;
use proptest::prelude::*;

use super::policy::{Quota, Team};
use super::*;
use crate::placement::{Distribution, Party};

fn run_id(number: u64) -> RunId {
    format!("{number:020}").parse().expect("a valid id")
}

fn owner(team: &str) -> Owner {
    Owner { team: team.to_owned(), user: "someone".to_owned() }
}

fn gang(instances: u32) -> Gang {
    let party = Party { name: "all".to_owned(), instances, together: 1, ..Party::default() };
    Gang {
        parties: vec![party],
        runtime: RuntimeKind::Netns,
        wish: Default::default(),
        distribution: Distribution::Spread,
    }
}

fn waiting(number: u64, team: &str, instances: u32) -> Waiting {
    Waiting {
        run: run_id(number),
        owner: owner(team),
        priority: Priority::Normal,
        since_ms: number,
        hold: Duration::from_secs(600),
        gang: gang(instances),
    }
}

/// Two workers of 50 slots.
fn rooms() -> Vec<Room> {
    let room = |n: u32| {
        let worker = WorkerId::from_lossy(&format!("w{n}"));
        Room::empty(worker, Capacity::of_slots(50), vec![RuntimeKind::Netns])
    };
    (0..2).map(room).collect()
}

fn holding(number: u64, team: &str, instances: u32, until_ms: u64) -> Holding {
    let held = (0..2).map(|n| {
        let part = instances / 2 + if n == 0 { instances % 2 } else { 0 };
        (WorkerId::from_lossy(&format!("w{n}")), Capacity { slots: part, ..Default::default() })
    });
    Holding {
        run: run_id(number),
        owner: owner(team),
        instances,
        until_ms,
        held: held.collect(),
        exclusive: false,
    }
}

/// A view with nothing in it.
struct Scene {
    waiting: Vec<Waiting>,
    holding: Vec<Holding>,
    rooms: Vec<Room>,
    usage: Usage,
    policy: Policy,
    now_ms: u64,
}

impl Scene {
    fn new(waiting: Vec<Waiting>, holding: Vec<Holding>) -> Self {
        let (usage, policy) = Default::default();
        Self { waiting, holding, rooms: rooms(), usage, policy, now_ms: 1_000 }
    }

    fn plan(&self) -> Plan {
        let Self { waiting, holding, rooms, usage, policy, now_ms } = self;
        decide(&View { waiting, holding, rooms, usage, policy, now_ms: *now_ms })
    }

    /// The numbers of the runs that start.
    fn starts(&self) -> Vec<u64> {
        let plan = self.plan();
        let started = plan.decisions.iter().filter(|(_, it)| matches!(it, Decision::Start(_)));
        started.map(|(run, _)| run.as_str().parse().expect("a number")).collect()
    }

    /// The order of the queue, as numbers.
    fn order(&self) -> Vec<u64> {
        let plan = self.plan();
        plan.decisions.iter().map(|(run, _)| run.as_str().parse().expect("a number")).collect()
    }

    fn reason(&self, number: u64) -> String {
        let plan = self.plan();
        let (_, decision) =
            plan.decisions.iter().find(|(run, _)| run == &run_id(number)).expect("it waits");
        let Decision::Wait(why) = decision else { panic!("it starts") };
        why.to_string()
    }
}

#[test]
fn a_more_urgent_class_goes_first_until_others_have_waited_long() {
    let mut batch = waiting(1, "a", 1);
    batch.priority = Priority::Batch;
    let mut urgent = waiting(3, "a", 1);
    urgent.priority = Priority::Interactive;
    let mut scene = Scene::new(vec![batch, waiting(2, "a", 1), urgent], vec![]);
    assert_eq!(scene.order(), [3, 2, 1]);
    scene.now_ms = 3 * 1_800_000 + 10;
    scene.waiting[2].since_ms = scene.now_ms;
    assert_eq!(scene.order(), [2, 1, 3], "both are more urgent than anything new by now");
    scene.policy.aging = Duration::ZERO;
    assert_eq!(scene.order(), [3, 2, 1], "nothing ages");
}

#[test]
fn teams_take_turns_and_the_one_that_had_less_begins() {
    let runs = vec![
        waiting(1, "a", 10),
        waiting(2, "a", 10),
        waiting(3, "a", 10),
        waiting(4, "b", 10),
        waiting(5, "b", 10),
    ];
    let mut scene = Scene::new(runs, vec![]);
    assert_eq!(scene.order(), [1, 4, 2, 5, 3]);
    let heavy = Team { weight: 2, ..Team::default() };
    scene.policy.teams.insert("a".to_owned(), heavy);
    assert_eq!(scene.order(), [1, 4, 2, 3, 5], "twice the weight, twice the runs");
    scene.policy.teams.clear();
    scene.usage.advance(1_000, Duration::from_secs(3600), [(&owner("a"), 100_000)]);
    assert_eq!(scene.order(), [4, 5, 1, 2, 3]);
}

#[test]
fn what_runs_counts_for_its_team() {
    let scene = Scene::new(
        vec![waiting(1, "a", 10), waiting(2, "b", 10)],
        vec![holding(9, "a", 10, 500_000)],
    );
    assert_eq!(scene.order(), [2, 1]);
}

#[test]
fn a_small_run_starts_before_the_head_only_if_it_is_over_by_then() {
    let mut short = waiting(3, "a", 20);
    short.hold = Duration::from_secs(99);
    let mut long = waiting(2, "a", 20);
    long.hold = Duration::from_secs(100);
    let scene =
        Scene::new(vec![waiting(1, "a", 80), long, short], vec![holding(9, "a", 60, 100_000)]);
    assert_eq!(scene.starts(), [3]);
    assert_eq!(scene.plan().reserved, Some((run_id(1), 100_000)));
    assert_eq!(scene.reason(1), "needs 80 slots, 40 of the cluster's 100 are free");
    let head = run_id(1).name();
    assert_eq!(
        scene.reason(2),
        format!("{head} goes first, within 2m, and this run may take longer than that")
    );
}

#[test]
fn a_quota_holds_up_its_own_team_only() {
    let quota = Quota { instances: Some(50), runs: Some(2), ..Quota::default() };
    let mut scene = Scene::new(
        vec![waiting(1, "a", 20), waiting(2, "b", 40), waiting(3, "a", 5)],
        vec![holding(9, "a", 40, 100_000)],
    );
    scene.policy.teams.insert("a".to_owned(), Team { quota, ..Team::default() });
    assert_eq!(scene.starts(), [2, 3]);
    assert_eq!(scene.reason(1), "team `a` has 40 of its 50 instances, and this run needs 20");
    scene.holding.push(holding(8, "a", 5, 100_000));
    assert_eq!(scene.reason(3), "team `a` has 2 runs under way, its quota");
}

#[test]
fn one_that_never_fits_holds_nobody_up() {
    let scene = Scene::new(vec![waiting(1, "a", 200), waiting(2, "a", 100)], vec![]);
    assert_eq!(scene.starts(), [2]);
    assert_eq!(scene.reason(1), "needs 200 slots, the cluster has 100");
}

/// A run of a simulated week.
#[derive(Debug, Clone)]
struct Job {
    team: u8,
    class: u8,
    instances: u32,
    arrives: u64,
    /// Seconds it is allowed.
    limit: u64,
    /// Seconds it takes.
    takes: u64,
    exclusive: bool,
}

fn job() -> impl Strategy<Value = Job> {
    let shape = (0_u8..3, 0_u8..3, 1_u32..100, 0_u64..3_000);
    (shape, 10_u64..900, 1_u64..100, 0_u8..8).prop_map(
        |((team, class, instances, arrives), limit, percent, exclusive)| Job {
            team,
            class,
            instances,
            arrives,
            limit,
            takes: (limit * percent / 100).max(1),
            exclusive: exclusive == 0,
        },
    )
}

/// A cluster and its queue, second by second.
struct World {
    scene: Scene,
    jobs: Vec<Job>,
    /// When each that runs ends in fact.
    ends: BTreeMap<RunId, u64>,
    started: BTreeMap<RunId, u64>,
}

const QUOTA: u32 = 120;
const TEAMS: [&str; 3] = ["a", "b", "c"];

impl World {
    fn new(jobs: Vec<Job>) -> Self {
        let mut scene = Scene::new(vec![], vec![]);
        let quota = Quota { instances: Some(QUOTA), runs: Some(3), ..Quota::default() };
        scene.policy.teams.insert("a".to_owned(), Team { quota, weight: 2, ..Team::default() });
        scene.policy.aging = Duration::from_secs(600);
        Self { scene, jobs, ends: BTreeMap::new(), started: BTreeMap::new() }
    }

    fn number(run: &RunId) -> usize {
        run.as_str().parse().expect("a number")
    }

    fn arrive(&mut self, second: u64) {
        for (number, job) in self.jobs.iter().enumerate().filter(|(_, job)| job.arrives == second) {
            let mut gang = gang(job.instances);
            gang.wish.exclusive = job.exclusive;
            self.scene.waiting.push(Waiting {
                run: run_id(number as u64),
                owner: owner(TEAMS[usize::from(job.team)]),
                priority: Priority::ALL[usize::from(job.class)],
                since_ms: second * 1_000,
                hold: Duration::from_secs(job.limit),
                gang,
            });
        }
    }

    fn tick(&mut self, second: u64) -> Result<(), TestCaseError> {
        let over = |run: &RunId| self.ends.get(run).is_some_and(|end| *end <= second);
        self.scene.holding.retain(|holding| !over(&holding.run));
        self.arrive(second);
        self.scene.now_ms = second * 1_000;
        let held = self.scene.holding.iter().map(|one| (&one.owner, one.instances));
        self.scene.usage.advance(self.scene.now_ms, Duration::from_secs(3600), held);
        let plan = self.scene.plan();
        prop_assert_eq!(&plan, &self.scene.plan());
        self.start(&plan, second);
        self.check(&plan)
    }

    fn start(&mut self, plan: &Plan, second: u64) {
        for (run, decision) in &plan.decisions {
            let Decision::Start(shares) = decision else { continue };
            let index = self.scene.waiting.iter().position(|one| &one.run == run).expect("waits");
            let one = self.scene.waiting.remove(index);
            let job = &self.jobs[Self::number(run)];
            self.ends.insert(run.clone(), second + job.takes);
            self.started.insert(run.clone(), second);
            let held = shares.iter().map(|(w, ranges)| (w.clone(), one.gang.held(ranges)));
            self.scene.holding.push(Holding {
                run: run.clone(),
                owner: one.owner.clone(),
                instances: job.instances,
                until_ms: (second + job.limit) * 1_000,
                held: held.collect(),
                exclusive: job.exclusive,
            });
        }
    }

    /// No worker holds more than it has, no team more than it may, and what was started leaves the head its room.
    fn check(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let holding = &self.scene.holding;
        for room in &self.scene.rooms {
            let here = || holding.iter().flat_map(|one| one.held.iter().map(move |h| (one, h)));
            let here = here().filter(|(_, (worker, _))| worker == &room.worker);
            let here: Vec<(bool, u32)> =
                here.map(|(one, (_, held))| (one.exclusive, held.slots)).collect();
            prop_assert!(here.iter().map(|(_, slots)| slots).sum::<u32>() <= room.total.slots);
            prop_assert!(here.len() < 2 || here.iter().all(|(exclusive, _)| !exclusive));
        }
        let of_a: Vec<u32> =
            holding.iter().filter(|one| one.owner.team == "a").map(|one| one.instances).collect();
        prop_assert!(of_a.iter().sum::<u32>() <= QUOTA && of_a.len() <= 3);

        let Some((head, at_ms)) = &plan.reserved else { return Ok(()) };
        let head = self.scene.waiting.iter().find(|one| &one.run == head).expect("it waits");
        let mut rooms = self.scene.rooms.clone();
        holding.iter().filter(|one| one.until_ms > *at_ms).for_each(|one| occupy(&mut rooms, one));
        prop_assert!(place(&head.gang, &rooms).is_ok(), "the head was promised its room");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn in_any_week_quotas_hold_promises_are_kept_and_everything_runs(
        jobs in prop::collection::vec(job(), 1..40),
    ) {
        let mut world = World::new(jobs);
        let all: u64 = world.jobs.iter().map(|job| job.limit).sum();
        // One after the other would take so long; it may not take longer than that.
        for second in 0..3_000 + all {
            world.tick(second)?;
            if world.started.len() == world.jobs.len() {
                break;
            }
        }
        prop_assert_eq!(world.started.len(), world.jobs.len(), "{:?}", world.scene.waiting);
    }
}

/// A large run of the lowest class against an endless stream of small urgent ones.
#[test]
fn nothing_starves() {
    let stream = (0..5_000).step_by(20).map(|arrives| Job {
        team: 1,
        class: 0,
        instances: 30,
        arrives,
        limit: 60,
        takes: 60,
        exclusive: false,
    });
    let large = Job {
        team: 2,
        class: 2,
        instances: 100,
        arrives: 100,
        limit: 60,
        takes: 60,
        exclusive: true,
    };
    let mut world = World::new(std::iter::once(large).chain(stream).collect());
    for second in 0..5_000 {
        world.tick(second).expect("nothing is broken");
    }
    let started = world.started.get(&run_id(0)).copied().expect("it has started");
    // Twice the aging makes it as urgent as the others, and its team had nothing; then what runs has to end.
    assert!((1_000..2_200).contains(&started), "{started}");
}
