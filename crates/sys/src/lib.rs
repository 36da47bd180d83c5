//! What needs the operating system's own structures, and the only place where `unsafe` is allowed.
//!
//! ```text
//!   PacketSocket   IPv4 packets to a MAC address that answers no ARP yet, and from one interface whatever port they are for
//!   share_heaps    less memory kept for nothing
//! ```
//!
//! Never here: protocols. A caller hands over bytes and an interface.

mod memory;
mod packet;

pub use memory::share_heaps;
pub use packet::PacketSocket;
