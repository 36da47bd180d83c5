//! What needs the operating system's own structures, and the only place where `unsafe` is allowed.
//!
//! ```text
//!   PacketSocket   IPv4 packets to a MAC address that answers no ARP yet, and from one interface whatever port they are for
//! ```
//!
//! Never here: protocols. A caller hands over bytes and an interface.

mod packet;

pub use packet::PacketSocket;
