//! The words that machine-agent, boot-agent and the API share about a machine.
//!
//! ```text
//!   machine-agent / guest ── Inventory, GuestReport ──► boot-agent
//!                                                          │
//!                 crds (the API) re-uses the same types ◄──┘
//! ```
//!
//! Never here: I/O, clocks, Kubernetes. This crate is linked into the tiny static agent that runs on the machine.

pub mod agent;
mod fnv;
pub mod hex;
pub mod hints;
pub mod inventory;
pub mod mac;
pub mod metadata;
pub mod report;
pub mod wipe;
pub mod work;

pub use fnv::fnv;
pub use hints::RootDeviceHints;
pub use inventory::{Disk, Inventory, Nic};
pub use mac::{MacAddr, ParseMacError};
pub use report::{GuestOutcome, GuestReport};
pub use wipe::{WipeMethod, WipePolicy, WipedDisk};
pub use work::{Assignment, ImageFormat, Outcome, Step, StepReport, Work};
