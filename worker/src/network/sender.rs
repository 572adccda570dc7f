//! The sending side of an instance: where each of its packets goes, and what befalls it on the way.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use groundswell_common::link::{Filter, LinkShape};

use super::counters::Fate;
use super::goal::{Holder, Route};
use super::numbers::Numbered;
use super::offload::{self, Train};
use super::packet::{self, Header, Version};
use super::plane::Run;
use super::port::Port;
use super::probe::PROBES;
use super::rules::{Lane, Rules};
use super::shape::{Pair, Verdict};
use super::tally::{Flow, Kind, Mark, Packet};
use super::waiting::{Decided, Waitings};

/// The gateway's number in a pair; no run has that many instances.
const GATEWAY: u32 = u32::MAX;
/// The number of all hosts outside the data network in a pair.
const OUTSIDE: u32 = u32::MAX - 1;
/// Packets of a train that leave at a rate stay together when they leave within this time of each other. It is
/// what one packet of 1,500 bytes takes at 500 Mbit/s, so that slower links pass each packet for itself.
const TOGETHER: Duration = Duration::from_micros(24);

/// The sending side of an instance.
pub(super) struct Sender {
    pub(super) port: Arc<Port>,
    pub(super) run: u64,
    pub(super) address: Ipv4Addr,
    pub(super) rules: Rules,
    /// Addresses it may send from in IPv6 besides its own, by their counterparts.
    pub(super) behind: BTreeSet<Ipv4Addr>,
    /// By the destination's number.
    ways: Numbered<u32, Way>,
    /// Packets it has sent to many.
    groups: u64,
    scratch: Vec<u8>,
}

/// An ordered pair.
struct Way {
    flow: Flow,
    route: Rc<Route>,
}

/// What has come out of an interface.
struct Parcel<'a> {
    frame: &'a mut [u8],
    train: Option<Train>,
    /// How many count.
    packets: u64,
    now: Duration,
}

/// Packets on their way through the shapes of an ordered pair.
struct Passage<'a> {
    lane: &'a mut Lane,
    path: Option<&'a LinkShape>,
    way: &'a mut Way,
    waiting: &'a mut Waitings,
    scratch: &'a mut Vec<u8>,
    now: Duration,
    kind: Kind,
}

/// Packets of a train that arrive together.
struct Group {
    packets: Range<usize>,
    first_at: Duration,
    at: Duration,
    mark: Mark,
}

impl Sender {
    pub(super) fn new(run: u64, port: &Arc<Port>, address: Ipv4Addr, rules: Rules) -> Self {
        let (behind, ways, groups, scratch) = Default::default();
        Self { port: Arc::clone(port), run, address, rules, behind, ways, groups, scratch }
    }

    /// Sends what came out of the interface on its way.
    pub(super) fn forward(
        &mut self,
        run: &Run,
        frame: &mut [u8],
        now: Duration,
        waiting: &mut Waitings,
    ) {
        let train = Train::of(frame);
        let known = packet::parse(offload::packet(frame));
        let known = known.filter(|_| train.is_some() || !offload::is_train(frame));
        let Some(mut header) = known else { return self.port.counters.count(Fate::NotIp, 1) };
        if header.upkeep {
            return;
        }
        // A probe travels alone.
        header.probes &= train.is_none();
        let packets = match train {
            Some(train) => train.count as u64,
            None => u64::from(!header.probes),
        };
        let mut parcel = Parcel { frame, train, packets, now };
        let sent = match self.admit(run, &header) {
            Ok(()) if run.is_group(&header) => self.spread(run, &parcel, waiting),
            Ok(()) => self.send(run, &header, &mut parcel, waiting),
            Err(fate) => Err(fate),
        };
        if let Err(fate) = sent {
            self.port.counters.count(fate, packets);
        }
    }

    /// Looks whether a packet may go at all.
    fn admit(&self, run: &Run, header: &Header) -> Result<(), Fate> {
        if !self.port.is_present() {
            return Err(Fate::Absent);
        }
        if run.is_group(header) && !run.links.multicast {
            return Err(Fate::Group);
        }
        let behind = || header.version == Version::V6 && self.behind.contains(&header.source);
        if header.source != self.address && !behind() {
            return Err(Fate::ForeignSource);
        }
        Ok(())
    }

    /// Sends to one; `Err` is the fate of what does not go.
    fn send(
        &mut self,
        run: &Run,
        header: &Header,
        parcel: &mut Parcel<'_>,
        waiting: &mut Waitings,
    ) -> Result<(), Fate> {
        let to_gateway = header.destination == run.facts.gateway;
        let holder = run.holder(header).filter(|_| !to_gateway);
        let outside =
            header.version == Version::V4 && !run.facts.subnet.contains(&header.destination);
        let nobody = if outside { OUTSIDE } else { GATEWAY };
        let number = holder.map_or(nobody, Holder::instance);
        let path = run.links.path(self.port.instance.0, number);
        let (rule, lane) = self.rules.find(header.destination);
        let filter = path.filter(rule);
        if filter != Filter::Accept {
            parcel.filtered(self.run, lane, waiting);
        }
        match filter {
            Filter::Accept => {}
            Filter::Drop => return Err(Fate::Filtered),
            Filter::Reject => {
                prohibit(run, &self.port, parcel);
                return Err(Fate::Rejected);
            }
        }
        // Probes have a pair of their own, or they would change the fate of what the instance sends.
        let plain = number;
        let number = if header.probes { number | PROBES } else { number };
        if header.probes {
            share_path(&mut self.ways, plain, number);
        }
        let way = match holder {
            Some(holder) => way_to(&mut self.ways, run, &self.port, number, holder),
            None if to_gateway => {
                let own = Holder::Here(Arc::clone(&self.port));
                way_to(&mut self.ways, run, &self.port, number, &own)
            }
            None if outside && self.port.gate.is_open() => {
                let way =
                    || Way::new(run, &self.port, number, Route::outside(self.run, &self.port));
                self.ways.entry(number).or_insert_with(way)
            }
            None if outside => {
                prohibit(run, &self.port, parcel);
                return Err(Fate::Denied);
            }
            None => return Err(Fate::NoSuchAddress),
        };
        let (path, scratch) = (path.shape.as_ref(), &mut self.scratch);
        let kind = if header.probes { Kind::Probe } else { Kind::Own };
        let mut passage = Passage { lane, path, way, waiting, scratch, now: parcel.now, kind };
        let sent = match parcel.train {
            None if to_gateway => passage.answer(parcel.frame),
            None => passage.single(parcel.frame),
            // No ping is a train.
            Some(_) if to_gateway => Err(Fate::NoSuchAddress),
            Some(train) => {
                passage.train(parcel.frame, &train);
                Ok(())
            }
        };
        if header.probes {
            share_path(&mut self.ways, number, plain);
        }
        sent
    }

    /// Sends to every other instance of the run, each copy with a fate of its own. They share one turn at the
    /// rate of the sender's link, which they leave as one packet.
    fn spread(
        &mut self,
        run: &Run,
        parcel: &Parcel<'_>,
        waiting: &mut Waitings,
    ) -> Result<(), Fate> {
        self.groups += 1;
        let mut copy = Vec::with_capacity(parcel.frame.len());
        for (address, holder) in run.members.values() {
            let number = holder.instance();
            if number == self.port.instance.0 {
                continue;
            }
            let path = run.links.path(self.port.instance.0, number);
            let (rule, lane) = self.rules.find(*address);
            if path.filter(rule) != Filter::Accept {
                parcel.filtered(self.run, lane, waiting);
                self.port.counters.count(Fate::Filtered, parcel.packets);
                continue;
            }
            let kind = if lane.sends_again(self.groups) { Kind::Copy } else { Kind::Own };
            copy.clear();
            copy.extend_from_slice(parcel.frame);
            let way = way_to(&mut self.ways, run, &self.port, number, holder);
            let (path, scratch, now) = (path.shape.as_ref(), &mut self.scratch, parcel.now);
            let mut passage = Passage { lane, path, way, waiting, scratch, now, kind };
            match parcel.train {
                None => passage.single(&mut copy).unwrap_or_else(|fate| {
                    self.port.counters.count(fate, 1);
                }),
                Some(train) => passage.train(&mut copy, &train),
            }
        }
        Ok(())
    }
}

/// What is known of an ordered pair.
fn way_to<'a>(
    ways: &'a mut Numbered<u32, Way>,
    run: &Run,
    port: &Arc<Port>,
    number: u32,
    holder: &Holder,
) -> &'a mut Way {
    match ways.entry(number) {
        Entry::Occupied(entry) => {
            let way = entry.into_mut();
            if !way.route.leads_to(holder) {
                way.route = Rc::new(Route::new(run.facts.key, port, holder, number));
            }
            way
        }
        Entry::Vacant(entry) => entry.insert(Way::new(
            run,
            port,
            number,
            Route::new(run.facts.key, port, holder, number),
        )),
    }
}

/// Lets a pair, if it is known, keep the rate of its path together with another, so that those of probes and of all
/// else are one path.
fn share_path(ways: &mut Numbered<u32, Way>, from: u32, to: u32) {
    // Those of the gateway have one number.
    if from != to
        && let [Some(from), Some(to)] = ways.get_disjoint_mut([&from, &to])
    {
        to.flow.pair.shares_path_with(&from.flow.pair);
    }
}

/// Tells an instance that it may not send there.
fn prohibit(run: &Run, port: &Port, parcel: &Parcel<'_>) {
    if let Some(error) = packet::prohibited(offload::packet(parcel.frame), run.facts.gateway) {
        port.write_packet(&error);
    }
}

impl Way {
    fn new(run: &Run, port: &Port, number: u32, route: Route) -> Self {
        let pair = Pair::new(run.facts.seed, port.instance.0, number);
        Self { flow: Flow::new(pair), route: Rc::new(route) }
    }
}

impl Parcel<'_> {
    /// Counts what a filter keeps from going.
    fn filtered(&self, run: u64, lane: &mut Lane, waiting: &mut Waitings) {
        if self.packets == 0 {
            return;
        }
        let whole = self.frame.len() - offload::HEADER;
        let bytes = self.train.map_or(whole, |train| train.bytes());
        waiting.tallies.filtered(run, lane, self.packets, bytes as u64);
    }
}

impl Passage<'_> {
    /// Decides about the next packet.
    fn decide(&mut self, length: usize) -> (Verdict, Mark) {
        let (flow, run) = (&mut self.way.flow, self.way.route.run);
        let packet = Packet { kind: self.kind, now: self.now, length };
        self.waiting.tallies.decide(run, self.lane, self.path, flow, packet)
    }

    fn single(&mut self, frame: &mut [u8]) -> Result<(), Fate> {
        let (verdict, mark) = self.decide(frame.len() - offload::HEADER);
        self.part(frame, verdict, mark)
    }

    /// The gateway answers pings and nothing else.
    fn answer(&mut self, frame: &[u8]) -> Result<(), Fate> {
        let (verdict, mark) = self.decide(frame.len() - offload::HEADER);
        let reply = packet::echo_reply(offload::packet(frame)).ok_or(Fate::NoSuchAddress)?;
        let mut frame = [[0; offload::HEADER].as_slice(), &reply].concat();
        self.part(&mut frame, verdict, mark)
    }

    /// Does to a single packet what was decided.
    fn part(&mut self, frame: &mut [u8], verdict: Verdict, mark: Mark) -> Result<(), Fate> {
        let (at, again, corrupt_bit) = match verdict {
            Verdict::Lost => return Err(Fate::Lost),
            Verdict::Overrun => return Err(Fate::Overrun),
            Verdict::Deliver { at, again, corrupt_bit } => (at, again, corrupt_bit),
        };
        let counters = &self.way.route.from.counters;
        if let Some(bit) = corrupt_bit {
            // The receiver must be able to find it: its kernel does not check what is not yet there.
            offload::finish(frame);
            if let Some(byte) = frame.get_mut(offload::HEADER + bit / 8) {
                *byte ^= 0x80 >> (bit % 8);
            }
            counters.count(Fate::Corrupted, mark.packets());
        }
        let of_copy = mark.of_copy();
        self.deliver(frame, at, mark);
        if let Some(again) = again {
            self.way.route.from.counters.count(Fate::Duplicated, of_copy.packets());
            self.deliver(frame, again, of_copy);
        }
        Ok(())
    }

    fn deliver(&mut self, frame: &mut [u8], at: Duration, mark: Mark) {
        let departure = self.way.flow.pair.departed();
        let decided = Decided { route: &self.way.route, at, departure, mark };
        self.waiting.send(decided, self.now, frame);
    }

    /// Decides about each packet of a train, and lets those stay together that arrive together.
    fn train(&mut self, frame: &mut [u8], train: &Train) {
        let together = self.way.route.takes_trains();
        let mut group: Option<Group> = None;
        for number in 0..train.count {
            let (verdict, mark) = self.decide(train.length(number));
            let plain = match verdict {
                Verdict::Deliver { at, again: None, corrupt_bit: None } if together => Some(at),
                Verdict::Deliver { .. } | Verdict::Lost | Verdict::Overrun => None,
            };
            if let (Some(group), Some(at)) = (&mut group, plain)
                && group.takes(at)
            {
                (group.packets.end, group.at) = (number + 1, at);
                group.mark.join(mark);
                continue;
            }
            self.leave(frame, train, group.take());
            let packets = number..number + 1;
            if let Some(at) = plain {
                group = Some(Group { packets, first_at: at, at, mark });
                continue;
            }
            let mut one = std::mem::take(self.scratch);
            train.cut(frame, packets, &mut one);
            if let Err(fate) = self.part(&mut one, verdict, mark) {
                self.way.route.from.counters.count(fate, 1);
            }
            *self.scratch = one;
        }
        self.leave(frame, train, group);
    }

    fn leave(&mut self, frame: &mut [u8], train: &Train, group: Option<Group>) {
        let Some(Group { packets, at, mark, .. }) = group else { return };
        if packets == (0..train.count) {
            return self.deliver(frame, at, mark);
        }
        let mut part = std::mem::take(self.scratch);
        train.cut(frame, packets, &mut part);
        self.deliver(&mut part, at, mark);
        *self.scratch = part;
    }
}

impl Group {
    fn takes(&self, at: Duration) -> bool {
        at >= self.at && at - self.first_at < TOGETHER
    }
}
