//! The NATs of a share: made before its instances, gone after them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use groundswell_common::ids::InstanceId;
use groundswell_common::messages::{Assignment, InstancePlace, places};
use groundswell_common::nat::NatPlan;
use groundswell_common::network::DataPath;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, warn};

use super::Context;
use super::prepare::{MTU, Unprepared};
use crate::network::nat::TreeSpec;
use crate::network::wire::WireSpec;
use crate::network::{Attachment, Network, NetworkError};
use crate::runtime::{Behind, Nat};

/// How long the routers of one NAT may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// The NATs of a share, by the instance in whose name each is in the data network. Empty until they are made.
#[derive(Default)]
pub(crate) struct Nats(OnceLock<BTreeMap<InstanceId, Arc<dyn Nat>>>);

impl Nats {
    /// The NAT whose front an instance is.
    pub(super) fn of(&self, front: InstanceId) -> Option<Arc<dyn Nat>> {
        self.0.get()?.get(&front).cloned()
    }

    /// Where an instance is behind a NAT.
    pub(super) fn behind(&self, assignment: &Assignment, place: InstancePlace) -> Option<Behind> {
        assignment.nat(place)?;
        Some(Behind { nat: self.of(assignment.front(place))?, member: place.in_group })
    }

    /// Lets all of them go.
    pub(super) async fn close(&self) {
        let Some(nats) = self.0.get() else { return };
        let mut closing = JoinSet::new();
        for nat in nats.values() {
            let nat = Arc::clone(nat);
            closing.spawn(async move { timeout(PATIENCE, nat.close()).await.is_ok() });
        }
        let closed = closing.join_all().await;
        let left = closed.iter().filter(|closed| !**closed).count();
        if left > 0 {
            warn!(left, "routers are not gone yet");
        }
    }
}

/// Checks that the share can have the NATs it should have.
pub(super) fn check(context: &Context) -> Result<(), Unprepared> {
    let assignment = &context.assignment;
    if assignment.network.nats.is_empty() {
        return Ok(());
    }
    if !context.network().caps().nat {
        return Err(NetworkError::Unsupported {
            what: "put instances behind NATs".to_owned(),
            instead: "use the switch: `data_path = \"switch\"`".to_owned(),
        }
        .into());
    }
    let checked = assignment.network.check_nats(assignment.subnet);
    checked.map_err(|refused| NetworkError::Refused(refused.to_string()))?;
    let here: Vec<InstancePlace> = assignment.instances().collect();
    let fronts = here.iter().filter(|place| assignment.front(**place) == place.id);
    let whole: u32 = fronts.map(|place| size(assignment, *place)).sum();
    if usize::try_from(whole).is_ok_and(|whole| whole == here.len()) {
        return Ok(());
    }
    let reason = "instances behind the same NAT are on different workers".to_owned();
    Err(NetworkError::Refused(reason).into())
}

/// How many instances are in the data network in the name of one.
fn size(assignment: &Assignment, front: InstancePlace) -> u32 {
    let group = assignment.groups.get(usize::from(front.group));
    let instances = group.map_or(0, |group| group.instances);
    assignment.nat(front).map_or(1, |nat| nat.size(front.in_group, instances))
}

/// Makes the NATs of the share and attaches them to the data network.
pub(super) async fn make(
    context: &Arc<Context>,
    abort: &CancellationToken,
) -> Result<(), Unprepared> {
    let assignment = &context.assignment;
    let mut made = BTreeMap::new();
    let mut making = JoinSet::new();
    let behind = |place: &InstancePlace| assignment.nat(*place).is_some();
    let mut fronts = assignment
        .instances()
        .filter(|place| behind(place) && assignment.front(*place) == place.id);
    let mut failed = None;
    loop {
        let next = if failed.is_none() && !abort.is_cancelled() && making.len() < AT_ONCE {
            fronts.next()
        } else {
            None
        };
        if let Some(front) = next {
            making.spawn(make_one(Arc::clone(context), front).in_current_span());
            continue;
        }
        match making.join_next().await {
            None => break,
            Some(Ok(Ok((front, nat)))) => drop(made.insert(front, nat)),
            Some(Ok(Err(err))) => drop(failed.get_or_insert(err)),
            Some(Err(err)) => {
                failed.get_or_insert(Unprepared::host(format!("making a NAT: {err}")));
            }
        }
    }
    // Those that were made are closed with the share, whatever became of the others.
    let _once = context.nats.0.set(made);
    failed.map_or(Ok(()), Err)
}

/// How many NATs of a share are made at once; the runtime's own limit is lower.
const AT_ONCE: usize = 32;

async fn make_one(
    context: Arc<Context>,
    front: InstancePlace,
) -> Result<(InstanceId, Arc<dyn Nat>), Unprepared> {
    let assignment = &context.assignment;
    let plan = assignment.nat(front).cloned();
    let plan = plan.ok_or_else(|| Unprepared::host("the assignment has no such NAT"))?;
    let address = assignment.address(front.id);
    let spec = TreeSpec {
        plan,
        instances: size(assignment, front),
        wire: WireSpec {
            address,
            prefix: assignment.subnet.prefix_len(),
            mtu: MTU,
            data_path: DataPath::Switch,
        },
    };
    let (nat, device) = context.runtime.make_nat(spec).await?;
    let attachment =
        Attachment { run: assignment.run.clone(), instance: front.id, device, address };
    context.network().attach(attachment).await?;
    lead(context.network().as_ref(), assignment, front).await?;
    Ok((front.id, nat))
}

/// Tells the data network of the NATs that other workers make.
pub(super) async fn lead_to_others(context: &Context) -> Result<(), Unprepared> {
    let assignment = &context.assignment;
    let away = assignment.peers.iter().flat_map(|peer| places(&peer.share));
    for front in away.filter(|place| assignment.front(*place) == place.id) {
        lead(context.network().as_ref(), assignment, front).await?;
    }
    Ok(())
}

/// Leads IPv6 to those behind the NAT whose front this is, if it is one and routes it.
async fn lead(
    network: &dyn Network,
    assignment: &Assignment,
    front: InstancePlace,
) -> Result<(), NetworkError> {
    if !assignment.nat(front).is_some_and(NatPlan::routes_ipv6) {
        return Ok(());
    }
    let behind = (0..size(assignment, front)).map(|one| InstanceId(front.id.0 + one));
    let behind = behind.map(|one| assignment.address(one)).collect();
    network.lead(&assignment.run, front.id, behind).await
}
