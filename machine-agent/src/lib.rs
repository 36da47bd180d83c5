//! The machine-agent: `/init` of the ramdisk, and the only program that ever writes a machine's disks.
//!
//! ```text
//!   kernel command line ──► servers, token
//!   net: links up, an address by DHCP
//!                     ┌──────────────────────────────────────────┐
//!   engine (no I/O) ──┤ ask for a step ─► do it ─► tell how it went │ ──► talk: signed HTTP to a boot-agent
//!                     └──────────────────────────────────────────┘
//!                          │ inventory   root_disk   image   wipe
//!                          ▼
//!                        device (a disk, or a file in tests)
//! ```
//!
//! It does one step at a time and nothing that it was not told. A server that is gone is asked again for ever; a step that failed is told
//! and nothing more is done.
//!
//! Never here: Kubernetes, decisions about machines, a shell, a step that nobody ordered.

pub mod command_line;
pub mod device;
pub mod documents;
pub mod engine;
pub mod erase;
mod error;
pub mod gpt;
pub mod guard;
pub mod image;
pub mod inventory;
pub mod marker;
pub mod modules;
pub mod net;
pub mod root_disk;
pub mod steps;
pub mod talk;
pub mod wipe;

pub use error::AgentError;
