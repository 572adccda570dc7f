//! `serve`: a coordinator for a cluster. `up`: a whole stack on this machine.

use std::path::PathBuf;
use std::time::Duration;

use groundswell_common::timing::Lease;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::args::{Serve, Up};
use super::exit::Exit;
use super::keys::{Interrupt, Interrupts};
use super::{Done, Session, Trouble, connect, parts, submit};
use crate::local;

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
    let mut interrupts =
        Interrupts::listen().map_err(|err| Trouble::from_error(Exit::Internal, &err))?;
    let name = args.name.unwrap_or_else(host_name);
    let objects = connect::open_objects(session, objects)?;
    objects.probe(&name).await.map_err(|err| Trouble::from_error(Exit::Infra, &err))?;
    let parts = parts::ServiceParts {
        bus: connect::connect_bus(session, nats).await?,
        objects,
        lease: Lease::DEFAULT.faster(args.lease_divisor),
        cache_dir: args.cache_dir.unwrap_or_else(|| settings.home.join("cache")),
        patience: groundswell_coordinator::service::NO_ROOM_PATIENCE,
        name,
    };
    let shutdown = CancellationToken::new();
    let mut ended = parts::start_service(parts, shutdown.clone()).await?;
    session
        .out
        .note("serving; SIGTERM or Ctrl-C ends it, and runs go on with a standby or its successor");
    tokio::select! {
        ended = &mut ended => {
            ended?;
            return Err(Trouble::new(Exit::Internal, "the service has ended by itself", ""));
        }
        _ = interrupts.next() => shutdown.cancel(),
    }
    match timeout(DRAIN, ended).await {
        Ok(ended) => ended.map(|()| Exit::Passed).map_err(Trouble::from),
        Err(_) => Err(Trouble::new(Exit::Internal, "shutdown did not finish in time", "")),
    }
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
    if session.out.json {
        let objects = stack.objects.url();
        session.out.json(&serde_json::json!({ "v": 1, "nats": stack.url, "objects": objects }));
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
    stack.stop().await;
    // To end is what was asked for; only what Ctrl-C interrupts has a code of its own.
    ended.map(|_: Interrupt| Exit::Passed)
}
