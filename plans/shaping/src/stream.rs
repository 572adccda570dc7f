//! Numbered datagrams, and what became of them on their way.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

use crate::counters::Counters;
use crate::party::{DATAGRAMS, Party};

/// How long a datagram is.
const LENGTH: usize = 256;
/// Where its content begins, behind its round and its number.
const CONTENT: usize = 8;
/// What is due is sent this often.
const TICK: Duration = Duration::from_millis(2);
/// What has not arrived so long after the last one was sent is lost. It is longer than any latency here.
const GRACE: Duration = Duration::from_secs(1);

/// A stream from the first member of a party to the second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream<'a> {
    /// What all datagrams of one stream have in common, and those of no other.
    pub(crate) round: u32,
    /// Its name, for the signal that everything is sent.
    pub(crate) name: &'a str,
    pub(crate) packets: u32,
    pub(crate) per_second: u32,
}

impl Stream<'_> {
    /// Sends it, or receives it; who receives gets what has become of it.
    pub(crate) async fn run(&self, party: &Party) -> Result<Option<Fate>> {
        let state = format!("sent-{}-{}", self.name, party.number);
        if party.asks() {
            self.send(&party.datagrams, party.peer()).await?;
            party.cx.signal(&state).await?;
            return Ok(None);
        }
        let before = Counters::read()?;
        let sent = async {
            party.cx.barrier(&state).count(1).await?;
            sleep(GRACE).await;
            Result::Ok(())
        };
        let arrivals = self.receive(&party.datagrams, sent).await?;
        Ok(Some(arrivals.fate(Counters::read()?.since(before))))
    }

    async fn send(&self, socket: &UdpSocket, to: Ipv4Addr) -> Result {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        let mut number = 0;
        while number < self.packets {
            ticks.tick().await;
            let due = begun.elapsed().as_secs_f64() * f64::from(self.per_second);
            while number < self.packets && f64::from(number) <= due {
                socket.send_to(&datagram(self.round, number), (to, DATAGRAMS)).await?;
                number += 1;
            }
        }
        Ok(())
    }

    async fn receive(
        &self,
        socket: &UdpSocket,
        sent: impl Future<Output = Result>,
    ) -> Result<Arrivals> {
        let mut arrivals = Arrivals::of(self.packets);
        let mut buffer = [0; LENGTH + 1];
        let mut sent = std::pin::pin!(sent);
        loop {
            tokio::select! {
                // What is there is taken before the end is looked at.
                biased;
                received = socket.recv(&mut buffer) => arrivals.take(self.round, &buffer[..received?]),
                ended = &mut sent => {
                    ended?;
                    return Ok(arrivals);
                }
            }
        }
    }
}

fn datagram(round: u32, number: u32) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&round.to_be_bytes());
    bytes[4..CONTENT].copy_from_slice(&number.to_be_bytes());
    // Each byte differs from its neighbours, so that damage shows wherever it is.
    for (place, byte) in bytes.iter_mut().enumerate().skip(CONTENT) {
        *byte = place.to_le_bytes()[0] ^ number.to_le_bytes()[0];
    }
    bytes
}

/// What has become of a stream, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fate {
    pub(crate) sent: u64,
    /// Lost on their way, those among them that were damaged and thrown away.
    pub(crate) missing: u64,
    /// Those that came once more.
    pub(crate) copies: u64,
    /// Those that came before one that was sent earlier.
    pub(crate) ahead: u64,
    /// Those whose content was wrong, and that nobody threw away.
    pub(crate) wrong: u64,
    /// Damaged, and thrown away by the receiver's kernel.
    pub(crate) damaged: u64,
    /// Thrown away because this program was too slow.
    pub(crate) full: u64,
}

impl Fate {
    /// Adds another stream.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.missing += other.missing;
        self.copies += other.copies;
        self.ahead += other.ahead;
        self.wrong += other.wrong;
        self.damaged += other.damaged;
        self.full += other.full;
    }
}

/// Which datagrams came, and in which order.
#[derive(Debug)]
struct Arrivals {
    /// By number: as which one of all it came.
    places: Vec<Option<u32>>,
    came: u32,
    copies: u64,
    wrong: u64,
}

impl Arrivals {
    fn of(packets: u32) -> Self {
        let places = (0..packets).map(|_| None).collect();
        Self { places, came: 0, copies: 0, wrong: 0 }
    }

    fn take(&mut self, round: u32, bytes: &[u8]) {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        let (Some(of), Some(number)) = (word(0), word(4)) else {
            self.wrong += 1;
            return;
        };
        let (of, number) = (u32::from_be_bytes(of), u32::from_be_bytes(number));
        if bytes != datagram(of, number) {
            self.wrong += 1;
            return;
        }
        // One that is late from an earlier stream is nothing to this.
        if of != round {
            return;
        }
        match usize::try_from(number).ok().and_then(|number| self.places.get_mut(number)) {
            Some(place @ None) => {
                *place = Some(self.came);
                self.came += 1;
            }
            Some(Some(_)) => self.copies += 1,
            None => self.wrong += 1,
        }
    }

    fn fate(&self, counters: Counters) -> Fate {
        let sent = self.places.len() as u64;
        let not_here = sent - u64::from(self.came);
        Fate {
            sent,
            missing: not_here.saturating_sub(counters.full),
            copies: self.copies,
            ahead: self.ahead(),
            wrong: self.wrong,
            damaged: counters.damaged,
            full: counters.full,
        }
    }

    fn ahead(&self) -> u64 {
        let mut last_of_earlier = 0;
        let mut ahead = 0;
        for place in self.places.iter().flatten() {
            ahead += u64::from(*place < last_of_earlier);
            last_of_earlier = last_of_earlier.max(*place);
        }
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Counters = Counters { full: 0, damaged: 0 };

    fn arrived(numbers: &[u32], packets: u32) -> Fate {
        let mut arrivals = Arrivals::of(packets);
        for number in numbers {
            arrivals.take(7, &datagram(7, *number));
        }
        arrivals.fate(QUIET)
    }

    #[test]
    fn what_comes_in_order_is_as_it_should_be() {
        assert_eq!(arrived(&[0, 1, 2], 3), Fate { sent: 3, ..Fate::default() });
    }

    #[test]
    fn losses_copies_and_those_ahead_are_told_apart() {
        assert_eq!(arrived(&[0, 3], 4), Fate { sent: 4, missing: 2, ..Fate::default() });
        assert_eq!(arrived(&[0, 0, 1], 2), Fate { sent: 2, copies: 1, ..Fate::default() });
        // 2 and 4 overtake, the others stay in order; that 5 is lost changes nothing.
        let fate = arrived(&[2, 0, 4, 1, 3, 6], 7);
        assert_eq!(fate, Fate { sent: 7, missing: 1, ahead: 2, ..Fate::default() });
    }

    #[test]
    fn damage_is_seen_and_other_streams_are_not_counted() {
        let mut arrivals = Arrivals::of(2);
        arrivals.take(7, &datagram(6, 0));
        let mut damaged = datagram(7, 1);
        damaged[200] ^= 4;
        arrivals.take(7, &damaged);
        arrivals.take(7, b"short");
        arrivals.take(7, &datagram(7, 5));
        let fate = arrivals.fate(Counters { full: 1, damaged: 0 });
        assert_eq!(fate, Fate { sent: 2, missing: 1, wrong: 3, full: 1, ..Fate::default() });
    }
}
