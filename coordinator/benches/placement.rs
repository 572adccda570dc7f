//! How long placing 200,000 instances on 2,000 workers takes, with and without wishes, and how long a decision
//! about a long queue.
//!
//! `cargo bench -p groundswell-coordinator --bench placement`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use groundswell_common::ids::{RunId, WorkerId};
use groundswell_common::messages::RuntimeKind;
use groundswell_common::placement::{GroupPlacement, RunPlacement};
use groundswell_common::queue::Priority;
use groundswell_coordinator::placement::{Capacity, Distribution, Gang, Need, Party, Room, place};
use groundswell_coordinator::queue::{Holding, Owner, Policy, Usage, View, Waiting, decide};
use tokio::time::Instant;

const WORKERS: u32 = 2_000;
const INSTANCES: u32 = 200_000;
/// How often each is measured; the median counts.
const TIMES: usize = 9;

fn main() {
    println!("| what | median | goal |\n|---|---:|---:|");
    let rooms = rooms();
    let cases = [
        ("200,000 instances on 2,000 workers, spread", plain()),
        ("packed", packed()),
        ("5 at a time behind NATs", together()),
        ("10 groups with cpu, memory, labels, apart, over zones", wishes()),
        ("refused: too large, with the reason", too_large()),
    ];
    for (name, gang) in &cases {
        let took = median(|| drop(black_box(place(gang, &rooms))));
        println!("| {name} | {:.1} ms | 1,000 ms |", took.as_secs_f64() * 1e3);
    }
    let (waiting, holding) = queue();
    let (usage, policy) = (Usage::default(), Policy::default());
    let view = View {
        waiting: &waiting,
        holding: &holding,
        rooms: &rooms,
        usage: &usage,
        policy: &policy,
        now_ms: 1_000,
    };
    let took = median(|| drop(black_box(decide(&view))));
    println!(
        "| deciding about 1,000 waiting and 100 running runs | {:.1} ms | |",
        took.as_secs_f64() * 1e3
    );
}

fn median(mut once: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..TIMES)
        .map(|_| {
            let start = Instant::now();
            once();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[TIMES / 2]
}

/// Workers of 128 slots in three zones and two kinds.
fn rooms() -> Vec<Room> {
    let room = |n: u32| {
        let total = Capacity { slots: 128, cpu_milli: 64_000, memory_bytes: 256 << 30 };
        let worker = WorkerId::from_lossy(&format!("w{n:04}"));
        let mut room = Room::empty(worker, total, vec![RuntimeKind::Netns]);
        let zone = ["a", "b", "c"][n as usize % 3];
        let kind = if n.is_multiple_of(4) { "metal" } else { "ec2" };
        room.labels = BTreeMap::from([
            ("zone".to_owned(), zone.to_owned()),
            ("kind".to_owned(), kind.to_owned()),
        ]);
        room
    };
    (0..WORKERS).map(room).collect()
}

fn gang(parties: Vec<Party>) -> Gang {
    Gang {
        parties,
        runtime: RuntimeKind::Netns,
        wish: RunPlacement::default(),
        distribution: Distribution::Spread,
    }
}

fn party(number: u32, instances: u32) -> Party {
    Party { name: format!("g{number}"), instances, together: 1, ..Party::default() }
}

fn plain() -> Gang {
    gang(vec![party(0, INSTANCES)])
}

fn packed() -> Gang {
    Gang { distribution: Distribution::Fill, ..plain() }
}

fn together() -> Gang {
    gang(vec![Party { together: 5, ..party(0, INSTANCES) }])
}

fn wishes() -> Gang {
    let party = |number: u32| {
        let mut one = party(number, INSTANCES / 10);
        one.need = Need { cpu_milli: 100 + 10 * u64::from(number), memory_bytes: 1 << 30 };
        one.wish = match number {
            0 => GroupPlacement {
                require: BTreeMap::from([("kind".to_owned(), vec!["metal".to_owned()])]),
                ..GroupPlacement::default()
            },
            1 => GroupPlacement { apart_from: vec!["g2".to_owned()], ..GroupPlacement::default() },
            3 => GroupPlacement { per_worker: Some(32), ..GroupPlacement::default() },
            _ => GroupPlacement::default(),
        };
        one
    };
    let mut gang = gang((0..10).map(party).collect());
    gang.wish.spread = Some("zone".to_owned());
    gang
}

fn too_large() -> Gang {
    let mut gang = wishes();
    gang.parties[0].instances *= 4;
    gang
}

/// A cluster that is full, and many who wait.
fn queue() -> (Vec<Waiting>, Vec<Holding>) {
    let id = |n: u32| -> RunId { format!("{n:020}").parse().expect("a valid id") };
    let owner = |n: u32| Owner { team: format!("t{}", n % 20), user: format!("u{}", n % 60) };
    let wait = |n: u32| Waiting {
        run: id(n),
        owner: owner(n),
        priority: Priority::ALL[n as usize % 3],
        since_ms: u64::from(n),
        hold: Duration::from_secs(600 + u64::from(n)),
        gang: gang(vec![party(0, 10_000 + n)]),
    };
    let hold = |n: u32| {
        let all = (0..20).map(|of| WorkerId::from_lossy(&format!("w{:04}", n * 20 + of)));
        Holding {
            run: id(5_000 + n),
            owner: owner(n),
            instances: 2_400,
            until_ms: 10_000 * u64::from(n + 1),
            held: all
                .map(|worker| (worker, Capacity { slots: 120, ..Capacity::default() }))
                .collect(),
            exclusive: false,
        }
    };
    ((0..1_000).map(wait).collect(), (0..100).map(hold).collect())
}
