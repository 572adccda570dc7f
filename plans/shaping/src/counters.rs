//! What this instance's own kernel did to datagrams that arrived.

use groundswell_sdk::prelude::*;

/// Counted since the network was made, of all sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Thrown away because the socket was full: the program was too slow, not the network.
    pub(crate) full: u64,
    /// Thrown away because a checksum, or a length, was wrong.
    pub(crate) damaged: u64,
}

impl Counters {
    /// Reads them.
    pub(crate) fn read() -> Result<Self> {
        const PATH: &str = "/proc/self/net/snmp";
        let text = std::fs::read_to_string(PATH).map_err(|err| format!("`{PATH}`: {err}"))?;
        Self::parse(&text).ok_or_else(|| format!("`{PATH}` has no counters of UDP: {text}").into())
    }

    /// What has been counted since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            full: self.full.saturating_sub(before.full),
            damaged: self.damaged.saturating_sub(before.damaged),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let full = field(text, "Udp:", "RcvbufErrors")?;
        let errors = field(text, "Udp:", "InErrors")?;
        let headers = field(text, "Ip:", "InHdrErrors")?;
        // What did not fit is an error as well.
        Some(Self { full, damaged: errors.saturating_sub(full) + headers })
    }
}

/// Each protocol has a line of names and a line of numbers.
fn field(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|found| found == name)?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_put_together() {
        let text = "Ip: Forwarding InHdrErrors\nIp: 1 3\nUdp: InDatagrams NoPorts InErrors OutDatagrams \
                    RcvbufErrors\nUdp: 10 0 7 11 5\nUdpLite: InErrors\nUdpLite: 0\n";
        assert_eq!(Counters::parse(text), Some(Counters { full: 5, damaged: 5 }));
        assert_eq!(Counters::parse("Ip: InHdrErrors\n"), None);
        let before = Counters { full: 1, damaged: 9 };
        let since = Counters { full: 5, damaged: 10 }.since(before);
        assert_eq!(since, Counters { full: 4, damaged: 1 });
    }

    #[test]
    fn the_kernel_has_them() {
        assert!(Counters::read().is_ok());
    }
}
