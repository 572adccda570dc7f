//! Stores outputs, logs and events of a share, and does not give up early.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groundswell_common::bus;
use groundswell_common::chain::Chain;
use groundswell_common::kpi::{KpiReport, SeriesSet};
use groundswell_common::messages::{InstancePlace, ShareEvent};
use groundswell_common::outputs::{INDEX_VERSION, Index, index_key, prefix};
use groundswell_common::timing::COLLECT_TIMEOUT;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::{Context, Note};
use crate::kpis::{self, Found};
use crate::outputs::{Packed, Source, pack};

/// How long the servers of the instances may take to end.
const SERVERS_END: Duration = Duration::from_secs(5);
/// The most bytes of KPIs that go into a message.
const KPI_BYTES: usize = 128 << 10;

/// Stores everything and returns the index's key, or why it cannot be stored.
pub(crate) async fn collect(context: Arc<Context>) -> Result<String, String> {
    let assignment = &context.assignment;
    let prefix = prefix(&assignment.run, assignment.attempt, &context.host.worker);
    end_servers(&context).await;
    // While outputs are packed and stored there is time to find out whether the store takes it.
    context.host.parts.shipper.flush();
    report_network(&context).await;
    tell_underlay(&context).await;
    let until = Instant::now() + COLLECT_TIMEOUT;
    report_kpis(&context, &prefix, until).await?;
    let packed = pack_all(&context, prefix.clone()).await?;
    for text in &packed.skipped {
        context.tell(Note::Warning(format!("left out of the outputs: {text}"))).await;
    }
    for (key, file) in &packed.packs {
        store(&context, key, Content::File(file), until).await?;
        // The spool and its pack are two copies; the stored one is the third.
        let _ = std::fs::remove_file(file);
    }
    tell_lost_metrics(&context).await;
    context.events.flush().await;
    store_events(&context, &format!("{prefix}/events.jsonl"), until).await?;
    let index = Index {
        v: INDEX_VERSION,
        run: assignment.run.clone(),
        attempt: assignment.attempt,
        worker: context.host.worker.clone(),
        files: packed.files,
        skipped: packed.skipped,
    };
    let key = index_key(&assignment.run, assignment.attempt, &context.host.worker);
    let content = serde_json::to_vec(&index).expect("an index is plain data");
    store(&context, &key, Content::Bytes(content.into()), until).await?;
    Ok(key)
}

/// Says how many of the instances' metrics have not got through. Nobody waits for those that still may.
async fn tell_lost_metrics(context: &Context) {
    let losses = context.host.parts.shipper.losses(&context.assignment.run);
    if let Some(text) = losses.text(&format!(" on worker {}", context.host.worker)) {
        context.tell(Note::Warning(text)).await;
    }
}

/// Writes down what became of the packets between workers; people hear of it when some were not as configured.
async fn tell_underlay(context: &Context) {
    let run = &context.assignment.run;
    let Some(counts) = context.network().underlay(run) else { return };
    context.events.add("underlay", counts.to_string(), None);
    if !counts.is_clean() {
        let text = format!("the network between workers disturbed the data network: {counts}");
        context.tell(Note::Warning(text)).await;
    }
}

/// No instance is left; what serves them writes down the rest of what they sent.
async fn end_servers(context: &Context) {
    context.end.cancel();
    context.servers.close();
    if timeout(SERVERS_END, context.servers.wait()).await.is_err() {
        let text = "metrics were still being written when outputs were packed".to_owned();
        context.tell(Note::Warning(text)).await;
    }
}

/// Told whether or not outputs can be stored: it is part of the run's result.
async fn report_network(context: &Context) {
    if let Some(mut report) = context.network().report(&context.assignment.run).await {
        report.probes = context.probes.report();
        context.host.rig.take(&report);
        context.report(ShareEvent::Network { report });
    }
}

/// Told whether or not outputs can be stored. Only what is too large for a message has to be stored first.
async fn report_kpis(context: &Arc<Context>, prefix: &str, until: Instant) -> Result<(), String> {
    context.tell(Note::Doing("reading metrics".to_owned())).await;
    let sources = sources(context);
    let from_stdout = context.assignment.options.kpis_from_stdout;
    let reading = tokio::task::spawn_blocking(move || kpis::read(&sources, from_stdout));
    let Found { series, warnings } =
        reading.await.map_err(|err| format!("reading metrics ended early: {err}"))?;
    for warning in warnings {
        context.tell(Note::Warning(warning)).await;
    }
    let packed = bus::encode(&series);
    let mut report = KpiReport { series, stored: None, host: context.load.report() };
    if packed.len() > KPI_BYTES {
        let key = format!("{prefix}/kpis.msgpack");
        store(context, &key, Content::Bytes(packed), until).await?;
        report = KpiReport { series: SeriesSet::default(), stored: Some(key), ..report };
    }
    context.report(ShareEvent::Kpis { report: Box::new(report) });
    Ok(())
}

fn sources(context: &Context) -> Vec<Source> {
    let source = |place: InstancePlace| Source {
        group: context.group(place).to_owned(),
        in_group: place.in_group,
        instance: place.id,
        directory: context.directory(place),
    };
    context.assignment.instances().map(source).collect()
}

async fn pack_all(context: &Arc<Context>, prefix: String) -> Result<Packed, String> {
    let sources = sources(context);
    context.tell(Note::Doing("packing outputs".to_owned())).await;
    let spool = context.spool.clone();
    let quotas = context.assignment.options.quotas;
    let packing = tokio::task::spawn_blocking(move || pack(&sources, &spool, &prefix, quotas));
    match packing.await {
        Ok(Ok(packed)) => Ok(packed),
        Ok(Err(err)) => Err(format!("failed to pack outputs: {err}")),
        Err(err) => Err(format!("packing outputs ended early: {err}")),
    }
}

/// Events are worth keeping, and not worth failing for when the disk took none.
async fn store_events(context: &Context, key: &str, until: Instant) -> Result<(), String> {
    let path: &Path = context.events.path();
    if !path.exists() {
        return Ok(());
    }
    store(context, key, Content::File(path), until).await
}

/// What is stored.
enum Content<'a> {
    File(&'a Path),
    Bytes(Bytes),
}

/// Tries until it is stored, a disk is full, or the time for collecting is over.
async fn store(
    context: &Context,
    key: &str,
    content: Content<'_>,
    until: Instant,
) -> Result<(), String> {
    let mut pause = Duration::from_millis(500);
    loop {
        let stored = match &content {
            Content::File(file) => context.host.objects.put_file(key, file).await,
            Content::Bytes(bytes) => context.host.objects.put(key, bytes.clone()).await,
        };
        let Err(err) = stored else { return Ok(()) };
        let text = Chain(&err).to_string();
        if err.is_full() || Instant::now() + pause > until {
            return Err(text);
        }
        warn!(error = text, key, "outputs not stored, trying again");
        let doing = format!("outputs cannot be stored, trying again: {text}");
        context.tell(Note::Doing(doing)).await;
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}
