//! One instance as its share's supervisor knows it.

use std::sync::Arc;

use groundswell_common::messages::InstancePlace;
use tokio::sync::mpsc;

use super::links::Request;
use super::member::Order;
use super::outside::Way;
use crate::instance::Fold;
use crate::runtime::Instance;
use crate::sync::LifecycleEvent;

/// One instance as the supervisor knows it.
pub(super) struct Known {
    pub(super) place: InstancePlace,
    pub(super) fold: Fold,
    pub(super) orders: Option<mpsc::Sender<Order>>,
    pub(super) instance: Option<Arc<dyn Instance>>,
    /// To its end of the data network, and that of all behind the same NAT.
    pub(super) links: Option<mpsc::Sender<Request>>,
    /// Its way outside, until somebody follows its configurations.
    pub(super) way: Option<Way>,
    pub(super) let_go: bool,
    pub(super) ended: bool,
}

impl Known {
    pub(super) fn new(place: InstancePlace) -> Self {
        Self {
            place,
            fold: Fold::default(),
            orders: None,
            instance: None,
            links: None,
            way: None,
            let_go: false,
            ended: false,
        }
    }

    pub(super) fn order(&self, order: Order) {
        // There is room for every order there is; a task that is gone needs none.
        if let Some(orders) = &self.orders {
            let _ = orders.try_send(order);
        }
    }
}

/// What an instance published, as an event for people.
pub(super) fn told(event: &LifecycleEvent) -> (&'static str, String) {
    match event {
        LifecycleEvent::Start => ("start_event", String::new()),
        LifecycleEvent::Message(text) => ("message", text.clone()),
        LifecycleEvent::StageStart(name) => ("stage_start", name.clone()),
        LifecycleEvent::StageEnd(name) => ("stage_end", name.clone()),
        LifecycleEvent::Success => ("success", String::new()),
        LifecycleEvent::Failure(error) => ("failure", error.clone()),
        LifecycleEvent::Crash { error, stacktrace } => ("crash", format!("{error}\n{stacktrace}")),
    }
}
