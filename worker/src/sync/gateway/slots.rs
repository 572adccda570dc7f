//! The sockets of a hub under tokens that are never used twice.

use std::net::TcpListener;

use groundswell_common::ids::InstanceId;

use super::connection::Connection;

#[derive(Debug)]
pub(super) enum Slot {
    Listener(TcpListener, InstanceId),
    Connection(Box<Connection>),
}

/// A token is an index and how often it has been used, so that a late event of a closed socket finds nothing.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<(u32, Option<Slot>)>,
    free: Vec<usize>,
}

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() - 1
        });
        let (generation, place) = &mut self.slots[index];
        *place = Some(slot);
        u64::from(*generation) << 32 | index as u64
    }

    pub(super) fn get_mut(&mut self, token: u64) -> Option<&mut Slot> {
        self.place(token)?.as_mut()
    }

    pub(super) fn connection(&self, token: u64) -> Option<&Connection> {
        let (index, generation) = split(token);
        match self.slots.get(index)? {
            (known, Some(Slot::Connection(connection))) if *known == generation => Some(connection),
            _ => None,
        }
    }

    /// Takes a connection out, to work on it beside everything else. Its token stays taken.
    pub(super) fn take_connection(&mut self, token: u64) -> Option<Box<Connection>> {
        let place = self.place(token)?;
        match place.take() {
            Some(Slot::Connection(connection)) => Some(connection),
            other => {
                *place = other;
                None
            }
        }
    }

    /// Puts back what was taken out.
    pub(super) fn put_connection(&mut self, token: u64, connection: Box<Connection>) {
        if let Some(place) = self.place(token) {
            *place = Some(Slot::Connection(connection));
        }
    }

    /// Closes a socket, also one that is taken out, and retires its token.
    pub(super) fn remove(&mut self, token: u64) {
        let (index, generation) = split(token);
        if let Some((known, place)) = self.slots.get_mut(index)
            && *known == generation
        {
            *known = known.wrapping_add(1);
            *place = None;
            self.free.push(index);
        }
    }

    /// The tokens of all sockets.
    pub(super) fn tokens(&self) -> Vec<u64> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, (_, place))| place.is_some())
            .map(|(index, (generation, _))| u64::from(*generation) << 32 | index as u64)
            .collect()
    }

    fn place(&mut self, token: u64) -> Option<&mut Option<Slot>> {
        let (index, generation) = split(token);
        let (known, place) = self.slots.get_mut(index)?;
        (*known == generation).then_some(place)
    }
}

fn split(token: u64) -> (usize, u32) {
    let index = usize::try_from(token & u64::from(u32::MAX)).unwrap_or(usize::MAX);
    (index, u32::try_from(token >> 32).unwrap_or(u32::MAX))
}
