//! The source of the SDK for plans in Rust, to be written into new plans.

macro_rules! source {
    ($path:literal) => {
        ($path, include_str!(concat!("../../../plans/sdk/src/", $path)))
    };
}

/// Paths below `src`, and texts.
pub(crate) const SDK_SOURCE: &[(&str, &str)] = &[
    source!("check.rs"),
    source!("context.rs"),
    source!("env.rs"),
    source!("events.rs"),
    source!("instance.rs"),
    source!("lib.rs"),
    source!("lines.rs"),
    source!("local/cut_tests.rs"),
    source!("local/mod.rs"),
    source!("local/processes.rs"),
    source!("local/service.rs"),
    source!("local/state.rs"),
    source!("local/testing.rs"),
    source!("metrics/mod.rs"),
    source!("metrics/observations.rs"),
    source!("network.rs"),
    source!("outcome.rs"),
    source!("panics.rs"),
    source!("params.rs"),
    source!("rng.rs"),
    source!("run.rs"),
    source!("sampler.rs"),
    source!("sync/barrier.rs"),
    source!("sync/calls.rs"),
    source!("sync/connection.rs"),
    source!("sync/exchange.rs"),
    source!("sync/mod.rs"),
    source!("sync/subscription.rs"),
    source!("sync/wire.rs"),
    source!("units.rs"),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};

    use super::*;

    fn sdk() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../plans/sdk")
    }

    fn files(dir: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in dir.read_dir().unwrap().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                files(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_sdk_is_here() {
        let mut there = BTreeSet::new();
        files(&sdk().join("src"), "", &mut there);
        let here: BTreeSet<String> =
            SDK_SOURCE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(here, there);
    }

    /// The dependencies of a manifest, each as a table; those of the workspace are filled in.
    fn dependencies(
        manifest: &toml::Table,
        workspace: &toml::Table,
    ) -> BTreeMap<String, toml::Table> {
        let table = |value: &toml::Value| {
            let version = || toml::Table::from_iter([("version".to_owned(), value.clone())]);
            value.as_table().cloned().unwrap_or_else(version)
        };
        let named = manifest["dependencies"].as_table().unwrap().iter();
        named
            .map(|(name, own)| {
                let mut own = table(own);
                if own.remove("workspace").is_some() {
                    let mut shared = table(&workspace[name]);
                    let mut features: Vec<toml::Value> = Vec::new();
                    for from in [&shared, &own] {
                        features.extend(
                            from.get("features")
                                .and_then(|f| f.as_array())
                                .into_iter()
                                .flatten()
                                .cloned(),
                        );
                    }
                    shared.extend(own);
                    if !features.is_empty() {
                        shared.insert("features".to_owned(), features.into());
                    }
                    own = shared;
                }
                (name.clone(), own)
            })
            .collect()
    }

    #[test]
    fn its_manifest_in_a_new_plan_names_the_same_dependencies() {
        let read =
            |path: PathBuf| std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
        let workspace = read(sdk().join("../Cargo.toml"));
        let shared = workspace["workspace"]["dependencies"].as_table().unwrap();
        let template: toml::Table =
            include_str!("../templates/of-rust/sdk.toml.template").parse().unwrap();
        let own = dependencies(&read(sdk().join("Cargo.toml")), shared);
        assert_eq!(dependencies(&template, shared), own);
    }
}
