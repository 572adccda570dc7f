//! The environment of an instance: Testground's contract, complete, on every runtime.
//!
//! The Rust SDK refuses to start when a variable is missing, so the whole union is always set.

use std::collections::BTreeMap;

use crate::messages::{Assignment, InstancePlace};

/// The environment of one instance. The contract's variables win over those of the composition.
///
/// # Panics
/// When the place names a group the assignment does not have.
#[must_use]
pub fn instance_env(assignment: &Assignment, place: InstancePlace) -> BTreeMap<String, String> {
    let group = &assignment.groups[usize::from(place.group)];
    let mut env = group.env.clone();
    for (label, port) in &assignment.options.exposed_ports {
        env.insert(format!("{}_PORT", label.to_uppercase()), port.clone());
    }
    if !assignment.options.log_level.is_empty() {
        env.insert("LOG_LEVEL".to_owned(), assignment.options.log_level.clone());
    }
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("TEST_PLAN", plain_name(&assignment.plan));
    set("TEST_CASE", plain_name(&assignment.case));
    set("TEST_RUN", assignment.run.to_string());
    set("TEST_REPO", String::new());
    set("TEST_BRANCH", String::new());
    set("TEST_TAG", String::new());
    set("TEST_GROUP_ID", group.id.clone());
    set("TEST_GROUP_INSTANCE_COUNT", group.instances.to_string());
    set("TEST_INSTANCE_COUNT", assignment.total_instances.to_string());
    set("TEST_INSTANCE_ROLE", String::new());
    set("TEST_INSTANCE_PARAMS", packed(&group.params));
    set("TEST_CAPTURE_PROFILES", packed(&group.profiles));
    set("TEST_SIDECAR", "true".to_owned());
    set("TEST_SUBNET", assignment.subnet.to_string());
    set("TEST_START_TIME", assignment.start_time.clone());
    set("TEST_OUTPUTS_PATH", "/outputs".to_owned());
    set("TEST_TEMP_PATH", "/temp".to_owned());
    set("TEST_DISABLE_METRICS", assignment.disable_metrics.to_string());
    set("HOSTNAME", assignment.hostname(place.id));
    set("SYNC_SERVICE_HOST", "testground-sync-service".to_owned());
    set("SYNC_SERVICE_PORT", "5050".to_owned());
    set("REDIS_HOST", "testground-redis".to_owned());
    set("INFLUXDB_URL", "http://127.0.0.1:8086".to_owned());
    set("ADDITIONAL_HOSTS", assignment.options.additional_hosts.join(","));
    env
}

/// A plan's or case's name as instances see it: without slashes.
#[must_use]
pub fn plain_name(name: &str) -> String {
    name.replace('/', "-")
}

/// A map packed into one variable, `a=1|b=2`, sorted. There is no escaping; compositions with `|` in a
/// value are refused before.
#[must_use]
pub fn packed(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Attempt, InstanceId};
    use crate::messages::{
        GroupSpec, ImageKind, ImageRef, Limits, Resources, RunOptions, RuntimeKind,
    };

    fn assignment() -> Assignment {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        Assignment {
            run: "c8k3vmlrirtj2p8lcec0".parse().expect("a run id"),
            attempt: Attempt::FIRST,
            plan: "testground/mesh".to_owned(),
            case: "dial".to_owned(),
            runtime: RuntimeKind::Netns,
            total_instances: 5,
            subnet: "16.3.0.0/16".parse().expect("a subnet"),
            start_time: "2026-11-22T10:00:00Z".to_owned(),
            disable_metrics: false,
            seed: 1,
            groups: vec![GroupSpec {
                id: "g".to_owned(),
                instances: 5,
                image: ImageRef {
                    kind: ImageKind::Bundle,
                    digest: "sha256:0".to_owned(),
                    size: 0,
                    command: Vec::new(),
                    workdir: String::new(),
                    env: BTreeMap::new(),
                },
                params: map(&[("peers", "16"), ("latency", "100ms")]),
                profiles: BTreeMap::new(),
                env: map(&[("MINE", "1"), ("TEST_RUN", "forged")]),
                resources: Resources::default(),
            }],
            share: Vec::new(),
            workers: Vec::new(),
            options: RunOptions {
                exposed_ports: map(&[("debug", "6060")]),
                ..RunOptions::default()
            },
            limits: Limits::default(),
            trace: BTreeMap::new(),
        }
    }

    #[test]
    fn the_whole_contract_is_set_and_wins() {
        let place = InstancePlace { id: InstanceId(3), group: 0, in_group: 3 };
        let env = instance_env(&assignment(), place);
        let tests = env.keys().filter(|name| name.starts_with("TEST_")).count();
        assert_eq!(tests, 18);
        for name in ["HOSTNAME", "INFLUXDB_URL", "REDIS_HOST", "SYNC_SERVICE_HOST"] {
            assert!(!env[name].is_empty(), "{name}");
        }
        assert_eq!(env["TEST_PLAN"], "testground-mesh");
        assert_eq!(env["TEST_RUN"], "c8k3vmlrirtj2p8lcec0");
        assert_eq!(env["TEST_INSTANCE_PARAMS"], "latency=100ms|peers=16");
        assert_eq!(env["DEBUG_PORT"], "6060");
        assert_eq!(env["MINE"], "1");
        assert_eq!(env["HOSTNAME"], "i3-2p8lcec0");
    }
}
