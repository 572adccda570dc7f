//! The actor's side towards the store for metrics: events as they come, the rest when a run is over.

use groundswell_common::ids::RunId;
use groundswell_common::metrics::Shipper;
use groundswell_common::run::RunEvent;

use super::actor::Actor;
use super::effects::unix_ms;
use super::live::Live;
use crate::points::{self, Origin};
use crate::run::Event;

/// What of a run is on its way to the store.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shipped {
    /// Events so far.
    events: u64,
    /// Whether everything about its end is.
    end: bool,
}

impl Live {
    /// Sends an event of the run's log.
    pub(super) fn ship(&mut self, shipper: &Shipper, event: &RunEvent) {
        if !shipper.is_on() {
            return;
        }
        self.shipped.events += 1;
        let about = self.run.about();
        let origin = Origin {
            run: &about.run,
            plan: &about.plan,
            case: &about.case,
            submitted_ms: self.run.submitted_ms(),
            source: &self.request.source_info,
        };
        shipper.point(Some(&about.run), &points::event(origin, self.shipped.events, event));
    }
}

impl Actor {
    /// Sends what is known of a run that is over, once, and has the run tell which of its metrics have not got
    /// through by then.
    pub(super) fn ship_end(&mut self, run: &RunId) {
        let shipper = self.config.shipper.clone();
        let Some(live) = self.live.get(run).filter(|live| shipper.is_on() && !live.shipped.end)
        else {
            return;
        };
        let record = live.record(live.run.concluded(unix_ms()), self.versions(live));
        for point in points::ending(&record, live.kpi_file().as_ref()) {
            shipper.point(Some(run), &point);
        }
        if let Some(live) = self.live.get_mut(run) {
            live.shipped.end = true;
        }
        let losses = shipper.losses(run);
        if let Some(text) = losses.text("") {
            self.feed(run, Event::Warned { text });
        }
        shipper.flush();
    }
}
