//! The actor's side of a run's addresses: an instance claims one, the run's other workers hear of it, and only
//! then the claim is granted.

use std::net::Ipv4Addr;

use async_nats::Message;
use futures::future::join_all;
use groundswell_common::bus::{self, Bus};
use groundswell_common::chain::Chain;
use groundswell_common::ids::{InstanceId, RunId, WorkerId};
use groundswell_common::messages::{AddressAnswer, AddressChange, AddressClaim, AddressTaken};
use groundswell_common::subjects;
use tracing::{Instrument as _, debug, warn};

use super::actor::{Actor, readable};
use super::effects::Done;
use crate::run::Share;

impl Actor {
    /// Decides about a claim. The same claim again is granted again, once everyone has heard of it.
    pub(super) fn claim(&mut self, message: Message) {
        let Some(claim) = readable::<AddressClaim>(&message) else { return };
        let Ok(worker) = bus::last_token(&message.subject).parse::<WorkerId>() else { return };
        let AddressClaim { run, attempt, instance, address } = claim;
        let Some(live) = self.live.get_mut(&run).filter(|l| l.run.about().attempt == attempt)
        else {
            return self.refuse_claim(message, format!("run {run} is over"));
        };
        let shares = live.run.accounts().shares();
        if shares
            .iter()
            .find(|share| holds(share, instance))
            .is_none_or(|share| share.worker != worker)
        {
            let reason = format!("instance {instance} is not on worker {worker}");
            return self.refuse_claim(message, reason);
        }
        let others: Vec<WorkerId> = shares
            .iter()
            .filter(|share| share.worker != worker && !share.lost && !share.cleaned)
            .map(|share| share.worker.clone())
            .collect();
        // Addresses that another coordinator has granted have to be known before the next one is.
        if live.resumed.is_some() && shares.iter().any(|share| !share.retold && !share.lost) {
            return self.reply(message, AddressAnswer::Pending);
        }
        let version = match live.directory().claim(instance, address) {
            Ok(version) => version,
            Err(refused) => return self.refuse_claim(message, refused.to_string()),
        };
        let change = AddressChange { run, attempt, version, instance, address };
        let spread = spread(self.config.bus.clone(), others, change, message);
        self.effects.spawn(spread.instrument(live.span.clone()));
    }

    /// Notes an address that was granted, by whichever coordinator.
    pub(super) fn granted(&mut self, run: &RunId, instance: InstanceId, address: Ipv4Addr) {
        let Some(live) = self.live.get_mut(run).filter(|live| live.resumed.is_some()) else {
            return;
        };
        if let Err(refused) = live.directory().claim(instance, address) {
            warn!(run = %run, %instance, %refused, "two coordinators have granted one address");
        }
    }

    /// Tells a worker that goes on with its share after a restart which instances of others have moved.
    pub(super) fn tell_moved(&mut self, run: &RunId, worker: &WorkerId) {
        let bus = self.config.bus.clone();
        let Some(live) = self.live.get_mut(run) else { return };
        let attempt = live.run.about().attempt;
        let Some(directory) = &live.directory else { return };
        let mut shares = live.run.accounts().shares().iter();
        let own = shares.find(|share| &share.worker == worker);
        let of_others =
            directory.moved().filter(|(one, ..)| !own.is_some_and(|own| holds(own, *one)));
        let moved = of_others.map(|(instance, address, version)| {
            let run = run.clone();
            AddressChange { run, attempt, version, instance, address }
        });
        let (changes, worker): (Vec<_>, _) = (moved.collect(), worker.clone());
        let told = async move {
            for change in &changes {
                let mut tries = 0;
                while !tell(&bus, &worker, change).await && tries < TRIES {
                    tries += 1;
                }
            }
            Done::Nothing
        };
        self.effects.spawn(told.instrument(live.span.clone()));
    }

    fn refuse_claim(&mut self, message: Message, reason: String) {
        self.reply(message, AddressAnswer::Refused { reason });
    }
}

fn holds(share: &Share, instance: InstanceId) -> bool {
    let mut ranges = share.ranges.iter();
    ranges.any(|range| (range.first.0..range.first.0 + range.count).contains(&instance.0))
}

/// How often a worker is told of one change before it is given up.
const TRIES: u32 = 5;

/// Whether a worker has answered that it knows of a change.
async fn tell(bus: &Bus, worker: &WorkerId, change: &AddressChange) -> bool {
    let subject = subjects::address(worker);
    match bus.request::<AddressTaken>(subject, change).await {
        Ok(taken) => taken.version == change.version,
        Err(err) => {
            debug!(worker = %worker, error = %Chain(&err), "address change not answered");
            false
        }
    }
}

/// Tells every other worker of the run once, and answers. Who has not heard of it in time is asked again when the
/// claim is repeated.
async fn spread(bus: Bus, others: Vec<WorkerId>, change: AddressChange, claim: Message) -> Done {
    let (bus, change) = (&bus, &change);
    let told = others.iter().map(|worker| tell(bus, worker, change));
    let all = join_all(told).await.into_iter().all(|heard| heard);
    let answer = if all { AddressAnswer::Granted } else { AddressAnswer::Pending };
    bus.reply(&claim, &answer).await;
    Done::Nothing
}
