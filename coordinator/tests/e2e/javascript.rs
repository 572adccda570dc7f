//! Testground's cases about the data network on the published JavaScript SDK, unchanged.

use crate::harness::{Composition, Home};
use crate::hosts::World;

const PLAN: &str = "network-js";
const THREE: [&str; 2] = ["--workers", "3"];

#[test]
fn ping_pong_measures_the_latency_it_asked_for_at_the_address_it_asked_for() {
    let home = Home::new();
    for composition in
        [Composition::netns(PLAN, "ping-pong", 2), Composition::docker(PLAN, "ping-pong", 2)]
    {
        home.submit(&composition, &[]).passes(2);
        home.submit(&composition, &THREE).passes(2);
        let workers = home.status()["workers"].as_array().map(Vec::len);
        assert_eq!(workers, Some(2), "one instance on each");
    }
}

#[test]
fn regions_that_are_split_do_not_reach_each_other() {
    let home = Home::new();
    for case in ["splitbrain-accept", "splitbrain-reject", "splitbrain-drop"] {
        home.submit(&Composition::netns(PLAN, case, 6), &[]).passes(6);
        home.submit(&Composition::docker(PLAN, case, 6), &[]).passes(6);
        home.submit(&Composition::netns(PLAN, case, 6), &THREE).passes(6);
        home.submit(&Composition::docker(PLAN, case, 6), &THREE).passes(6);
    }
}

#[test]
fn instances_use_the_data_network_and_no_other() {
    let home = Home::new();
    home.submit(&Composition::netns(PLAN, "uses-data-network", 4), &[]).passes(4);
    home.submit(&Composition::docker(PLAN, "uses-data-network", 3), &[]).passes(3);
    home.submit(&Composition::netns(PLAN, "uses-data-network", 6), &THREE).passes(6);
}

#[test]
fn traffic_is_allowed_and_blocked_as_the_plan_asks() {
    let home = Home::new();
    // Builds it, while there are registries.
    home.submit(&Composition::netns(PLAN, "uses-data-network", 2), &[]).passes(2);
    let world = World::new();
    world.serve();
    let group = "run = { test_params = { url = \"http://203.0.113.2/\" } }";
    for case in ["traffic-allowed", "traffic-blocked"] {
        let netns = Composition { group, ..Composition::netns(PLAN, case, 2) };
        world.here(|| home.submit(&netns, &[])).passes(2);
        let docker = Composition { group, ..Composition::docker(PLAN, case, 2) };
        world.here(|| home.submit(&docker, &[])).passes(2);
    }
}
