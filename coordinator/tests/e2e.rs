//! Whole runs: the `coordinator` binary, a real nats-server, real namespaces and containers, plans that
//! nobody wrote for Groundswell's own interfaces.

#[path = "e2e/access.rs"]
mod access;
#[path = "e2e/adoption.rs"]
mod adoption;
#[path = "e2e/apart.rs"]
mod apart;
#[path = "e2e/bad_network.rs"]
mod bad_network;
#[path = "e2e/builds.rs"]
mod builds;
#[path = "e2e/chaos/mod.rs"]
mod chaos;
#[path = "e2e/cluster.rs"]
mod cluster;
#[path = "e2e/datasets.rs"]
mod datasets;
#[path = "e2e/egress.rs"]
mod egress;
#[path = "e2e/endings.rs"]
mod endings;
#[path = "../../common/tests/fake_store/mod.rs"]
#[expect(dead_code, reason = "the shipper's own tests look at each request")]
mod fake_store;
#[path = "e2e/harness.rs"]
mod harness;
#[path = "e2e/hostile.rs"]
mod hostile;
#[path = "e2e/hosts.rs"]
mod hosts;
#[path = "e2e/http.rs"]
mod http;
#[path = "e2e/isolation.rs"]
mod isolation;
#[path = "e2e/javascript.rs"]
mod javascript;
#[path = "e2e/kernel.rs"]
mod kernel;
#[path = "e2e/kpis.rs"]
mod kpis;
#[path = "e2e/leftovers.rs"]
mod leftovers;
#[path = "e2e/links.rs"]
mod links;
#[path = "e2e/metrics.rs"]
mod metrics;
#[path = "e2e/narrative.rs"]
mod narrative;
#[path = "e2e/nat.rs"]
mod nat;
#[path = "e2e/plans.rs"]
mod plans;
#[path = "e2e/repeat.rs"]
mod repeat;
#[path = "e2e/rootless.rs"]
mod rootless;
#[path = "e2e/sdk.rs"]
mod sdk;
#[path = "e2e/services.rs"]
mod services;
#[path = "e2e/stack.rs"]
mod stack;
#[path = "e2e/trouble.rs"]
mod trouble;
