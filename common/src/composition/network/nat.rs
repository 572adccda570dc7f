//! `[groups.nat]`: the NATs that the instances of a group are behind.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::shape;
use crate::diagnostic::suggest;
use crate::document::{At, Findings, Table};
use crate::nat::{Ipv6, NatKind, NatLayer, NatPlan, NatSpec, PortForward, SpecRefused, Transport};
use crate::network::DATA_RANGE;

/// The network behind a home router, where nothing else is said.
const HOME: ([u8; 4], u8) = ([192, 168, 1, 0], 24);
/// The network between a carrier and its customers, where nothing else is said (RFC 6598).
const CARRIER: ([u8; 4], u8) = ([100, 64, 0, 0], 10);
/// More NATs in a row than anybody has.
const MOST_LAYERS: usize = 4;

/// Reads the table of a group. What is wrong with it is found.
pub(in crate::composition) fn read(findings: &Findings, group: &Table<'_>) -> Option<At<NatPlan>> {
    let table = group.table("nat")?;
    let span = table.span.clone();
    let mut layers = Vec::new();
    let read = layer(findings, table, &mut layers);
    let plan = NatPlan { layers };
    check_nesting(findings, &span, &plan);
    read.then_some(At { value: plan, span })
}

/// Reads one layer and those outside of it. Returns whether all of it was read.
fn layer(findings: &Findings, table: Table<'_>, layers: &mut Vec<NatLayer>) -> bool {
    let kind = kind(findings, &table, "kind");
    let default = if layers.is_empty() { HOME } else { CARRIER };
    let lan = lan(findings, &table, default);
    let members = members(findings, &table, lan);
    let mut spec = NatSpec::new(kind.unwrap_or(NatKind::PortRestricted), lan);
    if let Some(seconds) = timeout(findings, &table) {
        spec.mapping_timeout_s = seconds;
    }
    if let Some(preserve) = table.bool("preserve_ports") {
        spec.preserve_ports = preserve;
        if preserve && kind == Some(NatKind::Symmetric) {
            let help = "remove `preserve_ports`";
            findings.warning(table.span.clone(), "a symmetric NAT never preserves ports", help);
        }
    }
    if let Some(hairpin) = table.bool("hairpin") {
        spec.hairpin = hairpin;
    }
    spec.ipv6 = ipv6(findings, &table);
    let mut one = NatLayer { spec, members };
    for forward in table.tables("forwards") {
        read_forward(findings, forward, &mut one);
    }
    layers.push(one);
    let outer = table.table("outer");
    let mut whole = kind.is_some();
    if let Some(outer) = outer {
        if layers.len() < MOST_LAYERS {
            whole &= layer(findings, outer, layers);
        } else {
            let message = format!("more than {MOST_LAYERS} NATs in a row");
            findings.error(outer.span.clone(), message, "remove the outermost `outer`");
        }
    }
    table.finish(&[]);
    whole
}

/// Reads a kind of NAT.
pub(super) fn kind(findings: &Findings, table: &Table<'_>, key: &'static str) -> Option<NatKind> {
    let names = NatKind::ALL.map(NatKind::as_str);
    let Some(text) = table.text(key) else {
        if table.get(key).is_none() {
            let help = format!("write `{key} = \"…\"`; {}", suggest("", names));
            findings.error(table.span.clone(), "a NAT has no kind", help);
        }
        return None;
    };
    let found = NatKind::ALL.into_iter().find(|kind| kind.as_str() == text.value);
    if found.is_none() {
        let message = format!("there is no kind of NAT `{}`", text.value);
        findings.error(text.span, message, suggest(&text.value, names));
    }
    found
}

fn ipv6(findings: &Findings, table: &Table<'_>) -> Ipv6 {
    let Some(word) = table.text("ipv6") else { return Ipv6::default() };
    let found = Ipv6::ALL.into_iter().find(|one| one.as_str() == word.value);
    if found.is_none() {
        let message = format!("`ipv6` is `{}`", word.value);
        findings.error(word.span, message, suggest(&word.value, Ipv6::ALL.map(Ipv6::as_str)));
    }
    found.unwrap_or_default()
}

fn lan(findings: &Findings, table: &Table<'_>, (default, length): ([u8; 4], u8)) -> Ipv4Net {
    let default = Ipv4Net::new_assert(Ipv4Addr::from(default), length);
    let Some(text) = table.text("lan") else { return default };
    let help = format!("write a private network such as `lan = \"{default}\"`");
    let wrong = |message: String| {
        findings.error(text.span.clone(), message, help.clone());
        default
    };
    let Ok(lan) = text.value.parse::<Ipv4Net>() else {
        return wrong(format!("`lan` is `{}`, not an IPv4 network", text.value));
    };
    let lan = lan.trunc();
    let (address, length) = DATA_RANGE;
    let range = Ipv4Net::new_assert(address, length);
    match NatSpec::new(NatKind::FullCone, lan).check(range) {
        Err(SpecRefused::Overlap { .. }) => {
            wrong(format!("`lan` is {lan}, which overlaps {range}, where runs have their networks"))
        }
        Err(refused) => wrong(format!("`lan`: {refused}")),
        Ok(()) if is_for_hosts(lan) => lan,
        Ok(()) => wrong(format!("`lan` is {lan}, whose addresses are not for hosts")),
    }
}

/// Whether ordinary hosts can have the addresses of a network.
fn is_for_hosts(lan: Ipv4Net) -> bool {
    let first = lan.network();
    let odd = first.is_loopback() || first.is_link_local() || first.octets()[0] >= 224;
    !odd && first.octets()[0] != 0
}

fn members(findings: &Findings, table: &Table<'_>, lan: Ipv4Net) -> u32 {
    let Some(members) = table.count("members") else { return 1 };
    // The network's own address, the router's and the broadcast address are not for members.
    let room = (1_u64 << (32 - lan.prefix_len())) - 3;
    if members.value == 0 {
        let help = "write how many instances share one router, `members = 1` for one each";
        findings.error(members.span, "`members` is 0", help);
    } else if u64::from(members.value) > room {
        let message = format!("{} members, and {lan} has room for {room}", members.value);
        findings.error(
            members.span,
            message,
            "write a larger network, such as `lan = \"10.0.0.0/8\"`",
        );
    } else {
        return members.value;
    }
    1
}

fn timeout(findings: &Findings, table: &Table<'_>) -> Option<u32> {
    let time = shape::time(findings, table, "mapping_timeout")?;
    let seconds = u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    if seconds.is_none_or(|seconds| seconds == 0) {
        let span = table.get("mapping_timeout").map(|node| node.span.clone());
        let help = "write whole seconds such as `mapping_timeout = \"300s\"`";
        findings.error(
            span,
            "`mapping_timeout` is not a whole number of seconds, at least one",
            help,
        );
        return None;
    }
    seconds
}

fn read_forward(findings: &Findings, table: Table<'_>, layer: &mut NatLayer) {
    let port = port(findings, &table, "port");
    let to = port_or(findings, &table, "to", port);
    let member = table.count("member").map_or(1, |member| {
        if !(1..=layer.members).contains(&member.value) {
            let message = format!("there is no member {} of {}", member.value, layer.members);
            findings.error(member.span, message, "members count from 1");
        }
        member.value.clamp(1, layer.members)
    });
    let transports = transports(findings, &table);
    if port.is_none() && table.get("port").is_none() {
        findings.error(table.span.clone(), "a forward has no port", "write `port = 4001`");
    }
    if let (Some(port), Some(to)) = (port, to) {
        let to = SocketAddrV4::new(layer.address(member - 1), to);
        for transport in transports {
            layer.spec.forwards.push(PortForward { transport, port, to });
        }
        let (address, length) = DATA_RANGE;
        if let Err(refused) = layer.spec.check(Ipv4Net::new_assert(address, length)) {
            let help = "forward each port once for each protocol";
            findings.error(table.span.clone(), refused.to_string(), help);
        }
    }
    table.finish(&[]);
}

fn port_or(
    findings: &Findings,
    table: &Table<'_>,
    key: &'static str,
    default: Option<u16>,
) -> Option<u16> {
    if table.get(key).is_none() { default } else { port(findings, table, key) }
}

fn port(findings: &Findings, table: &Table<'_>, key: &'static str) -> Option<u16> {
    let number = table.count(key)?;
    let port = u16::try_from(number.value).ok().filter(|port| *port > 0);
    if port.is_none() {
        let message = format!("`{key}` is {}, not a port", number.value);
        findings.error(number.span, message, "ports go from 1 to 65535");
    }
    port
}

fn transports(findings: &Findings, table: &Table<'_>) -> Vec<Transport> {
    const ALL: [Transport; 2] = [Transport::Udp, Transport::Tcp];
    let Some(text) = table.text("protocol") else { return ALL.to_vec() };
    let found: Vec<_> = ALL.into_iter().filter(|one| one.as_str() == text.value).collect();
    if found.is_empty() {
        let message = format!("there is no protocol `{}` to forward", text.value);
        let help = format!("{}; leave it out for both", suggest(&text.value, ["udp", "tcp"]));
        findings.error(text.span, message, help);
    }
    found
}

/// A router cannot tell inside from outside when they overlap.
fn check_nesting(findings: &Findings, span: &super::Span, plan: &NatPlan) {
    for pair in plan.layers.windows(2) {
        let (inner, outer) = (&pair[0].spec, &pair[1].spec);
        if let Err(SpecRefused::Overlap { lan, wan }) = inner.check(outer.lan) {
            let message = format!("the NAT's inner network {lan} overlaps the one outside, {wan}");
            findings.error(span.clone(), message, "give `outer` another `lan`");
        }
    }
}
