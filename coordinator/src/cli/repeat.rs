//! `submit --repeat`: the same several times, in turn with another run if asked, and how the two compare.
//!
//! One run says little, and runs of another day say little about this one. So what is submitted and what it is
//! compared with take turns, with the same seed in each pair.

use groundswell_common::api::SubmitRequest;
use groundswell_common::builds::{BuildLock, LockWish};
use groundswell_common::ids::RunId;
use groundswell_common::objects::Objects;
use groundswell_coordinator::record;
use serde_json::json;

use super::args::Submit;
use super::compare;
use super::compare::args::{Compare, Of, ReportFormat};
use super::compare::select::{Past, Selector};
use super::exit::Exit;
use super::lock_file;
use super::{Session, Trouble};

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// What was submitted.
    Own,
    /// What it takes turns with.
    Other,
}

/// A run that is to be submitted.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    /// Its id in the composition.
    pub(crate) run: String,
    pub(crate) whose: Whose,
    pub(crate) request: SubmitRequest,
}

/// Every run that is to be submitted, in order. `first_seed` is that of the first round.
pub(crate) fn turns(
    args: &Submit,
    runs: &[String],
    request: &SubmitRequest,
    other: Option<&SubmitRequest>,
    first_seed: u64,
) -> Vec<Turn> {
    let rounds = u64::from(args.repeat);
    let single = rounds == 1 && other.is_none();
    let mut turns = Vec::new();
    for round in 0..rounds {
        // A run alone leaves the drawing of its seed to the coordinator.
        let seed = if single { request.seed } else { Some(first_seed.wrapping_add(round)) };
        let key = |run: &str, whose: &str| {
            let mut key = request.queue.key.clone()?;
            // Each run of a composition, and each round of it, is one of its own.
            for (part, several) in [(run, runs.len() > 1), (whose, other.is_some())] {
                key = if several { format!("{key}/{part}") } else { key };
            }
            Some(if rounds > 1 { format!("{key}/{round}") } else { key })
        };
        turns.extend(other.map(|other| {
            let mut queue = request.queue.clone();
            queue.key = key(&other.run, "other");
            Turn {
                run: other.run.clone(),
                whose: Whose::Other,
                request: SubmitRequest { seed, queue, user: request.user.clone(), ..other.clone() },
            }
        }));
        for run in runs {
            let mut queue = request.queue.clone();
            queue.key = key(run, "own");
            let request = SubmitRequest { run: run.clone(), seed, queue, ..request.clone() };
            turns.push(Turn { run: run.clone(), whose: Whose::Own, request });
        }
    }
    turns
}

/// What the newest run of a side was submitted as, to be submitted again: with the commits and base images that it
/// was built from, not with what their branches have become.
pub(crate) async fn other(objects: &Objects, side: &str) -> Result<SubmitRequest, Trouble> {
    let past = Past::open(objects).await?;
    let of = Of { plan: None, case: None, last: 1 };
    let mut found = past.sides(&[Selector::parse(side)?], &of).await?;
    let newest = found.pop().unwrap_or_default().into_iter().max_by_key(|run| run.submitted_ms);
    let run = newest
        .map(|run| run.run)
        .ok_or_else(|| Trouble::new(Exit::NothingSelected, format!("`{side}` means no run"), ""))?;
    let loaded = record::load_request(objects, &run).await;
    let loaded = loaded.map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
    let request = loaded.ok_or_else(|| {
        let message = format!("what run {run} was submitted as is not stored");
        Trouble::new(Exit::NothingSelected, message, "submit it again by its composition")
    })?;
    let mut lock = BuildLock { version: BuildLock::VERSION, ..BuildLock::default() };
    for report in lock_file::reports(objects, &run).await? {
        for group in report.groups.iter().filter(|_| report.error.is_empty()) {
            lock.groups.insert(group.clone(), report.pins.clone());
        }
    }
    let lock = match &request.lock {
        Some(wish) => {
            LockWish { lock: BuildLock { plan: wish.lock.plan.clone(), ..lock }, exact: false }
        }
        None => LockWish { lock, exact: false },
    };
    Ok(SubmitRequest { lock: Some(lock).filter(|wish| !wish.lock.groups.is_empty()), ..request })
}

/// Compares the runs that were submitted with what they took turns with, or with the baseline. None when there is
/// nothing to compare with.
pub(crate) async fn conclude(
    session: &Session,
    args: &Submit,
    objects: &Objects,
    ended: &[(Whose, RunId)],
) -> Result<Vec<Exit>, Trouble> {
    let of = |whose: Whose| -> String {
        let runs = ended.iter().filter(|(turn, _)| *turn == whose).map(|(_, run)| run.as_str());
        runs.collect::<Vec<_>>().join(",")
    };
    let (own, other) = (of(Whose::Own), of(Whose::Other));
    let (a, paired) = match (&args.baseline, other.is_empty()) {
        (_, false) => (other, true),
        (Some(baseline), true) => (baseline.clone(), false),
        (None, true) => return Ok(Vec::new()),
    };
    if own.is_empty() {
        return Ok(vec![Exit::Inconclusive]);
    }
    let names = [args.interleave_with.as_ref().or(args.baseline.as_ref()), None];
    let compared = Compare::of_submit(a, own, paired, args.fail_on.clone());
    let mut reports = compare::reports(objects, &compared).await?;
    for report in &mut reports {
        let sides = [&mut report.comparison.a.name, &mut report.comparison.b.name];
        for (side, name) in sides.into_iter().zip(names) {
            *side = name.cloned().unwrap_or_else(|| "this".to_owned());
        }
    }
    if session.out.json {
        session.out.json(&json!({ "v": 1, "type": "comparison", "comparisons": reports }));
    } else {
        let text = compare::rendered(&session.out, &compared, ReportFormat::Text, &reports);
        session.out.say(text);
    }
    Ok(reports.iter().flat_map(|report| report.codes(&compared.fail_on)).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use groundswell_common::queue::QueueWish;
    use groundswell_common::run::SourceInfo;

    use super::*;
    use crate::cli::args::{Args, Command};

    fn args(more: &[&str]) -> Submit {
        let all = ["coordinator", "submit", "x.toml"].iter().chain(more);
        let Command::Submit(args) = Args::parse_from(all).command else { panic!("it is a submit") };
        *args
    }

    fn request(name: &str) -> SubmitRequest {
        let queue = QueueWish { key: Some("key".to_owned()), ..QueueWish::default() };
        SubmitRequest {
            composition: String::new(),
            composition_name: name.to_owned(),
            attachments: Default::default(),
            manifest: String::new(),
            source: String::new(),
            run: "default".to_owned(),
            runtime: None,
            seed: None,
            timeout: None,
            user: "me".to_owned(),
            source_info: SourceInfo::default(),
            labels: Default::default(),
            no_cache: false,
            queue,
            lock: None,
        }
    }

    fn told(turns: &[Turn]) -> Vec<(&str, Option<u64>, &str)> {
        let told = |turn| {
            let Turn { request: SubmitRequest { composition_name, seed, queue, .. }, .. }: &Turn =
                turn;
            (composition_name.as_str(), *seed, queue.key.as_deref().unwrap_or_default())
        };
        turns.iter().map(told).collect()
    }

    #[test]
    fn a_single_run_is_submitted_as_it_is() {
        let runs = ["default".to_owned()];
        let turns = turns(&args(&[]), &runs, &request("own"), None, 7);
        assert_eq!(told(&turns), [("own", None, "key")]);
    }

    #[test]
    fn rounds_have_seeds_and_keys_of_their_own_and_a_pair_shares_its_seed() {
        let runs = ["default".to_owned()];
        let with = args(&["--repeat", "2", "--interleave-with", "@main"]);
        let other = SubmitRequest { user: "someone".to_owned(), ..request("other") };
        let turns = turns(&with, &runs, &request("own"), Some(&other), 7);
        let wanted = [
            ("other", Some(7), "key/other/0"),
            ("own", Some(7), "key/own/0"),
            ("other", Some(8), "key/other/1"),
            ("own", Some(8), "key/own/1"),
        ];
        assert_eq!(told(&turns), wanted);
        // Whoever submits it again is who has it on his account.
        assert_eq!(turns[0].request.user, "me");
    }

    #[test]
    fn every_run_of_a_composition_is_repeated() {
        let runs = ["a".to_owned(), "b".to_owned()];
        let turns = turns(&args(&["--repeat", "2"]), &runs, &request("own"), None, 7);
        let keys: Vec<&str> = told(&turns).into_iter().map(|(_, _, key)| key).collect();
        assert_eq!(keys, ["key/a/0", "key/b/0", "key/a/1", "key/b/1"]);
        assert_eq!(turns[1].request.run, "b");
    }
}
