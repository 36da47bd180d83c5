//! What needs the operating system's own structures, and the only place where `unsafe` is allowed.
//!
//! ```text
//!   PacketSocket   IPv4 and ARP packets to a MAC address that answers no ARP yet, and from one interface whatever port they are for
//!   read_cached    what the kernel has in memory of a file, without waiting for a disk
//!   share_heaps    less memory kept for nothing
//! ```
//!
//! Never here: protocols. A caller hands over bytes and an interface.

mod cached;
mod memory;
mod packet;

pub use cached::read_cached;
pub use memory::share_heaps;
pub use packet::{EtherType, PacketSocket};
