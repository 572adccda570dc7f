//! What the supervisor, the writer and the follower tell the hub.

use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};

use groundswell_common::ids::InstanceId;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use tokio::sync::mpsc;

use super::super::Input;
use super::super::slots::Slot;
use super::{Hub, Served};
use crate::sync::meter::Meter;
use crate::sync::outbox::Wish;
use crate::sync::websocket::CloseCode;
use crate::sync::{FELLED, SyncEvent, Waiting};

impl Hub {
    pub(super) fn take_inputs(&mut self) {
        loop {
            match self.ends.inbox.try_recv() {
                Ok(input) => self.input(input),
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.closing = true;
                    return;
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Entries(entries) => self.apply(&entries),
            Input::CaughtUp => self.caught_up = true,
            Input::Broken { reason, fault_of_plan } => self.freeze(reason, fault_of_plan),
            Input::Serve { instance, hostname, listener } => {
                self.serve(instance, &hostname, listener);
            }
            Input::NetworkReady(instances) => {
                for instance in instances {
                    self.wish(instance, "states:network-initialized", Wish::Ready);
                }
            }
            Input::Configured { instance, state } => self.configured(instance, &state),
            Input::Gone(gone) => {
                for (instance, reason) in gone {
                    self.wish(instance, "", Wish::Gone(reason));
                }
            }
            Input::CloseInstance(instance) => self.close_instance(instance),
            Input::Waiting { instance, reply } => {
                let _ = reply.send(self.waiting(instance));
            }
            Input::Count { state, reply } => {
                let _ = reply.send(self.log.count(&format!("states:{state}")));
            }
            Input::HasConnected { instance, reply } => {
                let served = self.instances.get(&instance);
                let _ = reply.send(served.is_some_and(|served| served.connected));
            }
            Input::Close => self.closing = true,
        }
    }

    fn wish(&mut self, instance: InstanceId, key: &str, wish: Wish) {
        if self.broken.is_none() {
            self.outbox.push(instance, key, wish, None);
        }
    }

    fn serve(&mut self, instance: InstanceId, hostname: &str, listener: OwnedFd) {
        let listener = TcpListener::from(listener);
        let token = self.slots.insert(Slot::Listener(listener, instance));
        let Some(Slot::Listener(listener, _)) = self.slots.get_mut(token) else { return };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        if let Err(err) = self.epoll.add(listener.as_fd(), event) {
            self.slots.remove(token);
            let what = format!("instance {instance} cannot reach its sync gateway: {err}");
            self.backlog.push_back(SyncEvent::Warning(what));
            return;
        }
        let served = Served {
            listener: token,
            connections: Vec::new(),
            connected: false,
            configured: 0,
            meter: Meter::new(self.spec.limits, self.now),
            unfinished: 0,
        };
        if let Some(old) = self.instances.insert(instance, served) {
            self.slots.remove(old.listener);
        }
        let topic = self.log.topic_index(&format!("topics:network:{hostname}"));
        self.network_topics.insert(topic, instance);
        // A worker that was restarted hears again what its instances said before.
        for at in 0..self.log.topic(self.run_events).len() {
            self.said(at, Some(instance));
        }
        for at in 0..self.log.topic(topic).len() {
            self.network(topic, at);
        }
    }

    fn configured(&mut self, instance: InstanceId, state: &str) {
        if state.is_empty() {
            return;
        }
        let Some(served) = self.instances.get_mut(&instance) else { return };
        served.configured += 1;
        let which = served.configured;
        self.wish(instance, &format!("states:{state}"), Wish::Configured(which));
    }

    fn close_instance(&mut self, instance: InstanceId) {
        let Some(served) = self.instances.remove(&instance) else { return };
        self.network_topics.retain(|_, whose| *whose != instance);
        self.slots.remove(served.listener);
        for token in served.connections {
            if let Some(Slot::Connection(connection)) = self.slots.get_mut(token) {
                connection.close(CloseCode::GoingAway);
            }
            self.mark(token);
        }
    }

    fn waiting(&self, instance: InstanceId) -> Vec<Waiting> {
        let Some(served) = self.instances.get(&instance) else { return Vec::new() };
        let connections =
            served.connections.iter().filter_map(|token| self.slots.connection(*token));
        let waits = connections.flat_map(|connection| &connection.waits);
        waits
            .filter_map(|wait| self.waits.get(wait))
            .map(|wait| {
                let total = self.spec.total_instances;
                let (missing, missing_total) = self.log.missing(&wait.state, total);
                // Of others it would be a reason in a reason, and so on.
                let felled = |id: &InstanceId| {
                    let reason = self.log.gone(*id).filter(|reason| reason.starts_with(FELLED))?;
                    Some((*id, reason.to_owned()))
                };
                let felled = missing.iter().filter_map(felled).collect();
                Waiting {
                    state: wait.state.strip_prefix("states:").unwrap_or(&wait.state).to_owned(),
                    count: self.log.count(&wait.state),
                    target: wait.target,
                    missing,
                    missing_total,
                    felled,
                }
            })
            .collect()
    }
}
