//! A world in memory: an API that misbehaves within its rights, boot-agents, machines, and people. Seeded, and in virtual time.
//!
//! ```text
//!            people: create and delete Deployments, do what a status says
//!               │
//!   World ──► Memory ◄── the operator's own reconcilers (late, in any order, twice, on old lists)
//!               │ ▲
//!         plans ▼ │ reports
//!            Server (a boot-agent: its snapshot, what it has not told yet; it is cut off, and restarts)
//!               │
//!            Hardware (firmware, the machine-agent's own engine and guard, a disk; its power is cut)
//! ```
//!
//! After every step [`World`] checks what must never happen. The same seed tells the same story, so a failure replays.
//!
//! Never here: sockets, real time, and decisions; those are the operator's, the plan's and the machine-agent's own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a world that breaks its rules is a failed test, and ends where it broke")]

mod dice;
pub mod hardware;
mod memory;
pub mod server;
mod time;
pub mod world;

pub use dice::Dice;
pub use memory::{Key, Memory, Stored, deployment, machine, settle};
pub use time::{Count, Hurry, Virtual};
pub use world::{World, furniture::furnish};
