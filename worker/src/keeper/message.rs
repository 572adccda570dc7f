//! What a worker and its keeper tell each other: MessagePack over a sequenced-packet socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Rises with every change of these messages, of those to init processes, and of the notes.
pub(super) const PROTOCOL: u32 = 1;
/// No note is longer.
pub(super) const MAX_NOTE: usize = 16 * 1024;

/// A container that goes with a deposit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The engine's socket.
    pub engine: PathBuf,
    /// The container's name.
    pub name: String,
    /// What its init process was held through.
    pub directory: PathBuf,
}

/// What the worker says. Only `Take` is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// Keep the descriptors that come along.
    Deposit { name: String, note: Vec<u8>, container: Option<Container> },
    /// Give the descriptors back, and keep them as well.
    Take { name: String },
    /// Close them: what they are of was removed.
    Forget { name: String },
    /// Close them, and remove what is left of the instance.
    GiveUp { name: String },
    /// Everything may go on for so long without a worker.
    Lease { millis: u64 },
    /// Close everything: the worker leaves.
    End,
}

/// What the keeper says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromKeeper {
    /// Always first; so many deposits are told next.
    Hello { protocol: u32, away_ms: u64, deposits: usize },
    /// A deposit that is there.
    Deposited { name: String, note: Vec<u8> },
    /// The answer to `Take`, with the descriptors; without any there is no such deposit.
    Given,
}
