//! Every case with its instances as tasks, on a network that is not shaped.

use std::future::Future;

use groundswell_sdk::testing::Local;
use groundswell_sdk::{Ctx, Result};

use super::{compat, fuzz, gc, rarest, selection, sparse, spread, transfer, waves};

/// The manifest's parameters, small.
fn local(groups: &[(&str, u32)]) -> Local {
    let params = [
        ("seed", "42"),
        ("timeout", "40s"),
        ("run_count", "1"),
        ("run_timeout", "20s"),
        ("leech_count", "1"),
        ("passive_count", "0"),
        ("seeder_pct", "0"),
        ("file_size", "[\"256KiB\"]"),
        ("block_size", "16KiB"),
        ("bstore_delay_ms", "0"),
        ("request_stagger", "0s"),
        ("latency_ms", "[0]"),
        ("jitter_pct", "0"),
        ("bandwidth_mbit", "[0]"),
        ("max_connection_rate", "100"),
        ("window", "32"),
        ("policy", "session"),
        ("bitswap_version", "1.2.0"),
        ("input_data", ""),
        ("settle", "0s"),
        ("cohorts", "false"),
        ("wave_size", "1"),
        ("wave_interval", "200ms"),
        ("discover_after", "200ms"),
        ("gc_interval", "20ms"),
        ("gc_fraction", "20"),
        ("random_disconnects_fq", "50"),
    ];
    params
        .iter()
        .fold(Local::groups(groups).unshaped(), |run, (name, value)| run.param(name, value))
}

async fn passes<F: Future<Output = Result> + Send + 'static>(run: Local, case: fn(Ctx) -> F) {
    run.run(case).await.assert_success();
}

const TWO_AND_TWO: &[(&str, u32)] = &[("seed", 2), ("leech", 2)];

#[tokio::test]
async fn files_are_transferred_the_same_and_different_ones() {
    passes(local(TWO_AND_TWO), transfer::same).await;
    passes(local(TWO_AND_TWO), transfer::different).await;
    passes(local(TWO_AND_TWO).param("policy", "broadcast"), transfer::same).await;
}

#[tokio::test]
async fn roles_follow_from_counts_and_shares_when_groups_do_not_name_them() {
    let counts = local(&[("single", 4)]).param("leech_count", 2).param("passive_count", 1);
    passes(counts, transfer::same).await;
    passes(local(&[("single", 4)]).param("seeder_pct", 25), transfer::same).await;
}

#[tokio::test]
async fn files_spread_to_all_and_in_cohorts() {
    passes(local(&[("seed", 1), ("leech", 4)]), spread::run).await;
    let chain = local(&[("seed", 1), ("leech", 4)]).param("cohorts", true);
    passes(chain, spread::run).await;
}

#[tokio::test]
async fn leeches_come_in_waves() {
    passes(local(&[("seed", 1), ("leech", 3)]), waves::run).await;
}

#[tokio::test]
async fn the_dht_finds_what_neighbours_lack() {
    let run = local(&[("seed", 1), ("passive", 3), ("leech", 2)]);
    passes(run.param("max_connection_rate", 20), sparse::run).await;
}

#[tokio::test]
async fn a_collector_does_not_fail_a_fetch() {
    passes(local(TWO_AND_TWO), gc::run).await;
}

#[tokio::test]
async fn broken_connections_do_not_fail_a_fetch() {
    passes(local(TWO_AND_TWO), fuzz::run).await;
}

#[tokio::test]
async fn the_rare_block_is_found() {
    passes(local(&[("seed", 2), ("rare", 1), ("leech", 2)]), rarest::run).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_a_way_out() {
    for (name, value, says) in [
        ("block_size", "0", "`block_size` is 0; take 256KiB"),
        ("policy", "shout", "`policy` is `shout`; there are `session` and `broadcast`"),
        ("bitswap_version", "2", "`bitswap_version` is `2`; there are `1.1.0` and `1.2.0`"),
        ("input_data", "nowhere", "`input_data` is `nowhere`, which is neither a dataset"),
    ] {
        let outcomes = local(&[("seed", 1), ("leech", 1)]).param("timeout", "5s");
        let outcomes = outcomes.param(name, value).run(transfer::same).await.0;
        let told = format!("{outcomes:?}");
        assert!(told.contains(says), "{told}");
    }
    let alike = local(TWO_AND_TWO).param("timeout", "5s").run(selection::run).await.0;
    assert!(format!("{alike:?}").contains("give groups of seeds different ones"), "{alike:?}");
    let young = local(TWO_AND_TWO).param("timeout", "5s").run(compat::run).await.0;
    assert!(format!("{young:?}").contains("`bitswap_version` 1.1.0"), "{young:?}");
    let nobody = local(&[("seed", 2)]).param("timeout", "5s").run(transfer::same).await.0;
    assert!(format!("{nobody:?}").contains("no instance is a Leech"), "{nobody:?}");
}
