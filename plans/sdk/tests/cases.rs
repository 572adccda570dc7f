//! Cases as a plan's author writes them, all instances in this process.

use std::collections::BTreeSet;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use groundswell_sdk::testing::Local;
use groundswell_sdk::{NetworkError, Outcome, SyncError};
use serde::Deserialize;

#[tokio::test]
async fn everybody_learns_everybodys_value_in_the_order_of_the_instances() {
    async fn case(cx: Ctx) -> Result {
        let all = cx.exchange("names", &format!("{}-{}", cx.group(), cx.group_index())).await?;
        let names: Vec<_> = all.iter().map(|member| member.value.as_str()).collect();
        ensure!(names == ["a-0", "a-1", "b-0"], "{names:?}");
        let own = cx.exchange("names", &cx.group().to_owned()).group().await?;
        ensure!(own.len() == cx.env().group_instances as usize, "{own:?}");
        Ok(())
    }
    Local::groups(&[("a", 2), ("b", 1)]).run(case).await.assert_success();
}

#[tokio::test]
async fn numbers_leaders_and_barriers_agree() {
    async fn case(cx: Ctx) -> Result {
        let mine = (cx.seq(), cx.group_seq(), cx.leads("x").await?, cx.leads_group("y").await?);
        let all = cx.exchange("numbers", &mine).await?;
        let seqs: BTreeSet<u64> = all.iter().map(|member| member.value.0).collect();
        ensure!(seqs == BTreeSet::from([1, 2, 3, 4]), "{seqs:?}");
        ensure!(all.iter().filter(|member| member.value.2).count() == 1, "one leads");
        ensure!(all.iter().filter(|member| member.value.3).count() == 2, "one in each group");
        cx.signal_and_wait("here").timeout(Duration::from_secs(20)).await?;
        cx.signal_and_wait("ours").group().await?;
        cx.phase("work", async { Ok(()) }).await
    }
    Local::groups(&[("a", 2), ("b", 2)]).run(case).await.assert_success();
}

#[tokio::test]
async fn a_barrier_that_is_not_reached_says_who_is_missing() {
    async fn case(cx: Ctx) -> Result {
        if cx.index() % 2 == 1 {
            cx.barrier("told").count(2).await?;
            return Ok(());
        }
        let late = cx.signal_and_wait("all").timeout(Duration::from_millis(300)).await;
        let Err(SyncError::Timeout { have, want, missing, .. }) = &late else {
            return Err(format!("{late:?}").into());
        };
        cx.signal("told").await?;
        ensure!((*have, *want) == (2, 4) && *missing == [1, 3], "{late:?}");
        Ok(())
    }
    Local::new(4).run(case).await.assert_success();
}

#[tokio::test]
async fn an_exchange_that_is_not_complete_says_who_is_missing() {
    async fn case(cx: Ctx) -> Result {
        if cx.index() == 1 {
            cx.barrier("told").count(2).await?;
            return Ok(());
        }
        let late = cx.exchange("x", &1).timeout(Duration::from_millis(300)).await.unwrap_err();
        cx.signal("told").await?;
        let wanted = "2 of 3; missing: instance 1";
        ensure!(late.to_string().ends_with(wanted), "{late}");
        Ok(())
    }
    Local::new(3).run(case).await.assert_success();
}

#[tokio::test]
async fn outcomes_follow_from_errors_checks_panics_and_deadlines() {
    async fn case(cx: Ctx) -> Result {
        match cx.index() {
            0 => Err("broken on purpose".into()),
            1 => {
                cx.check(1 + 1 == 3, "arithmetic");
                Ok(())
            }
            2 => panic!("a bug"),
            3 => {
                cx.barrier("never").await?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
    let outcomes = Local::new(5).param("timeout", "2s").run(case).await.0;
    assert_eq!(outcomes[0], Outcome::Failure("broken on purpose".to_owned()));
    assert_eq!(outcomes[1], Outcome::Failure("1 check failed: arithmetic".to_owned()));
    let Outcome::Crash { error, stacktrace } = &outcomes[2] else { panic!("{:?}", outcomes[2]) };
    assert!(error.contains("tests/cases.rs") && error.ends_with("a bug"), "{error}");
    assert!(!stacktrace.is_empty());
    let Outcome::Failure(why) = &outcomes[3] else { panic!("{:?}", outcomes[3]) };
    assert!(why.starts_with("`never` was not reached within") && why.contains("0 of 5"), "{why}");
    assert_eq!(outcomes[4], Outcome::Success);
}

#[tokio::test]
async fn a_case_that_overruns_its_timeout_is_stopped_and_can_hear_of_it() {
    async fn case(cx: Ctx) -> Result {
        if cx.index() == 0 {
            cx.cancelled().await;
            return Err("heard it".into());
        }
        std::future::pending().await
    }
    let outcomes = Local::new(2).param("timeout", "200ms").run(case).await.0;
    let told = "the case was not over after 0.2 s, its parameter `timeout`";
    assert_eq!(outcomes[0], Outcome::Failure(format!("{told}: heard it")));
    assert_eq!(outcomes[1], Outcome::Failure(told.to_owned()));
}

#[tokio::test]
async fn randomness_is_the_same_in_every_run_and_differs_between_instances() {
    async fn case(cx: Ctx) -> Result {
        let drawn = (cx.rng("a").next_u64(), cx.shared_rng("a").next_u64());
        let all = cx.exchange("drawn", &drawn).await?;
        ensure!(all[0].value.0 != all[1].value.0, "instances drew the same");
        ensure!(all[0].value.1 == all[1].value.1, "the run's generator differs");
        std::fs::write(cx.output("drawn"), format!("{drawn:?}"))?;
        Ok(())
    }
    let mut drawn = Vec::new();
    for _ in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        Local::new(2).param("seed", 7).outputs(dir.path()).run(case).await.assert_success();
        drawn.push(
            ["0", "1"]
                .map(|at| std::fs::read_to_string(dir.path().join(at).join("drawn")).unwrap()),
        );
    }
    assert_eq!(drawn[0], drawn[1]);
}

#[tokio::test]
async fn shaping_where_nobody_shapes_is_an_error_unless_asked_for() {
    async fn case(cx: Ctx) -> Result {
        let shape = Shape::new().latency(Duration::from_millis(10));
        let shaped = cx.network().shape(shape).await;
        match cx.params::<Shaped>()?.nobody {
            true => ensure!(shaped == Err(NetworkError::Nobody), "{shaped:?}"),
            false => shaped?,
        }
        tokio::net::TcpListener::bind((cx.network().ip()?, 0)).await?;
        Ok(())
    }
    #[derive(Deserialize)]
    struct Shaped {
        nobody: bool,
    }
    Local::new(2).param("nobody", true).run(case).await.assert_success();
    Local::new(2).param("nobody", false).unshaped().run(case).await.assert_success();
}

#[tokio::test]
async fn what_is_recorded_is_in_the_outputs() {
    async fn case(cx: Ctx) -> Result {
        cx.tag_kpis("version", 2);
        cx.point("found", 3).unit("count").record();
        cx.timer("fetch_s").observe(Duration::from_millis(5));
        cx.event(&Event::Node { node: "n0", address: "127.0.0.1:1" });
        cx.phase("warm-up", async { Ok(()) }).await
    }
    let dir = tempfile::tempdir().unwrap();
    Local::new(1).outputs(dir.path()).run(case).await.assert_success();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("0").join(name)).unwrap();
    let results = read("results.out");
    for name in ["\"found\"", "\"fetch_s\"", "\"phase_s\""] {
        assert!(results.contains(name), "{results}");
    }
    assert_eq!(results.lines().count(), 3);
    assert!(results.lines().all(|line| line.contains(r#""version":"2""#)), "{results}");
    let events = read("events.out");
    let kinds: Vec<String> = events
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].to_string())
        .collect();
    assert_eq!(kinds, ["\"node\"", "\"stage_start\"", "\"stage_end\""]);
}

#[tokio::test]
async fn every_second_what_the_instance_costs_is_sampled() {
    async fn case(cx: Ctx) -> Result {
        let path = cx.output("diagnostics.out");
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("sync_rtt_s")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
    let dir = tempfile::tempdir().unwrap();
    Local::new(1).outputs(dir.path()).run(case).await.assert_success();
    let text = std::fs::read_to_string(dir.path().join("0/diagnostics.out")).unwrap();
    for name in ["loop_lag_s", "cpu_s", "rss_B", "fds", "fds_ratio", "sync_rtt_s"] {
        assert!(text.contains(&format!("\"{name}\"")), "{name}: {text}");
    }
}
