//! The boot plane: what a machine meets while it boots.
//!
//! ```text
//!   api (the one watch) ──► Snapshot ──► link: one server set for each interface that a Subnet serves
//!                                          ├─ dhcp   sockets around athanor-dhcp, newcomers held; authority is probed, and overheard
//!                                          └─ tftp   sockets around athanor-tftp-server
//!                                        http: scripts, files out of ISOs, guests' reports
//!                                          │
//!                                        report ──► BootReport, by the api module
//! ```
//!
//! A DISCOVER's way: `dhcp::socket` → `athanor_dhcp::decide` on the snapshot → `dhcp::socket`. Everything is answered from memory.
//!
//! Never here: decisions about machines, Kubernetes outside of `api`, writes of anything but newcomers, addresses and BootReports.

mod api;
mod arp;
mod authority;
mod content;
mod dhcp;
mod frame;
mod handover;
mod http;
mod interface;
mod kept;
mod lent;
mod link;
mod loaders;
mod metrics;
mod options;
mod overhear;
mod port;
mod report;
mod shared;
pub mod simulate;
mod text;
mod tftp;
mod wake;

pub use api::run;
pub use athanor_dhcp::{
    pcap::{Question, questions},
    question::describe,
};
pub use authority::{Verdict, probe};
pub use handover::DRAIN;
pub use interface::{Interface, interfaces};
pub use metrics::Metrics;
pub use options::{AgentError, Options};
pub use port::{holder, shared_listener};
