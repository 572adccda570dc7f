//! A Kademlia network whose nodes crash, leave, move and are upgraded.
//!
//! Every case has the same three parts. All instances bring up a network in
//! which the stable ones announce records, and observers look for them without
//! a pause. Nothing else happens for the parameter `calm`; then, for
//! `duration`, faults happen to the churners. At last the observers measure how long the network takes to
//! recover, and what is lost.
//!
//! Faults come from the composition's schedule (crashes, moves, exits,
//! partitions) or, where a node does it to itself (leaving, an upgrade, coming
//! late), from the case. Nobody waits at a barrier once faults have begun:
//! who is down cannot come.

mod churner;
mod observer;
mod stage;

use std::process::ExitCode;

use groundswell_sdk::{Cases, Ctx, Result, run};

use crate::churner::Habit;

fn main() -> ExitCode {
    run(Cases::new()
        .manifest(include_str!("../manifest.toml"))
        .case("crash", struck)
        .case("leave", |cx| play(cx, Habit::Leave))
        .case("addr-change", struck)
        .case("rolling-upgrade", |cx| play(cx, Habit::Upgrade))
        .case("flash-crowd", |cx| play(cx, Habit::ComeLate))
        .case("mass-exit", struck)
        .case("partition-and-churn", struck))
}

/// The cases in which everything comes from the composition's schedule.
async fn struck(cx: Ctx) -> Result {
    play(cx, Habit::Serve).await
}

async fn play(cx: Ctx, habit: Habit) -> Result {
    let stage = stage::set(&cx, habit).await?;
    if cx.role() == "observer" {
        observer::run(&cx, stage).await
    } else {
        churner::run(&cx, stage, habit).await
    }
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;

    fn seven() -> Local {
        let groups = [("bootstrapper", 1), ("observer", 1), ("churner", 3), ("stable", 2)];
        let params = [
            ("replication", "3"),
            ("stagger", "100ms"),
            ("settle", "100ms"),
            ("calm", "500ms"),
            ("duration", "2s"),
            ("window", "1s"),
            ("recovery", "10s"),
            ("pct", "100"),
            ("interval", "500ms"),
            ("downtime", "200ms"),
            ("identity", "new"),
            ("crowd_window", "200ms"),
        ];
        let local = Local::groups(&groups).unshaped();
        params.iter().fold(local, |local, (name, value)| local.param(name, value))
    }

    #[tokio::test]
    async fn nodes_that_leave_come_back_and_the_run_ends() {
        seven().run(|cx| play(cx, Habit::Leave)).await.assert_success();
    }

    #[tokio::test]
    async fn a_crowd_that_comes_late_is_served() {
        seven().run(|cx| play(cx, Habit::ComeLate)).await.assert_success();
    }

    #[tokio::test]
    async fn a_time_without_faults_is_survived() {
        seven().run(struck).await.assert_success();
    }

    #[cfg(all(feature = "libp2p-0_53", feature = "libp2p-0_57"))]
    #[tokio::test]
    async fn nodes_are_upgraded_while_they_serve() {
        seven().run(|cx| play(cx, Habit::Upgrade)).await.assert_success();
    }
}
