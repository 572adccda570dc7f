//! Asks the coordinator for addresses, in a run whose instances are on several workers.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_common::bus::Bus;
use groundswell_common::chain::Chain;
use groundswell_common::ids::{Attempt, InstanceId, RunId, WorkerId};
use groundswell_common::messages::{
    AddressAnswer, AddressClaim, Assignment, ReportItem, ShareEvent,
};
use groundswell_common::subjects;
use groundswell_common::timing::ADDRESS_TIMEOUT;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::Host;
use crate::report::Reports;

/// How long to wait before the same claim is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// One share's way to claim addresses.
pub(crate) struct Claims {
    bus: Bus,
    worker: WorkerId,
    run: RunId,
    attempt: Attempt,
    reports: Reports,
}

impl Claims {
    /// None for a run that lives on this worker alone: its own network decides.
    pub(super) fn of(host: &Host, assignment: &Assignment) -> Option<Self> {
        (!assignment.peers.is_empty()).then(|| Self {
            bus: host.bus.clone(),
            worker: host.worker.clone(),
            run: assignment.run.clone(),
            attempt: assignment.attempt,
            reports: host.reports.clone(),
        })
    }

    /// Asks until there is an answer. `Ok` means that every other worker of the run sends there already.
    /// An error says whether the plan is the cause.
    pub(super) async fn claim(
        &self,
        instance: InstanceId,
        address: Ipv4Addr,
    ) -> Result<(), (String, bool)> {
        let (run, attempt) = (self.run.clone(), self.attempt);
        let claim = AddressClaim { run, attempt, instance, address };
        let answer = timeout(ADDRESS_TIMEOUT, self.ask(&claim)).await;
        match answer {
            Ok(AddressAnswer::Granted) => {
                // Known to this coordinator, and perhaps one day to its successor.
                let what = ShareEvent::Address { instance, address };
                let run = self.run.clone();
                self.reports.push(ReportItem { run, attempt, what });
                Ok(())
            }
            Ok(AddressAnswer::Refused { reason }) => Err((reason, true)),
            Ok(AddressAnswer::Pending) | Err(_) => {
                let reason = format!("no answer to the claim of address {address} in time");
                Err((reason, false))
            }
        }
    }

    /// An answer that is lost is asked for again: claiming twice is claiming once.
    async fn ask(&self, claim: &AddressClaim) -> AddressAnswer {
        loop {
            let subject = subjects::claim(&self.worker);
            match self.bus.request::<AddressAnswer>(subject, claim).await {
                Ok(AddressAnswer::Pending) => {}
                Ok(answer) => return answer,
                Err(err) => debug!(error = %Chain(&err), "claim of an address not answered"),
            }
            sleep(AGAIN).await;
        }
    }
}
