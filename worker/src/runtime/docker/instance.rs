//! One container after it was created.
//!
//! A task listens to its init process until that ends; everything else only writes a byte to it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use groundswell_common::chain::Chain;
use groundswell_common::outcome::Exit;
use serde::{Deserialize, Serialize};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tracing::warn;

use super::container::{self, Container};
use super::held::Control;
use super::{host_error, oom};
use crate::keeper::message;
use crate::network::wire;
use crate::runtime::{Instance, LinkState, RuntimeError, Tie};

const GO: u8 = b'g';
const TERMINATE: u8 = b't';
const KILL: u8 = b'k';
const END: u8 = b'x';
const AGAIN: u8 = b'r';
const PAUSE: u8 = b'p';
const RESUME: u8 = b'c';

/// The exit code of a container whose init process could not report.
const KILLED: i32 = 137;

/// Where a container is in its life.
#[derive(Debug, Clone)]
enum Phase {
    Held,
    Running,
    /// The plan's command could not be run.
    Failed(String),
    Ended(Exit),
}

/// One container.
pub(super) struct DockerInstance {
    container: Arc<Container>,
    orders: Arc<OwnedWriteHalf>,
    phase: watch::Receiver<Phase>,
    /// How often its command was started, or tried to be.
    starts: watch::Receiver<u32>,
    /// Whether its init process stays after its end.
    again: Arc<AtomicBool>,
    link: OwnedFd,
    engine: PathBuf,
}

/// What the worker's next life needs to know of a container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    /// Through which its init process is held.
    pub(super) directory: PathBuf,
    /// Whether it stays after the run.
    pub(super) keep: bool,
}

impl DockerInstance {
    /// Takes over a container whose init process is ready. `link` is a socket of its network namespace, and
    /// `engine` where the engine listens. With `again` its init process stays after its end.
    pub(super) fn watch(
        container: Container,
        control: Control,
        (link, engine): (OwnedFd, PathBuf),
        again: bool,
    ) -> Self {
        let container = Arc::new(container);
        let orders = Arc::new(control.orders);
        let again = Arc::new(AtomicBool::new(again));
        let (phases, phase) = watch::channel(Phase::Held);
        let (started, starts) = watch::channel(0);
        let listener = Listener {
            docker: container.docker().clone(),
            name: container.name().to_owned(),
            counter: oom::counter_of(control.pid),
            orders: Arc::clone(&orders),
            phases,
            started,
            again: Arc::clone(&again),
        };
        container.tasks().spawn(listener.run(control.lines));
        Self { container, orders, phase, starts, again, link, engine }
    }

    /// Waits until the init process has said how things are: it was asked.
    pub(super) async fn heard(&self) {
        let mut phase = self.phase.clone();
        // The listener has it at `Held` before, and it says so again.
        let _gone = phase.changed().await;
    }

    /// Tells the init process what to do; false when it is gone.
    fn order(&self, order: u8) -> bool {
        // A byte always fits into a socket's buffer; the error is that of a closed one.
        self.orders.try_write(&[order]).is_ok()
    }

    fn has_ended(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Failed(_) | Phase::Ended(_))
    }
}

#[async_trait]
impl Instance for DockerInstance {
    async fn start(&self) -> Result<(), RuntimeError> {
        // One that runs already is not told a second time.
        if matches!(*self.phase.borrow(), Phase::Held) {
            self.order(GO);
        }
        let mut phase = self.phase.clone();
        let seen = phase.wait_for(|phase| !matches!(phase, Phase::Held)).await;
        match seen.as_deref() {
            Ok(Phase::Failed(why)) => Err(RuntimeError::Plan(why.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(host_error(
                format!("start container `{}`", self.container.name()),
                "its init process is gone",
            )),
        }
    }

    async fn wait(&self) -> Exit {
        let mut phase = self.phase.clone();
        let ended = |phase: &Phase| matches!(phase, Phase::Failed(_) | Phase::Ended(_));
        match phase.wait_for(ended).await.as_deref() {
            Ok(Phase::Ended(exit)) => exit.clone(),
            Ok(Phase::Failed(_)) => Exit { code: Some(127), ..Exit::default() },
            Ok(Phase::Held | Phase::Running) | Err(_) => Exit::default(),
        }
    }

    async fn terminate(&self) {
        self.order(TERMINATE);
    }

    async fn kill(&self) {
        if self.has_ended() || self.order(KILL) {
            return;
        }
        if let Err(error) = container::kill(self.container.docker(), self.container.name()).await {
            warn!(container = self.container.name(), error = %Chain(&error), "cannot kill a container");
        }
    }

    async fn again(&self, _incarnation: u32) -> Result<(), RuntimeError> {
        // Its init process counts the lives itself: each order begins one.
        let mut starts = self.starts.clone();
        let before = *starts.borrow_and_update();
        self.order(AGAIN);
        let gone = starts.wait_for(|starts| *starts > before).await.is_err();
        let phase = self.phase.borrow().clone();
        match phase {
            Phase::Failed(why) => Err(RuntimeError::Plan(why)),
            Phase::Held | Phase::Running | Phase::Ended(_) if !gone => Ok(()),
            Phase::Held | Phase::Running | Phase::Ended(_) => Err(host_error(
                format!("start container `{}` again", self.container.name()),
                "its init process is gone",
            )),
        }
    }

    async fn pause(&self) {
        self.order(PAUSE);
    }

    async fn resume(&self) {
        self.order(RESUME);
    }

    async fn part(&self) {
        self.again.store(false, Ordering::SeqCst);
        if self.has_ended() {
            self.order(END);
        }
    }

    async fn set_link(&self, link: LinkState) -> Result<(), RuntimeError> {
        wire::set_link(self.link.as_fd(), link).map_err(|source| {
            host_error(format!("set the link of container `{}`", self.container.name()), source)
        })
    }

    async fn socket(&self) -> Result<OwnedFd, RuntimeError> {
        wire::stream_socket_in(self.link.as_fd()).map_err(|source| {
            host_error(format!("make a socket in container `{}`", self.container.name()), source)
        })
    }

    fn tie(&self) -> Option<Tie<'_>> {
        let (directory, keep) = (self.container.directory().to_owned(), self.container.is_kept());
        let goes = || message::Container {
            engine: self.engine.clone(),
            name: self.container.name().to_owned(),
            directory: directory.clone(),
        };
        let container = (!keep).then(goes);
        let note = rmp_serde::to_vec_named(&Note { directory, keep }).ok()?;
        let descriptor = self.orders.as_ref().as_ref().as_fd();
        Some(Tie { descriptor, note, container })
    }

    async fn remove(&self) -> Result<(), RuntimeError> {
        if !self.has_ended() && self.order(KILL) {
            self.wait().await;
        }
        self.container.remove().await
    }
}

impl Drop for DockerInstance {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.order(KILL);
        }
    }
}

/// What the task of an instance owns.
struct Listener {
    docker: bollard::Docker,
    name: String,
    counter: Option<PathBuf>,
    orders: Arc<OwnedWriteHalf>,
    phases: watch::Sender<Phase>,
    started: watch::Sender<u32>,
    again: Arc<AtomicBool>,
}

type Lines = tokio::io::Lines<tokio::io::BufReader<tokio::net::unix::OwnedReadHalf>>;

impl Listener {
    async fn run(self, mut lines: Lines) {
        while let Ok(Some(line)) = lines.next_line().await {
            let Some(phase) = self.phase_of(&line) else { continue };
            let ended = matches!(phase, Phase::Failed(_) | Phase::Ended(_));
            let begun = matches!(phase, Phase::Running | Phase::Failed(_));
            let fails = matches!(phase, Phase::Failed(_));
            // Fails when nobody holds the instance; the init process is ended all the same.
            let _ = self.phases.send(phase);
            self.started.send_modify(|starts| *starts += u32::from(begun));
            if ended && (fails || !self.again.load(Ordering::SeqCst)) {
                let _ = self.orders.try_write(&[END]);
                return;
            }
        }
        if matches!(*self.phases.borrow(), Phase::Ended(_)) {
            return;
        }
        let exit = self.unreported().await;
        let _ = self.phases.send(Phase::Ended(exit));
    }

    fn phase_of(&self, line: &str) -> Option<Phase> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "state" => Some(Phase::Held),
            "started" => Some(Phase::Running),
            "failed" => Some(Phase::Failed(rest.to_owned())),
            "exited" => Some(Phase::Ended(Exit { code: rest.parse().ok(), ..self.exit() })),
            "signaled" => Some(Phase::Ended(Exit { signal: rest.parse().ok(), ..self.exit() })),
            _ => None,
        }
    }

    fn exit(&self) -> Exit {
        let oom_killed = self.counter.as_ref().is_some_and(oom::has_killed);
        Exit { oom_killed, ..Exit::default() }
    }

    /// How a container ended whose init process is gone without a word: it was killed from outside, by the
    /// engine, by somebody, or by the kernel for want of memory.
    async fn unreported(&self) -> Exit {
        let counted = self.exit().oom_killed;
        let ended =
            futures::StreamExt::next(&mut Box::pin(self.docker.wait_container(&self.name, None)))
                .await;
        let code = match ended {
            Some(Ok(ended)) => i32::try_from(ended.status_code).ok(),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => {
                i32::try_from(code).ok()
            }
            Some(Err(_)) | None => None,
        };
        let flagged = match self.docker.inspect_container(&self.name, None).await {
            Ok(found) => found.state.and_then(|state| state.oom_killed).unwrap_or(false),
            Err(_) => false,
        };
        let signal = code.is_none_or(|code| code == KILLED).then_some(9);
        let code = code.filter(|_| signal.is_none());
        Exit { code, signal, oom_killed: counted || flagged, from_outside: true }
    }
}
