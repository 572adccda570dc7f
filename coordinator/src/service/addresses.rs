//! The actor's side of a run's addresses: an instance claims one, the run's other workers hear of it, and only
//! then the claim is granted.

use async_nats::Message;
use futures::future::join_all;
use groundswell_common::bus::{self, Bus};
use groundswell_common::chain::Chain;
use groundswell_common::ids::WorkerId;
use groundswell_common::messages::{AddressAnswer, AddressChange, AddressClaim, AddressTaken};
use groundswell_common::subjects;
use tracing::{Instrument as _, debug};

use super::actor::{Actor, readable};
use super::effects::Done;
use crate::directory::Directory;
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
        let holds = |share: &&Share| {
            share
                .ranges
                .iter()
                .any(|range| (range.first.0..range.first.0 + range.count).contains(&instance.0))
        };
        if shares.iter().find(holds).is_none_or(|share| share.worker != worker) {
            let reason = format!("instance {instance} is not on worker {worker}");
            return self.refuse_claim(message, reason);
        }
        let others: Vec<WorkerId> = shares
            .iter()
            .filter(|share| share.worker != worker && !share.lost && !share.cleaned)
            .map(|share| share.worker.clone())
            .collect();
        let fronts = || live.outline.fronts();
        let directory = live.directory.get_or_insert_with(|| Directory::new(live.subnet, fronts()));
        let version = match directory.claim(instance, address) {
            Ok(version) => version,
            Err(refused) => return self.refuse_claim(message, refused.to_string()),
        };
        let change = AddressChange { run, attempt, version, instance, address };
        let spread = spread(self.config.bus.clone(), others, change, message);
        self.effects.spawn(spread.instrument(live.span.clone()));
    }

    fn refuse_claim(&mut self, message: Message, reason: String) {
        self.reply(message, AddressAnswer::Refused { reason });
    }
}

/// Tells every other worker of the run once, and answers. Who has not heard of it in time is asked again when the
/// claim is repeated.
async fn spread(bus: Bus, others: Vec<WorkerId>, change: AddressChange, claim: Message) -> Done {
    let (bus, change) = (&bus, &change);
    let told = others.iter().map(|worker| async move {
        let subject = subjects::address(worker);
        match bus.request::<AddressTaken>(subject, change).await {
            Ok(taken) => taken.version == change.version,
            Err(err) => {
                debug!(worker = %worker, error = %Chain(&err), "address change not answered");
                false
            }
        }
    });
    let all = join_all(told).await.into_iter().all(|heard| heard);
    let answer = if all { AddressAnswer::Granted } else { AddressAnswer::Pending };
    bus.reply(&claim, &answer).await;
    Done::Nothing
}
