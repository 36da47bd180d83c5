//! A read-only TFTP server without I/O.
//!
//! ```text
//!   datagram ──► codec::Packet ──► server::Server ──► datagrams to send, events to report
//!                                      │
//!                                  transfer::Transfer   one per client port; blocks, windows, retransmission
//!                                      │
//!                                  Content              bytes at an offset: memory, a file, a file inside an ISO
//! ```
//!
//! Many transfers share a few UDP ports ("lanes"): a transfer is known by the client's address and port, so none needs a socket, a thread
//! or a copy of its file.
//!
//! When to send again is [`pace`]'s: adaptive, within what a rack needs. A client that never acknowledged anything may be a forged address, and
//! is sent no more than a little.
//!
//! RFC 1350 with the options of RFC 2347, 2348 (blksize), 2349 (timeout, tsize) and 7440 (windowsize). Never here: sockets, clocks, writing.

pub mod codec;
mod due;
pub mod pace;
pub mod server;
pub mod transfer;

pub use codec::{ErrorCode, Packet, ReadRequest};
pub use server::{Client, Datagram, End, Event, MAX_UNCONFIRMED, Server};

/// Bytes that can be read at an offset.
pub trait Content {
    /// The length in bytes.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset` on, whole unless the content ends before.
    ///
    /// # Errors
    /// The bytes cannot be had; the transfer ends with the message.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize>;
}

/// Packets to one client in one piece: each is `stride` bytes long, but for the last, which may be shorter. A kernel that can cut it up (UDP GSO)
/// takes it whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// All packets, one after the other.
    pub bytes: Vec<u8>,
    /// The length of each but the last.
    pub stride: usize,
}

impl Run {
    /// A single packet.
    pub fn one(bytes: Vec<u8>) -> Self {
        Self { stride: bytes.len(), bytes }
    }

    /// Each packet.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.stride.max(1))
    }
}

/// The largest block: one Ethernet frame of 1500 bytes less IP (20), UDP (8) and TFTP (4). Larger ones would be fragmented, and boot ROMs
/// are bad at that.
pub const MAX_BLOCK_SIZE: u16 = 1468;
/// The smallest block that RFC 2348 allows.
pub const MIN_BLOCK_SIZE: u16 = 8;
/// The block size without the option.
pub const DEFAULT_BLOCK_SIZE: u16 = 512;
/// The largest window. More only fills the queues of a switch in front of a slow ROM.
pub const MAX_WINDOW: u16 = 64;
