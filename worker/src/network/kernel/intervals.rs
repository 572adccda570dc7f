//! Turns rules by prefix, of which the longest decides, into ranges of addresses that do not overlap. Pure.

use std::net::Ipv4Addr;

use groundswell_common::link::{Filter, LinkRule, LinkShape};
use ipnet::Ipv4Net;

/// What the addresses of a range have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ruled {
    /// What becomes of packets to them.
    pub(super) filter: Filter,
    /// Their lane.
    pub(super) lane: usize,
}

/// A range of addresses, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) first: Ipv4Addr,
    pub(super) last: Ipv4Addr,
    pub(super) ruled: Ruled,
}

/// The shapes of a configuration's rules, which become lanes 1 and up.
pub(super) fn lanes(rules: &[LinkRule]) -> impl Iterator<Item = &LinkShape> {
    rules.iter().map(|rule| &rule.shape).filter(|shape| has_own_shape(shape))
}

/// A rule that has nothing but a filter keeps the default shape.
fn has_own_shape(shape: &LinkShape) -> bool {
    *shape != LinkShape { filter: shape.filter, ..LinkShape::default() }
}

/// The ranges of `subnet` that rules decide about, in order.
pub(super) fn intervals(subnet: Ipv4Net, rules: &[LinkRule]) -> Vec<Interval> {
    let ruled = ruled(rules);
    let mut edges: Vec<u64> = Vec::new();
    let whole = edges_of(subnet);
    for (net, _) in &ruled {
        let (first, end) = edges_of(*net);
        edges.extend([first.clamp(whole.0, whole.1), end.clamp(whole.0, whole.1)]);
    }
    edges.sort_unstable();
    edges.dedup();
    let mut found: Vec<Interval> = Vec::new();
    for pair in edges.windows(2) {
        let (first, last) = (address(pair[0]), address(pair[1] - 1));
        // Of the same length the later one counts.
        let longest = ruled
            .iter()
            .filter(|(net, _)| net.contains(&first))
            .max_by_key(|(net, _)| net.prefix_len());
        let Some((_, ruled)) = longest else { continue };
        match found.last_mut() {
            Some(before)
                if before.ruled == *ruled && u64::from(before.last.to_bits()) + 1 == pair[0] =>
            {
                before.last = last;
            }
            _ => found.push(Interval { first, last, ruled: *ruled }),
        }
    }
    found
}

/// Each rule's subnet with what it says.
fn ruled(rules: &[LinkRule]) -> Vec<(Ipv4Net, Ruled)> {
    let mut lanes = 0;
    let each = rules.iter().map(|rule| {
        let own = has_own_shape(&rule.shape);
        lanes += usize::from(own);
        let lane = if own { lanes } else { 0 };
        (rule.subnet, Ruled { filter: rule.shape.filter, lane })
    });
    each.collect()
}

/// The first address, and the one after the last.
fn edges_of(net: Ipv4Net) -> (u64, u64) {
    (net.network().to_bits().into(), u64::from(net.broadcast().to_bits()) + 1)
}

fn address(number: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(number).expect("it is an address"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use groundswell_common::link::{NetworkConfig, RoutingPolicy};
    use proptest::prelude::*;

    use super::*;
    use crate::network::rules::Rules;

    const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(16, 0, 0, 0), 16);

    fn rule(subnet: Ipv4Net, filter: Filter, ms: u64) -> LinkRule {
        let latency = Duration::from_millis(ms);
        LinkRule {
            subnet: subnet.trunc(),
            shape: LinkShape { filter, latency, ..LinkShape::default() },
        }
    }

    #[test]
    fn neighbors_that_say_the_same_are_one() {
        let drop = |text: &str| rule(text.parse().expect("a subnet"), Filter::Drop, 0);
        let found = intervals(SUBNET, &[drop("16.0.1.0/24"), drop("16.0.2.0/24")]);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.first.octets(), one.last.octets()), ([16, 0, 1, 0], [16, 0, 2, 255]));
    }

    #[test]
    fn what_lies_outside_the_subnet_does_not_matter() {
        let all = [rule("0.0.0.0/0".parse().expect("a subnet"), Filter::Reject, 0)];
        let found = intervals(SUBNET, &all);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.first, one.last), (SUBNET.network(), SUBNET.broadcast()));
        assert_eq!(
            intervals(SUBNET, &[rule("17.0.0.0/8".parse().expect("a subnet"), Filter::Drop, 0)]),
            []
        );
    }

    fn filter() -> impl Strategy<Value = Filter> {
        prop_oneof![Just(Filter::Accept), Just(Filter::Reject), Just(Filter::Drop)]
    }

    proptest! {
        /// The switch and this path read the same rules the same way.
        #[test]
        fn every_address_is_ruled_as_in_the_switch(
            rules in prop::collection::vec((any::<u16>(), 12..=32_u8, filter(), 0..3_u64), 0..12),
            addresses in prop::collection::vec(any::<u16>(), 1..40),
        ) {
            let at = |low: u16| Ipv4Addr::from_bits(SUBNET.network().to_bits() | u32::from(low));
            let rules: Vec<LinkRule> = rules
                .into_iter()
                .map(|(low, length, filter, ms)| {
                    rule(Ipv4Net::new(at(low), length).expect("a length"), filter, ms)
                })
                .collect();
            let config = NetworkConfig {
                enable: true,
                ipv4: None,
                default: LinkShape::default(),
                rules: rules.clone(),
                callback_state: String::new(),
                routing_policy: RoutingPolicy::DenyAll,
            };
            let mut known = Rules::new(&config);
            let shapes: Vec<&LinkShape> = lanes(&rules).collect();
            let found = intervals(SUBNET, &rules);
            prop_assert!(found.windows(2).all(|pair| pair[0].last < pair[1].first));
            let near = rules.iter().flat_map(|rule| [rule.subnet.network(), rule.subnet.broadcast()]);
            for address in addresses.into_iter().map(at).chain(near) {
                if !SUBNET.contains(&address) {
                    continue;
                }
                let here = found.iter().find(|one| one.first <= address && address <= one.last);
                let (filter, lane) = known.find(address);
                prop_assert_eq!(here.map(|one| one.ruled.filter), filter, "{}", address);
                let latency = match here.map_or(0, |one| one.ruled.lane) {
                    0 => Duration::ZERO,
                    lane => shapes[lane - 1].latency,
                };
                prop_assert_eq!(latency, lane.shape.latency, "{}", address);
            }
        }
    }
}
