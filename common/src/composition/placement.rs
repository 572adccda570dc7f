//! `[global.placement]`, `[groups.placement]`, `global.priority` and `global.on_lost`: which workers, how soon, and
//! what if one of them is lost.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use super::{Composition, Run, RunGroup};
use crate::diagnostic::suggest;
use crate::document::{At, Data, Findings, Node, Table};
use crate::on_lost::OnLost;
use crate::placement::{GroupPlacement, Require, RunPlacement};
use crate::queue::Priority;

/// What `[groups.placement]` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct GroupWish {
    pub(crate) require: Require,
    pub(crate) apart_from: Vec<At<String>>,
    pub(crate) per_worker: Option<u32>,
}

/// Reads `[global.placement]`.
pub(super) fn of_run(findings: &Findings, global: &Table<'_>) -> RunPlacement {
    let Some(table) = global.table("placement") else { return RunPlacement::default() };
    let spread = table.text("spread").filter(|label| !label.value.is_empty());
    let pack = table.bool("pack");
    if let (Some(spread), Some(true)) = (&spread, pack) {
        findings.error(
            spread.span.clone(),
            "`spread` beside `pack`",
            "remove one of the two: instances are spread over many workers or packed on few",
        );
    }
    let placement = RunPlacement {
        require: require(findings, &table),
        spread: spread.map(|label| label.value),
        pack,
        per_worker: per_worker(findings, &table),
        exclusive: table.bool("exclusive").unwrap_or(false),
        one_worker: table.bool("one_worker").unwrap_or(false),
    };
    table.finish(&[]);
    placement
}

/// Reads `[groups.placement]`.
pub(super) fn of_group(findings: &Findings, group: &Table<'_>) -> GroupWish {
    let Some(table) = group.table("placement") else { return GroupWish::default() };
    let apart_from = table.get("apart_from").map(|node| texts(findings, "apart_from", node));
    let wish = GroupWish {
        require: require(findings, &table),
        apart_from: apart_from.unwrap_or_default(),
        per_worker: per_worker(findings, &table),
    };
    table.finish(&[]);
    wish
}

/// Reads `global.priority`.
pub(super) fn priority(findings: &Findings, global: &Table<'_>) -> Option<Priority> {
    let word = global.text("priority")?;
    let priority = Priority::parse(&word.value);
    if priority.is_none() {
        let known = Priority::ALL.map(Priority::as_str);
        findings.error(
            word.span,
            format!("there is no priority `{}`", word.value),
            suggest(&word.value, known),
        );
    }
    priority
}

/// Reads `global.on_lost`.
pub(super) fn on_lost(findings: &Findings, global: &Table<'_>) -> OnLost {
    let Some(text) = global.text("on_lost") else { return OnLost::default() };
    OnLost::parse(&text.value).unwrap_or_else(|help| {
        findings.error(text.span, format!("`on_lost` is `{}`", text.value), help);
        OnLost::default()
    })
}

/// Labels with the values that will do: `require = { zone = "a", kind = ["metal", "ec2"] }`.
fn require(findings: &Findings, table: &Table<'_>) -> Require {
    let Some(labels) = table.table("require") else { return Require::new() };
    let read = |(label, node): &(At<String>, Node)| {
        let values = texts(findings, "require", node).into_iter().map(|value| value.value);
        (label.value.clone(), values.collect())
    };
    labels.entries().iter().map(read).collect()
}

/// One text or a list of them, never an empty one.
pub(super) fn texts(findings: &Findings, key: &str, node: &Node) -> Vec<At<String>> {
    let at = |node: &Node| Some(At { value: node.scalar()?, span: node.span.clone() });
    let read: Option<Vec<_>> = match &node.value {
        Data::Array(nodes) => nodes.iter().map(at).collect(),
        _ => at(node).map(|one| vec![one]),
    };
    let read = read.filter(|texts| !texts.is_empty());
    if read.is_none() {
        findings.error(
            node.span.clone(),
            format!("`{key}` must have a text or a list of texts"),
            "write `\"a\"` or `[\"a\", \"b\"]`",
        );
    }
    read.unwrap_or_default()
}

fn per_worker(findings: &Findings, table: &Table<'_>) -> Option<u32> {
    let most = table.count("per_worker")?;
    if most.value == 0 {
        let help = "write how many instances one worker may have, or leave it out";
        findings.error(most.span, "`per_worker` is 0", help);
        return None;
    }
    Some(most.value)
}

/// Checks that groups keep apart from groups there are.
pub(super) fn check(findings: &Findings, composition: &Composition) {
    let known = || composition.groups.iter().map(|group| group.id.value.as_str());
    for group in &composition.groups {
        for other in &group.placement.apart_from {
            if other.value == group.id.value {
                findings.error(
                    other.span.clone(),
                    format!("group `{}` is to keep apart from itself", other.value),
                    "write `per_worker = 1` to have each of its instances on a worker of its own",
                );
            } else if !known().any(|id| id == other.value) {
                findings.error(
                    other.span.clone(),
                    format!("there is no group `{}`", other.value),
                    suggest(&other.value, known().collect::<Vec<_>>()),
                );
            }
        }
    }
}

/// What a group of a run asks for, with the names groups have in that run.
pub(super) fn resolve(run: &Run, wish: &GroupWish) -> GroupPlacement {
    let is_meant =
        |one: &&RunGroup| wish.apart_from.iter().any(|other| other.value == one.group_id.value);
    GroupPlacement {
        require: wish.require.clone(),
        apart_from: run.groups.iter().filter(is_meant).map(|one| one.id.value.clone()).collect(),
        per_worker: wish.per_worker,
    }
}
