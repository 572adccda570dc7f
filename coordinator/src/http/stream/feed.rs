//! Follows one topic: what the bus tells as it comes, and what has to be asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Subscriber;
use futures::{FutureExt as _, StreamExt as _};
use groundswell_common::api::{
    EventsPage, EventsRequest, RunGrid, RunRequest, RunsRequest, WorkerStatus,
};
use groundswell_common::bus::{self, Bus};
use groundswell_common::ids::RunId;
use groundswell_common::messages::LogLines;
use groundswell_common::objects::Objects;
use groundswell_common::queue::QueueEntry;
use groundswell_common::run::RunStatus;
use groundswell_common::subjects;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::log::Said;
use super::topic::Topic;
use crate::http::ask::{self, Caller};
use crate::http::events;
use crate::http::failure::Failure;
use crate::http::runs::{Grid, RunEntry, RunList, grid_of};

/// After how much silence is asked whether something was missed: the bus tells each change once.
const IDLE: Duration = Duration::from_secs(10);
/// How often what the bus does not tell is asked for.
const POLL: Duration = Duration::from_secs(1);
/// Runs in the list.
const RUNS: u32 = 100;
/// Log lines of a topic in a second.
const LINES: usize = 500;

/// What a topic has to say.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What changed.
    pub(super) said: Vec<Said>,
    /// The full state from now on, if it is another one.
    pub(super) full: Option<Vec<Said>>,
}

/// A topic that is followed.
pub(super) struct Feed {
    asks: Asks,
    kind: Kind,
}

/// How a feed asks.
struct Asks {
    bus: Bus,
    objects: Objects,
    caller: Caller,
}

enum Kind {
    Runs(Runs),
    Run(Box<Run>),
    Grid(Box<Changes>),
    Workers(Polled),
    Queue(Polled),
    Logs(Lines),
}

impl Feed {
    /// Begins to follow a topic. Returns its full state as well.
    pub(super) async fn open(
        bus: Bus,
        objects: Objects,
        caller: Caller,
        topic: &Topic,
    ) -> Result<(Self, Vec<Said>), Failure> {
        let asks = Asks { bus, objects, caller };
        let (kind, full) = match topic {
            Topic::Runs => {
                let (runs, full) = Runs::open(&asks).await?;
                (Kind::Runs(runs), full)
            }
            Topic::Run(run) => {
                let (run, full) = Run::open(&asks, run).await?;
                (Kind::Run(Box::new(run)), full)
            }
            Topic::Grid(run) => {
                let (grid, full) = Changes::open(&asks, run).await?;
                (Kind::Grid(Box::new(grid)), full)
            }
            Topic::Workers => {
                let (polled, full) = Polled::open(asks.workers().await?);
                (Kind::Workers(polled), full)
            }
            Topic::Queue => {
                let (polled, full) = Polled::open(asks.queue().await?);
                (Kind::Queue(polled), full)
            }
            Topic::Logs(run, group, number) => {
                let chosen = (group.clone(), *number);
                (Kind::Logs(Lines::open(&asks, run, chosen).await?), Vec::new())
            }
        };
        Ok((Self { asks, kind }, full))
    }

    /// Waits for a change, for a while. What changed in between is put together.
    pub(super) async fn next(&mut self) -> Result<Told, Failure> {
        let Self { asks, kind } = self;
        match kind {
            Kind::Runs(runs) => runs.next(asks).await,
            Kind::Run(run) => run.next(asks).await,
            Kind::Grid(grid) => grid.next(asks).await,
            Kind::Workers(polled) => {
                tokio::time::sleep(POLL).await;
                Ok(polled.take(asks.workers().await?))
            }
            Kind::Queue(polled) => {
                tokio::time::sleep(POLL).await;
                Ok(polled.take(asks.queue().await?))
            }
            Kind::Logs(lines) => Ok(lines.next().await),
        }
    }
}

impl Asks {
    async fn subscribe(&self, subject: String) -> Result<Subscriber, Failure> {
        let subscribed = self.bus.client().subscribe(subject).await;
        let told = subscribed.map_err(|err| Failure::unavailable(&err.to_string(), ""))?;
        // The server has to know of it before the state is asked for, or a change may fall in between.
        let _ = self.bus.client().flush().await;
        Ok(told)
    }

    async fn run(&self, run: &str) -> Result<RunStatus, Failure> {
        let request = RunRequest { selector: run.to_owned() };
        ask::ask(&self.bus, &self.caller, "run", &request).await
    }

    /// The workers: what they say, and the same without how long ago they were heard.
    async fn workers(&self) -> Result<(Said, String), Failure> {
        let mut workers: Vec<WorkerStatus> =
            ask::ask(&self.bus, &self.caller, "workers", &()).await?;
        let said = ("workers", json(&workers));
        workers.iter_mut().for_each(|worker| worker.heard_ms = 0);
        Ok((said, json(&workers)))
    }

    async fn queue(&self) -> Result<(Said, String), Failure> {
        let queue: Vec<QueueEntry> = ask::ask(&self.bus, &self.caller, "queue", &()).await?;
        let text = json(&queue);
        Ok((("queue", text.clone()), text))
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Waits for a message, for `limit` at most, and takes all that have come.
async fn heard(subscriber: &mut Subscriber, limit: Duration) -> Vec<async_nats::Message> {
    let mut all = Vec::new();
    if let Ok(Some(first)) = timeout(limit, subscriber.next()).await {
        all.push(first);
        while let Some(Some(next)) = subscriber.next().now_or_never() {
            all.push(next);
        }
    }
    all
}

/// What is asked for again and again.
struct Polled {
    known: String,
    told_at: Instant,
}

impl Polled {
    fn open((said, known): (Said, String)) -> (Self, Vec<Said>) {
        (Self { known, told_at: Instant::now() }, vec![said])
    }

    fn take(&mut self, (said, known): (Said, String)) -> Told {
        let full = Some(vec![said.clone()]);
        if known == self.known && self.told_at.elapsed() < IDLE {
            return Told { said: Vec::new(), full };
        }
        (self.known, self.told_at) = (known, Instant::now());
        Told { said: vec![said], full }
    }
}

/// The newest runs.
struct Runs {
    statuses: Subscriber,
    known: BTreeMap<RunId, RunStatus>,
    more: bool,
}

impl Runs {
    async fn open(asks: &Asks) -> Result<(Self, Vec<Said>), Failure> {
        let statuses = asks.subscribe(subjects::STATUS_ALL.to_owned()).await?;
        let known = Self::ask(asks).await?;
        let more = known.len() >= usize::try_from(RUNS).unwrap_or(usize::MAX);
        let known = known.into_iter().map(|run| (run.run.clone(), run)).collect();
        let this = Self { statuses, known, more };
        let full = this.full();
        Ok((this, full))
    }

    async fn ask(asks: &Asks) -> Result<Vec<RunStatus>, Failure> {
        let request = RunsRequest { limit: RUNS, before: None };
        ask::ask(&asks.bus, &asks.caller, "runs", &request).await
    }

    fn full(&self) -> Vec<Said> {
        let runs = self.known.values().rev().cloned().map(RunEntry::short).collect();
        vec![("runs", json(&RunList { runs, more: self.more }))]
    }

    async fn next(&mut self, asks: &Asks) -> Result<Told, Failure> {
        let messages = heard(&mut self.statuses, IDLE).await;
        let statuses: Vec<RunStatus> = if messages.is_empty() {
            Self::ask(asks).await?
        } else {
            messages.iter().filter_map(|message| bus::decode(&message.payload).ok()).collect()
        };
        let mut changed = BTreeMap::new();
        for status in statuses {
            let known = self.known.get(&status.run).map(|known| known.revision);
            if known.is_none_or(|revision| revision < status.revision) {
                changed.insert(status.run.clone(), status.clone());
                self.known.insert(status.run.clone(), status);
            }
        }
        while self.known.len() > usize::try_from(RUNS).unwrap_or(usize::MAX) {
            self.more |= self.known.pop_first().is_some();
        }
        if changed.is_empty() {
            return Ok(Told::default());
        }
        let said = changed.into_values().map(|run| ("run", json(&RunEntry::short(run)))).collect();
        Ok(Told { said, full: Some(self.full()) })
    }
}

/// One run and its events.
struct Run {
    heard: Subscriber,
    events: Subscriber,
    status: RunStatus,
    /// The number of the next line of the event log.
    next: u64,
    /// All lines were told.
    over: bool,
}

impl Run {
    async fn open(asks: &Asks, run: &str) -> Result<(Self, Vec<Said>), Failure> {
        let status = asks.run(run).await?;
        let heard = asks.subscribe(subjects::status(&status.run)).await?;
        let events = asks.subscribe(subjects::event(&status.run)).await?;
        let status = asks.run(run).await?;
        let mut this = Self { heard, events, status, next: 0, over: false };
        let end = this.page(asks, -1).await?;
        this.next = end.total;
        let full = this.full();
        Ok((this, full))
    }

    fn full(&self) -> Vec<Said> {
        vec![("run_full", json(&RunEntry::whole(self.status.clone())))]
    }

    async fn next(&mut self, asks: &Asks) -> Result<Told, Failure> {
        let (statuses, events) = tokio::select! {
            statuses = heard(&mut self.heard, IDLE) => (statuses, Vec::new()),
            events = heard(&mut self.events, IDLE) => (Vec::new(), events),
        };
        let newest = statuses.iter().filter_map(|message| bus::decode(&message.payload).ok());
        let newest = newest.max_by_key(|status: &RunStatus| status.revision);
        let status = match newest {
            Some(status) => status,
            None if events.is_empty() => asks.run(self.status.run.as_str()).await?,
            None => self.status.clone(),
        };
        let mut said = Vec::new();
        if status != self.status {
            self.status = status;
            said = self.full();
        }
        let mut behind = !self.over;
        while behind {
            let from = i64::try_from(self.next).unwrap_or(i64::MAX);
            let page = self.page(asks, from).await?;
            self.next = page.from + page.lines.len() as u64;
            behind = self.next < page.total;
            if !page.lines.is_empty() {
                said.push(("events", events_of(&self.status.run, &page)));
            }
        }
        Ok(Told { said, full: Some(self.full()) })
    }

    /// Lines of the event log: of whoever leads, or what is stored when the run does not go on.
    async fn page(&mut self, asks: &Asks, from: i64) -> Result<EventsPage, Failure> {
        let run = self.status.run.clone();
        let request = EventsRequest { run: run.clone(), from };
        match ask::ask(&asks.bus, &asks.caller, "events", &request).await {
            Err(failure) if failure.is_not_found() => {
                self.over = true;
                match events::stored(&asks.objects, &run, from).await {
                    Err(failure) if failure.is_not_found() => {
                        Ok(EventsPage { from: self.next, total: self.next, lines: Vec::new() })
                    }
                    stored => stored,
                }
            }
            page => page,
        }
    }
}

/// Lines are JSON already.
fn events_of(run: &RunId, page: &EventsPage) -> String {
    format!(r#"{{"run":"{run}","from":{},"events":[{}]}}"#, page.from, page.lines.join(","))
}

/// Where the instances of a run are.
struct Changes {
    heard: Subscriber,
    run: RunId,
    known: RunGrid,
}

impl Changes {
    async fn open(asks: &Asks, run: &str) -> Result<(Self, Vec<Said>), Failure> {
        let run = asks.run(run).await?.run;
        let heard = asks.subscribe(subjects::status(&run)).await?;
        let known = Self::ask(asks, &run).await?;
        let full = vec![("grid", json(&Grid::from(&known)))];
        Ok((Self { heard, run, known }, full))
    }

    async fn ask(asks: &Asks, run: &RunId) -> Result<RunGrid, Failure> {
        grid_of(&asks.bus, &asks.objects, &asks.caller, run).await
    }

    async fn next(&mut self, asks: &Asks) -> Result<Told, Failure> {
        heard(&mut self.heard, IDLE).await;
        let grid = Self::ask(asks, &self.run).await?;
        if grid.revision == self.known.revision {
            return Ok(Told::default());
        }
        let full = ("grid", json(&Grid::from(&grid)));
        // Who has which instance is told with the whole.
        let is_same =
            (&grid.groups, &grid.placement) == (&self.known.groups, &self.known.placement);
        let said = if is_same { ("grid_change", change(&self.known, &grid)) } else { full.clone() };
        self.known = grid;
        Ok(Told { said: vec![said], full: Some(vec![full]) })
    }
}

/// How one grid becomes the other.
fn change(before: &RunGrid, after: &RunGrid) -> String {
    json!({
        "run": after.run,
        "at_ms": after.at_ms,
        "before": before.revision,
        "revision": after.revision,
        "changes": changes(&before.states, &after.states),
    })
    .to_string()
}

/// Instances that have another state, in rows of neighbours with the same: first, how many, state.
fn changes(before: &[u8], after: &[u8]) -> Vec<(usize, usize, u8)> {
    let mut rows: Vec<(usize, usize, u8)> = Vec::new();
    for (at, state) in after.iter().enumerate() {
        if before.get(at) == Some(state) {
            continue;
        }
        match rows.last_mut() {
            Some((first, count, known)) if *first + *count == at && known == state => *count += 1,
            Some(_) | None => rows.push((at, 1, *state)),
        }
    }
    rows
}

/// What instances print.
struct Lines {
    lines: Subscriber,
    run: RunId,
    submitted_ms: u64,
    group: Option<String>,
    number: Option<u32>,
    /// When the present second began, and lines that were told in it.
    second: (Instant, usize),
}

impl Lines {
    async fn open(
        asks: &Asks,
        run: &str,
        (group, number): (Option<String>, Option<u32>),
    ) -> Result<Self, Failure> {
        let RunStatus { run, submitted_ms, .. } = asks.run(run).await?;
        let lines = asks.subscribe(subjects::log_all(&run)).await?;
        let second = (Instant::now(), 0);
        Ok(Self { lines, run, submitted_ms, group, number, second })
    }

    async fn next(&mut self) -> Told {
        let messages = heard(&mut self.lines, IDLE).await;
        let (mut told, mut left_out) = (Vec::new(), 0);
        if self.second.0.elapsed() >= Duration::from_secs(1) {
            self.second = (Instant::now(), 0);
        }
        for message in messages {
            let Ok(lines) = bus::decode::<LogLines>(&message.payload) else { continue };
            if !self.takes(&lines) {
                continue;
            }
            if self.second.1 + lines.lines.len() > LINES {
                left_out += lines.lines.len();
                continue;
            }
            self.second.1 += lines.lines.len();
            told.push(lines);
        }
        if told.is_empty() && left_out == 0 {
            return Told::default();
        }
        let now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
        let at_ms = now_ms.saturating_sub(self.submitted_ms);
        let said = json!({ "run": self.run, "at_ms": at_ms, "lines": told, "left_out": left_out });
        Told { said: vec![("logs", said.to_string())], full: None }
    }

    fn takes(&self, lines: &LogLines) -> bool {
        self.group.as_ref().is_none_or(|group| *group == lines.group)
            && self.number.is_none_or(|number| number == lines.in_group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_the_same_state_are_one_change() {
        assert_eq!(changes(&[1, 1, 1, 3, 3], &[1, 3, 3, 3, 7]), [(1, 2, 3), (4, 1, 7)]);
        assert_eq!(changes(&[1, 1], &[1, 1]), []);
        assert_eq!(changes(&[], &[1, 1, 2]), [(0, 2, 1), (2, 1, 2)]);
    }
}
