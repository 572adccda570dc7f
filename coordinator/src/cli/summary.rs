//! What is said about a run in words. Pure.

use groundswell_common::egress::ExposedPort;
use groundswell_common::ids::RunId;
use groundswell_common::outcome::InstanceEnd;
use groundswell_common::run::{GroupCounts, RunStatus, Verdict};

use super::out::{Out, Paint};
use super::{fidelity, kpis};

/// How many failures the summary shows.
const FAILURES: usize = 5;
/// How many last lines of a failed instance it shows.
const LINES: usize = 5;

/// The run after its end, for people.
pub(crate) fn summary(out: &Out, status: &RunStatus) -> Vec<String> {
    let mut lines = vec![headline(out, status)];
    lines.push(format!("  instances  {}", accounting(out, &totals(status))));
    lines.extend(status.network.iter().flat_map(|network| fidelity::lines(out, network)));
    lines.extend(status.judgement.iter().flat_map(|judgement| kpis::lines(out, judgement)));
    if !status.reason.is_empty() {
        lines.push(format!("  reason     {}", status.reason));
    }
    lines.extend(
        status
            .warnings
            .iter()
            .filter(|warning| **warning != status.reason)
            .map(|warning| format!("  {}    {warning}", out.paint(Paint::Warning, "warning"))),
    );
    lines.extend(exposed(status));
    let kinds = kinds_of_failure(status);
    for (group, in_group, end, alike) in &kinds {
        lines.extend(failure(out, group, *in_group, end, *alike));
    }
    let shown: u32 = kinds.iter().map(|(.., alike)| 1 + alike).sum();
    let counts = totals(status);
    let unseen = counts.bad().saturating_sub(shown);
    if unseen > 0 {
        lines.push(format!("  … and {unseen} more that did not succeed"));
    }
    lines.extend(next(status));
    lines
}

/// Where ports of instances are, or were, reached from outside.
pub(crate) fn exposed(status: &RunStatus) -> impl Iterator<Item = String> {
    status.exposed.iter().map(|one| {
        let ExposedPort { instance, label, port, address } = one;
        format!("  exposed    {label} of i{instance} (port {port}) at {address}")
    })
}

/// Verdict, name, time and what was run.
pub(crate) fn headline(out: &Out, status: &RunStatus) -> String {
    let (word, paint) = match status.verdict {
        Some(verdict) => (verdict.as_str(), paint_of(verdict)),
        None => (status.phase.as_str(), Paint::Bold),
    };
    let took = elapsed_ms(status).map_or_else(String::new, |ms| format!("  {}", took(ms)));
    format!(
        "{}  {}{took}  {}/{}  {}",
        out.paint(paint, &word.to_uppercase().replace('_', " ")),
        status.name,
        status.plan,
        status.case,
        out.paint(Paint::Dim, status.run.as_str()),
    )
}

/// Every instance accounted for: `100 = 98 success + 2 failure ✔ all accounted for`.
pub(crate) fn accounting(out: &Out, counts: &GroupCounts) -> String {
    let parts: Vec<String> = [
        (counts.success, "success"),
        (counts.failure, "failure"),
        (counts.timed_out, "timed out"),
        (counts.canceled, "canceled"),
        (counts.aborted, "aborted"),
        (counts.lost, "lost"),
        (counts.killed, "killed by the narrative"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{number} {word}"))
    .collect();
    let sum = if parts.is_empty() { "0 ended".to_owned() } else { parts.join(" + ") };
    let check = match counts.want.checked_sub(counts.ended()) {
        Some(0) => out.paint(Paint::Good, "✔ all accounted for"),
        Some(missing) => out.paint(Paint::Warning, &format!("✘ {missing} without an end")),
        None => out.paint(Paint::Bad, "✘ more ends than instances"),
    };
    format!("{} = {sum}   {check}", counts.want)
}

/// The first failures that differ, each with how many more are like it.
fn kinds_of_failure(status: &RunStatus) -> Vec<(&str, u32, &InstanceEnd, u32)> {
    let mut kinds: Vec<(&str, u32, &InstanceEnd, u32)> = Vec::new();
    for (_, group, in_group, end) in &status.failures {
        if let Some((.., alike)) = kinds.iter_mut().find(|(_, _, known, _)| *known == end) {
            *alike += 1;
        } else if kinds.len() < FAILURES {
            kinds.push((group, *in_group, end, 0));
        }
    }
    kinds
}

fn failure(out: &Out, group: &str, in_group: u32, end: &InstanceEnd, alike: u32) -> Vec<String> {
    let exit = end.exit.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut said = vec![end.outcome.as_str().replace('_', " ")];
    if !exit.is_empty() && !end.reason.contains(&exit) {
        said.push(exit);
    }
    if !end.reason.is_empty() {
        said.push(end.reason.clone());
    }
    let more = if alike == 0 { String::new() } else { format!(" and {alike} more") };
    let (cross, said) = (out.paint(Paint::Bad, "✘"), said.join(" · "));
    let mut lines = vec![format!("  {cross} {group}[{in_group}]{more}  {said}")];
    let skip = end.last_lines.len().saturating_sub(LINES);
    lines.extend(
        end.last_lines[skip..]
            .iter()
            .map(|line| format!("      {} {line}", out.paint(Paint::Dim, "|"))),
    );
    lines
}

/// The commands that make sense from here.
fn next(status: &RunStatus) -> Vec<String> {
    let run = &status.name;
    let mut commands = Vec::new();
    if let Some((_, group, in_group, _)) = status.failures.first() {
        commands.push(format!("coordinator logs {run} --instance {group}:{in_group}"));
    }
    if status.phase.is_over()
        && !matches!(status.verdict, Some(Verdict::Rejected | Verdict::Unplaceable))
    {
        commands.push(format!("coordinator collect {run}"));
    }
    let label = |i| if i == 0 { "  next       " } else { "             " };
    commands.iter().enumerate().map(|(i, command)| format!("{}{command}", label(i))).collect()
}

fn paint_of(verdict: Verdict) -> Paint {
    match verdict {
        Verdict::Passed => Paint::Good,
        Verdict::Failed | Verdict::Rejected | Verdict::Unplaceable => Paint::Bad,
        Verdict::Inconclusive | Verdict::Infra | Verdict::TimedOut | Verdict::Canceled => {
            Paint::Warning
        }
    }
}

/// The sum over all groups.
pub(crate) fn totals(status: &RunStatus) -> GroupCounts {
    let mut sum = GroupCounts::default();
    for (_, counts) in &status.groups {
        sum.want += counts.want;
        sum.ready += counts.ready;
        sum.running += counts.running;
        sum.success += counts.success;
        sum.failure += counts.failure;
        sum.timed_out += counts.timed_out;
        sum.canceled += counts.canceled;
        sum.aborted += counts.aborted;
        sum.lost += counts.lost;
        sum.killed += counts.killed;
    }
    sum
}

/// How long it took, from start or else from submit, when it is over.
pub(crate) fn elapsed_ms(status: &RunStatus) -> Option<u64> {
    let from = status.started_ms.unwrap_or(status.submitted_ms);
    status.finished_ms.map(|end| end.saturating_sub(from))
}

/// Milliseconds as people read them: `340ms`, `1.2s`, `3m22s`, `2h05m`.
pub(crate) fn took(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}.{}s", ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Which group an instance belongs to, and its number there: instances count through the groups in order.
pub(crate) fn place_of(status: &RunStatus, instance: u32) -> Option<(String, u32)> {
    let mut first = 0;
    for (group, counts) in &status.groups {
        if instance < first + counts.want {
            return Some((group.clone(), instance - first));
        }
        first += counts.want;
    }
    None
}

/// Testground's word for how a run ended, for its result file.
pub(crate) fn testground_outcome(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Passed) => "success",
        Some(Verdict::Failed | Verdict::Inconclusive | Verdict::TimedOut | Verdict::Infra) => {
            "failure"
        }
        Some(Verdict::Canceled | Verdict::Rejected | Verdict::Unplaceable) | None => "canceled",
    }
}

/// The run's name and the beginning of its id, as one word of a sentence.
pub(crate) fn called(name: &str, run: &RunId) -> String {
    format!("{name} ({run})")
}

#[cfg(test)]
mod tests {
    use groundswell_common::ids::InstanceId;
    use groundswell_common::outcome::{Exit, Outcome};
    use groundswell_common::run::{RunPhase, SourceInfo};

    use super::*;

    const PLAIN: Out = Out { json: false, color: false, quiet: false, verbose: false };

    fn status() -> RunStatus {
        let run: RunId = "c8k3vmlrirtj2p8lcec0".parse().unwrap();
        let a = GroupCounts { want: 98, success: 97, failure: 1, ..GroupCounts::default() };
        let b = GroupCounts { want: 2, success: 1, failure: 1, ..GroupCounts::default() };
        let end = InstanceEnd {
            outcome: Outcome::Failure,
            reason: "peer table poisoned".into(),
            exit: Some(Exit { code: Some(101), ..Exit::default() }),
            last_lines: vec!["thread main panicked".into()],
        };
        RunStatus {
            name: "calm-heron".into(),
            run,
            revision: 9,
            plan: "gossip".into(),
            case: "spread".into(),
            user: String::new(),
            source: SourceInfo::default(),
            phase: RunPhase::Finished,
            doing: String::new(),
            submitted_ms: 0,
            started_ms: Some(1_000),
            finished_ms: Some(203_000),
            groups: vec![("a".into(), a), ("home-nat".into(), b)],
            workers: Vec::new(),
            verdict: Some(Verdict::Failed),
            reason: "2 of 100 instances failed".into(),
            warnings: vec!["worker w-07 was silent for 12 s".into()],
            failures: vec![(InstanceId(99), "home-nat".into(), 1, end)],
            exposed: Vec::new(),
            network: None,
            judgement: None,
            forgotten: false,
        }
    }

    #[test]
    fn the_summary_accounts_for_every_instance() {
        insta::assert_snapshot!(summary(&PLAIN, &status()).join("\n"), @"
        FAILED  calm-heron  3m22s  gossip/spread  c8k3vmlrirtj2p8lcec0
          instances  100 = 98 success + 2 failure   ✔ all accounted for
          reason     2 of 100 instances failed
          warning    worker w-07 was silent for 12 s
          ✘ home-nat[1]  failure · exit code 101 · peer table poisoned
              | thread main panicked
          … and 1 more that did not succeed
          next       coordinator logs calm-heron --instance home-nat:1
                     coordinator collect calm-heron
        ");
    }

    #[test]
    fn an_instance_without_an_end_is_not_hidden() {
        let counts = GroupCounts { want: 3, success: 2, ..GroupCounts::default() };
        assert_eq!(accounting(&PLAIN, &counts), "3 = 2 success   ✘ 1 without an end");
    }

    #[test]
    fn instances_count_through_the_groups() {
        let status = status();
        assert_eq!(place_of(&status, 0), Some(("a".into(), 0)));
        assert_eq!(place_of(&status, 99), Some(("home-nat".into(), 1)));
        assert_eq!(place_of(&status, 100), None);
    }

    #[test]
    fn times_have_two_figures_at_most() {
        assert_eq!([340, 1_250, 202_000, 7_500_000].map(took), ["340ms", "1.2s", "3m22s", "2h05m"]);
    }
}
