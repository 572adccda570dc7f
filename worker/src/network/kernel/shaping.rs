//! Shapes one interface: makes and changes its queues, and counts for each shape.

use std::io;

use groundswell_common::fidelity::LaneReport;
use groundswell_common::link::LinkShape;
use netlink_packet_route::tc::TcHandle;

use super::links::Counted;
use super::tc::{self, Part};
use crate::network::netlink::Netlink;

/// What the queues of an interface have counted, by handle.
type Queues = Vec<(u32, TcHandle, Counted)>;

/// The shapes of one interface. Lane 0 is the default's.
#[derive(Debug, Default)]
pub(super) struct Shaping {
    shapes: Vec<LinkShape>,
    parts: Vec<Part>,
    /// What had been counted when each lane got its shape.
    since: Vec<[Counted; 2]>,
    /// What was counted for shapes that are over.
    over: Vec<LaneReport>,
    single_packets: bool,
}

/// The interface that is shaped.
pub(super) struct Interface<'a> {
    pub(super) link: &'a Netlink,
    pub(super) index: u32,
    /// Whether the kernel has netem.
    pub(super) netem: bool,
    /// Seed of what is drawn by chance.
    pub(super) seed: u64,
    /// Packets that left before anything was shaped.
    pub(super) unshaped: Counted,
}

impl Shaping {
    /// Makes the root of all lanes. On an interface that is up the kernel takes some ten milliseconds for that,
    /// and does one at a time; so it is there from the start, and lets everything pass until there are lanes.
    pub(super) fn prepare(&mut self, link: &Netlink, index: u32) -> io::Result<()> {
        let root = tc::root();
        link.set_part(index, &root, true)?;
        self.parts.push(root);
        Ok(())
    }

    /// Gives the lanes these shapes. What is queued stays queued and leaves in order. There must be no lanes beyond
    /// them: see [`Shaping::drop_rest`].
    pub(super) fn apply(&mut self, to: &Interface<'_>, shapes: &[LinkShape]) -> io::Result<()> {
        let plain = shapes.iter().all(|shape| *shape == LinkShape::default());
        if self.shapes == shapes || (plain && self.is_bare()) {
            self.shapes = shapes.to_vec();
            return Ok(());
        }
        self.account(to, shapes)?;
        let lanes = shapes.iter().enumerate().flat_map(|(number, shape)| {
            tc::lane(number, shape, to.netem, to.seed.wrapping_add(number as u64))
        });
        for part in lanes {
            match self.parts.iter_mut().find(|other| other.is_place_of(&part)) {
                Some(known) if *known == part => {}
                Some(known) => {
                    to.link.set_part(to.index, &part, false)?;
                    *known = part;
                }
                None => {
                    to.link.set_part(to.index, &part, true)?;
                    self.parts.push(part);
                }
            }
        }
        self.shapes = shapes.to_vec();
        Ok(())
    }

    /// Removes all lanes but the first `kept`, which no packet may take any more, and writes down what they have
    /// counted. To be done before what is kept gets other shapes: the kernel refuses one that duplicates packets
    /// as long as there are others beside it.
    pub(super) fn drop_rest(&mut self, to: &Interface<'_>, kept: usize) -> io::Result<()> {
        if self.lanes() <= kept {
            return Ok(());
        }
        let queues = to.link.queues()?;
        while self.lanes() > kept {
            let lane = self.lanes() - 1;
            if let (Some(shape), Some(since)) = (self.shapes.get(lane), self.since.get(lane)) {
                self.over.push(self.lane(lane, shape, since, to.index, &queues));
            }
            self.shapes.truncate(lane);
            self.since.truncate(lane);
            // What is below a class goes with it.
            let [class, netem, queue] =
                [tc::class_of, tc::netem_of, tc::queue_of].map(|of| of(lane));
            for part in
                self.parts.extract_if(.., |part| [class, netem, queue].contains(&part.handle()))
            {
                if part.handle() == class {
                    to.link.remove_part(to.index, &part)?;
                }
            }
        }
        Ok(())
    }

    /// Sees to it that superpackets are cut where a shape needs that, or `always`.
    pub(super) fn cut_superpackets(
        &mut self,
        link: &Netlink,
        index: u32,
        always: bool,
    ) -> io::Result<()> {
        let single = always || self.shapes.iter().any(tc::needs_single_packets);
        if single != self.single_packets {
            link.set_superpackets(index, !single)?;
            self.single_packets = single;
        }
        Ok(())
    }

    /// Whether nothing is shaped.
    pub(super) fn is_bare(&self) -> bool {
        self.lanes() == 0
    }

    /// What was counted for each shape so far. `unshaped` is what left the interface in all, for one that
    /// has no queues.
    pub(super) fn report(
        &self,
        link: &Netlink,
        index: u32,
        unshaped: Counted,
    ) -> io::Result<Vec<LaneReport>> {
        let mut reports = self.over.clone();
        if self.is_bare() {
            reports.push(report(&LinkShape::default(), unshaped, None));
            return Ok(reports);
        }
        let queues = link.queues()?;
        let lanes = self.shapes.iter().zip(&self.since).enumerate();
        reports.extend(
            lanes.map(|(lane, (shape, since))| self.lane(lane, shape, since, index, &queues)),
        );
        Ok(reports)
    }

    /// How many lanes there are.
    pub(super) fn lanes(&self) -> usize {
        self.parts.iter().filter(|part| part.is_class()).count()
    }

    /// Writes down what was counted for shapes that end here.
    fn account(&mut self, to: &Interface<'_>, shapes: &[LinkShape]) -> io::Result<()> {
        if self.is_bare() {
            self.over.push(report(&LinkShape::default(), to.unshaped, None));
            self.since = vec![<[Counted; 2]>::default(); shapes.len()];
            return Ok(());
        }
        let queues = to.link.queues()?;
        for (lane, after) in shapes.iter().enumerate() {
            let before = self.shapes.get(lane);
            if before == Some(after) {
                continue;
            }
            if let (Some(shape), Some(since)) = (before, self.since.get(lane)) {
                self.over.push(self.lane(lane, shape, since, to.index, &queues));
            }
            let counted = counts(lane, to.index, &queues);
            if lane < self.since.len() {
                self.since[lane] = counted;
            } else {
                self.since.push(counted);
            }
        }
        Ok(())
    }

    fn lane(
        &self,
        lane: usize,
        shape: &LinkShape,
        since: &[Counted; 2],
        index: u32,
        queues: &Queues,
    ) -> LaneReport {
        let [netem, queue] = counts(lane, index, queues);
        let netem = netem.since(&since[0]);
        let queue = queue.since(&since[1]);
        let has_netem = self.parts.iter().any(|part| part.handle() == tc::netem_of(lane));
        report(shape, queue, has_netem.then_some(netem))
    }
}

/// What netem and the queue of a lane have counted.
fn counts(lane: usize, index: u32, queues: &Queues) -> [Counted; 2] {
    [tc::netem_of(lane), tc::queue_of(lane)].map(|handle| {
        let found = queues.iter().find(|(of, other, _)| (*of, *other) == (index, handle));
        found.map(|(_, _, counted)| *counted).unwrap_or_default()
    })
}

/// The kernel counts packets and drops. It does not say why netem dropped a packet, nor what it did to others.
fn report(shape: &LinkShape, queue: Counted, netem: Option<Counted>) -> LaneReport {
    let first = netem.unwrap_or(queue);
    // netem counts what its queue drops as well.
    let dropped = netem.map_or(0, |netem| netem.drops.saturating_sub(queue.drops));
    let by_chance = shape.loss_pct > 0.0;
    LaneReport {
        shape: Some(*shape),
        packets: first.packets + first.drops + first.waiting,
        bytes: first.bytes,
        overrun: queue.drops,
        lost: if by_chance { dropped } else { 0 },
        no_memory: if by_chance { 0 } else { dropped },
        uncounted: shape.duplicate_pct > 0.0 || shape.corrupt_pct > 0.0,
        ..LaneReport::default()
    }
}

impl Counted {
    /// What was counted since then; what waited then is counted when it leaves.
    fn since(&self, then: &Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(then.packets),
            bytes: self.bytes.saturating_sub(then.bytes),
            drops: self.drops.saturating_sub(then.drops),
            waiting: self.waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_told_apart_as_far_as_the_kernel_does() {
        let netem = Counted { packets: 900, bytes: 9_000, drops: 100, waiting: 0 };
        let queue = Counted { drops: 40, ..Counted::default() };
        let lossy = LinkShape { loss_pct: 6.0, ..LinkShape::default() };
        let told = report(&lossy, queue, Some(netem));
        assert_eq!((told.packets, told.lost, told.overrun, told.no_memory), (1_000, 60, 40, 0));
        let told = report(&LinkShape::default(), queue, Some(netem));
        assert_eq!((told.lost, told.overrun, told.no_memory), (0, 40, 60));
        let doubling = LinkShape { duplicate_pct: 1.0, ..LinkShape::default() };
        assert!(report(&doubling, queue, Some(netem)).uncounted);
    }
}
