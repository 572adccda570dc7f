//! A runtime whose instances are scripts: for tests of everything around a runtime.
//!
//! It records what was done to each instance, so that a test can also assert that nothing else was.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use groundswell_common::ids::{InstanceId, WorkerId};
use groundswell_common::messages::{ImageRef, RuntimeKind};
use groundswell_common::outcome::Exit;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Created, Instance, InstanceSpec, LinkState, Runtime, RuntimeError, ShareKey};
use crate::network::wire::{NameSockets, Wired};
use crate::sync::LifecycleEvent;

/// One step of an instance's script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Print on stdout.
    Print(String),
    /// Write a file into the outputs directory.
    Write(String, String),
    /// Publish a lifecycle event.
    Publish(LifecycleEvent),
    /// Wait for the termination signal, then go on.
    AwaitTermination,
    /// Wait to be killed.
    Hang,
    /// End with an exit code.
    Exit(i32),
}

/// What was done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It was made.
    Created,
    /// It was let go.
    Started,
    /// It was asked to end.
    Terminated,
    /// It was killed.
    Killed,
    /// Its link was set.
    Linked(LinkState),
    /// It was removed.
    Removed,
}

type Script = dyn Fn(InstanceId) -> Vec<Step> + Send + Sync;
type Publish = dyn Fn(InstanceId, LifecycleEvent) + Send + Sync;

struct Shared {
    script: Box<Script>,
    publish: Box<Publish>,
    deeds: Mutex<Vec<(InstanceId, Deed)>>,
    tasks: TaskTracker,
}

impl Shared {
    fn record(&self, instance: InstanceId, deed: Deed) {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner).push((instance, deed));
    }
}

/// The runtime. Cheap to clone.
#[derive(Clone)]
pub struct FakeRuntime {
    shared: Arc<Shared>,
}

impl FakeRuntime {
    /// A runtime whose instances follow `script`; what they publish goes to `publish`.
    #[must_use]
    pub fn new(
        script: impl Fn(InstanceId) -> Vec<Step> + Send + Sync + 'static,
        publish: impl Fn(InstanceId, LifecycleEvent) + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            script: Box::new(script),
            publish: Box::new(publish),
            deeds: Mutex::default(),
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What was done so far, in order.
    #[must_use]
    pub fn deeds(&self) -> Vec<(InstanceId, Deed)> {
        self.shared.deeds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was done to one instance so far, in order.
    #[must_use]
    pub fn deeds_to(&self, instance: InstanceId) -> Vec<Deed> {
        self.deeds().into_iter().filter(|(id, _)| *id == instance).map(|(_, deed)| deed).collect()
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Netns
    }

    fn missing(&self) -> Vec<String> {
        Vec::new()
    }

    async fn fetch(&self, _image: &ImageRef, _blob: &Path) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn has(&self, image: &ImageRef) -> bool {
        image.size == 0
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Created, RuntimeError> {
        if spec.image.command.first().is_some_and(|word| word == "absent") {
            return Err(RuntimeError::Plan("there is no command `absent`".to_owned()));
        }
        let id = spec.labels.instance;
        let failed = |source: std::io::Error| RuntimeError::Host {
            doing: "make a fake instance".to_owned(),
            source: source.into(),
        };
        let (stdout, stdout_writer) = pipe().map_err(failed)?;
        let (stderr, stderr_writer) = pipe().map_err(failed)?;
        let nothing = || std::fs::File::open("/dev/null").map(OwnedFd::from).map_err(failed);
        let wired = Wired {
            device: Some(nothing()?),
            sync: nothing()?,
            influx: nothing()?,
            names: NameSockets { udp: nothing()?, tcp: nothing()? },
            control: nothing()?,
        };
        self.shared.record(id, Deed::Created);
        let instance = FakeInstance {
            id,
            spec,
            shared: Arc::clone(&self.shared),
            pipes: Mutex::new(Some([stdout_writer, stderr_writer])),
            terminated: CancellationToken::new(),
            killed: CancellationToken::new(),
            exit: watch::channel(None).0,
        };
        Ok(Created { instance: Box::new(instance), wired, stdout, stderr })
    }

    async fn reap_but(&self, _: &WorkerId, _: &[ShareKey]) -> Vec<RuntimeError> {
        Vec::new()
    }
}

fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}

struct FakeInstance {
    id: InstanceId,
    spec: InstanceSpec,
    shared: Arc<Shared>,
    pipes: Mutex<Option<[OwnedFd; 2]>>,
    terminated: CancellationToken,
    killed: CancellationToken,
    exit: watch::Sender<Option<Exit>>,
}

impl Drop for FakeInstance {
    fn drop(&mut self) {
        self.killed.cancel();
    }
}

#[async_trait]
impl Instance for FakeInstance {
    async fn start(&self) -> Result<(), RuntimeError> {
        let pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some([stdout, stderr]) = pipes else {
            return Err(RuntimeError::Plan("it was started twice".to_owned()));
        };
        self.shared.record(self.id, Deed::Started);
        let play = Play {
            id: self.id,
            shared: Arc::clone(&self.shared),
            outputs: self.spec.outputs.clone(),
            stdout: stdout.into(),
            terminated: self.terminated.clone(),
        };
        let (killed, exit) = (self.killed.clone(), self.exit.clone());
        let steps = (self.shared.script)(self.id);
        self.shared.tasks.spawn(async move {
            let by_signal = Exit { signal: Some(9), ..Exit::default() };
            let ended = killed.run_until_cancelled(play.act(steps)).await.unwrap_or(by_signal);
            drop(stderr);
            exit.send_replace(Some(ended));
        });
        Ok(())
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| exit.clone()).unwrap_or_default()
    }

    async fn terminate(&self) {
        self.shared.record(self.id, Deed::Terminated);
        self.terminated.cancel();
    }

    async fn kill(&self) {
        self.shared.record(self.id, Deed::Killed);
        self.killed.cancel();
    }

    async fn set_link(&self, link: LinkState) -> Result<(), RuntimeError> {
        self.shared.record(self.id, Deed::Linked(link));
        Ok(())
    }

    async fn remove(&self) -> Result<(), RuntimeError> {
        self.shared.record(self.id, Deed::Removed);
        self.killed.cancel();
        Ok(())
    }
}

/// A script being carried out.
struct Play {
    id: InstanceId,
    shared: Arc<Shared>,
    outputs: std::path::PathBuf,
    stdout: std::fs::File,
    terminated: CancellationToken,
}

impl Play {
    async fn act(mut self, steps: Vec<Step>) -> Exit {
        for step in steps {
            match step {
                // The pipe has room for a test's few lines.
                Step::Print(text) => drop(writeln!(self.stdout, "{text}")),
                Step::Write(name, text) => drop(std::fs::write(self.outputs.join(name), text)),
                Step::Publish(event) => (self.shared.publish)(self.id, event),
                Step::AwaitTermination => self.terminated.cancelled().await,
                Step::Hang => std::future::pending().await,
                Step::Exit(code) => return Exit { code: Some(code), ..Exit::default() },
            }
        }
        Exit { code: Some(0), ..Exit::default() }
    }
}
