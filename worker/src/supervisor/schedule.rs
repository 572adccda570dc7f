//! Plays the schedule of a run's network: each firing at its time, counted from the start of the run as
//! this worker saw it.

use std::sync::Arc;
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::network::{Action, Firing};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::links::Change;
use super::{Context, Note};
use crate::network::links::Links;

/// A firing that is later than this is worth a warning.
const LATE: Duration = Duration::from_millis(100);
/// As above, for what a program has to be run for in each router.
const LATE_ROUTERS: Duration = Duration::from_secs(1);

/// Fires what the assignment's schedule has, in order. Ends with the last one, or with one that fails: what
/// follows would be built on sand.
pub(super) async fn play(context: Arc<Context>, start: Instant) {
    let assignment = &context.assignment;
    let Some(mut links) = Links::of(assignment) else { return };
    // What goes through many routers takes a while, and holds up nothing.
    let mut going_on = JoinSet::new();
    for firing in &assignment.network.schedule {
        sleep_until(start + firing.at).await;
        let (classes, what) = match &firing.action {
            Action::Rebind { classes } => (classes, Change::Rebind),
            Action::Readdress { classes } => (classes, Change::Readdress),
            Action::Cut { .. }
            | Action::Heal { .. }
            | Action::Access { .. }
            | Action::Path { .. } => {
                links = links.after(&firing.action);
                let network = context.network();
                let fired = network.relink(&assignment.run, Arc::new(links.clone())).await;
                if let Err(err) = fired {
                    let reason = format!("schedule: {}: {}", firing.text, Chain(&err));
                    context.tell(Note::ScheduleFailed(reason)).await;
                    return;
                }
                tell(&context, firing, start.elapsed(), LATE).await;
                continue;
            }
        };
        let (context, firing, classes) = (Arc::clone(&context), firing.clone(), classes.clone());
        let change = async move {
            let tracker = TaskTracker::new();
            context.tell(Note::Change { classes, what, done: tracker.token() }).await;
            tracker.close();
            tracker.wait().await;
            tell(&context, &firing, start.elapsed(), LATE_ROUTERS).await;
        };
        going_on.spawn(change.in_current_span());
    }
    going_on.join_all().await;
}

async fn tell(context: &Context, firing: &Firing, done: Duration, late: Duration) {
    let text = format!(
        "{}: asked for at {:.3} s, done at {:.3} s",
        firing.text,
        firing.at.as_secs_f64(),
        done.as_secs_f64()
    );
    context.events.add("schedule", text.clone(), None);
    if done > firing.at + late {
        context.tell(Note::Warning(format!("late: {text}"))).await;
    }
}
