//! The control plane.
//!
//! ```text
//!   shell::run        kube's Controllers: what changed, what to look at again, back-off
//!      │
//!   reconcile(key, &impl Cluster, &impl Clock, &impl Ids)      dereference → validate → decide → apply → status
//!      │
//!   Cluster           look, list, about (an index), get, create, patch with resourceVersion, delete; kube in a cluster and on one machine, memory in simulations
//! ```
//!
//! Decisions are `athanor-plan`'s; reconcilers fetch what those need and write what they say.
//!
//! Never here: sockets that machines talk to, and any knowledge of the boot plane but the plans it is sent.

pub mod agents;
pub mod bootprofile;
pub mod deployment;
pub mod machine;
pub mod port;
pub mod shell;
pub mod subnet;
pub mod term;

mod alive;
mod diff;
mod finalizer;
mod installation;
mod leader;
mod metrics;
mod status;

pub use agents::AgentSettings;
pub use metrics::Metrics;
pub use port::{Clock, Cluster, Ids, PortError};
pub use shell::{lead, run};
