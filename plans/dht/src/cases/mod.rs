//! The cases of the manifest, one module each.

pub(crate) mod bootstrap;
pub(crate) mod client_modes;
pub(crate) mod closest;
pub(crate) mod load;
pub(crate) mod newcomers;
pub(crate) mod peers;
pub(crate) mod providers;
pub(crate) mod stress;
pub(crate) mod values;

use groundswell_p2p::dht::{Dht, DhtParams};
use groundswell_sdk::{Ctx, Result};

/// Brings a network up: all have joined and settled when it returns.
pub(crate) async fn network(cx: &Ctx) -> Result<Dht> {
    let params: DhtParams = cx.params()?;
    let dht = cx.phase("start", Dht::start(cx, params, "main")).await?;
    cx.phase("join", dht.join(cx)).await?;
    cx.phase("settle", dht.settle(cx)).await?;
    Ok(dht)
}

/// Records the state at the end, and takes the network down once nobody needs
/// it any more.
pub(crate) async fn finish(cx: &Ctx, dht: Dht) -> Result {
    cx.phase("report", dht.report(cx)).await?;
    dht.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::Outcome;
    use groundswell_sdk::testing::Local;

    use super::*;

    /// Nine instances with every role.
    fn nine() -> Local {
        let groups = [
            ("bootstrapper", 1),
            ("provider", 2),
            ("searcher", 2),
            ("newcomer", 1),
            ("load", 1),
            ("passive", 2),
        ];
        let params = [
            ("replication", "4"),
            ("stagger", "100ms"),
            ("settle", "100ms"),
            ("record_seed", "7"),
            ("record_count", "2"),
            ("search_records", "2"),
            ("n_find_peers", "3"),
            ("value_size", "1KiB"),
            ("copies", "1"),
            ("concurrency", "2"),
            ("load_duration", "500ms"),
            ("load_queries", "2"),
        ];
        let local = Local::groups(&groups).unshaped();
        params.iter().fold(local, |local, (name, value)| local.param(name, value))
    }

    #[tokio::test]
    async fn a_network_comes_up_and_everything_in_it_is_found() {
        nine().run(bootstrap::run).await.assert_success();
        nine().run(peers::run).await.assert_success();
        nine().run(providers::run).await.assert_success();
        nine().run(closest::run).await.assert_success();
        nine().run(values::run).await.assert_success();
    }

    #[tokio::test]
    async fn networks_under_load_and_with_newcomers_come_to_their_end() {
        nine().run(stress::run).await.assert_success();
        nine().run(newcomers::run).await.assert_success();
        nine().run(load::run).await.assert_success();
        nine().run(client_modes::run).await.assert_success();
    }

    #[tokio::test]
    async fn a_parameter_that_makes_no_sense_fails_by_name() {
        let outcomes = nine().param("client_mode", "some").run(bootstrap::run).await.0;
        for outcome in outcomes {
            let Outcome::Failure(error) = outcome else { panic!("{outcome:?}") };
            assert!(
                error.contains("`client_mode` is `some`, which is not one of `auto`"),
                "{error}"
            );
        }
    }
}
