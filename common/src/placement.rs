//! What a composition can ask of placement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels a worker has to have: each with one of the values listed for it.
pub type Require = BTreeMap<String, Vec<String>>;

/// What a run asks for as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunPlacement {
    /// Labels that every worker of the run has.
    pub require: Require,
    /// The label over whose values instances are spread evenly; workers without it take none.
    pub spread: Option<String>,
    /// As few workers as possible, or as many; absent is the cluster's choice.
    pub pack: Option<bool>,
    /// The most instances of the run on one worker.
    pub per_worker: Option<u32>,
    /// Its workers run nothing else.
    pub exclusive: bool,
    /// Whether all instances have to be on one worker.
    pub one_worker: bool,
}

/// What a group asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupPlacement {
    /// Labels that every worker of the group has.
    pub require: Require,
    /// Groups of the run that share no worker with this one.
    pub apart_from: Vec<String>,
    /// The most instances of the group on one worker.
    pub per_worker: Option<u32>,
}

/// Whether `labels` are among those that `require` asks for.
#[must_use]
pub fn satisfies(labels: &BTreeMap<String, String>, require: &Require) -> bool {
    require
        .iter()
        .all(|(label, values)| labels.get(label).is_some_and(|value| values.contains(value)))
}

/// What is required, for people: `` `zone` = `a` or `b` and `kind` = `metal` ``.
#[must_use]
pub fn required(require: &Require) -> String {
    let one = |(label, values): (&String, &Vec<String>)| {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        format!("`{label}` = {}", values.join(" or "))
    };
    require.iter().map(one).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_has_to_have_one_of_its_values() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect()
        };
        let require = Require::from([
            ("kind".to_owned(), vec!["metal".to_owned(), "ec2".to_owned()]),
            ("zone".to_owned(), vec!["a".to_owned()]),
        ]);
        assert!(satisfies(&labels(&[("zone", "a"), ("kind", "ec2")]), &require));
        assert!(!satisfies(&labels(&[("zone", "b"), ("kind", "ec2")]), &require));
        assert!(!satisfies(&labels(&[("zone", "a")]), &require));
        assert!(satisfies(&labels(&[]), &Require::new()));
        assert_eq!(required(&require), "`kind` = `metal` or `ec2` and `zone` = `a`");
    }
}
