//! What every instance of a run did when, in a file that can be shown at any moment of the run: docs/replay-format.md.
//!
//! [`Recorder`] takes in what happens and has a file at any time; [`format`] knows the bytes. Pure.

mod format;
mod recorder;

#[cfg(test)]
mod tests;

pub use format::{Group, Header, Unreadable};
pub use recorder::Recorder;
