//! How layers of a composition become one: the first one that says something wins.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Dependency, Texts};
use crate::messages::Resources;

/// Texts of all layers, the strongest first. An empty text counts as not given, as in Testground.
pub(super) fn texts(layers: &[&Texts]) -> BTreeMap<String, String> {
    let mut merged: BTreeMap<String, String> = BTreeMap::new();
    for layer in layers {
        for (name, text) in *layer {
            let slot = merged.entry(name.clone()).or_default();
            if slot.is_empty() {
                slot.clone_from(&text.value);
            }
        }
    }
    merged
}

/// Configurations of all layers, the strongest first: top-level keys only, a table is replaced whole.
pub(super) fn config(layers: &[&Map<String, Value>]) -> Map<String, Value> {
    let mut merged = Map::new();
    for (key, value) in layers.iter().flat_map(|layer| layer.iter()) {
        if !merged.contains_key(key) {
            merged.insert(key.clone(), value.clone());
        }
    }
    merged
}

/// The group's dependencies, and those of `global` whose module the group does not name.
pub(super) fn dependencies(group: &[Dependency], global: &[Dependency]) -> Vec<Dependency> {
    let by_module = |one: &Dependency| (one.module.clone(), one.clone());
    let merged: BTreeMap<_, _> = global.iter().chain(group).map(by_module).collect();
    merged.into_values().collect()
}

/// Each limit from the run's group, or else from the build group.
pub(super) fn resources(run_group: &Resources, group: &Resources) -> Resources {
    Resources {
        cpu_cores: run_group.cpu_cores.or(group.cpu_cores),
        memory_bytes: run_group.memory_bytes.or(group.memory_bytes),
        pids: run_group.pids.or(group.pids),
    }
}
