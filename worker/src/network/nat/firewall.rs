//! The nftables ruleset for IPv6, which a router does not translate.
//!
//! It forwards, and lets in what belongs to a connection that began inside. The kernel's connection tracking knows
//! those, also the errors that belong to them, such as "packet too big".

use std::net::Ipv6Addr;

use groundswell_common::nat::{Ipv6, NatSpec, PortForward};

use super::Routed;
use super::rules::{WAN, chain};

/// The nftables ruleset of a router for IPv6, for `nft -f -`. It replaces an earlier one in one transaction.
///
/// `routed` says which addresses are behind which member; without any there is no ruleset. `rebinding` counts how
/// often the router has forgotten its connections, as for [`super::ruleset`].
#[must_use]
pub fn firewall(spec: &NatSpec, routed: &Routed, rebinding: u16) -> String {
    if routed.is_empty() {
        return String::new();
    }
    let mut text = String::from("table ip6 groundswell\ndelete table ip6 groundswell\n");
    text.push_str("table ip6 groundswell {\n");
    text.push_str(&own());
    if spec.ipv6 == Ipv6::Firewall {
        text.push_str(&zone(rebinding));
        let forwards = forwards(spec, routed);
        if !forwards.is_empty() {
            text.push_str("  set forwards { type ipv6_addr . inet_proto . inet_service; ");
            text.push_str(&format!("elements = {{ {} }}; }}\n", forwards.join(", ")));
        }
        text.push_str(&filter(!forwards.is_empty()));
    }
    text.push_str("}\n");
    text
}

/// What the router itself would say. Outside it has no address to say it from, and inside members reach each other
/// through it, as those of a NAT do.
fn own() -> String {
    let rules = [format!("oifname \"{WAN}\" drop"), "icmpv6 type nd-redirect drop".to_owned()];
    chain("own", "filter hook output priority filter", &rules)
}

/// Connections of before are unknown in another zone.
fn zone(rebinding: u16) -> String {
    if rebinding == 0 {
        return String::new();
    }
    let rule = format!("ct zone set {rebinding}");
    chain("zone", "filter hook prerouting priority raw", &[rule])
}

/// The ports that are open, each with the address it is open at.
fn forwards(spec: &NatSpec, routed: &Routed) -> Vec<String> {
    let element = |forward: &PortForward, address: &Ipv6Addr| {
        format!("{address} . {} . {}", forward.transport.as_str(), forward.to.port())
    };
    let behind = |forward: &PortForward| routed.get(forward.to.ip()).into_iter().flatten();
    let each = spec
        .forwards
        .iter()
        .flat_map(|forward| behind(forward).map(move |address| element(forward, address)));
    let mut each: Vec<String> = each.collect();
    // Two ports outside may lead to the same one inside.
    each.sort_unstable();
    each.dedup();
    each
}

fn filter(forwards: bool) -> String {
    let mut rules = vec![
        format!("iifname != \"{WAN}\" accept"),
        "ct state established,related accept".to_owned(),
    ];
    if forwards {
        rules.push("ip6 daddr . meta l4proto . th dport @forwards accept".to_owned());
    }
    rules.push("drop".to_owned());
    chain("forwarded", "filter hook forward priority filter", &rules)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use groundswell_common::nat::{NatKind, Transport};

    use super::*;

    const MEMBER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

    fn home() -> NatSpec {
        NatSpec::new(NatKind::FullCone, "192.168.1.0/24".parse().expect("a network"))
    }

    fn routed() -> Routed {
        let address = |last| Ipv6Addr::new(0xfd67, 0x7377, 0, 0, 0, 0, 0x1000, last);
        Routed::from([
            (MEMBER, vec![address(2)]),
            (Ipv4Addr::new(192, 168, 1, 3), vec![address(3)]),
        ])
    }

    #[test]
    fn a_firewall_lets_answers_in_and_what_is_forwarded() {
        let to = SocketAddrV4::new(MEMBER, 8080);
        let forward = |port, transport| PortForward { transport, port, to };
        let forwards = vec![
            forward(80, Transport::Tcp),
            forward(81, Transport::Tcp),
            forward(53, Transport::Udp),
        ];
        insta::assert_snapshot!(firewall(&NatSpec { forwards, ..home() }, &routed(), 7), @r#"
        table ip6 groundswell
        delete table ip6 groundswell
        table ip6 groundswell {
          chain own {
            type filter hook output priority filter;
            oifname "wan" drop
            icmpv6 type nd-redirect drop
          }
          chain zone {
            type filter hook prerouting priority raw;
            ct zone set 7
          }
          set forwards { type ipv6_addr . inet_proto . inet_service; elements = { fd67:7377::1000:2 . tcp . 8080, fd67:7377::1000:2 . udp . 8080 }; }
          chain forwarded {
            type filter hook forward priority filter;
            iifname != "wan" accept
            ct state established,related accept
            ip6 daddr . meta l4proto . th dport @forwards accept
            drop
          }
        }
        "#);
    }

    #[test]
    fn what_is_open_has_no_filter_and_what_is_off_no_ruleset() {
        let open = firewall(&NatSpec { ipv6: Ipv6::Open, ..home() }, &routed(), 7);
        assert!(!open.contains("forward") && !open.contains("zone"), "{open}");
        assert_eq!(firewall(&home(), &Routed::new(), 7), "");
    }
}
