//! Makes all instances of a share ready: images, data network, sync, then the instances, many at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::chain::Chain;
use groundswell_common::ids::InstanceId;
use groundswell_common::messages::{Assignment, InstancePlace, places};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info_span, warn};

use super::excess::Allowance;
use super::fate::Fate;
use super::member::{Member, ORDERS};
use super::outside::{Outside, Way};
use super::{Context, Note, adopt, nats};
use crate::images::ImageError;
use crate::logs::{self, LastLines, Stream};
use crate::network::links::Links;
use crate::network::overlay::{Others, SealSpec};
use crate::network::wire::WireSpec;
use crate::network::{Attachment, NetworkError};
use crate::parts::{MetricsSource, ShareSync};
use crate::runtime::{Created, INCARNATION, Instance, InstanceLabels, InstanceSpec, RuntimeError};
use crate::sync::{LifecycleEvent, SyncLimits, SyncSpec, connections};

/// Largest packet of the data interface.
pub(super) const MTU: u16 = 1500;
/// How often an image is fetched before that counts as failed.
const FETCHES: u32 = 5;
/// The bits of an epoch that tell the lives of a worker from each other in the data network.
const LIVES: u64 = (1 << 24) - 1;
/// Names an SDK may look up; all of them are served inside the instance's own namespace.
const LOCAL_NAMES: [&str; 4] =
    ["testground-sync-service", "testground-redis", "testground-influxdb", "influxdb"];

/// Why a share cannot be prepared.
#[derive(Debug)]
pub(crate) struct Unprepared {
    /// Why.
    pub(crate) reason: String,
    /// Whether the plan or its image is the cause.
    pub(crate) fault_of_plan: bool,
}

impl Unprepared {
    pub(super) fn host(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), fault_of_plan: false }
    }
}

impl From<RuntimeError> for Unprepared {
    fn from(err: RuntimeError) -> Self {
        let fault_of_plan = matches!(err, RuntimeError::Plan(_));
        Self { reason: Chain(&err).to_string(), fault_of_plan }
    }
}

impl From<NetworkError> for Unprepared {
    fn from(err: NetworkError) -> Self {
        let fault_of_plan = !matches!(err, NetworkError::Host { .. });
        Self { reason: Chain(&err).to_string(), fault_of_plan }
    }
}

/// Prepares the share. `Ok` means that every instance is ready and its network is announced.
///
/// Once `abort` is told nothing new is begun; instances that are being made are finished, so that each of
/// them has an owner who removes it.
pub(crate) async fn prepare(
    context: Arc<Context>,
    abort: CancellationToken,
) -> Result<(), Unprepared> {
    for text in context.runtime.missing() {
        context.tell(Note::Warning(text)).await;
    }
    let prepared = prepare_all(&context, abort).await;
    if prepared.is_err() && context.adoption.is_some() {
        // Those that nobody has taken would run on, and nobody would see it.
        adopt::give_up(&context.host, &context.assignment).await;
    }
    prepared
}

async fn prepare_all(context: &Arc<Context>, abort: CancellationToken) -> Result<(), Unprepared> {
    let opened = abort.run_until_cancelled(open(context)).await;
    let Some(sync) = opened.transpose()? else { return Err(aborted()) };
    nats::make(context, &abort).await?;
    create_all(context, &sync, &abort).await?;
    context.outside.get().inspect(|outside| outside.tell(context));
    let ready = async {
        mark_started(context)?;
        let ids: Vec<_> = context.assignment.instances().map(|place| place.id).collect();
        sync.network_ready(&ids).await;
        Ok(())
    };
    abort.run_until_cancelled(ready).await.unwrap_or_else(|| Err(aborted()))
}

fn aborted() -> Unprepared {
    Unprepared::host("preparing was aborted")
}

async fn open(context: &Context) -> Result<Arc<dyn ShareSync>, Unprepared> {
    let assignment = &context.assignment;
    std::fs::create_dir_all(&context.spool).map_err(|err| {
        Unprepared::host(format!("failed to create `{}`: {err}", context.spool.display()))
    })?;
    if let Err(err) = &context.strikes {
        return Err(Unprepared { reason: err.to_string(), fault_of_plan: true });
    }
    let network = context.network();
    network.check(&assignment.network).await?;
    fetch_images(context).await?;
    super::datasets::fetch(context).await?;
    nats::check(context)?;
    network.open(&assignment.run, assignment.subnet, assignment.seed).await?;
    if !assignment.peers.is_empty() {
        network.connect(&assignment.run, others(context)?).await?;
        nats::lead_to_others(context).await?;
    }
    if let Some(links) = Links::of(assignment) {
        network.relink(&assignment.run, Arc::new(links)).await?;
    }
    // A share is opened once.
    let _ = context.outside.set(Outside::open(context).await?);
    context.tell(Note::Doing("opening the sync log".to_owned())).await;
    let spec = SyncSpec {
        run: assignment.run.clone(),
        attempt: assignment.attempt,
        plan: assignment.plan.clone(),
        case: assignment.case.clone(),
        worker: context.host.worker.clone(),
        epoch: context.epoch,
        workers: assignment.workers.clone(),
        total_instances: assignment.total_instances,
        connections: Some(context.spool.join(connections::FILE)),
        limits: SyncLimits::of(&assignment.options.quotas),
    };
    let host = &context.host;
    let opened = host.parts.sync.open(host.bus.clone(), spec, &host.tasks).await;
    let (sync, events) = opened.map_err(|err| Unprepared::host(Chain(err.as_ref()).to_string()))?;
    context.tell(Note::Opened { sync: Arc::clone(&sync), events }).await;
    Ok(sync)
}

/// The run's other workers, as the data network needs to know them.
fn others(context: &Context) -> Result<Others, Unprepared> {
    let assignment = &context.assignment;
    let mut workers = Vec::new();
    for peer in &assignment.peers {
        let Some(overlay) = peer.overlay else {
            let worker = &peer.worker;
            return Err(Unprepared::host(format!(
                "the run has instances on worker {worker}, which takes no packets of others"
            )));
        };
        // Those behind a NAT are in the network in the name of the first of them.
        let fronts = places(&peer.share).filter(|place| assignment.front(*place) == place.id);
        workers.push((overlay, fronts.map(|one| (one.id, assignment.address(one.id))).collect()));
    }
    let seal = match &assignment.overlay_secret {
        Some(secret) => Some(SealSpec { secret: secret.clone(), sender: sender(context)? }),
        None => None,
    };
    // Epochs rise, and a run does not see millions of them.
    let life = u32::try_from(context.epoch.0 & LIVES).unwrap_or(u32::MAX);
    let again = context.adoption.is_some().then_some(life);
    Ok(Others { key: assignment.network_key, attempt: assignment.attempt, workers, seal, again })
}

/// This worker's number among the run's workers, and the attempt, in one word.
fn sender(context: &Context) -> Result<u32, Unprepared> {
    let Assignment { workers, attempt, .. } = context.assignment.as_ref();
    let number = workers.iter().position(|one| *one == context.host.worker);
    number
        .and_then(|number| u16::try_from(number).ok())
        .map(|number| (attempt.0 << 16) | u32::from(number))
        .ok_or_else(|| Unprepared::host("the run is not for this worker, or for too many"))
}

async fn fetch_images(context: &Context) -> Result<(), Unprepared> {
    let assignment = &context.assignment;
    let groups: BTreeSet<u16> = assignment.share.iter().map(|range| range.group).collect();
    for index in groups {
        let group = assignment
            .groups
            .get(usize::from(index))
            .ok_or_else(|| Unprepared::host(format!("the assignment has no group {index}")))?;
        context.tell(Note::Doing(format!("fetching the image of group `{}`", group.id))).await;
        let mut tries = 0;
        while let Err(err) =
            context.host.images.ensure(&group.image, context.runtime.as_ref()).await
        {
            tries += 1;
            let text = Chain(&err).to_string();
            if tries == FETCHES || !matches!(err, ImageError::Fetch { .. }) {
                return Err(Unprepared { reason: text, fault_of_plan: err.is_fault_of_plan() });
            }
            warn!(error = text, tries, "image not fetched, trying again");
            context.tell(Note::Doing(format!("trying again: {text}"))).await;
            sleep(Duration::from_secs(1) * tries).await;
        }
    }
    Ok(())
}

async fn create_all(
    context: &Arc<Context>,
    sync: &Arc<dyn ShareSync>,
    abort: &CancellationToken,
) -> Result<(), Unprepared> {
    context.tell(Note::Doing("making instances".to_owned())).await;
    let mut creating = JoinSet::new();
    let mut places = context.assignment.instances();
    let mut failed = None;
    loop {
        // Turns are taken by those who create, so that shares side by side get their part.
        let next = if failed.is_none() && !abort.is_cancelled() && creating.len() < AT_ONCE {
            places.next()
        } else {
            None
        };
        if let Some(place) = next {
            let span = info_span!("instance", instance = %place.id, group = context.group(place));
            let create = create(Arc::clone(context), Arc::clone(sync), place, span.clone());
            creating.spawn(create.instrument(span));
            continue;
        }
        match creating.join_next().await {
            None => break,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(err))) => {
                failed.get_or_insert(err);
            }
            Some(Err(err)) => {
                failed.get_or_insert(Unprepared::host(format!("making an instance: {err}")));
            }
        }
    }
    match failed {
        Some(failed) => Err(failed),
        None if abort.is_cancelled() => Err(aborted()),
        None => Ok(()),
    }
}

/// How many creations of one share are under way; the host's turns are fewer.
const AT_ONCE: usize = 128;

async fn create(
    context: Arc<Context>,
    sync: Arc<dyn ShareSync>,
    place: InstancePlace,
    span: tracing::Span,
) -> Result<(), Unprepared> {
    let turns = context.host.turns(context.runtime.kind());
    let prepared = async {
        let _turn = turns.acquire().await.expect("turns are never closed");
        let directory = directories(&context, place).map_err(|err| {
            Unprepared::host(format!("failed to create an instance's directories: {err}"))
        })?;
        let spec = spec(&context, place, &directory);
        let labels = spec.labels.clone();
        let created = match &context.adoption {
            Some(_) => adopt::take(&context, &labels).await?,
            None => context.runtime.create(spec).await?,
        };
        adopt::deposit(&context, place.id, &created).await;
        connect(&context, &sync, place, labels, &directory, created).await
    };
    let (member, way) = prepared.instrument(info_span!(parent: &span, "prepare")).await?;
    let (orders, inbox) = mpsc::channel(ORDERS);
    let instance = Arc::clone(&member.instance);
    context.host.count(1);
    let counted = Arc::clone(&context);
    context.members.spawn(
        async move {
            member.run(inbox).await;
            adopt::forget(&counted, place.id).await;
            counted.host.count(-1);
        }
        .instrument(span),
    );
    context.tell(Note::Ready { id: place.id, orders, instance, way }).await;
    if context.adoption.as_ref().is_some_and(|adoption| adoption.cut.contains(&place.id)) {
        context.tell(Note::Cut { id: place.id }).await;
    }
    Ok(())
}

/// Connects a created instance to the data network, the sync, the metrics and its log files.
async fn connect(
    context: &Arc<Context>,
    sync: &Arc<dyn ShareSync>,
    place: InstancePlace,
    labels: InstanceLabels,
    directory: &Path,
    created: Created,
) -> Result<(Member, Way), Unprepared> {
    let assignment = &context.assignment;
    let instance: Arc<dyn Instance> = Arc::from(created.instance);
    context.probes.join(place.id, &created.wired);
    let outside = context.outside.get().expect("it is opened before instances are made");
    let attached = async {
        if let Some(device) = created.wired.device {
            attach(context, place.id, device).await?;
        }
        let way =
            outside.admit(context, place, created.wired.names, &created.wired.control).await?;
        outside.expose(context, place, &instance).await?;
        Ok(way)
    };
    let way = match attached.await {
        Ok(way) => way,
        Err(unprepared) => {
            if let Err(err) = instance.remove().await {
                warn!(error = %Chain(&err), instance = %place.id, "instance not removed");
            }
            adopt::forget(context, place.id).await;
            return Err(unprepared);
        }
    };
    sync.serve(place.id, assignment.hostname(place.id), created.wired.sync).await;
    let (source, file) = (assignment.source.clone(), directory.join("metrics.lp"));
    let source = MetricsSource { labels, source, file };
    let host = &context.host;
    host.parts.metrics.serve(created.wired.influx, source, context.end.clone(), &context.servers);
    let last = LastLines::default();
    let mut pumps = JoinSet::new();
    let mut said =
        assignment.options.outcome_from_stdout.then(|| hear(&mut pumps, context, place.id));
    if said.is_some() && context.adoption.is_some() {
        for event in logs::printed(&directory.join("stdout.log")) {
            context.tell(Note::Printed { id: place.id, event }).await;
        }
    }
    for (pipe, stderr) in [(created.stdout, false), (created.stderr, true)] {
        let stream = Stream {
            file: directory.join(if stderr { "stderr.log" } else { "stdout.log" }),
            cap: assignment.options.log_cap_bytes,
            instance: place.id,
            group: context.group(place).to_owned(),
            in_group: place.in_group,
            stderr,
            last: last.clone(),
            live: context.live.clone(),
            said: if stderr { None } else { said.take() },
        };
        pumps.spawn(stream.pump(pipe));
    }
    let member = Member {
        id: place.id,
        instance,
        pumps,
        last,
        sync: Arc::clone(sync),
        notes: context.notes.clone(),
        starts: context.host.turns(context.runtime.kind()),
        control: created.wired.control,
        allowance: Allowance { directory: directory.to_owned(), quotas: assignment.options.quotas },
        fate: Fate::of(context, place),
        running: false,
        over: false,
    };
    Ok((member, way))
}

async fn attach(
    context: &Context,
    instance: InstanceId,
    device: OwnedFd,
) -> Result<(), NetworkError> {
    let (run, address) = (context.assignment.run.clone(), context.assignment.address(instance));
    let attachment = Attachment { run, instance, device, address };
    context.network().attach(attachment).await
}

/// Passes on what an instance prints about itself. The task is one of those that are waited for at its end.
fn hear(
    pumps: &mut JoinSet<Option<String>>,
    context: &Context,
    id: InstanceId,
) -> mpsc::Sender<LifecycleEvent> {
    let (said, mut heard) = mpsc::channel(16);
    let notes = context.notes.clone();
    pumps.spawn(async move {
        while let Some(event) = heard.recv().await {
            let _ = notes.send(Note::Printed { id, event }).await;
        }
        None
    });
    said
}

fn spec(context: &Context, place: InstancePlace, directory: &Path) -> InstanceSpec {
    let assignment = &context.assignment;
    let group = &assignment.groups[usize::from(place.group)];
    let hosts: BTreeMap<String, Ipv4Addr> =
        LOCAL_NAMES.iter().map(|name| ((*name).to_owned(), Ipv4Addr::LOCALHOST)).collect();
    let again = assignment.network.narrative.starts_again(place.group);
    let mut env = (context.host.parts.env)(assignment, place);
    if again {
        env.insert(INCARNATION.to_owned(), "0".to_owned());
    }
    InstanceSpec {
        labels: InstanceLabels {
            run: assignment.run.clone(),
            attempt: assignment.attempt,
            instance: place.id,
            worker: context.host.worker.clone(),
            epoch: context.epoch,
            plan: assignment.plan.clone(),
            case: assignment.case.clone(),
            group: group.id.clone(),
            in_group: place.in_group,
        },
        image: group.image.clone(),
        env,
        hostname: assignment.hostname(place.id),
        outputs: directory.join("outputs"),
        temp: directory.join("temp"),
        datasets: super::datasets::binds(context, group),
        hosts,
        resources: group.resources.clone(),
        ulimits: assignment.options.ulimits.clone(),
        wire: WireSpec {
            address: assignment.address(place.id),
            prefix: assignment.subnet.prefix_len(),
            mtu: MTU,
            data_path: assignment.network.data_path,
        },
        behind: context.nats.behind(assignment, place),
        keep: assignment.options.keep_containers,
        read_only_root: assignment.options.read_only_root,
        again,
    }
}

/// Makes the directories an instance writes to. Any user may: plans run as whom their image says.
fn directories(context: &Context, place: InstancePlace) -> io::Result<std::path::PathBuf> {
    let directory = context.directory(place);
    for name in ["outputs", "temp"] {
        let path = directory.join(name);
        std::fs::create_dir_all(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o777))?;
    }
    Ok(directory)
}

/// Writes down that instances of this attempt may run from here on: after a crash of the worker they are
/// never started a second time.
fn mark_started(context: &Context) -> Result<(), Unprepared> {
    if context.adoption.is_some() {
        return Ok(());
    }
    let failed =
        |err: io::Error| Unprepared::host(format!("failed to write the start journal: {err}"));
    adopt::prepare(context).map_err(failed)?;
    crate::reap::mark(&context.host.state_dir, &context.assignment.run, context.assignment.attempt)
        .map_err(failed)
}
