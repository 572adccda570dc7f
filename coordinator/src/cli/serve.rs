//! `serve`: a coordinator for a cluster. `up`: a whole stack on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use groundswell_common::metrics::scrape::Exposed;
use groundswell_common::metrics::{Limits, Shipping};
use groundswell_common::timing::{Leadership, Lease};
use groundswell_coordinator::config::ServeFile;
use groundswell_coordinator::ledger::{GenerationFile, LedgerError};
use groundswell_coordinator::service::{Gauges, ServiceError};
use prometheus_client::registry::Registry;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::args::{Serve, Up};
use super::exit::Exit;
use super::keys::{Interrupt, Interrupts};
use super::page::Page;
use super::{Done, Session, Trouble, connect, parts, submit};
use crate::local;

/// How long it takes to become the leader when there is no other.
const STANDS_BY: Duration = Duration::from_secs(2);
/// How long the service may take to end.
const DRAIN: Duration = Duration::from_secs(30);

pub(crate) async fn serve(session: &Session, args: Serve) -> Done {
    let settings = &session.settings;
    let missing = |what: &str, flag: &str| {
        let help = format!("{flag} URL, GROUNDSWELL_{}, or a context", what.to_uppercase());
        Trouble::new(Exit::Usage, format!("`serve` needs {flag}"), help)
    };
    let nats = settings.nats.as_ref().ok_or_else(|| missing("nats", "--nats"))?;
    let objects = settings.objects.as_ref().ok_or_else(|| missing("objects", "--objects"))?;
    let file = match &args.config {
        Some(path) => {
            ServeFile::read(path).map_err(|err| Trouble::from_error(Exit::Usage, &err))?
        }
        None => ServeFile::default(),
    };
    let mut interrupts =
        Interrupts::listen().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    let name = args.name.unwrap_or_else(host_name);
    let objects = connect::open_objects(session, objects)?;
    objects.probe(&name).await.map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
    let metrics = file.metrics.clone().resolve();
    let metrics = metrics.map_err(|err| Trouble::from_error(Exit::Usage, &err))?;
    let shipping = Shipping::start(metrics.as_ref(), Limits::default())
        .map_err(|err| Trouble::from_error(Exit::Usage, &err))?;
    let gauges = Gauges::default();
    let listen = args.metrics_listen.or(file.metrics_listen);
    let _exposed = expose(listen, gauges.registry(shipping.shipper())).await?;
    let parts = parts::ServiceParts {
        bus: connect::connect_bus(session, nats).await?,
        objects,
        lease: Lease::DEFAULT.faster(args.lease_divisor),
        cache_dir: args.cache_dir.unwrap_or_else(|| settings.home.join("cache")),
        patience: groundswell_coordinator::service::NO_ROOM_PATIENCE,
        policy: file.policy(),
        overcommit: file.overcommit(),
        parallel_builds: file.parallel_builds(),
        first_token: file.first_token(&settings.home),
        generation: Some(GenerationFile {
            path: settings.home.join("generations").join(file_name(nats)),
            bootstrap: args.bootstrap,
        }),
        name,
        standby: Some(Leadership::DEFAULT.faster(args.lease_divisor)),
        shipper: shipping.shipper(),
        gauges,
    };
    let (bus, objects) = (parts.bus.clone(), parts.objects.clone());
    // A standby answers as well: it asks whoever leads.
    let page = Page::start(session, &args.listen, bus, objects).await?;
    let ended = loop {
        match term(session, parts.clone(), &mut interrupts).await {
            Ok(Term::Deposed) => session.out.note("another coordinator has taken the lead"),
            Ok(Term::Interrupted) => break Ok(Exit::Passed),
            Err(trouble) => break Err(trouble),
        }
    };
    if let Some(page) = page {
        page.stop().await;
    }
    shipping.stop().await;
    ended
}

/// Lets Prometheus ask, where that is wanted.
async fn expose(
    address: Option<SocketAddr>,
    registry: Registry,
) -> Result<Option<Exposed>, Trouble> {
    let Some(address) = address else { return Ok(None) };
    Exposed::start(address, registry).await.map(Some).map_err(|err| {
        let message = format!("failed to listen on `{address}` for metrics: {err}");
        Trouble::new(Exit::Usage, message, "--metrics-listen ADDRESS:PORT wants a free one")
    })
}

/// How one time as a candidate and as the leader ends.
enum Term {
    Deposed,
    Interrupted,
}

/// Waits for the lead, and leads until another does or a signal comes.
async fn term(
    session: &Session,
    parts: parts::ServiceParts,
    interrupts: &mut Interrupts,
) -> Result<Term, Trouble> {
    let shutdown = CancellationToken::new();
    let mut starting = pin!(parts::start_service(parts, shutdown.clone()));
    let mut waits = pin!(sleep(STANDS_BY));
    let mut standing_by = false;
    let mut ended = loop {
        tokio::select! {
            started = &mut starting => break started.map_err(not_started)?,
            () = &mut waits, if !standing_by => {
                standing_by = true;
                session.out.note("standing by: another coordinator leads, or its lead has not run out");
            }
            _ = interrupts.next() => {
                shutdown.cancel();
                // Whatever it says of having been stopped: nothing was begun.
                let _ = timeout(DRAIN, starting).await;
                return Ok(Term::Interrupted);
            }
        }
    };
    session
        .out
        .note("serving; SIGTERM or Ctrl-C ends it, and runs go on with a standby or its successor");
    tokio::select! {
        ended = &mut ended => return ended.map(|()| Term::Deposed).map_err(Trouble::from),
        _ = interrupts.next() => shutdown.cancel(),
    }
    match timeout(DRAIN, ended).await {
        Ok(ended) => ended.map(|()| Term::Interrupted).map_err(Trouble::from),
        Err(_) => Err(Trouble::new(Exit::Internal, "shutdown did not finish in time", "")),
    }
}

/// What a service that does not start is told as.
fn not_started(err: anyhow::Error) -> Trouble {
    match err.downcast_ref() {
        Some(ServiceError::Ledger(lost @ LedgerError::Forgotten { .. })) => Trouble::new(
            Exit::Unreachable,
            lost.to_string(),
            "restore what the servers had stored, or begin anew with `--bootstrap`: live runs, tokens and \
             cordons are gone then",
        ),
        Some(_) | None => Trouble::from(err),
    }
}

/// The name of the file about the cluster at these addresses.
fn file_name(nats: &str) -> String {
    let places = nats.split(',').map(|url| url.trim().rsplit(['@', '/']).next().unwrap_or(url));
    let mut places: Vec<&str> = places.collect();
    places.sort_unstable();
    places.join("+")
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "coordinator".to_owned())
}

pub(crate) async fn up(session: &Session, args: &Up) -> Done {
    if session.settings.nats.is_some() {
        return Err(Trouble::new(
            Exit::Usage,
            "a cluster is configured, and `up` is for this machine",
            "`coordinator -C local up` ignores the configuration",
        ));
    }
    if let Some(endpoint) = local::kept(&session.settings.home) {
        return Err(Trouble::new(
            Exit::Usage,
            format!("a stack is up already, in process {}", endpoint.pid),
            "submit to it, or end that process first",
        ));
    }
    let mut interrupts =
        Interrupts::listen().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    let mut stack = submit::start_stack(session, args.workers, true).await?;
    let place: PathBuf = session.settings.home.clone();
    let page = Page::start(session, &args.listen, stack.bus.clone(), stack.objects.clone()).await?;
    if session.out.json {
        session.out.json(&serde_json::json!({
            "v": 1,
            "nats": stack.url,
            "objects": stack.objects.url(),
            "http": page.as_ref().map(|page| &page.url),
        }));
    }
    let workers = if args.workers == 1 { "worker" } else { "workers" };
    session.out.note(format_args!(
        "up: {} {workers}, outputs in {}. Submit from another terminal; Ctrl-C ends it",
        args.workers,
        place.join("store").display()
    ));
    let ended = tokio::select! {
        interrupt = interrupts.next() => Ok(interrupt),
        reason = stack.broken() => Err(Trouble::new(Exit::Infra, reason, "")),
    };
    session.out.note("going down");
    if let Some(page) = page {
        page.stop().await;
    }
    stack.stop().await;
    // To end is what was asked for; only what Ctrl-C interrupts has a code of its own.
    ended.map(|_: Interrupt| Exit::Passed)
}
