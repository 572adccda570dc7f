//! `[groups.egress]`: what the instances of a group may reach outside the data network.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::network::bits_per_second;
use crate::document::{Findings, Table};
use crate::egress::GroupEgress;

/// Reads `[groups.egress]`.
pub(super) fn read(findings: &Findings, group: &Table<'_>) -> GroupEgress {
    let Some(table) = group.table("egress") else { return GroupEgress::default() };
    let rate = table.text("rate");
    let rate_bps = rate.as_ref().and_then(|text| bits_per_second(&text.value));
    if let (Some(text), None) = (&rate, rate_bps) {
        findings.error(
            text.span.clone(),
            format!("`rate` is `{}`, not a rate", text.value),
            "write bits per second such as `rate = \"10Mbit\"`; leave it out for 100 Mbit",
        );
    }
    let hosts = table.texts("hosts");
    for host in hosts.iter().filter(|host| !is_host(host)) {
        findings.error(
            table.span.clone(),
            format!("`{host}` is not a host"),
            "write a name, an IPv4 address or an IPv4 network: `\"example.org\"`, `\"10.1.2.3\"`, `\"10.1.0.0/16\"`",
        );
    }
    let egress = GroupEgress { allow: table.bool("allow").unwrap_or(false), rate_bps, hosts };
    if egress.rate_bps.is_some() && !egress.allow && egress.hosts.is_empty() {
        findings.warning(
            table.span.clone(),
            "a rate for what the composition does not allow",
            "write `allow = true`, unless the plan allows it itself",
        );
    }
    table.finish(&[]);
    egress
}

/// Whether a text names a host, or a network of hosts.
pub(super) fn is_host(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() {
        return text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv4Net>().is_ok();
    }
    let label = |label: &str| {
        let letters = label.bytes().all(|one| one.is_ascii_alphanumeric() || b"-_".contains(&one));
        (1..=63).contains(&label.len()) && letters
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_an_address_or_a_network() {
        for good in ["example.org", "a", "http-echo", "10.1.2.3", "10.1.0.0/16", "example.org."] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "a b", "::1", "2001:db8::/32", "http://a", "10.0.0.0/33", "a..b"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
