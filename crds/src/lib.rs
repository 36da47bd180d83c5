//! The API: what people write, what the system keeps, and who may touch which.
//!
//! ```text
//!   people write                 the system keeps
//!   ────────────                 ────────────────
//!   Machine  ◄── claimRef ──┐    MachineInventory   facts, same name as its Machine
//!   Deployment ─────────────┘    BootReport         what it asked and was answered, by node
//!   BootProfile                  Address            one per address in use; its name is the lock
//!   Subnet (cluster-scoped)      WipeRecord         immutable evidence, outlives its Machine
//! ```
//!
//! The Rust types here are the one source: `generated/*.yaml` comes out of them (`make golden`), the embedded API validates with the
//! same schemas and CEL rules, and [`rights`] is the table both the embedded API and the chart's RBAC follow.
//!
//! Never here: clients, I/O, clocks, decisions. A released API only grows.
#![allow(clippy::duplicated_attributes, reason = "kube's attribute takes its keys more than once")]

pub mod address;
pub mod bootprofile;
pub mod bootreport;
pub mod conditions;
pub mod deployment;
pub mod generate;
pub mod history;
pub mod inventory;
pub mod machine;
pub mod names;
pub mod policy;
pub mod quantity;
pub mod rbac;
pub mod rights;
mod schema;
pub mod subnet;
pub mod wiperecord;

pub use address::{Address, AddressSpec};
pub use bootprofile::{Architecture, BootProfile, BootProfileSpec};
pub use bootreport::{BootReport, BootReportSpec};
pub use deployment::{Deployment, DeploymentSpec};
pub use inventory::MachineInventory;
pub use machine::{Firmware, Machine, MachineSpec, MachineState, MachineStatus};
pub use schema::LOADERS;
pub use subnet::{Subnet, SubnetSpec};
pub use wiperecord::{WipeRecord, WipeRecordSpec};

/// The API group of every kind of ours. It sorts after `cluster.x-k8s.io`, so that `kubectl get machines` goes on meaning Cluster API's.
pub const GROUP: &str = "metal.athanor.dev";
/// The one version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every kind of ours.
pub const API_VERSION: &str = "metal.athanor.dev/v1alpha1";
/// The finalizer with which the operator holds a Deployment until its machine is released, and a Machine until its plan is gone.
pub const FINALIZER: &str = "metal.athanor.dev/release";
