//! Whole runs: the `coordinator` binary, a real nats-server, real namespaces and containers, plans that
//! nobody wrote for Groundswell's own interfaces.

#[path = "e2e/cluster.rs"]
mod cluster;
#[path = "e2e/egress.rs"]
mod egress;
#[path = "e2e/endings.rs"]
mod endings;
#[path = "e2e/harness.rs"]
mod harness;
#[path = "e2e/kernel.rs"]
mod kernel;
#[path = "e2e/leftovers.rs"]
mod leftovers;
#[path = "e2e/links.rs"]
mod links;
#[path = "e2e/nat.rs"]
mod nat;
#[path = "e2e/plans.rs"]
mod plans;
#[path = "e2e/services.rs"]
mod services;
#[path = "e2e/stack.rs"]
mod stack;
#[path = "e2e/trouble.rs"]
mod trouble;
