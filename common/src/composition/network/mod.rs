//! Links between groups and regions, and the schedule of what happens to them: what a composition says
//! beyond Testground's.
//!
//! ```text
//! [groups] region, link, nat   [[links]]   [network]   [[schedule]]
//!        └──parse──► NetworkWish ──compile, for one run──► NetworkPlan
//! ```

mod cities;
mod compile;
mod gml;
mod king;
mod matrix;
mod nat;
mod play;
mod regions;
mod schedule;
mod selector;
mod shape;
mod strike;
#[cfg(test)]
mod tests;
mod trace;
mod wonder;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Composition, Group};
use crate::diagnostic::{SourceFile, suggest};
use crate::document::{At, Findings, Table};
use crate::network::DataPath;
use crate::template::Resources as Load;

pub(super) use compile::compile;
pub(super) use nat::read as nats;
use regions::{Format, Read};
pub use regions::{Regions, Way};
use schedule::EventWish;
use selector::Selector;
use shape::Of;
pub(crate) use shape::ShapeWish;
pub(super) use shape::bits_per_second;
pub use trace::Trace;

/// What a composition takes from other files, read and cut down to what it uses.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachments {
    /// The ways between its regions.
    pub regions: Option<Regions>,
    /// Traces it plays, by path and window.
    pub traces: BTreeMap<String, Trace>,
}

/// Where attachments come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// Files that are read now.
    Files(&'a Load<'a>),
    /// They were read before.
    Known(&'a Attachments),
}

/// What a composition says about its network.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct NetworkWish {
    links: Vec<LinkWish>,
    schedule: Vec<EventWish>,
    pub(crate) attachments: Attachments,
    /// Packets between workers are encrypted.
    encrypt: bool,
    data_path: DataPath,
    /// What is sent to many reaches all of the run.
    multicast: bool,
    /// Where the ways between regions come from, for messages.
    origin: Option<At<String>>,
}

/// One of `[[links]]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LinkWish {
    pub(super) from: Vec<At<Selector>>,
    pub(super) to: Vec<At<Selector>>,
    pub(super) both: bool,
    pub(super) wish: ShapeWish,
}

/// Reads `[groups.link]`.
pub(super) fn access(findings: &Findings, group: &Table<'_>) -> ShapeWish {
    let Some(table) = group.table("link") else { return ShapeWish::default() };
    let wish = ShapeWish::read(findings, &table, Of::Access);
    table.finish(&[]);
    wish
}

/// Reads `[[links]]`, `[network]` and `[[schedule]]`.
pub(super) fn parse(
    findings: &Findings,
    file: &Table<'_>,
    groups: &[Group],
    source: Source<'_>,
) -> NetworkWish {
    let links =
        file.tables("links").into_iter().filter_map(|table| link(findings, table)).collect();
    let mut network = NetworkWish { links, ..NetworkWish::default() };
    if let Some(table) = file.table("network") {
        network.encrypt = table.bool("encrypt").unwrap_or(false);
        network.multicast = table.bool("multicast").unwrap_or(false);
        let (origin, regions) = regions_of(findings, &table, groups, source);
        network.origin = origin;
        network.attachments.regions = regions;
        network.data_path = data_path(findings, &table);
        table.finish(&[]);
    }
    let traces = &mut network.attachments.traces;
    for table in file.tables("schedule") {
        let event = schedule::event(findings, &table, source, traces);
        table.finish(&[]);
        network.schedule.extend(event);
    }
    network
}

fn data_path(findings: &Findings, table: &Table<'_>) -> DataPath {
    const PATHS: [DataPath; 2] = [DataPath::Switch, DataPath::Kernel];
    let Some(word) = table.text("data_path") else { return DataPath::default() };
    let found = PATHS.into_iter().find(|path| path.as_str() == word.value);
    if found.is_none() {
        let message = format!("there is no data path `{}`", word.value);
        findings.error(word.span, message, suggest(&word.value, PATHS.map(DataPath::as_str)));
    }
    found.unwrap_or_default()
}

fn link(findings: &Findings, table: Table<'_>) -> Option<LinkWish> {
    let from = selector::read(findings, &table, "from");
    let to = selector::read(findings, &table, "to");
    let both = table.bool("both").unwrap_or(true);
    let wish = ShapeWish::read(findings, &table, Of::Path);
    if wish.is_empty() {
        let help = "write for example `latency = \"20ms\"`";
        findings.error(table.span.clone(), "a link says nothing about itself", help);
    }
    table.finish(&[]);
    Some(LinkWish { from: from?, to: to?, both, wish })
}

/// The ways between the groups' regions, and where they come from.
fn regions_of(
    findings: &Findings,
    table: &Table<'_>,
    groups: &[Group],
    source: Source<'_>,
) -> (Option<At<String>>, Option<Regions>) {
    const FILES: [(&str, Format); 4] = [
        ("matrix", Format::Matrix),
        ("wondernetwork", Format::WonderNetwork),
        ("king", Format::King),
        ("shadow", Format::Shadow),
    ];
    let named = FILES.map(|(key, format)| Some((table.text(key)?, format)));
    let named: Vec<_> = named.into_iter().flatten().collect();
    let round_trip = table.bool("round_trip").unwrap_or(false);
    let servers = table.text("servers");
    let model = table.text("model");
    let places: Vec<_> =
        named.iter().map(|(path, _)| path).chain(&model).map(|text| text.span.clone()).collect();
    if let Some(second) = places.get(1) {
        let help = "keep one of `matrix`, `wondernetwork`, `king`, `shadow` and `model`";
        findings.error(second.clone(), "there are two sources of latencies between regions", help);
        return (None, None);
    }
    if let Some(model) = &model
        && model.value != "cities"
    {
        let message = format!("there is no model `{}`", model.value);
        findings.error(model.span.clone(), message, suggest(&model.value, ["cities"]));
        return (None, None);
    }
    let wanted: BTreeSet<String> =
        groups.iter().filter_map(|group| Some(group.region.as_ref()?.value.clone())).collect();
    let wanted: Vec<String> = wanted.into_iter().collect();
    let (origin, read) = match (named.into_iter().next(), model, source) {
        (Some((origin, _)), _, Source::Known(attachments)) => {
            return (Some(origin), attachments.regions.clone());
        }
        (Some((origin, format)), _, Source::Files(load)) => {
            let Some(text) = file(findings, &origin, load) else { return (Some(origin), None) };
            let servers = match &servers {
                None => None,
                Some(servers) => match file(findings, servers, load) {
                    None => return (Some(origin), None),
                    text => text,
                },
            };
            match regions::read(format, &text, servers.as_ref(), round_trip, &wanted) {
                Ok(read) => (origin, read),
                Err(wrong) => {
                    findings.push(wrong);
                    return (Some(origin), None);
                }
            }
        }
        (None, Some(model), _) => (model, regions::of_cities(&wanted)),
        (None, None, _) => return (None, None),
    };
    check_regions(findings, &origin, groups, &read);
    (Some(origin), Some(read.regions))
}

/// Reads a file the composition names.
fn file(findings: &Findings, path: &At<String>, load: &Load<'_>) -> Option<Arc<SourceFile>> {
    match load(&path.value) {
        Ok(text) => Some(SourceFile::new(&path.value, &text)),
        Err(why) => {
            let message = format!("cannot read `{}`: {why}", path.value);
            findings.error(path.span.clone(), message, "paths are relative to the composition");
            None
        }
    }
}

/// Every region a group names has to be there, and every pair of them.
fn check_regions(findings: &Findings, origin: &At<String>, groups: &[Group], read: &Read) {
    let mut unknown: BTreeSet<&str> = BTreeSet::new();
    for region in groups.iter().filter_map(|group| group.region.as_ref()) {
        if !read.known.contains(&region.value) {
            unknown.insert(&region.value);
            findings.error(
                region.span.clone(),
                format!("`{}` has no region `{}`", origin.value, region.value),
                listed(&region.value, &read.known),
            );
        }
    }
    let names = &read.regions.names;
    for (i, from) in names.iter().enumerate().filter(|(_, name)| !unknown.contains(name.as_str())) {
        for (j, to) in names.iter().enumerate() {
            if read.regions.way(i, j).is_none() && !unknown.contains(to.as_str()) {
                findings.error(
                    origin.span.clone(),
                    format!("`{}` has no latency from `{from}` to `{to}`", origin.value),
                    "add the pair to the file, or give the groups other regions",
                );
            }
        }
    }
    for group in groups.iter().filter(|group| group.region.is_none()) {
        findings.warning(
            group.id.span.clone(),
            format!("group `{}` has no region, so it is next to every other", group.id.value),
            "write `region = \"…\"` in the group",
        );
    }
}

/// The closest name, or some of them: a matrix may have thousands.
fn listed(word: &str, known: &[String]) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    match crate::diagnostic::closest(word, known.iter().copied()) {
        None if known.len() > 12 => {
            format!("there are {}, such as `{}`", known.len(), known[..5].join("`, `"))
        }
        Some(_) | None => suggest(word, known),
    }
}

/// Checks that everything that is selected is there.
pub(super) fn check(findings: &Findings, composition: &Composition) {
    let network = &composition.network;
    let of_links = network.links.iter().flat_map(|link| link.from.iter().chain(&link.to));
    let of_events = network.schedule.iter().flat_map(EventWish::selectors);
    for selector in of_links.chain(of_events) {
        selector::check(findings, composition, selector);
    }
    schedule::check_names(findings, &network.schedule);
    schedule::check_rebinds(findings, composition);
}

/// A place in the file.
type Span = Range<usize>;
