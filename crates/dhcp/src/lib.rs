//! DHCP for network boot, without I/O.
//!
//! ```text
//!   bytes ──► packet::Request   lenient view: what a client really sent
//!                 │
//!                 ▼
//!   Snapshot ──► table::decide  one row of the decision table, by name
//!                 │
//!                 ▼
//!            reply::Reply ──► bytes and destination
//! ```
//!
//! [`row::Row`] is the public face: `explain` prints its names, every packet matches exactly one row.
//! [`pcap`] and [`question`] are questions that nobody asked just now: out of a capture, or described.
//! [`held`] keeps newcomers until their plan comes back and limits how many there may be; [`probe`] finds other DHCP servers, and [`patience`]
//! leaves their clients to those that it cannot find; [`rank`] says which of several agents answers.
//!
//! Never here: sockets, clocks, leases. Identity is the hardware address, never option 61.

mod crowd;

pub mod client;
pub mod held;
pub mod packet;
pub mod patience;
pub mod pcap;
pub mod probe;
pub mod question;
pub mod rank;
pub mod reply;
pub mod rivals;
pub mod row;
pub mod table;

pub use client::Client;
pub use packet::{Malformed, MessageType, Request};
pub use reply::{Destination, Reply};
pub use row::Row;
pub use table::{Answer, Authority, Context, Decision, Lease, Link, Newcomer, Wish, decide};

/// The port of DHCP servers and relays.
pub const SERVER_PORT: u16 = 67;
/// The port of DHCP clients.
pub const CLIENT_PORT: u16 = 68;
/// The port of PXE boot servers (proxyDHCP).
pub const PROXY_PORT: u16 = 4011;
