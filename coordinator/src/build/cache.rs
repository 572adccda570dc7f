//! What a build's input is, and which image it gave.
//!
//! ```text
//! builds/<key>.json             the image of an input
//! builds/<key>.made.json        what else is known of that build
//! builds/<key>.log              what it printed
//! builds/of-blob/<hex>.json     the image whose blob has this digest, for `run.artifact`
//! ```

use groundswell_common::builds::BaseImage;
use groundswell_common::messages::ImageRef;
use groundswell_common::objects::{Objects, blob_key, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{BuildError, BuildRequest, blocking, host, tree};

/// Counts up when builders give other images for the same input.
const VERSION: u32 = 1;

/// The key of a build: a digest of everything the image depends on. `extra` is what the builder adds, a
/// toolchain's version for example.
pub(super) async fn key(request: &BuildRequest, extra: &str) -> Result<String, BuildError> {
    let root = request.source.clone();
    let tree = blocking("read the plan's source", move || tree::tree_digest(&root)).await?;
    Ok(key_of(request, &tree, extra))
}

fn key_of(request: &BuildRequest, tree: &str, extra: &str) -> String {
    let mut selectors = request.selectors.clone();
    selectors.sort();
    let mut dependencies = request.dependencies.clone();
    dependencies.sort();
    let input = json!({
        "version": VERSION,
        "builder": request.builder,
        "config": Value::Object(request.config.clone()),
        "selectors": selectors,
        "dependencies": dependencies,
        "tree": tree,
        "extra": extra,
    });
    digest(canonical(&input).as_bytes()).trim_start_matches("sha256:").to_owned()
}

/// JSON with sorted keys, whatever order a map keeps.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|entry| entry.0);
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(key, value)| format!("{}:{}", json!(key), canonical(value)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// The image an input has given before, as long as its blob is still there.
pub(super) async fn find(objects: &Objects, key: &str) -> Result<Option<ImageRef>, BuildError> {
    read(objects, &format!("builds/{key}.json")).await
}

/// The image whose blob has `digest`.
pub(super) async fn by_digest(
    objects: &Objects,
    digest: &str,
) -> Result<Option<ImageRef>, BuildError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) => read(objects, &of_blob(hex)).await,
        None => Ok(None),
    }
}

/// Writes down which image an input gave.
pub(super) async fn remember(
    objects: &Objects,
    key: &str,
    image: &ImageRef,
) -> Result<(), BuildError> {
    let text = serde_json::to_vec(image).map_err(host("write down the built image"))?;
    let hex = image.digest.trim_start_matches("sha256:");
    objects.put(&of_blob(hex), text.clone()).await?;
    objects.put(&format!("builds/{key}.json"), text).await?;
    Ok(())
}

/// What is known of a build beside its image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Known {
    /// What it was built on.
    pub(super) base_images: Vec<BaseImage>,
    /// Its log is kept.
    pub(super) logged: bool,
}

/// Where the log of the build of an input, `sha256:…`, is kept.
pub(super) fn log_key(input: &str) -> String {
    format!("builds/{}.log", input.trim_start_matches("sha256:"))
}

/// Writes down what else is known of a build.
pub(super) async fn remember_more(
    objects: &Objects,
    key: &str,
    known: &Known,
) -> Result<(), BuildError> {
    let text = serde_json::to_vec(known).map_err(host("write down what was built"))?;
    Ok(objects.put(&format!("builds/{key}.made.json"), text).await?)
}

/// What else is known of a build.
pub(super) async fn known(objects: &Objects, key: &str) -> Result<Known, BuildError> {
    let text = objects.get(&format!("builds/{key}.made.json")).await?;
    // What cannot be read is of another version, and says nothing.
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
}

fn of_blob(hex: &str) -> String {
    format!("builds/of-blob/{hex}.json")
}

async fn read(objects: &Objects, key: &str) -> Result<Option<ImageRef>, BuildError> {
    let Some(text) = objects.get(key).await? else { return Ok(None) };
    // An entry that cannot be read is of another version; building again replaces it.
    let Ok(image) = serde_json::from_slice::<ImageRef>(&text) else { return Ok(None) };
    Ok(objects.contains(&blob_key(&image.digest)).await?.then_some(image))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use groundswell_common::messages::RuntimeKind;

    use super::*;
    use crate::build::Dependency;

    fn request() -> BuildRequest {
        let Value::Object(config) = json!({"path": "a", "env": {"A": "1", "B": "2"}}) else {
            unreachable!("it is an object")
        };
        BuildRequest {
            builder: "exec:cargo".into(),
            config,
            selectors: vec!["x".into(), "y".into()],
            dependencies: Vec::new(),
            source: PathBuf::new(),
            plan: "mesh".into(),
            runtime: RuntimeKind::Netns,
            no_cache: false,
        }
    }

    #[test]
    fn the_key_follows_from_what_matters_and_from_nothing_else() {
        let base = key_of(&request(), "tree", "rustc 1");
        let mut same = request();
        same.selectors.reverse();
        same.source = PathBuf::from("/elsewhere");
        same.no_cache = true;
        same.runtime = RuntimeKind::Docker;
        assert_eq!(key_of(&same, "tree", "rustc 1"), base);

        let mut other = request();
        other.dependencies.push(Dependency {
            module: "m".into(),
            target: "t".into(),
            version: "v1".into(),
        });
        let replaced = key_of(&other, "tree", "rustc 1");
        other.dependencies[0].target = "u".into();
        let keys = [
            base,
            replaced,
            key_of(&other, "tree", "rustc 1"),
            key_of(&request(), "other tree", "rustc 1"),
            key_of(&request(), "tree", "rustc 2"),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn the_order_of_keys_does_not_matter() {
        let one = canonical(&json!({"b": [1, {"d": null, "c": "x"}], "a": true}));
        assert_eq!(one, r#"{"a":true,"b":[1,{"c":"x","d":null}]}"#);
    }
}
