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
//! RFC 1350 with the options of RFC 2347, 2348 (blksize), 2349 (timeout, tsize) and 7440 (windowsize). Never here: sockets, clocks, writing.

pub mod codec;
pub mod server;
pub mod transfer;

pub use codec::{ErrorCode, Packet, ReadRequest};
pub use server::{Datagram, End, Event, Server};

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

/// The largest block: one Ethernet frame of 1500 bytes less IP (20), UDP (8) and TFTP (4). Larger ones would be fragmented, and boot ROMs
/// are bad at that.
pub const MAX_BLOCK_SIZE: u16 = 1468;
/// The smallest block that RFC 2348 allows.
pub const MIN_BLOCK_SIZE: u16 = 8;
/// The block size without the option.
pub const DEFAULT_BLOCK_SIZE: u16 = 512;
/// The largest window. More only fills the queues of a switch in front of a slow ROM.
pub const MAX_WINDOW: u16 = 64;
