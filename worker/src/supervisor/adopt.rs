//! Goes on with a share whose instances an earlier life of this worker has let go.
//!
//! While a share is made, each of its instances is deposited with the worker's keeper, see [`crate::keeper`]. The
//! next life takes them from there instead of making them, and everything else is the same: network, sync, names and
//! logs are opened around them, the sync log is replayed, and the start record in it finds them running.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use groundswell_common::ids::{Attempt, InstanceId, RunId};
use groundswell_common::messages::Assignment;
use groundswell_common::narrative::Deed;
use groundswell_common::network::{Action, DataPath};

use super::{Context, Host};
use crate::keeper::Deposit;
use crate::network::wire::{NameSockets, Wired};
use crate::runtime::{Created, InstanceLabels, RuntimeError};
use crate::sync::connections;

/// The file in the spool of a share that says where other workers send its packets.
const OVERLAY: &str = ".overlay";

/// What is known of a share that an earlier life has begun.
#[derive(Debug)]
pub(crate) struct Adoption {
    /// How long ago its instances were let go; absent when they were not.
    pub(super) since_start: Option<Duration>,
    /// Instances that were connected to the sync when that life ended, and have not connected since.
    pub(super) cut: BTreeSet<InstanceId>,
    /// How long there was no worker.
    pub(super) away: Duration,
}

impl Adoption {
    /// For people.
    pub(super) fn text(&self, host: &Host) -> String {
        format!(
            "worker {} was restarted during the run: for {:.1} s nobody carried the packets of its instances or \
             answered their sync, and what is measured of its part of the network counts from then on",
            host.worker,
            self.away.as_secs_f64()
        )
    }
}

/// Finds what an earlier life has left of a share, or says why it cannot be gone on with.
pub(super) fn find(host: &Host, assignment: &Assignment) -> Result<Adoption, String> {
    let (run, attempt) = super::key(assignment);
    if let Some(why) = why_not(assignment) {
        return Err(format!("instances {why} do not outlive their worker"));
    }
    let Some(keeper) = &host.parts.keeper else {
        return Err("instances end with this worker".to_owned());
    };
    let found = keeper.found();
    let gone = |id: &InstanceId| !found.contains_key(&name(&run, attempt, *id));
    let gone = assignment.instances().map(|place| place.id).filter(gone).count();
    if gone > 0 {
        return Err(format!("{gone} instances have ended with it"));
    }
    let spool = crate::reap::spool(&host.state_dir, &run, attempt);
    let overlay = std::fs::read_to_string(spool.join(OVERLAY)).unwrap_or_default();
    if !assignment.peers.is_empty() && overlay != overlay_of(host) {
        return Err(format!("other workers send their packets to {overlay}, where it is not"));
    }
    Ok(Adoption {
        since_start: crate::reap::since_start(&host.state_dir, &run, attempt),
        cut: connections::cut(&spool.join(connections::FILE)),
        away: keeper.away(),
    })
}

/// Which instances of a run cannot be gone on with by another life of their worker.
fn why_not(assignment: &Assignment) -> Option<&'static str> {
    let Assignment { network, options, groups, .. } = assignment;
    let readdresses = |action: &Action| matches!(action, Action::Readdress { .. });
    let leads_out = groups.iter().any(|group| group.egress.allow || !group.egress.hosts.is_empty());
    if network.data_path == DataPath::Kernel {
        return Some("on the kernel's data path");
    }
    if !network.nats.is_empty() {
        return Some("behind NATs");
    }
    if network.schedule.iter().any(|firing| readdresses(&firing.action)) {
        return Some("whose addresses the schedule changes");
    }
    if network.narrative.is_of_processes() {
        return Some("that the schedule kills, stops or pauses");
    }
    if network.narrative.entries.iter().any(|entry| entry.deed == Deed::Readdress) {
        return Some("whose addresses the schedule changes");
    }
    if leads_out || !options.additional_hosts.is_empty() {
        return Some("that reach hosts outside of the run");
    }
    (!options.exposed_ports.is_empty()).then_some("with exposed ports")
}

/// Writes down what the next life is asked about.
pub(super) fn prepare(context: &Context) -> io::Result<()> {
    std::fs::write(context.spool.join(OVERLAY), overlay_of(&context.host))
}

/// Where other workers send packets.
fn overlay_of(host: &Host) -> String {
    host.parts.network.overlay_address().map(|one| one.to_string()).unwrap_or_default()
}

/// By which the keeper knows an instance.
fn name(run: &RunId, attempt: Attempt, instance: InstanceId) -> String {
    format!("{}{instance}", crate::reap::deposits_of(run, attempt))
}

/// Has the keeper hold an instance that was made, too.
pub(super) async fn deposit(context: &Context, instance: InstanceId, created: &Created) {
    let assignment = &context.assignment;
    let Some(keeper) = &context.host.parts.keeper else { return };
    let (Some(tie), Some(device)) = (created.instance.tie(), &created.wired.device) else { return };
    if why_not(assignment).is_some() {
        return;
    }
    let Wired { device: _, sync, influx, names, control } = &created.wired;
    let others =
        [sync, influx, &names.udp, &names.tcp, control, &created.stdout, &created.stderr, device];
    let mut descriptors = vec![tie.descriptor];
    descriptors.extend(others.map(|one| one.as_fd()));
    let name = name(&assignment.run, assignment.attempt, instance);
    keeper.deposit(Deposit { name, note: tie.note, descriptors, container: tie.container }).await;
}

/// Takes an instance from the keeper.
pub(super) async fn take(
    context: &Context,
    labels: &InstanceLabels,
) -> Result<Created, RuntimeError> {
    let failed = |source: io::Error| RuntimeError::Host {
        doing: format!("go on with instance {}", labels.instance),
        source: source.into(),
    };
    let missing = || failed(io::ErrorKind::NotFound.into());
    let keeper = context.host.parts.keeper.as_ref().ok_or_else(missing)?;
    let name = name(&labels.run, labels.attempt, labels.instance);
    let note = keeper.found().get(&name).cloned().ok_or_else(missing)?;
    let descriptors = keeper.take(&name).await.map_err(failed)?;
    let all = <[OwnedFd; 9]>::try_from(descriptors);
    let [tie, sync, influx, udp, tcp, control, stdout, stderr, device] =
        all.map_err(|_| failed(io::Error::other("too few descriptors can be open")))?;
    let instance = context.runtime.adopt(labels, &note, tie, control.as_fd()).await?;
    let names = NameSockets { udp, tcp };
    let wired = Wired { device: Some(device), sync, influx, names, control };
    Ok(Created { instance, wired, stdout, stderr })
}

/// Lets the keeper forget an instance that was removed.
pub(super) async fn forget(context: &Context, instance: InstanceId) {
    if let Some(keeper) = &context.host.parts.keeper {
        let (run, attempt) = super::key(&context.assignment);
        keeper.forget(&name(&run, attempt, instance)).await;
    }
}

/// Ends what nobody has taken of a share.
pub(super) async fn give_up(host: &Host, assignment: &Assignment) {
    if let Some(keeper) = &host.parts.keeper {
        keeper.give_up(&crate::reap::deposits_of(&assignment.run, assignment.attempt)).await;
    }
}
