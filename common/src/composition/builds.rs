//! What has to be built for a composition, each distinct input once.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{Composition, Group, merge};
use crate::diagnostic::{Diagnostic, Diagnostics, suggest};
use crate::manifest::Manifest;

/// Every builder a composition may name.
pub const BUILDERS: &[&str] = &[
    "docker:cargo",
    "docker:generic",
    "docker:go",
    "docker:image",
    "docker:node",
    "exec:cargo",
    "exec:command",
    "exec:go",
];

/// A module a build replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The module to replace.
    pub module: String,
    /// What replaces it; empty is the module itself.
    pub target: String,
    /// Which version.
    pub version: String,
}

/// What an image is built from, beside the plan's source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildInput {
    /// The builder.
    pub builder: String,
    /// Its configuration: group over global over manifest.
    pub config: Map<String, Value>,
    /// Build tags, sorted.
    pub selectors: Vec<String>,
    /// Replaced modules, by module.
    pub dependencies: Vec<Dependency>,
}

impl BuildInput {
    /// Equal for inputs that make the same image out of the same source.
    #[must_use]
    pub fn key(&self) -> String {
        let mut text = format!("{}\n", Value::from(self.builder.as_str()));
        canonical(&Value::Object(self.config.clone()), &mut text);
        let tags: Vec<_> = self.selectors.iter().map(|tag| Value::from(tag.as_str())).collect();
        canonical(&Value::Array(tags), &mut text);
        for one in &self.dependencies {
            let parts = [one.module.as_str(), one.version.as_str(), one.target.as_str()];
            canonical(&parts.into_iter().map(Value::from).collect(), &mut text);
        }
        HEXLOWER.encode(&Sha256::digest(text.as_bytes()))
    }
}

/// JSON with sorted keys, whatever order the map keeps.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, value) in entries {
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            for value in values {
                canonical(value, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// One build and the groups that use it.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// [`BuildInput::key`].
    pub key: String,
    /// What is built.
    pub input: BuildInput,
    /// The groups that use it.
    pub groups: Vec<String>,
}

/// Everything that is built for a composition, also for groups no run uses.
///
/// # Errors
/// Every builder that is unknown or that the plan does not support.
pub fn build_groups(
    composition: &Composition,
    manifest: &Manifest,
) -> Result<Vec<Build>, Diagnostics> {
    let mut builds: Vec<Build> = Vec::new();
    let mut errors = Vec::new();
    for group in &composition.groups {
        let input = match input_of(composition, manifest, group) {
            Ok(Some(input)) => input,
            Ok(None) => continue,
            Err(found) => {
                errors.push(found);
                continue;
            }
        };
        let (key, id) = (input.key(), group.id.value.clone());
        match builds.iter_mut().find(|build| build.key == key) {
            Some(build) => build.groups.push(id),
            None => builds.push(Build { key, input, groups: vec![id] }),
        }
    }
    if errors.is_empty() { Ok(builds) } else { Err(Diagnostics(errors)) }
}

/// The artifact a group uses without a build.
pub(super) fn artifact_of<'a>(
    composition: &'a Composition,
    group: &'a Group,
) -> Option<&'a String> {
    group.run.artifact.as_ref().or(composition.global.run.artifact.as_ref())
}

/// What a group is built from; nothing when it has an artifact.
pub(super) fn input_of(
    composition: &Composition,
    manifest: &Manifest,
    group: &Group,
) -> Result<Option<BuildInput>, Diagnostic> {
    if artifact_of(composition, group).is_some() {
        return Ok(None);
    }
    let global = &composition.global;
    let Some(builder) = group.builder.as_ref().or(global.builder.as_ref()) else { return Ok(None) };
    let name = builder.value.as_str();
    let error = |message: String, help: String| {
        Err(Diagnostic::error(&composition.source, builder.span.clone(), message, help))
    };
    if !BUILDERS.contains(&name) {
        return error(
            format!("there is no builder `{name}`"),
            suggest(name, BUILDERS.iter().copied()),
        );
    }
    let Some(defaults) = manifest.builders.get(name) else {
        let known = manifest.builders.keys().map(String::as_str);
        return error(
            format!("plan `{}` does not support builder `{name}`", manifest.name),
            format!("{}; builders are listed in its manifest.toml", suggest(name, known)),
        );
    };
    let tags = if group.selectors.is_empty() { &global.selectors } else { &group.selectors };
    let mut selectors = tags.clone();
    selectors.sort();
    Ok(Some(BuildInput {
        builder: name.to_owned(),
        config: merge::config(&[&group.build_config, &global.build_config, defaults]),
        selectors,
        dependencies: merge::dependencies(&group.dependencies, &global.dependencies),
    }))
}
