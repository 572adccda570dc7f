//! What is counted.

use std::collections::BTreeMap;

use groundswell_p2p::PeerId;

/// Counters of a node's Bitswap since it started. Names are the historic ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks sent.
    pub blks_sent: u64,
    /// Blocks received, doubles included.
    pub blks_rcvd: u64,
    /// Blocks received that were here already, or that nobody wanted any more.
    pub dup_blks_rcvd: u64,
    /// Bytes of blocks sent.
    pub data_sent: u64,
    /// Bytes of blocks received, doubles included.
    pub data_rcvd: u64,
    /// Bytes of doubles received.
    pub dup_data_rcvd: u64,
    /// Messages sent.
    pub msgs_sent: u64,
    /// Messages received.
    pub msgs_rcvd: u64,
    /// Bytes of messages sent, with their lengths.
    pub stream_data_sent: u64,
    /// Bytes of messages received, with their lengths.
    pub stream_data_rcvd: u64,
    /// Lines of others' wantlists, without cancels.
    pub wants_rcvd: u64,
    /// Of these, how many ask whether a block is here.
    pub want_haves_rcvd: u64,
    /// Of these, how many ask for the block.
    pub want_blocks_rcvd: u64,
    /// Lines that take a want back.
    pub cancels_rcvd: u64,
    /// Lines of this node's wantlist that ask whether a block is there.
    pub want_haves_sent: u64,
    /// Lines of this node's wantlist that ask for a block.
    pub want_blocks_sent: u64,
    /// Answers that a block is there.
    pub haves_rcvd: u64,
    /// Answers that a block is not there.
    pub dont_haves_rcvd: u64,
    /// Wants that were given to another peer because of silence.
    pub timeouts: u64,
    /// Streams that broke and were opened again.
    pub streams_lost: u64,
    /// Messages that were not understood.
    pub bad_messages: u64,
    /// Blocks received from each peer, doubles included.
    pub blocks_from: BTreeMap<PeerId, u64>,
}
