//! The nftables rules of a run's router and of an instance's interface. Pure.
//!
//! The router decides what passes, in this order: a cut of the schedule, a rule of the sender, the filter of the
//! path between the groups. Groups are told apart by the group of the interface, so that no table has to follow
//! addresses. In the instance a map of addresses selects the class whose shape a packet gets.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use groundswell_common::link::Filter;

use super::intervals::Interval;
use super::tc;

/// The table of a router.
const TABLE: &str = "inet groundswell";
/// The table of an instance.
const CLASSES: &str = "netdev groundswell";

/// What becomes of packets from one group to another, groups as interfaces have them.
pub(super) type Pairs = BTreeMap<(u32, u32), Filter>;

/// The rules a router begins with: everything passes between instances, and only pings reach itself.
pub(super) fn router() -> String {
    format!(
        "table {TABLE} {{
  counter dropped {{ }}
  counter rejected {{ }}
  map cuts {{ type devgroup . devgroup : verdict; }}
  map rules {{ type ifname . ipv4_addr : verdict; flags interval; }}
  map paths {{ type devgroup . devgroup : verdict; }}
  chain discard {{
    counter name dropped drop
  }}
  chain refuse {{
    counter name rejected reject with icmp type admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifgroup . oifgroup vmap @cuts
    iifname . ip daddr vmap @rules
    iifgroup . oifgroup vmap @paths
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    icmp type echo-request accept
  }}
}}
"
    )
}

/// Replaces one of the maps by pairs of groups.
pub(super) fn pairs(map: &str, pairs: &Pairs) -> String {
    let mut text = format!("flush map {TABLE} {map}\n");
    let elements =
        pairs.iter().map(|((from, to), filter)| format!("{from} . {to} : {}", verdict(*filter)));
    add(&mut text, TABLE, map, elements);
    text
}

/// Replaces the filters by which an interface's packets are judged.
pub(super) fn rules(interface: &str, before: &[Interval], after: &[Interval]) -> String {
    let key = |one: &Interval| format!("\"{interface}\" . {}", range(one));
    let mut text = String::new();
    let gone: Vec<String> = before.iter().map(key).collect();
    if !gone.is_empty() {
        let gone = gone.join(", ");
        writeln!(text, "delete element {TABLE} rules {{ {gone} }}")
            .expect("a text takes everything");
    }
    let elements = after.iter().map(|one| format!("{} : {}", key(one), verdict(one.ruled.filter)));
    add(&mut text, TABLE, "rules", elements);
    text
}

/// Has the addresses of rules with shapes of their own take the classes of these shapes. What a filter keeps
/// from passing is not shaped at all, so that its sender hears of it at once.
pub(super) fn classes(interface: &str, intervals: &[Interval]) -> String {
    let mut text = format!("table {CLASSES}\ndelete table {CLASSES}\n");
    let elements: Vec<String> = intervals
        .iter()
        .filter(|one| one.ruled.filter != Filter::Accept || one.ruled.lane > 0)
        .map(|one| {
            let class = tc::class_of(one.ruled.lane);
            let minor = if one.ruled.filter == Filter::Accept { class.minor } else { 0 };
            format!("{} : {:x}:{minor:x}", range(one), class.major)
        })
        .collect();
    if elements.is_empty() {
        return text;
    }
    write!(
        text,
        "table {CLASSES} {{
  map classes {{ type ipv4_addr : classid; flags interval; }}
  chain egress {{
    type filter hook egress device \"{interface}\" priority 0; policy accept;
    meta priority set ip daddr map @classes
  }}
}}
"
    )
    .expect("a text takes everything");
    add(&mut text, CLASSES, "classes", elements.into_iter());
    text
}

fn add(text: &mut String, table: &str, map: &str, elements: impl Iterator<Item = String>) {
    let elements: Vec<String> = elements.collect();
    if !elements.is_empty() {
        let elements = elements.join(", ");
        writeln!(text, "add element {table} {map} {{ {elements} }}")
            .expect("a text takes everything");
    }
}

fn range(one: &Interval) -> String {
    if one.first == one.last {
        one.first.to_string()
    } else {
        format!("{}-{}", one.first, one.last)
    }
}

fn verdict(filter: Filter) -> &'static str {
    match filter {
        Filter::Accept => "accept",
        Filter::Reject => "goto refuse",
        Filter::Drop => "goto discard",
    }
}

/// How many packets a router's rules have dropped and rejected, from `nft --json list counters`.
pub(super) fn counters(json: &str) -> Option<(u64, u64)> {
    let listed: serde_json::Value = serde_json::from_str(json).ok()?;
    let of = |name: &str| {
        let all = listed.get("nftables")?.as_array()?;
        let one = all.iter().find_map(|one| one.get("counter").filter(|c| c["name"] == name))?;
        one.get("packets")?.as_u64()
    };
    Some((of("dropped")?, of("rejected")?))
}

#[cfg(test)]
mod tests {
    use super::super::intervals::Ruled;
    use super::*;

    fn interval(first: &str, last: &str, filter: Filter, lane: usize) -> Interval {
        let parse = |text: &str| text.parse().expect("an address");
        Interval { first: parse(first), last: parse(last), ruled: Ruled { filter, lane } }
    }

    #[test]
    fn what_is_filtered_is_beside_all_classes() {
        let text = classes(
            "eth1",
            &[
                interval("16.0.0.3", "16.0.0.3", Filter::Reject, 0),
                interval("16.0.1.0", "16.0.1.255", Filter::Accept, 0),
                interval("16.0.2.0", "16.0.2.255", Filter::Accept, 11),
            ],
        );
        assert!(text.ends_with(
            "add element netdev groundswell classes { 16.0.0.3 : 1:0, 16.0.2.0-16.0.2.255 : 1:c }\n"
        ), "{text}");
        assert!(!classes("eth1", &[]).contains("egress"));
    }

    #[test]
    fn rules_are_replaced_in_one_transaction() {
        let before = [interval("16.0.0.3", "16.0.0.9", Filter::Drop, 0)];
        let after = [interval("16.0.0.3", "16.0.0.3", Filter::Reject, 0)];
        assert_eq!(
            rules("i4", &before, &after),
            "delete element inet groundswell rules { \"i4\" . 16.0.0.3-16.0.0.9 }\n\
             add element inet groundswell rules { \"i4\" . 16.0.0.3 : goto refuse }\n"
        );
        assert_eq!(rules("i4", &[], &[]), "");
    }

    #[test]
    fn counters_are_understood() {
        let json = r#"{"nftables": [{"metainfo": {}}, {"counter": {"name": "dropped", "packets": 3}}, {"counter": {"name": "rejected", "packets": 4}}]}"#;
        assert_eq!(counters(json), Some((3, 4)));
        assert_eq!(counters("{}"), None);
    }
}
