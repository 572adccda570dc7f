//! Which groups a link or an event is about.

use std::collections::BTreeSet;

use crate::composition::Composition;
use crate::diagnostic::suggest;
use crate::document::{At, Data, Findings, Node, Table};

/// Groups by name, by region, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    /// `*`
    All,
    /// `region:eu`
    Region(String),
    /// The id of a group.
    Group(String),
}

/// A group of a run as selectors see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member<'a> {
    /// Its id in the run.
    pub(super) id: &'a str,
    /// The id of the group it is built as.
    pub(super) group: &'a str,
    /// Its region.
    pub(super) region: Option<&'a str>,
    /// Whether it is behind a NAT.
    pub(super) nat: bool,
}

impl Selector {
    fn parse(text: &str) -> Self {
        match text.strip_prefix("region:") {
            _ if text == "*" => Self::All,
            Some(region) => Self::Region(region.trim().to_owned()),
            None => Self::Group(text.to_owned()),
        }
    }

    pub(super) fn selects(&self, member: &Member<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Region(region) => member.region == Some(region),
            Self::Group(group) => member.id == group || member.group == group,
        }
    }
}

/// Reads a selector or a list of them. An absent key is an error.
pub(super) fn read(
    findings: &Findings,
    table: &Table<'_>,
    key: &'static str,
) -> Option<Vec<At<Selector>>> {
    let help = format!("write `{key} = \"a group\"`, `\"region:eu\"`, `\"*\"`, or a list of them");
    let Some(node) = table.get(key) else {
        findings.error(table.span.clone(), format!("`{key}` is missing"), help);
        return None;
    };
    let one = |node: &Node| match &node.value {
        Data::Text(text) if !text.is_empty() => {
            Some(At { value: Selector::parse(text), span: node.span.clone() })
        }
        Data::Text(_)
        | Data::Integer(_)
        | Data::Float(_)
        | Data::Bool(_)
        | Data::Time(_)
        | Data::Array(_)
        | Data::Table(_) => None,
    };
    let list: Option<Vec<_>> = match &node.value {
        Data::Array(nodes) if !nodes.is_empty() => nodes.iter().map(one).collect(),
        Data::Array(_) => None,
        Data::Text(_)
        | Data::Integer(_)
        | Data::Float(_)
        | Data::Bool(_)
        | Data::Time(_)
        | Data::Table(_) => one(node).map(|one| vec![one]),
    };
    if list.is_none() {
        findings.error(node.span.clone(), format!("`{key}` selects no groups"), help);
    }
    list
}

/// The classes of the members that any of the selectors selects.
pub(super) fn classes(selectors: &[At<Selector>], members: &[Member<'_>]) -> Vec<u16> {
    let numbered = (0_u16..).zip(members);
    let selected =
        numbered.filter(|(_, member)| selectors.iter().any(|one| one.value.selects(member)));
    selected.map(|(class, _)| class).collect()
}

/// Checks that a selector names something there is.
pub(super) fn check(findings: &Findings, composition: &Composition, selector: &At<Selector>) {
    let of_runs = composition.runs.iter().flat_map(|run| &run.groups).map(|group| &group.id);
    let groups = composition.groups.iter().map(|group| &group.id).chain(of_runs);
    let groups: BTreeSet<&str> = groups.map(|id| id.value.as_str()).collect();
    let regions = composition.groups.iter().filter_map(|group| group.region.as_ref());
    let regions: BTreeSet<&str> = regions.map(|region| region.value.as_str()).collect();
    let (message, help) = match &selector.value {
        Selector::All => return,
        Selector::Group(group) if groups.contains(group.as_str()) => return,
        Selector::Region(region) if regions.contains(region.as_str()) => return,
        Selector::Group(group) if regions.contains(group.as_str()) => {
            (format!("there is no group `{group}`"), format!("did you mean `region:{group}`?"))
        }
        Selector::Group(group) => {
            (format!("there is no group `{group}`"), suggest(group, groups.iter().copied()))
        }
        Selector::Region(region) if regions.is_empty() => (
            format!("no group is in region `{region}`"),
            "write `region = \"…\"` in the groups that are".to_owned(),
        ),
        Selector::Region(region) => {
            (format!("no group is in region `{region}`"), suggest(region, regions.iter().copied()))
        }
    };
    findings.error(selector.span.clone(), message, help);
}
