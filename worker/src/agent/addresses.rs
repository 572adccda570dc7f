//! Hears of new addresses of other workers' instances, and answers once the data network sends there.

use std::sync::Arc;

use async_nats::Message;
use futures::StreamExt as _;
use groundswell_common::bus::{Bus, decode};
use groundswell_common::chain::Chain;
use groundswell_common::ids::WorkerId;
use groundswell_common::messages::{AddressChange, AddressTaken};
use groundswell_common::subjects;
use groundswell_common::timing::REQUEST_TIMEOUT;
use tokio::time::sleep;
use tracing::warn;

use crate::network::{Move, Network};

/// Follows for ever. A change that is missed is told again by the coordinator.
pub(crate) async fn follow(bus: Bus, worker: WorkerId, network: Arc<dyn Network>) {
    loop {
        match bus.client().subscribe(subjects::address(&worker)).await {
            Ok(mut changes) => {
                while let Some(message) = changes.next().await {
                    take(&bus, network.as_ref(), &message).await;
                }
            }
            Err(err) => warn!(error = %err, "cannot subscribe to address changes"),
        }
        sleep(REQUEST_TIMEOUT).await;
    }
}

async fn take(bus: &Bus, network: &dyn Network, message: &Message) {
    let change: AddressChange = match decode(&message.payload) {
        Ok(change) => change,
        Err(err) => return warn!(error = %err, "address change is not readable"),
    };
    let AddressChange { run, attempt, version, instance, address } = change;
    let place = Move { attempt, version, instance, address };
    match network.place(&run, place).await {
        Ok(()) => bus.reply(message, &AddressTaken { version }).await,
        // Without an answer it comes again.
        Err(err) => warn!(run = %run, error = %Chain(&err), "address change not carried out"),
    }
}
