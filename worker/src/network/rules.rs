//! Finds the shape and the filter for a destination. Pure.
//!
//! Rules behave like the routes Testground makes of them:
//!
//! * the rule with the longest prefix that holds the destination decides;
//! * of two rules for the same subnet the later one counts;
//! * a filter acts on what the instance sends, not on what it receives;
//! * the filter of the default shape is ignored;
//! * a rule that has nothing but a filter keeps the default shape, since Testground never looked at a
//!   rule's shape. A rule with a shape of its own replaces the default shape and has its own rate.
//!
//! A configuration replaces the one before as a whole. Testground leaves the routes of an earlier
//! configuration in place until an explicit accept; here a rule that is not repeated is gone.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_common::link::{Filter, LinkShape, NetworkConfig};
use ipnet::Ipv4Net;

use super::meter::Meter;
use super::numbers::Numbered;
use super::shape::Clock;

/// Which of an instance's lanes a packet takes. Lane 0 is the default's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    filter: Filter,
    lane: usize,
}

/// A shape and the clock that holds its rate.
#[derive(Debug, Clone)]
pub struct Lane {
    /// How packets are treated.
    pub shape: LinkShape,
    /// When its queue is empty.
    pub clock: Clock,
    /// Where its packets are counted, once there was one.
    pub(super) meter: Option<Meter>,
    /// Whether a rule made it: then its shape stands alone, and no path adds to it.
    pub ruled: bool,
    /// The packet to many that it has sent last, and its clock before.
    pub(super) group: (u64, Clock),
}

impl Lane {
    /// Whether the packet to many with this number has taken its turn here already; then the clock goes back to
    /// before, so that another copy of it leaves at the same time.
    pub(super) fn sends_again(&mut self, group: u64) -> bool {
        let again = self.group.0 == group;
        if again {
            self.clock = self.group.1;
        } else {
            self.group = (group, self.clock);
        }
        again
    }
}

/// The shapes and filters of one instance.
#[derive(Debug, Clone)]
pub struct Rules {
    lanes: Vec<Lane>,
    /// By prefix length, longest first: network to entry.
    prefixes: Vec<(u8, Numbered<u32, Entry>)>,
}

impl Default for Rules {
    /// Everything passes unchanged.
    fn default() -> Self {
        Self::plain(LinkShape::default())
    }
}

impl Rules {
    /// No rules but a default shape.
    #[must_use]
    pub fn plain(default: LinkShape) -> Self {
        Self { lanes: vec![lane(default, false)], prefixes: Vec::new() }
    }

    /// The rules of a configuration.
    #[must_use]
    pub fn new(config: &NetworkConfig) -> Self {
        let mut rules = Self::plain(config.default);
        for rule in &config.rules {
            let plain = LinkShape { filter: rule.shape.filter, ..LinkShape::default() };
            let own_shape = rule.shape != plain;
            let entry = Entry {
                filter: rule.shape.filter,
                lane: if own_shape { rules.lanes.len() } else { 0 },
            };
            if own_shape {
                rules.lanes.push(lane(rule.shape, true));
            }
            rules.insert(rule.subnet, entry);
        }
        rules
    }

    fn insert(&mut self, subnet: Ipv4Net, entry: Entry) {
        let length = subnet.prefix_len();
        let place = self.prefixes.binary_search_by(|(other, _)| length.cmp(other));
        let place = place.unwrap_or_else(|place| {
            self.prefixes.insert(place, (length, Numbered::default()));
            place
        });
        self.prefixes[place].1.insert(subnet.network().to_bits(), entry);
    }

    /// The filter a rule has for packets to `destination`, and their lane.
    pub fn find(&mut self, destination: Ipv4Addr) -> (Option<Filter>, &mut Lane) {
        let entry = self
            .prefixes
            .iter()
            .find_map(|(length, networks)| networks.get(&network(destination, *length)));
        let lane = entry.map_or(0, |entry| entry.lane);
        (entry.map(|entry| entry.filter), &mut self.lanes[lane])
    }

    /// Takes over from the rules before, at `now`: what waits for its turn at their rates is not forgotten, or every
    /// configuration would make room for another queue. A rule with a shape has the rate of its subnet's before.
    pub(super) fn follow(&mut self, before: &Self, now: Duration) {
        let mut follow = |lane: usize, former: usize| {
            let lane = &mut self.lanes[lane];
            lane.clock = before.lanes[former].clock.followed(now, lane.shape.bandwidth_bps);
        };
        follow(0, 0);
        for (length, networks) in &self.prefixes {
            let same = before.prefixes.iter().find(|(other, _)| other == length);
            let Some((_, former)) = same else { continue };
            for (network, entry) in networks {
                if let Some(former) = former.get(network).filter(|former| former.lane > 0)
                    && entry.lane > 0
                {
                    follow(entry.lane, former.lane);
                }
            }
        }
    }

    /// Replaces the default shape. What waits for its turn at the old rate is not forgotten.
    pub fn reshape(&mut self, default: LinkShape) {
        self.lanes[0].shape = default;
        self.lanes[0].meter = None;
    }
}

fn lane(shape: LinkShape, ruled: bool) -> Lane {
    let clock = Clock::default();
    Lane { shape, clock, ruled, meter: None, group: (0, clock) }
}

fn network(address: Ipv4Addr, length: u8) -> u32 {
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    address.to_bits() & mask
}

/// What of a configuration does not act as its author may think, each a sentence for people.
#[must_use]
pub fn warnings(config: &NetworkConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.default.filter != Filter::Accept {
        warnings.push(
            "the filter of the default shape is ignored, as in Testground: use a rule for the whole subnet"
                .to_owned(),
        );
    }
    let idle = |shape: &LinkShape| shape.reorder_pct > 0.0 && shape.latency.is_zero();
    if idle(&config.default) || config.rules.iter().any(|rule| idle(&rule.shape)) {
        warnings.push("reordering does nothing without a latency to overtake".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use groundswell_common::link::{LinkRule, RoutingPolicy};

    use super::*;

    fn config(rules: &[(&str, LinkShape)]) -> NetworkConfig {
        NetworkConfig {
            enable: true,
            ipv4: None,
            default: LinkShape { latency: Duration::from_millis(9), ..LinkShape::default() },
            rules: rules
                .iter()
                .map(|(subnet, shape)| LinkRule {
                    subnet: subnet.parse().expect("a subnet"),
                    shape: *shape,
                })
                .collect(),
            callback_state: String::new(),
            routing_policy: RoutingPolicy::DenyAll,
        }
    }

    fn only(filter: Filter) -> LinkShape {
        LinkShape { filter, ..LinkShape::default() }
    }

    fn filter(rules: &mut Rules, address: &str) -> Filter {
        rules.find(address.parse().expect("an address")).0.unwrap_or_default()
    }

    #[test]
    fn the_longest_prefix_decides_and_the_later_of_equals() {
        let mut rules = Rules::new(&config(&[
            ("16.0.1.0/24", only(Filter::Accept)),
            ("16.0.0.0/16", only(Filter::Drop)),
            ("16.0.1.7/32", only(Filter::Drop)),
            ("16.0.1.7/32", only(Filter::Reject)),
        ]));
        assert_eq!(filter(&mut rules, "16.0.9.9"), Filter::Drop);
        assert_eq!(filter(&mut rules, "16.0.1.9"), Filter::Accept);
        assert_eq!(filter(&mut rules, "16.0.1.7"), Filter::Reject);
        assert_eq!(filter(&mut rules, "17.0.0.1"), Filter::Accept);
    }

    #[test]
    fn a_rule_for_everything_holds() {
        let mut rules = Rules::new(&config(&[("0.0.0.0/0", only(Filter::Drop))]));
        assert_eq!(filter(&mut rules, "16.0.0.2"), Filter::Drop);
    }

    #[test]
    fn a_rule_keeps_the_default_shape_unless_it_has_its_own() {
        let own = LinkShape { latency: Duration::from_millis(50), ..LinkShape::default() };
        let mut rules =
            Rules::new(&config(&[("16.0.1.0/24", only(Filter::Accept)), ("16.0.2.0/24", own)]));
        let mut latency = |address: &str| {
            rules.find(address.parse().expect("an address")).1.shape.latency.as_millis()
        };
        assert_eq!(latency("16.0.1.1"), 9);
        assert_eq!(latency("16.0.2.1"), 50);
        assert_eq!(latency("16.0.3.1"), 9);
    }

    #[test]
    fn configurations_in_a_row_send_no_more_than_the_rate() {
        let (ms, rate) = (Duration::from_millis(1), 1_000_000);
        let slow = LinkShape { bandwidth_bps: rate, ..LinkShape::default() };
        let asked = NetworkConfig { default: slow, ..config(&[("16.0.1.0/24", slow)]) };
        for address in ["16.0.0.2", "16.0.1.2"] {
            let destination = address.parse().expect("an address");
            let mut rules = Rules::new(&asked);
            let mut sent = 0;
            for tenth in 0..100 {
                let now = ms * 100 * tenth;
                let mut next = Rules::new(&asked);
                next.follow(&rules, now);
                rules = next;
                let lane = rules.find(destination).1;
                sent += (0..200).filter(|_| lane.clock.depart(now, 1_000, rate).is_some()).count();
            }
            // Ten seconds at 125 packets each, and one full queue.
            assert!((1_230..=1_320).contains(&sent), "{sent} to {address}");
        }
    }

    #[test]
    fn what_does_nothing_is_said() {
        let mut odd = config(&[]);
        assert_eq!(warnings(&odd), Vec::<String>::new());
        odd.default = LinkShape { filter: Filter::Drop, reorder_pct: 5.0, ..LinkShape::default() };
        assert_eq!(warnings(&odd).len(), 2);
    }
}
