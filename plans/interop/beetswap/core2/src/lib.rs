//! The parts of the standard library that core2 0.4 stood for.

pub use std::{error, io};
