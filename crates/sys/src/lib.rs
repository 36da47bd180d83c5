//! What needs the operating system's own structures, and the only place where `unsafe` is allowed.
//!
//! ```text
//!   PacketSocket   IPv4 and ARP packets to a MAC address that answers no ARP yet, and from one interface whatever port they are for
//!   read_cached    what the kernel has in memory of a file, without waiting for a disk
//!   share_heaps    less memory kept for nothing
//!   block          a disk's size, discard, zeros
//!   nvme           administration of a drive
//!   link           an interface's address and the default route
//!   PageBuffer     memory for O_DIRECT
//! ```
//!
//! Never here: protocols. A caller hands over bytes and an interface.

pub mod block;
mod buffer;
mod cached;
pub mod link;
mod memory;
pub mod nvme;
mod packet;

pub use buffer::PageBuffer;
pub use cached::read_cached;
pub use memory::share_heaps;
pub use packet::{EtherType, PacketSocket};
