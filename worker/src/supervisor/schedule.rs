//! Plays the schedule of a run's network: each firing at its time, counted from the start of the run as
//! this worker saw it.

use std::sync::Arc;
use std::time::Duration;

use groundswell_common::chain::Chain;
use tokio::time::{Instant, sleep_until};

use super::{Context, Note};
use crate::network::links::Links;

/// A firing that is later than this is worth a warning.
const LATE: Duration = Duration::from_millis(100);

/// Fires what the assignment's schedule has, in order. Ends with the last one, or with one that fails: what
/// follows would be built on sand.
pub(super) async fn play(context: Arc<Context>, start: Instant) {
    let assignment = &context.assignment;
    let Some(mut links) = Links::of(assignment) else { return };
    for firing in &assignment.network.schedule {
        sleep_until(start + firing.at).await;
        links = links.after(&firing.action);
        let network = context.network();
        let fired = network.relink(&assignment.run, Arc::new(links.clone())).await;
        if let Err(err) = fired {
            let reason = format!("schedule: {}: {}", firing.text, Chain(&err));
            context.tell(Note::ScheduleFailed(reason)).await;
            return;
        }
        let done = start.elapsed();
        let text = format!(
            "{}: asked for at {:.3} s, done at {:.3} s",
            firing.text,
            firing.at.as_secs_f64(),
            done.as_secs_f64()
        );
        context.events.add("schedule", text.clone(), None);
        if done > firing.at + LATE {
            context.tell(Note::Warning(format!("late: {text}"))).await;
        }
    }
}
