//! The environment of an instance: the contract every Testground SDK relies on.

use std::collections::BTreeMap;

use crate::messages::{Assignment, InstancePlace};

/// Joins a map the way the SDKs read it: `key=value` pairs, sorted, with `|` between. There is no escaping.
#[must_use]
pub fn pack_params(params: &BTreeMap<String, String>) -> String {
    params.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("|")
}

/// A name as instances see it: `/` becomes `-`.
#[must_use]
pub fn contract_name(name: &str) -> String {
    name.replace('/', "-")
}

/// Every variable of one instance. Those of the contract win over the group's, the group's over the image's.
#[must_use]
pub fn instance_env(assignment: &Assignment, place: InstancePlace) -> BTreeMap<String, String> {
    let group = &assignment.groups[usize::from(place.group)];
    let options = &assignment.options;
    let mut env = group.image.env.clone();
    env.extend(group.env.clone());
    let mut set = |key: &str, value: String| env.insert(key.to_owned(), value);

    set("TEST_PLAN", contract_name(&assignment.plan));
    set("TEST_CASE", contract_name(&assignment.case));
    set("TEST_RUN", assignment.run.to_string());
    for empty in ["TEST_REPO", "TEST_BRANCH", "TEST_TAG", "TEST_INSTANCE_ROLE"] {
        set(empty, String::new());
    }
    set("TEST_GROUP_ID", group.id.clone());
    set("TEST_GROUP_INSTANCE_COUNT", group.instances.to_string());
    set("TEST_INSTANCE_COUNT", assignment.total_instances.to_string());
    set("TEST_INSTANCE_PARAMS", pack_params(&group.params));
    set("TEST_CAPTURE_PROFILES", pack_params(&group.profiles));
    // The Rust SDK panics without it, and the worker does play the sidecar's part.
    set("TEST_SIDECAR", "true".to_owned());
    match assignment.nat(place) {
        None => set("TEST_SUBNET", assignment.subnet.to_string()),
        Some(nat) => {
            // SDKs look for the interface whose address is in it.
            set("TEST_SUBNET", nat.lan().to_string());
            set("GROUNDSWELL_RUN_SUBNET", assignment.subnet.to_string())
        }
    };
    set("TEST_START_TIME", assignment.start_time.clone());
    set("TEST_OUTPUTS_PATH", "/outputs".to_owned());
    set("TEST_TEMP_PATH", "/temp".to_owned());
    set("TEST_DISABLE_METRICS", assignment.disable_metrics.to_string());

    set("GROUNDSWELL_INSTANCE", place.id.to_string());
    set("GROUNDSWELL_GROUP_INSTANCE", place.in_group.to_string());
    set("GROUNDSWELL_SEED", assignment.seed.to_string());
    set("HOSTNAME", assignment.hostname(place.id));
    set("INFLUXDB_URL", "http://127.0.0.1:8086".to_owned());
    set("REDIS_HOST", "testground-redis".to_owned());
    set("SYNC_SERVICE_HOST", "testground-sync-service".to_owned());
    set("SYNC_SERVICE_PORT", "5050".to_owned());
    set("ADDITIONAL_HOSTS", options.additional_hosts.join(","));
    if !options.log_level.is_empty() {
        set("LOG_LEVEL", options.log_level.clone());
    }
    if !group.datasets.is_empty() {
        let paths: BTreeMap<&str, &str> =
            group.datasets.iter().map(|one| (one.name.as_str(), one.path.as_str())).collect();
        set("GROUNDSWELL_DATASETS", serde_json::json!(paths).to_string());
    }
    for (label, port) in &options.exposed_ports {
        set(&format!("{}_PORT", label.to_uppercase()), port.clone());
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::DatasetMount;
    use crate::ids::{Attempt, InstanceId};
    use crate::messages::{
        GroupSpec, ImageKind, ImageRef, Limits, Resources, RunOptions, RuntimeKind,
    };
    use crate::nat::{NatKind, NatLayer, NatPlan, NatSpec};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn assignment() -> Assignment {
        let image = ImageRef {
            kind: ImageKind::Bundle,
            digest: String::new(),
            size: 0,
            command: Vec::new(),
            workdir: String::new(),
            env: map(&[("A", "image"), ("B", "image")]),
        };
        let group = GroupSpec {
            id: "dialers".to_owned(),
            instances: 2,
            image,
            params: map(&[("b", "2"), ("a", "[1,2]")]),
            profiles: map(&[("cpu", "x")]),
            env: map(&[("B", "group"), ("TEST_RUN", "forged")]),
            resources: Resources::default(),
            egress: Default::default(),
            datasets: Vec::new(),
        };
        Assignment {
            run: "c8k3vmlrirtj2p8lcec0".parse().expect("a valid id"),
            attempt: Attempt::FIRST,
            plan: "libp2p/mesh".to_owned(),
            case: "dial".to_owned(),
            runtime: RuntimeKind::Netns,
            total_instances: 5,
            subnet: "16.3.0.0/16".parse().expect("a valid subnet"),
            start_time: "2026-01-02T03:04:05Z".to_owned(),
            disable_metrics: false,
            seed: 1,
            groups: vec![group],
            network: Default::default(),
            share: Vec::new(),
            peers: Vec::new(),
            network_key: 0,
            overlay_secret: None,
            workers: Vec::new(),
            options: RunOptions {
                log_level: "debug".to_owned(),
                exposed_ports: map(&[("pprof", "6060")]),
                ..RunOptions::default()
            },
            limits: Limits::default(),
            source: Default::default(),
            trace: BTreeMap::new(),
        }
    }

    #[test]
    fn an_instance_gets_the_whole_contract() {
        let place = InstancePlace { id: InstanceId(3), group: 0, in_group: 1 };
        let env = instance_env(&assignment(), place);
        let lines: Vec<_> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @"
        A=image
        ADDITIONAL_HOSTS=
        B=group
        GROUNDSWELL_GROUP_INSTANCE=1
        GROUNDSWELL_INSTANCE=3
        GROUNDSWELL_SEED=1
        HOSTNAME=i3-2p8lcec0
        INFLUXDB_URL=http://127.0.0.1:8086
        LOG_LEVEL=debug
        PPROF_PORT=6060
        REDIS_HOST=testground-redis
        SYNC_SERVICE_HOST=testground-sync-service
        SYNC_SERVICE_PORT=5050
        TEST_BRANCH=
        TEST_CAPTURE_PROFILES=cpu=x
        TEST_CASE=dial
        TEST_DISABLE_METRICS=false
        TEST_GROUP_ID=dialers
        TEST_GROUP_INSTANCE_COUNT=2
        TEST_INSTANCE_COUNT=5
        TEST_INSTANCE_PARAMS=a=[1,2]|b=2
        TEST_INSTANCE_ROLE=
        TEST_OUTPUTS_PATH=/outputs
        TEST_PLAN=libp2p-mesh
        TEST_REPO=
        TEST_RUN=c8k3vmlrirtj2p8lcec0
        TEST_SIDECAR=true
        TEST_START_TIME=2026-01-02T03:04:05Z
        TEST_SUBNET=16.3.0.0/16
        TEST_TAG=
        TEST_TEMP_PATH=/temp
        ");
    }

    #[test]
    fn behind_a_nat_the_subnet_is_the_private_one() {
        let lan = "192.168.1.0/24".parse().expect("a network");
        let spec = NatSpec::new(NatKind::Symmetric, lan);
        let nat = NatPlan { layers: vec![NatLayer { spec, members: 2 }] };
        let mut assignment = assignment();
        assignment.network.nats = vec![Some(nat)];
        let place = InstancePlace { id: InstanceId(3), group: 0, in_group: 1 };
        let env = instance_env(&assignment, place);
        assert_eq!(env["TEST_SUBNET"], "192.168.1.0/24");
        assert_eq!(env["GROUNDSWELL_RUN_SUBNET"], "16.3.0.0/16");
        assert_eq!(assignment.front(place), InstanceId(2));
    }

    #[test]
    fn an_instance_is_told_where_its_datasets_are() {
        let place = InstancePlace { id: InstanceId(3), group: 0, in_group: 1 };
        let mut assignment = assignment();
        assert!(!instance_env(&assignment, place).contains_key("GROUNDSWELL_DATASETS"));
        let mount = |name: &str, path: &str| DatasetMount {
            name: name.to_owned(),
            path: path.to_owned(),
            manifest: "sha256:0".to_owned(),
            bytes: 1,
        };
        assignment.groups[0].datasets = vec![mount("b", "/data/b"), mount("a", "/datasets/a")];
        let env = instance_env(&assignment, place);
        assert_eq!(env["GROUNDSWELL_DATASETS"], r#"{"a":"/datasets/a","b":"/data/b"}"#);
    }

    #[test]
    fn packing_is_sorted_and_empty_for_nothing() {
        assert_eq!(pack_params(&map(&[("z", "1"), ("a", "2")])), "a=2|z=1");
        assert_eq!(pack_params(&BTreeMap::new()), "");
    }
}
