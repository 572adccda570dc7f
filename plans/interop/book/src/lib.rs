//! What the instances of the plan `interop` share, whichever version of libp2p they are built with.
//!
//! [`Entry`] and [`Outcome`] are what they tell each other, [`Blocks`] what the Bitswap cases exchange. The plan
//! itself and the instances that need a workspace of their own depend on this crate and on nothing else in common.

mod blocks;
mod book;

pub use blocks::Blocks;
pub use book::{Entry, Outcome, kind};
