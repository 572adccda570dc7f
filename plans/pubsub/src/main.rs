//! Gossipsub under load and attack.
//!
//! Publishers and lurkers make up an honest network; Sybils join it and, from
//! some moment on, do not do their part. A case says when Sybils join, whom
//! they dial and what they pass on; see [`scenario`]. The honest nodes measure
//! what becomes of their messages and of their meshes.

mod honest;
mod message;
mod nodes;
mod params;
mod play;
mod receipts;
mod report;
mod scenario;
mod sybil;
mod watch;
mod world;

use std::process::ExitCode;

use groundswell_sdk::prelude::*;

use crate::scenario::Scenario;

fn main() -> ExitCode {
    let mut cases = Cases::new().manifest(include_str!("../manifest.toml"));
    for name in scenario::NAMES {
        cases = cases.case(name, move |cx| async move {
            let scenario = Scenario::named(name).ok_or("a case that is not a scenario")?;
            play::play(&cx, scenario).await
        });
    }
    groundswell_sdk::run(cases)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use groundswell_sdk::Params;

    use super::*;
    use crate::params::P;

    #[test]
    fn every_case_of_the_manifest_is_a_scenario_with_parameters_that_are_understood() {
        let manifest: toml::Table = toml::from_str(include_str!("../manifest.toml")).unwrap();
        let mut names = BTreeSet::new();
        for case in manifest["testcases"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            names.insert(name);
            let declared = case["params"].as_table().unwrap().iter();
            let defaults = declared
                .filter_map(|(name, param)| Some((name.clone(), text(param.get("default")?))));
            // What the SDK adds: the seed of the run.
            let seed = [("seed".to_owned(), "42".to_owned())];
            let params: P = defaults.chain(seed).collect::<Params>().read().unwrap();
            params.check().unwrap();
        }
        assert_eq!(names, scenario::NAMES.iter().copied().collect());
    }

    fn text(value: &toml::Value) -> String {
        match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(yes) => yes.to_string(),
            other @ (toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_)) => {
                panic!("{other:?} is no value of a parameter")
            }
        }
    }
}
