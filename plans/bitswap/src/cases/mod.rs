//! What each case does differently.

pub(crate) mod compat;
pub(crate) mod fuzz;
pub(crate) mod gc;
pub(crate) mod rarest;
pub(crate) mod selection;
pub(crate) mod sparse;
pub(crate) mod spread;
#[cfg(test)]
mod tests;
pub(crate) mod transfer;
pub(crate) mod waves;
