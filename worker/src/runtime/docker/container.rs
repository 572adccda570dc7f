//! A container that has to be removed, whatever happens to those who use it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as Engine;
use bollard::query_parameters::RemoveContainerOptions;
use groundswell_common::chain::Chain;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::held::Directory;
use super::{host_error, told};
use crate::runtime::RuntimeError;

/// How often the engine is asked whether a removal that is under way is done.
const REMOVAL_POLL: Duration = Duration::from_millis(50);
/// How often it is asked in all.
const REMOVAL_POLLS: u32 = 200;

/// Owns a container and the directory through which it is held. Dropped without [`Container::remove`],
/// the container is removed by a task of the runtime.
pub(super) struct Container {
    docker: Docker,
    name: String,
    keep: bool,
    tasks: TaskTracker,
    removed: AtomicBool,
    directory: Directory,
}

impl Container {
    pub(super) fn new(
        docker: Docker,
        name: String,
        directory: Directory,
        keep: bool,
        tasks: TaskTracker,
    ) -> Self {
        let removed = AtomicBool::new(false);
        Self { docker, name, keep, tasks, removed, directory }
    }

    /// Through which its init process is held.
    pub(super) fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Whether it stays after the run.
    pub(super) fn is_kept(&self) -> bool {
        self.keep
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Removes the container, or ends it when it is to be kept. May be called again.
    pub(super) async fn remove(&self) -> Result<(), RuntimeError> {
        if !self.keep {
            return self.discard().await;
        }
        kill(&self.docker, &self.name).await?;
        self.removed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the container also when it would be kept after a run.
    pub(super) async fn discard(&self) -> Result<(), RuntimeError> {
        remove(&self.docker, &self.name).await?;
        self.removed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and the containers with it.
        if self.removed.load(Ordering::Relaxed) || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (docker, name) = (self.docker.clone(), self.name.clone());
        self.tasks.spawn(async move {
            if let Err(error) = remove(&docker, &name).await {
                warn!(container = name, error = %Chain(&error), "an abandoned container is left");
            }
        });
    }
}

/// Removes a container with its anonymous volumes, running or not. It is no error when there is none.
pub(super) async fn remove(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptions { force: true, v: true, link: false };
    match docker.remove_container(name, Some(options)).await {
        Ok(()) | Err(Engine::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        // Somebody else's removal is under way; it counts once it is done.
        Err(Engine::DockerResponseServerError { status_code: 409, .. }) => gone(docker, name).await,
        Err(error) => Err(told("remove", name)(error)),
    }
}

async fn gone(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    for _ in 0..REMOVAL_POLLS {
        let found = docker.inspect_container(name, None).await;
        if let Err(Engine::DockerResponseServerError { status_code: 404, .. }) = found {
            return Ok(());
        }
        tokio::time::sleep(REMOVAL_POLL).await;
    }
    Err(host_error(
        format!("remove container `{name}`"),
        "the engine has been removing it for a long time",
    ))
}

/// Ends all processes of a container that no longer listens to its socket.
pub(super) async fn kill(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    match docker.kill_container(name, None).await {
        // 409: it does not run.
        Ok(()) | Err(Engine::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        Err(error) => Err(told("kill", name)(error)),
    }
}
