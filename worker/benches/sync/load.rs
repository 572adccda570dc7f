//! The load: what a swarm does, and how long it takes in seconds.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::swarm::Swarm;
use crate::wire::{Event, Wire};

const PATIENCE: Duration = Duration::from_secs(60);

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Signal, wait for the answer, wait for the barrier: what an SDK's signal-and-wait does.
    Barrier,
    /// The same with both requests in one write.
    BarrierTogether,
    /// Signal, then ask once a second: what Testground's Redis-based SDK did.
    BarrierPolled,
    Signals,
    Publishes,
    AllToAll,
}

impl Task {
    pub(crate) const ALL: [(Self, &'static str); 6] = [
        (Self::Barrier, "barrier"),
        (Self::BarrierTogether, "barrier-together"),
        (Self::BarrierPolled, "barrier-polled"),
        (Self::Signals, "signals"),
        (Self::Publishes, "publishes"),
        (Self::AllToAll, "all-to-all"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(task, _)| *task == self).map_or("", |(_, name)| name)
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(task, _)| *task)
    }
}

/// Runs `rounds` of a task with `count` clients; returns the seconds of each.
pub(crate) fn run(
    task: Task,
    wire: Wire,
    address: SocketAddr,
    count: usize,
    rounds: usize,
) -> Result<Vec<f64>> {
    let mut swarm = Swarm::connect(wire, address, count)?;
    if wire == Wire::Redis && task == Task::Barrier {
        subscribe(&mut swarm, "wake")?;
    }
    let mut seconds = Vec::new();
    for round in 0..rounds {
        let name = format!("{}-{count}-{round}", task.name());
        seconds.push(match (task, wire) {
            (Task::Barrier, Wire::Gateway) => barrier(&mut swarm, &name, false)?,
            (Task::BarrierTogether, _) => barrier(&mut swarm, &name, true)?,
            (Task::Barrier, Wire::Redis) => woken(&mut swarm, &name)?,
            (Task::BarrierPolled, _) => polled(&mut swarm, &name)?,
            (Task::Signals, _) => pipeline(&mut swarm, &wire.signal(&name))?,
            (Task::Publishes, _) => pipeline(&mut swarm, &wire.publish(&name, &"x".repeat(64)))?,
            (Task::AllToAll, _) => all_to_all(&mut swarm, &name)?,
        });
    }
    Ok(seconds)
}

/// How many answers each client of [`pipeline`] awaits, and how many requests it has open.
pub(crate) const PIPELINED: usize = 2000;
const DEPTH: usize = 64;

fn barrier(swarm: &mut Swarm, state: &str, together: bool) -> Result<f64> {
    let wire = swarm.wire();
    let (signal, wait) = (wire.signal(state), wire.barrier(state, swarm.len()));
    let both = [signal.clone(), wait.clone()].concat();
    let begin = Instant::now();
    for number in 0..swarm.len() {
        swarm.send(number, if together { &both } else { &signal })?;
    }
    let mut left = swarm.len();
    let mut events = Vec::new();
    while left > 0 {
        swarm.wait(PATIENCE, &mut events)?;
        ensure!(begin.elapsed() < PATIENCE, "{left} clients never passed the barrier");
        for (number, event) in events.drain(..) {
            match event {
                Event::Number(_) if !together => swarm.send(number, &wait)?,
                Event::Passed => left -= 1,
                Event::Number(_) | Event::Item | Event::Other => {}
            }
        }
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// The barrier in Redis: whoever counts to the end wakes all by a message.
fn woken(swarm: &mut Swarm, state: &str) -> Result<f64> {
    let wire = swarm.wire();
    let (signal, wake) = (wire.signal(state), wire.tell("wake", "1"));
    let begin = Instant::now();
    for number in 0..swarm.len() {
        swarm.send(number, &signal)?;
    }
    let mut left = swarm.len();
    let mut woken = false;
    let mut events = Vec::new();
    while left > 0 {
        swarm.wait(PATIENCE, &mut events)?;
        ensure!(begin.elapsed() < PATIENCE, "{left} clients were never woken");
        for (number, event) in events.drain(..) {
            match event {
                Event::Number(count) if count == swarm.len() as u64 && !woken => {
                    woken = true;
                    swarm.send(number, &wake)?;
                }
                Event::Item => left -= 1,
                Event::Number(_) | Event::Passed | Event::Other => {}
            }
        }
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn polled(swarm: &mut Swarm, state: &str) -> Result<f64> {
    let wire = swarm.wire();
    let (signal, ask) = (wire.signal(state), wire.barrier(state, 0));
    let target = swarm.len() as u64;
    let begin = Instant::now();
    for number in 0..swarm.len() {
        swarm.send(number, &signal)?;
    }
    let mut left = swarm.len();
    let mut passed = vec![false; swarm.len()];
    // The answers to signals come in order of time, so those who ask next are at the front.
    let mut asking = std::collections::VecDeque::new();
    let mut events = Vec::new();
    while left > 0 {
        ensure!(begin.elapsed() < PATIENCE, "{left} clients never counted to the end");
        swarm.wait(Duration::from_millis(1), &mut events)?;
        let now = Instant::now();
        for (number, event) in events.drain(..) {
            let Event::Number(count) = event else { continue };
            if passed[number] {
                continue;
            }
            if count >= target {
                passed[number] = true;
                left -= 1;
            } else {
                asking.push_back((now + Duration::from_secs(1), number));
            }
        }
        while let Some((due, number)) = asking.front().copied()
            && due <= now
        {
            asking.pop_front();
            swarm.send(number, &ask)?;
        }
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// Each client sends [`PIPELINED`] requests with [`DEPTH`] open.
fn pipeline(swarm: &mut Swarm, request: &[u8]) -> Result<f64> {
    let many = request.repeat(DEPTH);
    let begin = Instant::now();
    for number in 0..swarm.len() {
        swarm.send(number, &many)?;
    }
    let mut sent = vec![DEPTH; swarm.len()];
    let mut left = swarm.len() * PIPELINED;
    let mut answered = vec![0_usize; swarm.len()];
    let mut touched = Vec::new();
    let mut events = Vec::new();
    while left > 0 {
        swarm.wait(PATIENCE, &mut events)?;
        ensure!(begin.elapsed() < PATIENCE, "{left} requests were never answered");
        for (number, event) in events.drain(..) {
            if matches!(event, Event::Number(_)) {
                left -= 1;
                if answered[number] == 0 {
                    touched.push(number);
                }
                answered[number] += 1;
            }
        }
        for number in touched.drain(..) {
            let more = answered[number].min(PIPELINED - sent[number]);
            answered[number] = 0;
            sent[number] += more;
            if more > 0 {
                swarm.send(number, &request.repeat(more))?;
            }
        }
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// Each client publishes once and hears everyone.
fn all_to_all(swarm: &mut Swarm, topic: &str) -> Result<f64> {
    let wire = swarm.wire();
    subscribe(swarm, topic)?;
    // About what a peer's address takes.
    let publish = wire.tell(topic, &"x".repeat(64));
    let begin = Instant::now();
    for number in 0..swarm.len() {
        swarm.send(number, &publish)?;
    }
    let mut left = swarm.len() * swarm.len();
    let mut events = Vec::new();
    while left > 0 {
        swarm.wait(PATIENCE, &mut events)?;
        ensure!(begin.elapsed() < PATIENCE, "{left} messages never came");
        left -= events.drain(..).filter(|(_, event)| *event == Event::Item).count();
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// Subscribes all clients. A gateway says nothing to that, so a barrier of nobody is asked for behind it.
fn subscribe(swarm: &mut Swarm, topic: &str) -> Result<()> {
    let wire = swarm.wire();
    let request = match wire {
        Wire::Gateway => [wire.subscribe(topic), wire.barrier("nobody", 0)].concat(),
        Wire::Redis => wire.subscribe(topic),
    };
    for number in 0..swarm.len() {
        swarm.send(number, &request)?;
    }
    let mut left = swarm.len();
    let mut events = Vec::new();
    while left > 0 {
        swarm.wait(PATIENCE, &mut events)?;
        let done = |event: &Event| matches!(event, Event::Passed | Event::Other);
        left -= events.drain(..).filter(|(_, event)| done(event)).count();
    }
    Ok(())
}
