//! Finds runs: those a coordinator knows, and those whose record is in the object store.

use std::cmp::Reverse;

use groundswell_common::api::{RunRequest, RunsRequest};
use groundswell_common::ids::RunId;
use groundswell_common::objects::Objects;
use groundswell_common::run::{RunRecord, RunStatus};

use super::call::call;
use super::connect::{self, Link};
use super::exit::Exit;
use super::{Session, Trouble};

/// A run that was found.
pub(crate) struct Found {
    /// Its state.
    pub(crate) status: RunStatus,
    /// The coordinator that knows it; absent when only its record is left.
    pub(crate) link: Option<Link>,
}

impl Found {
    /// The object store its outputs are in.
    pub(crate) async fn objects(&self, session: &Session) -> Result<Objects, Trouble> {
        match &self.link {
            Some(link) => link.objects(session).await,
            None => connect::resting_objects(session),
        }
    }
}

/// Finds the run that `selector` means: `latest`, or any unique prefix of an id or a name.
pub(crate) async fn run(session: &Session, selector: &str) -> Result<Found, Trouble> {
    let mut found = Vec::new();
    let request = RunRequest { selector: selector.to_owned() };
    for link in connect::all(session).await? {
        match call::<RunStatus>(&link.bus, "run", &request).await {
            Ok(status) => found.push(Found { status, link: Some(link) }),
            Err(trouble) if trouble.exit == Exit::NothingSelected => {}
            // One broken stack on this machine must not hide the others.
            Err(_) if session.settings.nats.is_none() => {}
            Err(trouble) => return Err(trouble),
        }
    }
    if selector == "latest" || found.is_empty() {
        found.extend(recorded(session, selector).await?);
    }
    found
        .into_iter()
        .max_by_key(|found| {
            let status = &found.status;
            (status.submitted_ms, !status.forgotten, found.link.is_some())
        })
        .ok_or_else(|| no_such_run(selector))
}

async fn recorded(session: &Session, selector: &str) -> Result<Option<Found>, Trouble> {
    // A cluster's coordinator knows every run that has a record.
    if session.settings.nats.is_some() {
        return Ok(None);
    }
    let objects = connect::resting_objects(session)?;
    let Some(run) = select(&run_ids(&objects).await?, selector)? else { return Ok(None) };
    let status = record(&objects, &run).await?.map(|record| record.status);
    Ok(status.map(|status| Found { status, link: None }))
}

/// The newest runs, newest first.
pub(crate) async fn runs(session: &Session, limit: u32) -> Result<Vec<RunStatus>, Trouble> {
    let mut runs: Vec<RunStatus> = Vec::new();
    for link in connect::all(session).await? {
        match call::<Vec<RunStatus>>(&link.bus, "runs", &RunsRequest { limit, before: None }).await
        {
            Ok(known) => runs.extend(known),
            Err(_) if session.settings.nats.is_none() => {}
            Err(trouble) => return Err(trouble),
        }
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if session.settings.nats.is_none() {
        let objects = connect::resting_objects(session)?;
        for run in run_ids(&objects).await?.iter().rev().take(limit) {
            if runs.iter().all(|known| known.run != *run)
                && let Some(record) = record(&objects, run).await?
            {
                runs.push(record.status);
            }
        }
    }
    Ok(newest(runs, limit))
}

/// The newest runs, newest first, each once.
///
/// Stacks on one machine share its object store, so each believes the others' runs to be forgotten.
fn newest(mut runs: Vec<RunStatus>, limit: usize) -> Vec<RunStatus> {
    let order = |run: &RunStatus| (Reverse(run.submitted_ms), run.run.clone(), run.forgotten);
    runs.sort_by_key(order);
    runs.dedup_by(|later, first| later.run == first.run);
    runs.truncate(limit);
    runs
}

/// The stored record of a run.
pub(crate) async fn record(objects: &Objects, run: &RunId) -> Result<Option<RunRecord>, Trouble> {
    let key = format!("runs/{run}/record.json");
    let stored = objects.get(&key).await.map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
    let Some(stored) = stored else { return Ok(None) };
    serde_json::from_slice(&stored).map(Some).map_err(|err| {
        Trouble::new(
            Exit::Infra,
            format!("the record `{key}` is not readable: {err}"),
            "it may be of another version of Groundswell",
        )
    })
}

async fn run_ids(objects: &Objects) -> Result<Vec<RunId>, Trouble> {
    let names = objects
        .list_directories("runs")
        .await
        .map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Picks the run that `selector` means out of `runs`, which are in order of time.
fn select(runs: &[RunId], selector: &str) -> Result<Option<RunId>, Trouble> {
    if selector == "latest" {
        return Ok(runs.last().cloned());
    }
    let matching: Vec<&RunId> = runs
        .iter()
        .filter(|run| run.as_str().starts_with(selector) || run.name().starts_with(selector))
        .collect();
    match matching[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [..] => {
            if let Some(exact) = matching.iter().find(|run| run.as_str() == selector) {
                return Ok(Some((*exact).clone()));
            }
            let known: Vec<String> =
                matching.iter().take(5).map(|run| format!("{} ({run})", run.name())).collect();
            Err(Trouble::new(
                Exit::NothingSelected,
                format!(
                    "`{selector}` is the beginning of {} runs: {}",
                    matching.len(),
                    known.join(", ")
                ),
                "give more of the id",
            ))
        }
    }
}

/// What is said when there is no such run.
pub(crate) fn no_such_run(selector: &str) -> Trouble {
    let message = match selector {
        "latest" => "there is no run".to_owned(),
        _ => format!("there is no run `{selector}`"),
    };
    Trouble::new(Exit::NothingSelected, message, "`coordinator ls` lists them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Vec<RunId> {
        ["c8k3vmlrirtj2p8lcec0", "c8k3vmlrirtj2p8lceg0", "d8k3vmlrirtj2p8lcec0"]
            .map(|id| id.parse().unwrap())
            .to_vec()
    }

    #[test]
    fn a_run_is_found_by_any_unique_beginning_of_its_id_or_name() {
        let runs = runs();
        assert_eq!(select(&runs, "latest").unwrap().as_ref(), Some(&runs[2]));
        assert_eq!(select(&runs, "d8").unwrap().as_ref(), Some(&runs[2]));
        assert_eq!(select(&runs, runs[0].as_str()).unwrap().as_ref(), Some(&runs[0]));
        assert_eq!(select(&runs, &runs[1].name()).unwrap().as_ref(), Some(&runs[1]));
        assert_eq!(select(&runs, "zzz").unwrap(), None);
    }

    #[test]
    fn a_beginning_of_several_is_refused_with_their_names() {
        let refused = select(&runs(), "c8").unwrap_err();
        assert_eq!(refused.exit, Exit::NothingSelected);
        assert!(refused.message.starts_with("`c8` is the beginning of 2 runs: "));
    }

    #[test]
    fn a_run_that_two_stacks_tell_of_is_shown_once_as_its_own_one_sees_it() {
        let told = |run: &RunId, submitted_ms: u64, forgotten: bool| -> RunStatus {
            serde_json::from_value(serde_json::json!({
                "run": run, "name": run.name(), "revision": 1, "plan": "p", "case": "c", "user": "",
                "phase": "running", "doing": "", "submitted_ms": submitted_ms, "started_ms": null,
                "finished_ms": null, "groups": [], "workers": [], "verdict": null, "reason": "",
                "warnings": [], "failures": [], "forgotten": forgotten,
            }))
            .unwrap()
        };
        let ids = runs();
        let all = vec![
            told(&ids[0], 7, true),
            told(&ids[1], 9, false),
            told(&ids[0], 7, false),
            told(&ids[1], 9, true),
            told(&ids[2], 3, true),
        ];
        let shown: Vec<_> =
            newest(all, 9).into_iter().map(|run| (run.run, run.forgotten)).collect();
        let wanted = [(&ids[1], false), (&ids[0], false), (&ids[2], true)];
        assert_eq!(shown, wanted.map(|(run, forgotten)| (run.clone(), forgotten)));
    }
}
