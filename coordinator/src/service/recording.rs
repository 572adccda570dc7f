//! What is noted of a run while it goes on: its event log, and its replay file.

use std::time::Duration;

use groundswell_common::api::InstanceState;
use groundswell_common::run::RunEvent;
use tokio::time::Instant;
use tracing::{Instrument as _, debug};

use super::actor::Actor;
use super::effects::{self, unix_ms};
use super::live::Live;
use crate::parts::Outline;
use crate::replay::{Group, Header, Recorder};
use crate::run::Run;

/// The least time between two samples of where instances are.
const SAMPLE: Duration = Duration::from_secs(1);

/// The replay file of a run, and how far it is.
#[derive(Debug)]
pub(super) struct Replay {
    recorder: Recorder,
    /// The revision of the run's status at the last sample.
    revision: u64,
    sampled_at: Option<Instant>,
    /// Blocks that are stored or on their way.
    stored: usize,
}

impl Replay {
    /// A file without blocks.
    pub(super) fn new(run: &Run, outline: &Outline) -> Self {
        let (about, accounts) = (run.about(), run.accounts());
        let group = |(class, (id, instances)): (usize, &(String, u32))| {
            let nat = outline.network.nat(class);
            let household = nat.and_then(|nat| nat.layers.first()).map(|layer| layer.members);
            Group { id: id.clone(), instances: *instances, household }
        };
        let header = Header {
            run: about.run.to_string(),
            name: about.run.name(),
            submitted_ms: run.submitted_ms(),
            instances: accounts.total(),
            groups: accounts.groups().iter().enumerate().map(group).collect(),
            channels: vec!["state".to_owned()],
        };
        Self { recorder: Recorder::new(&header), revision: 0, sampled_at: None, stored: 0 }
    }

    /// Goes on with what another coordinator has stored, if it is of the same run.
    pub(super) fn go_on_with(&mut self, stored: Vec<u8>) {
        match Recorder::continued(stored) {
            Ok(recorder) if recorder.instances() == self.recorder.instances() => {
                self.stored = recorder.written();
                self.recorder = recorder;
            }
            Ok(_) => {}
            Err(err) => debug!(error = %err, "the replay begins anew"),
        }
    }

    /// The whole file of a run that is over.
    pub(super) fn finish(&self, at_ms: u64) -> Vec<u8> {
        self.recorder.finish(at_ms)
    }
}

impl Live {
    /// Notes an event.
    pub(super) fn note(&mut self, event: &RunEvent) {
        self.events.push(event);
        self.replay.recorder.event(event);
    }

    /// Notes where the instances are, when that may have changed.
    pub(super) fn sample(&mut self) {
        let (revision, replay) = (self.run.revision(), &mut self.replay);
        let at_ms = unix_ms().saturating_sub(self.run.submitted_ms());
        replay.recorder.advance(at_ms);
        if replay.revision == revision {
            return;
        }
        replay.revision = revision;
        let states = self.run.accounts().states().into_iter();
        replay.recorder.sample(at_ms, 0, &states.map(InstanceState::code).collect::<Vec<_>>());
    }
}

impl Actor {
    /// Notes where instances are, and stores what became whole of replay files.
    pub(super) fn record_replays(&mut self, now: Instant) {
        for live in self.live.values_mut() {
            let recent = live.replay.sampled_at.is_some_and(|at| now.duration_since(at) < SAMPLE);
            if recent {
                continue;
            }
            live.replay.sampled_at = Some(now);
            live.sample();
            let written = live.replay.recorder.written();
            if written > live.replay.stored && !live.storing && !live.concluding {
                live.storing = true;
                live.replay.stored = written;
                let (objects, file) =
                    (self.config.objects.clone(), live.replay.recorder.so_far().to_vec());
                let store = effects::store_replay(objects, live.id().clone(), file);
                self.effects.spawn(store.instrument(live.span.clone()));
            }
        }
    }
}
