//! The event log of a run, by line numbers.

use axum::Json;
use axum::extract::{Path, State};
use groundswell_common::api::{EventsPage, EventsRequest};
use groundswell_common::ids::RunId;
use groundswell_common::run::{RunEvent, RunStatus};
use serde::{Deserialize, Serialize};

use super::ask::{Caller, Params};
use super::failure::Failure;
use super::{Shared, Web};
use crate::record;

/// Lines an answer has when nothing is said.
const USUAL: usize = 1_000;
/// Lines an answer has at most.
const MOST: usize = 5_000;

/// Which lines are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    from: i64,
    limit: Option<usize>,
    kinds: Option<String>,
    instance: Option<u32>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
}

impl Wanted {
    fn takes(&self, event: &RunEvent) -> bool {
        let kinds = self.kinds.as_ref();
        kinds.is_none_or(|kinds| kinds.split(',').any(|kind| kind.trim() == event.kind))
            && self.instance.is_none_or(|one| event.instance.is_some_and(|of| of.0 == one))
            && self.since_ms.is_none_or(|since| event.at_ms >= since)
            && self.until_ms.is_none_or(|until| event.at_ms < until)
    }
}

/// Lines of an event log.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Events {
    /// Number of the first line that was looked at.
    from: u64,
    /// Where to go on.
    next: u64,
    /// There is nothing more, now.
    end: bool,
    /// And there will not be.
    over: bool,
    events: Vec<RunEvent>,
}

pub(super) async fn list(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Events>, Failure> {
    let limit = wanted.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Failure::invalid(&format!("`limit` is 1 to {MOST}"), ""));
    }
    let status = web.run(&caller, &run).await?;
    Ok(Json(web.events(&caller, &status, &wanted, limit).await?))
}

impl Web {
    async fn events(
        &self,
        caller: &Caller,
        status: &RunStatus,
        wanted: &Wanted,
        limit: usize,
    ) -> Result<Events, Failure> {
        let mut found: Option<Events> = None;
        let mut from = wanted.from;
        loop {
            let (page, over) = self.page(caller, &status.run, from).await?;
            let events =
                found.get_or_insert_with(|| Events { from: page.from, ..Events::default() });
            events.over = over;
            take(events, &page, wanted, limit);
            events.end = events.next >= page.total;
            if events.end || events.events.len() >= limit {
                return Ok(found.unwrap_or_default());
            }
            from = i64::try_from(events.next).unwrap_or(i64::MAX);
        }
    }

    /// Lines from one on: of whoever leads while the run goes on, of the object store afterwards.
    async fn page(
        &self,
        caller: &Caller,
        run: &RunId,
        from: i64,
    ) -> Result<(EventsPage, bool), Failure> {
        let request = EventsRequest { run: run.clone(), from };
        match self.ask(caller, "events", &request).await {
            Err(failure) if failure.is_not_found() => Ok((self.stored(run, from).await?, true)),
            answer => answer.map(|page| (page, false)),
        }
    }

    async fn stored(&self, run: &RunId, from: i64) -> Result<EventsPage, Failure> {
        stored(&self.objects, run, from).await
    }
}

/// All lines of a run that is over, from one on.
pub(super) async fn stored(
    objects: &groundswell_common::objects::Objects,
    run: &RunId,
    from: i64,
) -> Result<EventsPage, Failure> {
    let none = || Failure::not_found(&format!("run `{run}` has no event log"));
    let text = objects.get(&record::events_key(run)).await?.ok_or_else(none)?;
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let steps = usize::try_from(from.unsigned_abs()).unwrap_or(usize::MAX);
    let first = if from < 0 { all.len().saturating_sub(steps) } else { steps.min(all.len()) };
    let lines = all[first..].iter().map(|line| (*line).to_owned()).collect();
    Ok(EventsPage { from: first as u64, total: all.len() as u64, lines })
}

/// Adds what is wanted of a page, up to the limit.
fn take(events: &mut Events, page: &EventsPage, wanted: &Wanted, limit: usize) {
    events.next = page.from;
    for line in &page.lines {
        if events.events.len() >= limit {
            return;
        }
        events.next += 1;
        // A line that is none keeps its number.
        let event = serde_json::from_str(line).ok();
        events.events.extend(event.filter(|event| wanted.takes(event)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(from: u64, kinds: &[&str]) -> EventsPage {
        let line =
            |kind: &&str| format!(r#"{{"at_ms":{from},"kind":"{kind}","text":"t","instance":3}}"#);
        EventsPage { from, total: 100, lines: kinds.iter().map(line).collect() }
    }

    #[test]
    fn what_is_left_out_keeps_its_number() {
        let wanted = Wanted { kinds: Some("phase,verdict".to_owned()), ..Wanted::default() };
        let mut events = Events::default();
        take(&mut events, &page(10, &["phase", "message", "verdict", "phase"]), &wanted, 2);
        assert_eq!(events.next, 13, "the last one was not looked at");
        let kinds: Vec<&str> = events.events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["phase", "verdict"]);
    }

    #[test]
    fn events_are_chosen_by_instance_and_time() {
        let takes = |wanted: Wanted| {
            let mut events = Events::default();
            take(&mut events, &page(10, &["phase"]), &wanted, 9);
            events.events.len()
        };
        assert_eq!(takes(Wanted { instance: Some(3), ..Wanted::default() }), 1);
        assert_eq!(takes(Wanted { instance: Some(4), ..Wanted::default() }), 0);
        assert_eq!(takes(Wanted { since_ms: Some(10), ..Wanted::default() }), 1);
        assert_eq!(takes(Wanted { until_ms: Some(10), ..Wanted::default() }), 0);
    }
}
