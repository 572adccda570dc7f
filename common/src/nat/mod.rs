//! Network address translators (NATs): what one is, and which ones the instances of a group are behind. Pure.

mod plan;
mod spec;

pub use plan::{NatLayer, NatPlan};
pub use spec::{Ipv6, NatKind, NatSpec, PortForward, SpecRefused, Transport};
