//! A worker that keeps its host in order: a disk that fills up, and leftovers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use groundswell_common::ids::RunId;
use groundswell_common::messages::{ShareEvent, Want};
use groundswell_common::timing::Lease;
use groundswell_worker::keep::{Pace, Upkeep, Watermarks};
use groundswell_worker::runtime::fake::Step;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::time::timeout;

use crate::LIMIT;
use crate::stage::{Stage, wait_until};

const MIB: usize = 1 << 20;
const QUICK: Pace = Pace {
    disk: Duration::from_millis(20),
    sweep: Duration::from_millis(20),
    apart: Duration::from_millis(60),
};

/// A small file system of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, options: &str) -> Self {
        fs::create_dir_all(path).expect("a directory");
        let kind = Some("tmpfs");
        mount(kind, path, kind, MsFlags::empty(), Some(options)).expect("mounted");
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmounted");
    }
}

fn hang() -> Vec<Step> {
    vec![Step::Hang]
}

#[tokio::test]
async fn a_disk_that_fills_up_costs_images_then_new_runs_then_the_run_that_fills_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(&dir.path().join("state"), "size=100m");
    let upkeep = Upkeep {
        disk: Some(Watermarks::default()),
        images_keep_bytes: None,
        datasets_keep_bytes: None,
        pace: QUICK,
    };
    let stage = Stage::start(Lease::DEFAULT, dir, upkeep, |_| hang()).await;
    let blob = stage.state_dir().join("blobs/sha256").join("a".repeat(64));
    fs::create_dir_all(blob.parent().expect("it has one")).expect("a directory");
    fs::write(&blob, vec![1; 10 * MIB]).expect("written");

    let (small, big) = (stage.assignment(1), stage.assignment(1));
    stage.want(1, &[(&small, Want::Run), (&big, Want::Run)]).await;
    let spool = |run: &RunId| stage.state_dir().join("spool").join(run.as_str()).join("1");
    wait_until("both shares are there", || spool(&small.run).exists() && spool(&big.run).exists())
        .await;
    fs::write(spool(&small.run).join("some"), vec![1; 5 * MIB]).expect("written");
    let much = spool(&big.run).join("much");
    fs::write(&much, vec![1; 72 * MIB]).expect("written");
    wait_until("the image that nobody uses is given up", || !blob.exists()).await;
    assert_eq!(*stage.coordinator.cordon.borrow(), None, "that was enough");

    fs::write(&much, vec![1; 87 * MIB]).expect("written");
    let mut cordon = stage.coordinator.cordon.subscribe();
    let said = timeout(LIMIT, cordon.wait_for(Option::is_some)).await.expect("in time");
    let said = said.expect("the coordinator lives").clone().expect("it says why");
    assert!(said.contains("% full") && said.contains("of 100 MiB are left"), "{said}");
    assert!(
        stage.coordinator.told().iter().all(|event| !matches!(event, ShareEvent::Broken { .. }))
    );

    fs::write(&much, vec![1; 92 * MIB]).expect("written");
    let broken = stage.reported(|event| matches!(event, ShareEvent::Broken { .. })).await;
    let ShareEvent::Broken { reason, fault_of_plan } = broken else { unreachable!("waited for") };
    assert!(reason.starts_with("disk: the file system of `"), "{reason}");
    assert!(reason.ends_with("this run wrote most of what is on it, 92.0 MiB"), "{reason}");
    assert!(!fault_of_plan);
    // The coordinator takes what has ended off the list; the other run goes on.
    stage.reported(|event| matches!(event, ShareEvent::Collected { .. })).await;
    stage.want(1, &[(&small, Want::Run)]).await;
    wait_until("the share is gone", || !spool(&big.run).exists()).await;
    timeout(LIMIT, cordon.wait_for(Option::is_none)).await.expect("in time").expect("it lives");
    assert!(spool(&small.run).join("some").exists());
    let broken = |event: &&ShareEvent| matches!(event, ShareEvent::Broken { .. });
    assert_eq!(stage.coordinator.told().iter().filter(broken).count(), 1);
    stage.leave().await;
    drop(disk);
}

#[tokio::test]
async fn what_no_share_explains_is_removed_and_what_one_does_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let upkeep =
        Upkeep { disk: None, images_keep_bytes: Some(0), datasets_keep_bytes: None, pace: QUICK };
    let stage = Stage::start(Lease::DEFAULT, dir, upkeep, |_| hang()).await;
    let state = stage.state_dir();
    let run = RunId::new(1_600_000_000);
    let (spool, mark) =
        (state.join(format!("spool/{run}")), state.join(format!("started/{run}.1")));
    let blob = state.join("blobs/sha256").join("b".repeat(64));
    fs::create_dir_all(spool.join("1/all/0")).expect("a directory");
    fs::create_dir_all(blob.parent().expect("it has one")).expect("a directory");
    fs::write(&mark, "").expect("written");
    fs::write(&blob, "x").expect("written");
    let assignment = stage.running(1).await;
    wait_until("leftovers are gone", || !spool.exists() && !mark.exists()).await;
    wait_until("images are down to their size", || !blob.exists()).await;
    let own = state.join("spool").join(assignment.run.as_str()).join("1");
    let its_mark = state.join("started").join(format!("{}.1", assignment.run));
    assert!(own.exists() && its_mark.exists());
    stage.clean(&assignment).await;
}
