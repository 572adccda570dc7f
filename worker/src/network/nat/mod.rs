//! Puts instances behind network address translators (NATs).
//!
//! A NAT is a router in a network namespace of its own, between its members and what is outside:
//!
//! ```text
//! instance ── eth1 ─┐
//! instance ── eth1 ─┤ lan (bridge, .1)  router  wan ── TUN ── switch
//!   inner router ───┘                              └── or a port in an outer router's lan
//! ```
//!
//! The kernel translates and filters by an nftables ruleset. It follows RFC 4787 for UDP and RFC 5382 for
//! TCP as far as [`NatKind`] and [`NatSpec`] say.
//!
//! IPv6 it does not translate but forward, through a firewall: each instance has the address it would have
//! without a NAT, and the switch sends to the outermost router what is for those behind it.
//!
//! ```text
//! rules     its nftables ruleset for IPv4     pure
//! firewall  and the one for IPv6              pure
//! router    makes router namespaces and joins members to them
//! tree      all routers behind one address
//! links     interfaces, addresses and routes by netlink
//! six       those of IPv6
//! nft       runs `nft`, and says what is missing
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

mod firewall;
mod links;
pub(super) mod nft;
mod router;
mod rules;
mod six;
mod tree;

pub use firewall::firewall;
pub use groundswell_common::nat::{Ipv6, NatKind, NatSpec, PortForward, SpecRefused, Transport};
pub use router::Router;
pub use rules::ruleset;
pub use tree::{Tree, TreeSpec};

use super::NetworkError;

/// The addresses of IPv6 behind each member of a router, by the member's address in the router's network: an
/// instance's own, or those behind an inner router. Empty where there is no IPv6.
pub type Routed = BTreeMap<Ipv4Addr, Vec<Ipv6Addr>>;

/// Why there is no NAT.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The program `nft` is not installed.
    #[error("there is no program `nft`; install nftables (Debian: `apt install nftables`)")]
    NoProgram,
    /// `nft` or the kernel does not take the ruleset.
    #[error(
        "`nft` refused the ruleset of a NAT: {said}; it takes Linux 5.4 with nf_tables and nf_nat, \
         and nftables 1.0 (Debian: `apt install nftables`)"
    )]
    Ruleset {
        /// What it wrote about that.
        said: String,
    },
    /// A tree without the router it should have.
    #[error("there is no such router in a tree of NATs")]
    Empty,
    /// What was asked for is wrong.
    #[error(transparent)]
    Refused(#[from] SpecRefused),
    /// This host is the cause.
    #[error("failed to {doing}")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl NatError {
    pub(super) fn host(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Host { doing, source }
    }
}

impl From<NatError> for NetworkError {
    fn from(err: NatError) -> Self {
        match err {
            NatError::NoProgram | NatError::Ruleset { .. } => Self::Unsupported {
                what: "put an instance behind a NAT".to_owned(),
                instead: err.to_string(),
            },
            NatError::Refused(_) | NatError::Empty => Self::Refused(err.to_string()),
            NatError::Host { doing, source } => Self::Host { doing, source },
        }
    }
}
