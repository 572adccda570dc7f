//! A run on this machine without any platform: a sync service, and instances as tasks or processes.

pub(crate) mod processes;
mod service;
mod state;
pub mod testing;

#[cfg(test)]
mod cut_tests;
