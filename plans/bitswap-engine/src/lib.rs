//! Bitswap for test plans.
//!
//! A [`Bitswap`] exchanges blocks with the peers of a node, over streams of
//! whichever version of rust-libp2p the node runs. It speaks
//! `/ipfs/bitswap/1.2.0` and, with those who know no better, 1.1.0.
//!
//! ```no_run
//! # async fn example(node: groundswell_p2p::Node) -> Result<(), Box<dyn std::error::Error>> {
//! use groundswell_bitswap::{Bitswap, Config, Fetch, File, Store};
//!
//! let store = Store::default();
//! let file = File::generate(7, 4 << 20, 256 << 10).add_to(&store);
//! let bitswap = Bitswap::start(node, store, Config::default()).await?;
//! let report = bitswap.fetch_file(file.root, Fetch::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | decides |
//! |---|---|
//! | `session` | what to ask whom for: pure |
//! | `ledger` | what to answer a peer: pure |
//! | `engine` | nothing; one task that carries messages between these and the peers |
//! | `wire`, `frame` | how messages look |
//! | `store`, `file`, `dag` | blocks and how a file is made of them |

mod cid;
mod client;
mod dag;
mod engine;
mod file;
mod frame;
mod io;
mod ledger;
mod peer;
mod session;
mod stats;
mod store;
mod wire;

pub use cid::{Cid, CidError, DAG_PB, RAW};
pub use client::{Bitswap, BitswapError, Config, Fetch, FetchReport};
pub use dag::{FileNode, NotAFile};
pub use file::{Added, Fetched, File, FileError};
pub use session::{Order, Policy};
pub use stats::Stats;
pub use store::{Block, Store};
pub use wire::{BadMessage, Entry, Message, Presence, Want};
