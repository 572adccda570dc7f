//! Gives each live run a /16 of its own.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Hands out the subnets of a range, in turns, so that one that was just given back rests a while.
#[derive(Debug)]
pub struct Subnets {
    range: Ipv4Net,
    next: u32,
}

impl Subnets {
    /// All /16 of `range`.
    #[must_use]
    pub fn new(range: Ipv4Net) -> Self {
        Self { range, next: 0 }
    }

    /// The next subnet that no live run holds; none when all are held.
    pub fn take<'a>(&mut self, live: impl Iterator<Item = &'a Ipv4Net>) -> Option<Ipv4Net> {
        let held: Vec<Ipv4Net> = live.copied().collect();
        let count = 1_u32 << 16_u8.saturating_sub(self.range.prefix_len());
        for turn in 0..count {
            let number = (self.next + turn) % count;
            let address = Ipv4Addr::from(u32::from(self.range.network()) + (number << 16));
            let subnet = Ipv4Net::new(address, 16).ok()?;
            if !held.contains(&subnet) {
                self.next = (number + 1) % count;
                return Some(subnet);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_that_a_live_run_holds_is_not_given_out_again() {
        let range = Ipv4Net::new(Ipv4Addr::new(16, 0, 0, 0), 15).expect("a range");
        let mut subnets = Subnets::new(range);
        let first = subnets.take([].iter()).expect("free");
        assert_eq!(first.to_string(), "16.0.0.0/16");
        let second = subnets.take([first].iter()).expect("free");
        assert_eq!(second.to_string(), "16.1.0.0/16");
        assert_eq!(subnets.take([first, second].iter()), None);
        assert_eq!(subnets.take([second].iter()), Some(first));
    }
}
