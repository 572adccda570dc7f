//! The coordinator of a few lines.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use groundswell_common::bus::{Bus, decode};
use groundswell_common::ids::{Epoch, InstanceId};
use groundswell_common::messages::{
    AddressAnswer, AddressClaim, Heartbeat, HeartbeatReply, Registered, Registration, Report,
    ReportReply, ShareEvent,
};
use groundswell_common::outcome::InstanceEnd;
use groundswell_common::timing::Lease;
use tokio::sync::watch;

pub(crate) struct Coordinator {
    pub(crate) lease: Lease,
    pub(crate) answers: AtomicBool,
    pub(crate) drops_reports: AtomicU64,
    pub(crate) desired: AtomicU64,
    pub(crate) registrations: Mutex<Vec<Registration>>,
    pub(crate) taken: AtomicU64,
    pub(crate) claims: Mutex<Vec<AddressClaim>>,
    pub(crate) events: watch::Sender<Vec<ShareEvent>>,
    /// Why the worker takes nothing new.
    pub(crate) cordon: watch::Sender<Option<String>>,
}

impl Coordinator {
    pub(crate) fn new(lease: Lease) -> Self {
        Self {
            lease,
            answers: AtomicBool::new(true),
            drops_reports: AtomicU64::new(0),
            desired: AtomicU64::new(0),
            registrations: Mutex::default(),
            taken: AtomicU64::new(0),
            claims: Mutex::default(),
            events: watch::Sender::default(),
            cordon: watch::Sender::default(),
        }
    }

    pub(crate) async fn serve(self: Arc<Self>, bus: Bus, mut requests: async_nats::Subscriber) {
        while let Some(request) = requests.next().await {
            if !self.answers.load(Ordering::SeqCst) {
                continue;
            }
            match request.subject.as_str() {
                "gs.v1.register.w1" => {
                    let registration = decode(&request.payload).expect("a registration");
                    self.registrations.lock().expect("not poisoned").push(registration);
                    let answer = Registered { epoch: Epoch(1), term: 1, lease: self.lease };
                    bus.reply(&request, &answer).await;
                }
                "gs.v1.heartbeat.w1" => {
                    let heartbeat: Heartbeat = decode(&request.payload).expect("a heartbeat");
                    assert_eq!(heartbeat.epoch, Epoch(1));
                    self.cordon.send_replace(heartbeat.cordon);
                    let desired = self.desired.load(Ordering::SeqCst);
                    let answer = HeartbeatReply { term: 1, desired, register: false };
                    bus.reply(&request, &answer).await;
                }
                "gs.v1.report.w1" => {
                    let report: Report = decode(&request.payload).expect("a report");
                    if self.take(report) {
                        let taken = self.taken.load(Ordering::SeqCst);
                        bus.reply(&request, &ReportReply { taken, fenced: false, term: 1 }).await;
                    }
                }
                "gs.v1.claim.w1" => {
                    if let Some(answer) = self.claimed(decode(&request.payload).expect("a claim")) {
                        bus.reply(&request, &answer).await;
                    }
                }
                _ => {}
            }
        }
    }

    /// The first answer is lost, at the second the other workers have not heard of it yet.
    fn claimed(&self, claim: AddressClaim) -> Option<AddressAnswer> {
        let taken = claim.address.octets()[3] == 9;
        let mut claims = self.claims.lock().expect("not poisoned");
        claims.push(claim);
        match claims.len() {
            1 => None,
            2 => Some(AddressAnswer::Pending),
            _ if taken => Some(AddressAnswer::Refused { reason: "taken by instance 1".to_owned() }),
            _ => Some(AddressAnswer::Granted),
        }
    }

    /// Takes a report in, once. Returns whether to answer.
    pub(crate) fn take(&self, report: Report) -> bool {
        if report.no == self.taken.load(Ordering::SeqCst) + 1 {
            self.taken.store(report.no, Ordering::SeqCst);
            let told = report.items.into_iter().map(|item| item.what);
            self.events.send_modify(|events| events.extend(told));
        }
        let less = |left: u64| left.checked_sub(1);
        self.drops_reports.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err()
    }

    pub(crate) fn registered(&self) -> bool {
        !self.registrations.lock().expect("not poisoned").is_empty()
    }

    pub(crate) fn told(&self) -> Vec<ShareEvent> {
        self.events.borrow().clone()
    }

    pub(crate) fn ends(&self) -> BTreeMap<InstanceId, InstanceEnd> {
        let mut ends = BTreeMap::new();
        for event in self.told() {
            if let ShareEvent::Ended { instances } = event {
                ends.extend(instances);
            }
        }
        ends
    }

    pub(crate) fn milestones(&self) -> Vec<&'static str> {
        let name = |event: &ShareEvent| match event {
            ShareEvent::Prepared => Some("prepared"),
            ShareEvent::Started => Some("started"),
            ShareEvent::Collected { .. } => Some("collected"),
            ShareEvent::CollectFailed { .. } => Some("collect failed"),
            ShareEvent::Cleaned => Some("cleaned"),
            ShareEvent::Broken { .. } => Some("broken"),
            ShareEvent::PrepareFailed { .. } => Some("prepare failed"),
            ShareEvent::Progress { .. }
            | ShareEvent::Said { .. }
            | ShareEvent::Ended { .. }
            | ShareEvent::Network { .. }
            | ShareEvent::Kpis { .. }
            | ShareEvent::Exposed { .. }
            | ShareEvent::Warning { .. }
            | ShareEvent::Address { .. }
            | ShareEvent::Retold => None,
        };
        self.told().iter().filter_map(name).collect()
    }
}
