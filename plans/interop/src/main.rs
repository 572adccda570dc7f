//! Implementations and versions of libp2p, every pair.
//!
//! Each instance is one implementation. It listens, and with a fresh node for
//! every attempt it dials all listeners, its own included. One of the
//! instances in Rust judges what all of them report: a pair works, or it
//! fails as `known-gaps.toml` says. What is asked of an implementation is
//! small and the same for all; `plans/foreign` has those in other languages.

mod bitswap;
mod case;
mod dial;
mod gaps;
mod judge;
mod listen;
mod punch;
mod stack;

use std::process::ExitCode;

use groundswell_sdk::prelude::*;

use crate::case::Case;

fn main() -> ExitCode {
    let mut cases = Cases::new().manifest(include_str!("../manifest.toml"));
    for case in Case::ALL {
        cases = cases.case(case.name(), move |cx| async move { play(&cx, case).await });
    }
    groundswell_sdk::run(cases)
}

/// Takes part in a case from its begin to its end.
async fn play(cx: &Ctx, case: Case) -> Result {
    let p: case::P = cx.params()?;
    let gaps = gaps::Gaps::parse(include_str!("../known-gaps.toml"))?;
    let listening = listen::start(cx, case, &p).await?;
    let book = cx.exchange("nodes", listening.entry()).await?;
    cx.phase("prepare", listening.prepare(cx, case, &book)).await?;
    let outcomes = cx.phase("dial", async { dial::all(cx, case, &p, &book).await }).await?;
    let told = cx.exchange("outcomes", &outcomes).await?;
    if cx.leads("judge").await? {
        judge::judge(cx, case, &p, &book, &told, &gaps)?;
    }
    listening.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn a_group_that_is_not_what_it_has_to_be_fails() {
        use groundswell_sdk::testing::Local;
        let local = Local::new(2).param("seed", 42).param("implementation", "rust-libp2p-0.1");
        let ended = local.run(|cx| async move { play(&cx, Case::Ping).await }).await;
        assert!(format!("{ended:?}").contains("has to be rust-libp2p-0.1, and"));
    }

    #[tokio::test]
    async fn holes_are_not_punched_without_a_relay() {
        use groundswell_sdk::testing::Local;
        let local = Local::new(2).param("seed", 42).param("variants", r#"["tcp/noise/yamux"]"#);
        let ended = local.run(|cx| async move { play(&cx, Case::HolePunch).await }).await;
        assert!(format!("{ended:?}").contains("no group has the parameter `role"), "{ended:?}");
    }

    #[test]
    fn every_case_of_the_manifest_has_an_implementation() {
        let manifest: toml::Table = toml::from_str(include_str!("../manifest.toml")).unwrap();
        let cases = manifest["testcases"].as_array().unwrap();
        let names: BTreeSet<_> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
        assert_eq!(names, Case::ALL.iter().map(|case| case.name()).collect());
    }

    #[tokio::test]
    async fn rust_gets_along_with_itself() {
        use groundswell_sdk::testing::Local;
        // Without NATs both ends of a hole dial each other at once, which proves nothing.
        for case in Case::ALL.into_iter().filter(|case| *case != Case::HolePunch) {
            let variants = r#"["tcp/noise/yamux","tcp/plaintext/yamux","tcp/noise/mplex"]"#;
            let local = Local::new(2).param("seed", 42).param("variants", variants);
            let local = local.param("nodes", 3).param("blocks", 16).param("block_bytes", 16384);
            local.run(move |cx| async move { play(&cx, case).await }).await.assert_success();
        }
    }
}
