//! The nftables ruleset that makes a kernel be the NAT that a specification describes. It is for IPv4.
//!
//! The kernel's own NAT maps each connection for itself. A NAT whose mapping is endpoint-independent
//! (RFC 4787 section 4.1) has to remember its mappings: the ruleset learns them from the packets that leave,
//! once translated, and offers them to the first packet of each later connection.
//!
//! ```text
//! mappings    inner address and port -> external port    what leaves takes the same external port
//! owners      external port -> inner address and port    what arrives finds its way in
//! used        external ports                             a second member does not take a first one's port
//! forwarders  inner address and port -> external port    the member of a forward has its port outside
//! forwarded   external ports                             nobody else has
//! peers       whom a mapping has sent to                 the filter of both restricted kinds
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use groundswell_common::nat::{NatKind, NatSpec, PortForward};

/// The interface towards the outside.
pub(super) const WAN: &str = "wan";

/// The nftables ruleset of a router whose address outside is `external`, for `nft -f -`. It replaces
/// an earlier one in one transaction, and its mappings begin empty.
///
/// `rebinding` counts how often the router has lost its mappings. Each has a conntrack zone of its own, so that
/// connections of an earlier one are as unknown as if the router had been restarted; and after the first
/// no port is preserved, so that mappings do not come back as they were.
#[must_use]
pub fn ruleset(spec: &NatSpec, external: Ipv4Addr, rebinding: u16) -> String {
    let mut text = String::from("table ip groundswell\ndelete table ip groundswell\n");
    text.push_str("table ip groundswell {\n");
    let rules = Rules { spec, external, rebinding };
    for part in [rules.tables(), rules.zone(), rules.inward(), rules.outward(), rules.filter()] {
        text.push_str(&part);
    }
    if spec.kind.maps_independent_of_endpoint() {
        text.push_str(&rules.learn());
    }
    text.push_str("}\n");
    text
}

/// Entries a map has room for: every port of two protocols.
const MAPPINGS: u32 = 2 * 65536;
/// Entries the set of peers has room for. One that does not fit is filtered as if it had not been sent to.
const PEERS: u32 = 1 << 20;
/// Packets with ports. It also tells nftables what the ports in a rule mean.
const PORTED: &str = "meta l4proto { tcp, udp }";
/// Where random ports come from (RFC 4787 REQ-3: not the well-known ones).
const RANDOM_PORTS: &str = "20000-65535";

struct Rules<'a> {
    spec: &'a NatSpec,
    external: Ipv4Addr,
    rebinding: u16,
}

impl Rules<'_> {
    fn tables(&self) -> String {
        let timeout = self.spec.mapping_timeout_s;
        let learned = |size| format!("flags dynamic,timeout; timeout {timeout}s; size {size};");
        let ports = "inet_proto . inet_service";
        let mut text = String::new();
        let mut table = |what: &str, of: &str, how: &str| {
            let _ = writeln!(text, "  {what} {{ type {of}; {how} }}");
        };
        if self.spec.kind.maps_independent_of_endpoint() {
            table(
                "map mappings",
                &format!("ipv4_addr . {ports} : inet_service"),
                &learned(MAPPINGS),
            );
            table("map owners", &format!("{ports} : ipv4_addr . inet_service"), &learned(MAPPINGS));
            table("set used", ports, &learned(MAPPINGS));
        }
        match self.spec.kind {
            NatKind::AddressRestricted => {
                table("set peers", &format!("ipv4_addr . {ports}"), &learned(PEERS));
            }
            NatKind::PortRestricted => {
                table("set peers", &format!("ipv4_addr . inet_service . {ports}"), &learned(PEERS));
            }
            NatKind::FullCone | NatKind::Symmetric => {}
        }
        if !self.spec.forwards.is_empty() {
            let to = |forward: &PortForward| {
                let PortForward { transport, port, to } = forward;
                format!("{} . {port} : {} . {}", transport.as_str(), to.ip(), to.port())
            };
            let elements: Vec<String> = self.spec.forwards.iter().map(to).collect();
            let elements = format!("elements = {{ {} }}", elements.join(", "));
            table("map forwards", &format!("{ports} : ipv4_addr . inet_service"), &elements);
            if self.spec.kind.maps_independent_of_endpoint() {
                let of = format!("ipv4_addr . {ports} : inet_service");
                table("map forwarders", &of, &self.forwarders());
                table("set forwarded", ports, &self.forwarded());
            }
        }
        text
    }

    /// The members' ends of forwards, with the port that each has outside: the first, when there are more.
    fn forwarders(&self) -> String {
        let mut ends = BTreeMap::new();
        for PortForward { transport, port, to } in &self.spec.forwards {
            let end = format!("{} . {} . {}", to.ip(), transport.as_str(), to.port());
            ends.entry(end).or_insert(port);
        }
        let elements: Vec<String> =
            ends.iter().map(|(end, port)| format!("{end} : {port}")).collect();
        format!("elements = {{ {} }}", elements.join(", "))
    }

    /// The ports of forwards, outside.
    fn forwarded(&self) -> String {
        let port =
            |forward: &PortForward| format!("{} . {}", forward.transport.as_str(), forward.port);
        let elements: Vec<String> = self.spec.forwards.iter().map(port).collect();
        format!("elements = {{ {} }}", elements.join(", "))
    }

    fn zone(&self) -> String {
        if self.rebinding == 0 {
            return String::new();
        }
        let rule = format!("ct zone set {}", self.rebinding);
        chain("zone", "filter hook prerouting priority raw", std::slice::from_ref(&rule))
            + &chain("zone_own", "filter hook output priority raw", &[rule])
    }

    /// Where the first packet of a connection from outside goes.
    fn inward(&self) -> String {
        let external = self.external;
        let from_outside = format!("iifname \"{WAN}\" ip daddr {external}");
        let from_inside = format!("iifname != \"{WAN}\" ip daddr {external}");
        let to = "dnat ip to meta l4proto . th dport map";
        let mut rules = Vec::new();
        if !self.spec.forwards.is_empty() {
            rules.push(format!("{from_outside} {to} @forwards"));
            if self.spec.hairpin {
                rules.push(format!("{from_inside} {to} @forwards"));
            }
        }
        let allowed = match self.spec.kind {
            NatKind::FullCone => Some(""),
            NatKind::AddressRestricted => Some("ip saddr . meta l4proto . th dport @peers "),
            NatKind::PortRestricted => {
                Some("ip saddr . th sport . meta l4proto . th dport @peers ")
            }
            NatKind::Symmetric => None,
        };
        if let Some(allowed) = allowed {
            rules.push(format!("{from_outside} {allowed}{to} @owners"));
            if self.spec.hairpin {
                rules.push(format!("{from_inside} {to} @owners"));
            }
        }
        chain("inward", "nat hook prerouting priority dstnat", &rules)
    }

    /// What the first packet of a connection from inside becomes.
    fn outward(&self) -> String {
        let Self { spec, external, rebinding } = self;
        let random = format!("snat ip to {external}:{RANDOM_PORTS} fully-random");
        let mut translate = Vec::new();
        let forwards = spec.kind.maps_independent_of_endpoint() && !spec.forwards.is_empty();
        if forwards {
            // Its mapping is the forward, whoever speaks first.
            let forwarder = "ip saddr . meta l4proto . th sport map @forwarders";
            translate.push(format!("{PORTED} snat ip to {external} : {forwarder}"));
        }
        if spec.kind.maps_independent_of_endpoint() {
            let mapping = "ip saddr . meta l4proto . th sport map @mappings";
            translate.push(format!("{PORTED} snat ip to {external} : {mapping}"));
        }
        if spec.kind.maps_independent_of_endpoint() && spec.preserve_ports && *rebinding == 0 {
            if forwards {
                // What is sent there goes to somebody else.
                translate.push(format!("{PORTED} meta l4proto . th sport @forwarded {random}"));
            }
            translate.push(format!("{PORTED} meta l4proto . th sport @used {random}"));
        } else {
            translate.push(format!("{PORTED} {random}"));
        }
        translate.push(format!("snat ip to {external}"));
        let lan = spec.lan;
        let mut rules = vec![format!("oifname \"{WAN}\" jump translate")];
        if spec.hairpin {
            // RFC 4787 REQ-9a: the other member sees the external address and port.
            rules.push(format!("ip saddr {lan} ip daddr {lan} ct status dnat jump translate"));
        }
        plain_chain("translate", &translate)
            + &chain("outward", "nat hook postrouting priority srcnat", &rules)
    }

    /// Lets in what is translated. The rest is dropped without an answer, and with it the conntrack entry that
    /// would keep its ports from being used for a mapping.
    fn filter(&self) -> String {
        let forward = [
            format!("oifname \"{WAN}\" ct state invalid drop"),
            format!("iifname \"{WAN}\" ct state established,related accept"),
            format!("iifname \"{WAN}\" ct status dnat accept"),
            format!("iifname \"{WAN}\" drop"),
        ];
        let own = [
            "ct state established,related accept".to_owned(),
            format!("iifname \"{WAN}\" drop"),
            format!("ip daddr {} meta l4proto {{ tcp, udp }} drop", self.external),
        ];
        chain("forwarded", "filter hook forward priority filter", &forward)
            + &chain("own", "filter hook input priority filter", &own)
    }

    /// Remembers mappings from translated packets, and keeps them alive.
    fn learn(&self) -> String {
        chain("leaving", "filter hook postrouting priority 110", &self.learn_from_leaving())
            + &chain("coming", "filter hook forward priority 110", &learn_from_coming())
    }

    /// What has left translation has the external port; its inner end is known to conntrack.
    fn learn_from_leaving(&self) -> Vec<String> {
        let mut rules = vec![format!("ip saddr != {} accept", self.external)];
        for direction in ["original", "reply"] {
            let inner = format!("ct {direction} ip saddr");
            let port = format!("ct {direction} proto-src");
            let packet = format!("{PORTED} ct direction {direction}");
            rules.push(format!(
                "{packet} update @mappings {{ {inner} . meta l4proto . {port} : th sport }}"
            ));
            rules.push(format!(
                "{packet} update @owners {{ meta l4proto . th sport : {inner} . {port} }}"
            ));
        }
        rules.push(format!("{PORTED} update @used {{ meta l4proto . th sport }}"));
        let peer = match self.spec.kind {
            NatKind::AddressRestricted => Some("ip daddr"),
            NatKind::PortRestricted => Some("ip daddr . th dport"),
            NatKind::FullCone | NatKind::Symmetric => None,
        };
        rules.extend(peer.map(|peer| {
            let key = format!("{peer} . meta l4proto . th sport");
            format!("oifname \"{WAN}\" {PORTED} update @peers {{ {key} }}")
        }));
        rules
    }
}

/// What comes in has its inner end already; the external port is known to conntrack.
fn learn_from_coming() -> Vec<String> {
    let mut rules = vec![format!("iifname != \"{WAN}\" accept")];
    for direction in ["original", "reply"] {
        let port = format!("ct {direction} proto-dst");
        let packet = format!("{PORTED} ct direction {direction}");
        rules.push(format!(
            "{packet} update @mappings {{ ip daddr . meta l4proto . th dport : {port} }}"
        ));
        rules.push(format!(
            "{packet} update @owners {{ meta l4proto . {port} : ip daddr . th dport }}"
        ));
        rules.push(format!("{packet} update @used {{ meta l4proto . {port} }}"));
    }
    rules
}

pub(super) fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    let typed: Vec<String> =
        std::iter::once(format!("type {hook};")).chain(rules.iter().cloned()).collect();
    plain_chain(name, &typed)
}

fn plain_chain(name: &str, rules: &[String]) -> String {
    let mut text = format!("  chain {name} {{\n");
    for rule in rules {
        let _ = writeln!(text, "    {rule}");
    }
    text.push_str("  }\n");
    text
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use super::*;
    use crate::network::nat::Transport;

    fn home(kind: NatKind) -> NatSpec {
        NatSpec::new(kind, "192.168.1.0/24".parse().expect("a network"))
    }

    fn text(spec: &NatSpec, rebinding: u16) -> String {
        ruleset(spec, Ipv4Addr::new(16, 0, 0, 2), rebinding)
    }

    #[test]
    fn each_kind_has_its_ruleset() {
        for kind in NatKind::ALL {
            insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
                insta::assert_snapshot!(format!("{kind:?}"), text(&home(kind), 0));
            });
        }
    }

    #[test]
    fn a_rebinding_is_another_zone_and_preserves_no_port() {
        let text = text(&home(NatKind::FullCone), 7);
        assert!(text.contains("ct zone set 7"), "{text}");
        assert!(!text.contains("th sport @used snat"), "{text}");
        assert!(text.contains("tcp, udp } snat ip to 16.0.0.2:20000-65535 fully-random"), "{text}");
    }

    #[test]
    fn forwards_come_before_what_was_learned_and_hairpin_if_asked() {
        let to = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 2), 8080);
        let forwards = vec![
            PortForward { transport: Transport::Tcp, port: 80, to },
            PortForward { transport: Transport::Udp, port: 53, to },
        ];
        let spec = NatSpec { forwards, ..home(NatKind::FullCone) };
        let hairpin = text(&spec, 0);
        let elements =
            "elements = { tcp . 80 : 192.168.1.2 . 8080, udp . 53 : 192.168.1.2 . 8080 }";
        assert!(hairpin.contains(elements), "{hairpin}");
        assert!(hairpin.find("@forwards") < hairpin.find("@owners"), "{hairpin}");
        assert!(hairpin.contains("iifname != \"wan\" ip daddr 16.0.0.2 dnat"), "{hairpin}");
        let straight = text(&NatSpec { hairpin: false, ..spec }, 0);
        assert!(!straight.contains("iifname != \"wan\" ip daddr 16.0.0.2 dnat"), "{straight}");
        assert!(!straight.contains("ct status dnat jump"), "{straight}");
    }

    #[test]
    fn the_port_of_a_forward_is_its_members_and_nobody_elses() {
        let to = |member, port| SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, member), port);
        let forward = |port, to| PortForward { transport: Transport::Udp, port, to };
        let forwards =
            vec![forward(4001, to(2, 5001)), forward(4002, to(2, 5001)), forward(80, to(3, 80))];
        let spec = NatSpec { forwards, ..home(NatKind::FullCone) };
        let text = text(&spec, 0);
        let first = "elements = { 192.168.1.2 . udp . 5001 : 4001, 192.168.1.3 . udp . 80 : 80 }";
        assert!(text.contains(first), "{text}");
        assert!(text.contains("elements = { udp . 4001, udp . 4002, udp . 80 }"), "{text}");
        let order = ["map @forwarders", "map @mappings", "sport @forwarded", "sport @used"];
        let places: Vec<_> = order.iter().map(|rule| text.find(rule).expect(rule)).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn mappings_live_as_long_as_asked() {
        let spec = NatSpec { mapping_timeout_s: 17, ..home(NatKind::PortRestricted) };
        assert_eq!(text(&spec, 0).matches("timeout 17s;").count(), 4);
    }
}
