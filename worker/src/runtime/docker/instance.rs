//! One container after it was created.
//!
//! A task listens to its init process until that ends; everything else only writes a byte to it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use groundswell_common::chain::Chain;
use groundswell_common::outcome::Exit;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tracing::warn;

use super::container::{self, Container};
use super::held::Control;
use super::{host_error, oom};
use crate::network::wire;
use crate::runtime::{Instance, LinkState, RuntimeError};

const GO: u8 = b'g';
const TERMINATE: u8 = b't';
const KILL: u8 = b'k';
const END: u8 = b'x';

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
    link: OwnedFd,
}

impl DockerInstance {
    /// Takes over a container whose init process is ready. `link` is a socket of its network namespace.
    pub(super) fn watch(container: Container, control: Control, link: OwnedFd) -> Self {
        let container = Arc::new(container);
        let orders = Arc::new(control.orders);
        let (phases, phase) = watch::channel(Phase::Held);
        let listener = Listener {
            docker: container.docker().clone(),
            name: container.name().to_owned(),
            counter: oom::counter_of(control.pid),
            orders: Arc::clone(&orders),
            phases,
        };
        container.tasks().spawn(listener.run(control.lines));
        Self { container, orders, phase, link }
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
        self.order(GO);
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

    async fn set_link(&self, link: LinkState) -> Result<(), RuntimeError> {
        wire::set_link(self.link.as_fd(), link).map_err(|source| {
            host_error(format!("set the link of container `{}`", self.container.name()), source)
        })
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
}

type Lines = tokio::io::Lines<tokio::io::BufReader<tokio::net::unix::OwnedReadHalf>>;

impl Listener {
    async fn run(self, mut lines: Lines) {
        while let Ok(Some(line)) = lines.next_line().await {
            let Some(phase) = self.phase_of(&line) else { continue };
            let ended = !matches!(phase, Phase::Running);
            // Fails when nobody holds the instance; the init process is ended all the same.
            let _ = self.phases.send(phase);
            if ended {
                let _ = self.orders.try_write(&[END]);
                return;
            }
        }
        let exit = self.unreported().await;
        let _ = self.phases.send(Phase::Ended(exit));
    }

    fn phase_of(&self, line: &str) -> Option<Phase> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
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
    /// engine or by the kernel.
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
        Exit { code: code.filter(|_| signal.is_none()), signal, oom_killed: counted || flagged }
    }
}
