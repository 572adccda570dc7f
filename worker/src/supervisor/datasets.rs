//! The datasets of a share: fetched before its instances are made, held as long as the share is here.

use std::path::PathBuf;
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::datasets::DatasetMount;
use groundswell_common::messages::GroupSpec;
use tokio::time::sleep;
use tracing::warn;

use super::prepare::Unprepared;
use super::{Context, Note};
use crate::runtime::DatasetBind;

/// How often a dataset is fetched before that counts as failed. What was fetched stays, so each try goes on where the
/// one before has ended.
const FETCHES: u32 = 5;

/// Fetches the datasets of all groups that have instances here. Failing is a failure of the infrastructure.
pub(super) async fn fetch(context: &Context) -> Result<(), Unprepared> {
    let mut wanted: Vec<&DatasetMount> = Vec::new();
    for range in &context.assignment.share {
        let group = context.assignment.groups.get(usize::from(range.group));
        for dataset in group.iter().flat_map(|group| &group.datasets) {
            if !wanted.iter().any(|one| one.manifest == dataset.manifest) {
                wanted.push(dataset);
            }
        }
    }
    let mut held = Vec::new();
    for dataset in wanted {
        context.tell(Note::Doing(format!("fetching dataset `{}`", dataset.name))).await;
        let mut tries = 0;
        loop {
            let err = match context.host.datasets.ensure(dataset).await {
                Ok(one) => {
                    held.push(one);
                    break;
                }
                Err(err) => err,
            };
            tries += 1;
            let text = Chain(&err).to_string();
            if tries == FETCHES || !err.may_pass() {
                return Err(Unprepared::host(text));
            }
            warn!(error = text, tries, "dataset not fetched, trying again");
            context.tell(Note::Doing(format!("trying again: {text}"))).await;
            sleep(Duration::from_secs(1) * tries).await;
        }
    }
    // A share is opened once.
    let _ = context.datasets.set(held);
    Ok(())
}

/// What instances of a group see of their datasets.
pub(super) fn binds(context: &Context, group: &GroupSpec) -> Vec<DatasetBind> {
    let bind = |one: &DatasetMount| DatasetBind {
        from: context.host.datasets.files(one),
        to: PathBuf::from(&one.path),
    };
    group.datasets.iter().map(bind).collect()
}
