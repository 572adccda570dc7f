//! Plays the schedule of a run's network: each firing at its time, counted from the start of the run as
//! this worker saw it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::ids::InstanceId;
use groundswell_common::messages::InstancePlace;
use groundswell_common::narrative::{Deed, Strike};
use groundswell_common::network::{Action, Firing};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::context::Concerned;
use super::links::Change;
use super::{Context, Note};
use crate::events::Whom;
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
    // What an earlier life of the worker has fired is only carried out again, in order, and not told.
    let fired = start.elapsed();
    let again = |firing: &Firing| context.adoption.is_some() && firing.at <= fired;
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
                if !again(firing) {
                    tell(&context, firing, start.elapsed(), LATE).await;
                }
                continue;
            }
        };
        let (context, firing) = (Arc::clone(&context), firing.clone());
        let whom = Concerned::Classes(classes.clone());
        let change = async move {
            change(&context, whom, what).await;
            tell(&context, &firing, start.elapsed(), LATE_ROUTERS).await;
        };
        going_on.spawn(change.in_current_span());
    }
    going_on.join_all().await;
}

/// Carries out what the narrative does to the network of single instances. What it does to their processes is theirs.
pub(super) async fn play_narrative(context: Arc<Context>, start: Instant) {
    let here: BTreeMap<InstanceId, InstancePlace> =
        context.assignment.instances().map(|place| (place.id, place)).collect();
    let mut going_on = JoinSet::new();
    for strike in context.strikes.as_deref().unwrap_or_default() {
        let what = match strike.deed {
            Deed::Rebind => Change::Rebind,
            Deed::Readdress => Change::Readdress,
            Deed::Nat { to, .. } => Change::Become(Some(to)),
            Deed::Kill { .. } | Deed::Stop { .. } | Deed::Pause { .. } => continue,
        };
        let struck = strike.instances.iter().filter_map(|id| here.get(id));
        let struck: Vec<InstancePlace> = struck.copied().collect();
        if struck.is_empty() {
            continue;
        }
        sleep_until(start + strike.at).await;
        while going_on.try_join_next().is_some() {}
        let (context, strike) = (Arc::clone(&context), strike.clone());
        let strikes = async move {
            let whom = Concerned::Instances(strike.instances.clone());
            change(&context, whom.clone(), what).await;
            tell_strike(&context, &strike, &struck, (strike.at, start), "");
            if let Deed::Nat { lasts: Some(lasts), .. } = strike.deed {
                let over = strike.at.saturating_add(lasts);
                sleep_until(start + over).await;
                change(&context, whom, Change::Become(None)).await;
                tell_strike(&context, &strike, &struck, (over, start), " is over");
            }
        };
        going_on.spawn(strikes.in_current_span());
    }
    going_on.join_all().await;
}

/// Writes down what a strike has done to the instances that are here.
fn tell_strike(
    context: &Context,
    strike: &Strike,
    here: &[InstancePlace],
    (at, start): (Duration, Instant),
    what: &str,
) {
    let entry = context.assignment.network.narrative.text(strike.entry);
    let (at, done) = (at.as_secs_f64(), start.elapsed().as_secs_f64());
    let text = format!("{entry}{what}; asked for at {at:.3} s, done at {done:.3} s");
    for place in here {
        let whom = Whom { group: context.group(*place).to_owned(), instance: place.id };
        context.events.add("strike", text.clone(), Some(whom));
    }
}

/// Changes ends of the data network, and waits until all have changed.
async fn change(context: &Context, whom: Concerned, what: Change) {
    let tracker = TaskTracker::new();
    context.tell(Note::Change { whom, what, done: tracker.token() }).await;
    tracker.close();
    tracker.wait().await;
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
