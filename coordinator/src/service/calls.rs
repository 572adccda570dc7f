//! Calls of the command line: each is answered at once from memory or by a task that asks the object store.

use std::collections::BTreeMap;

use async_nats::Message;
use groundswell_common::api::{
    Answer, CancelRequest, EventsPage, EventsRequest, Refusal, RefusalKind, RunGrid, RunRequest,
    RunsRequest, ServiceInfo, SubmitRequest, WhoAmI,
};
use groundswell_common::bus::{self, Bus};
use groundswell_common::ids::RunId;
use groundswell_common::objects::Objects;
use groundswell_common::run::RunStatus;
use groundswell_common::token::Scope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::{Instrument as _, info_span};

use super::actor::Actor;
use super::effects::{self, Done, Submission, unavailable, unix_ms};
use crate::record;
use crate::run::Event;
use crate::tokens::Caller;

impl Actor {
    /// Takes one call in.
    pub(super) fn call(&mut self, message: Message) {
        let name = bus::last_token(&message.subject).to_owned();
        let caller = match self.caller(&message, &name) {
            Ok(caller) => caller,
            Err(refusal) => return self.answer::<()>(message, Err(refusal)),
        };
        match name.as_str() {
            "submit" => self.call_submit(message, &caller),
            "runs" => self.call_runs(message),
            "run" => self.call_run(message),
            "grid" => self.call_grid(message),
            "events" => self.call_events(message),
            "whoami" => self.call_whoami(message, &caller),
            "cancel" => self.call_cancel(message, &caller),
            "queue" => self.call_queue(message),
            "priority" => self.call_priority(message, &caller),
            "tokens" => self.call_tokens(message),
            "token" => self.call_token(message),
            "revoke" => self.call_revoke(message),
            "workers" => {
                let workers = self.workers.statuses(&self.loads(), Instant::now().into_std());
                self.answer(message, Ok(workers));
            }
            "cordon" => self.call_cordon(message),
            "info" => {
                let info = ServiceInfo {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    objects: self.config.objects.url().to_owned(),
                    nats: self.config.bus.server_version(),
                    name: self.config.name.clone(),
                    pid: std::process::id(),
                };
                self.answer(message, Ok(info));
            }
            other => {
                let refusal = invalid(format!("this coordinator knows no call `{other}`"));
                self.answer::<()>(message, Err(refusal));
            }
        }
    }

    fn call_submit(&mut self, message: Message, caller: &Caller) {
        let Some((message, mut request)) = self.decoded::<SubmitRequest>(message) else { return };
        if let Caller::Holder(holder) = caller {
            holder.user().clone_into(&mut request.user);
            request.queue.team = holder.team.clone().or(request.queue.team);
        }
        let span = info_span!("submit", composition = request.composition_name);
        bus::adopt_trace(&span, &message);
        let key = request.queue.key.clone();
        if key.iter().any(|key| !self.queue.submitting.insert(key.clone())) {
            // Its answer was lost, or is on its way. Whoever asks again later gets it.
            return;
        }
        let (config, ledger) = (self.config.clone(), self.ledger.clone());
        let accept = async move {
            let bus = config.bus.clone();
            let submission = match effects::accept(config, ledger, request, message).await {
                Ok(submission) => submission,
                Err((message, refusal)) => {
                    bus.reply(&message, &Answer::<RunStatus>::Err(refusal)).await;
                    Submission::Refused
                }
            };
            Done::Submitted(key, submission)
        };
        self.effects.spawn(accept.instrument(span));
    }

    /// Goes on with a submit that was looked at.
    pub(super) fn submitted(&mut self, key: Option<String>, submission: Submission) {
        match submission {
            Submission::Accepted(accepted) => self.accepted(*accepted),
            Submission::Known(message, run) => self.selected(message, Ok(run)),
            Submission::Refused | Submission::Unanswered => {}
        }
        if let Some(key) = key {
            self.queue.submitting.remove(&key);
        }
    }

    fn call_runs(&mut self, message: Message) {
        let Some((message, request)) = self.decoded::<RunsRequest>(message) else { return };
        let known = self.known();
        let (objects, bus) = (self.config.objects.clone(), self.config.bus.clone());
        self.effects.spawn(async move {
            let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
            let runs = record::newest(&objects, known, limit, request.before.as_ref())
                .await
                .map_err(|err| unavailable("the object store does not list runs", &err));
            let read = runs.clone().unwrap_or_default();
            let listed =
                runs.map(|runs| runs.into_iter().map(RunStatus::listed).collect::<Vec<_>>());
            bus.reply(&message, &listed).await;
            Done::Listed(read)
        });
    }

    /// Keeps what was read of runs of the past, so that the next list does not read it again.
    pub(super) fn listed(&mut self, read: Vec<RunStatus>) {
        for status in read {
            let known = self.live.contains_key(&status.run) || status.forgotten;
            if !known && status.phase.is_over() {
                self.past.insert(status.run.clone(), status);
            }
        }
        self.forget_oldest();
    }

    fn call_run(&mut self, message: Message) {
        let Some((message, request)) = self.decoded::<RunRequest>(message) else { return };
        let known: Vec<RunId> = self.live.keys().chain(self.past.keys()).cloned().collect();
        let objects = self.config.objects.clone();
        self.effects.spawn(async move {
            let selected = select(&objects, known, &request.selector).await;
            Done::Selected(message, selected)
        });
    }

    /// Answers with where each instance of a run is. Only runs that go on are known so closely; what has become of the
    /// instances of others is in their records.
    fn call_grid(&mut self, message: Message) {
        let Some((message, request)) = self.decoded::<RunRequest>(message) else { return };
        let live = request.selector.parse().ok().and_then(|run| self.live.get(&run));
        let grid = live.map(|live| live.run.grid(unix_ms()));
        self.answer::<RunGrid>(message, grid.ok_or_else(|| not_live(&request.selector)));
    }

    /// Answers with lines of the event log of a run that goes on.
    fn call_events(&mut self, message: Message) {
        let Some((message, request)) = self.decoded::<EventsRequest>(message) else { return };
        let live = self.live.get(&request.run);
        let page = live.map(|live| live.events.page(request.from));
        self.answer::<EventsPage>(message, page.ok_or_else(|| not_live(request.run.as_str())));
    }

    fn call_whoami(&mut self, message: Message, caller: &Caller) {
        let (user, scopes) = match caller {
            Caller::Anyone => (None, Scope::ALL.to_vec()),
            Caller::Holder(holder) => {
                let has = |scope: &Scope| holder.has(*scope);
                let scopes = Scope::ALL.into_iter().filter(has).collect();
                (Some(holder.user().to_owned()), scopes)
            }
        };
        let tokens_required = self.tokens.required();
        self.answer(message, Ok(WhoAmI { tokens_required, user, scopes }));
    }

    /// Answers with the state of a run that was found.
    pub(super) fn selected(&mut self, message: Message, selected: Result<RunId, Refusal>) {
        let run = match selected {
            Ok(run) => run,
            Err(refusal) => return self.answer::<RunStatus>(message, Err(refusal)),
        };
        if let Some(status) = self.status(&run) {
            return self.answer(message, Ok(status));
        }
        let (objects, bus) = (self.config.objects.clone(), self.config.bus.clone());
        self.effects.spawn(async move {
            let answer = stored(&objects, &run).await;
            bus.reply(&message, &answer).await;
            Done::Nothing
        });
    }

    fn call_cancel(&mut self, message: Message, caller: &Caller) {
        let Some((message, request)) = self.decoded::<CancelRequest>(message) else { return };
        if let Err(refusal) = self.may_act_on(caller, &request.run) {
            return self.answer::<RunStatus>(message, Err(refusal));
        }
        if self.live.contains_key(&request.run) {
            let event = Event::CancelRequested { reason: request.reason, kill: request.kill };
            self.feed(&request.run, event);
        }
        self.selected(message, Ok(request.run));
    }

    /// The state of a run in memory.
    fn status(&self, run: &RunId) -> Option<RunStatus> {
        let live = self.live.get(run).map(|live| live.run.status());
        live.or_else(|| self.past.get(run).cloned())
    }

    fn known(&self) -> BTreeMap<RunId, RunStatus> {
        let live = self.live.iter().map(|(id, live)| (id.clone(), live.run.status()));
        self.past.clone().into_iter().chain(live).collect()
    }

    pub(super) fn decoded<T: DeserializeOwned>(
        &mut self,
        message: Message,
    ) -> Option<(Message, T)> {
        match bus::decode(&message.payload) {
            Ok(request) => Some((message, request)),
            Err(err) => {
                let refusal = invalid(format!("the call is unreadable: {err}"));
                self.answer::<()>(message, Err(refusal));
                None
            }
        }
    }

    pub(super) fn answer<T: Serialize + Send + Sync + 'static>(
        &mut self,
        message: Message,
        answer: Answer<T>,
    ) {
        self.reply(message, answer);
    }

    /// Sends a reply from a task of its own: the connection may be down.
    pub(super) fn reply(
        &mut self,
        message: Message,
        reply: impl Serialize + Send + Sync + 'static,
    ) {
        let bus: Bus = self.config.bus.clone();
        self.effects.spawn(async move {
            bus.reply(&message, &reply).await;
            Done::Nothing
        });
    }
}

fn not_live(run: &str) -> Refusal {
    Refusal {
        kind: RefusalKind::NotFound,
        message: format!("no run `{run}` goes on"),
        help: "what became of others is in their records".to_owned(),
    }
}

fn invalid(message: String) -> Refusal {
    Refusal { kind: RefusalKind::Invalid, message, help: String::new() }
}

async fn select(
    objects: &Objects,
    mut known: Vec<RunId>,
    selector: &str,
) -> Result<RunId, Refusal> {
    let stored = record::runs(objects)
        .await
        .map_err(|err| unavailable("the object store does not list runs", &err))?;
    known.extend(stored);
    known.sort();
    known.dedup();
    record::select(&known, selector)
}

async fn stored(objects: &Objects, run: &RunId) -> Answer<RunStatus> {
    let found = record::load(objects, run)
        .await
        .map_err(|err| unavailable("the object store does not give the record", &err))?;
    found.map(record::unknown).ok_or_else(|| Refusal {
        kind: RefusalKind::NotFound,
        message: format!("run `{run}` has no record"),
        help: String::new(),
    })
}
