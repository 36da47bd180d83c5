//! The pure core: objects in, decisions and boot plans out.
//!
//! ```text
//!   Machine ─┐                      ┌─► lifecycle::decide   where the Machine is, and what is to be done
//!   Deployment ─┤                   ├─► claim::choose       which Machine a Deployment gets, or why none
//!   BootProfile ─┼── plain values ──┼─► address::allocate   which address an interface gets
//!   Subnet ─┘                       └─► compile::build      the boot plan: addresses, script, files
//!                                                │
//!                                    Snapshot ◄──┘  all plans of an agent, by MAC, address and token
//! ```
//!
//! A boot plan has a *safe* part (address, wait, local disk) and, sometimes, an *order* that acts, bound to one attempt.
//!
//! Never here: I/O, clocks, randomness, Kubernetes clients. Whatever is decided here is a table test.

pub mod address;
pub mod agent;
pub mod boot_plan;
pub mod claim;
pub mod compile;
pub mod config;
pub mod identity;
pub mod ipxe;
pub mod lifecycle;
pub mod loader;
pub mod metadata;
pub mod nearest;
pub mod snapshot;
pub mod support;

pub use boot_plan::{AgentWork, BootPlan, Linux, MachineKey, Order, PlanAddress, PlanInterface, Purpose, Safe, Source};
pub use compile::{PlanError, build};
pub use lifecycle::decide;
pub use loader::{ClientArch, Loader, Loaders};
pub use snapshot::Snapshot;
