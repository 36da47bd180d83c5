//! The agents that are alive, by their Leases.

use std::sync::Arc;

use athanor_wire::agent::{self, Served};
use k8s_openapi::{
    api::coordination::v1::Lease,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;

/// An agent that is alive.
pub(crate) struct Agent<'a> {
    pub(crate) node: &'a str,
    lease: &'a Lease,
}

/// The agents whose Leases are not over.
pub(crate) fn agents(leases: &[Arc<Lease>], now: Timestamp) -> impl Iterator<Item = Agent<'_>> {
    leases.iter().filter(|lease| lease.labels().contains_key(agent::LABEL)).filter_map(move |lease| {
        let spec = lease.spec.as_ref()?;
        let lifetime = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(0).into());
        let is_alive = spec.renew_time.as_ref()?.0 + lifetime > now;
        is_alive.then_some(Agent { node: spec.holder_identity.as_deref()?, lease })
    })
}

impl Agent<'_> {
    /// Whether it serves a Subnet: of a node without one nobody boots.
    pub(crate) fn serves(&self) -> bool {
        self.says::<Vec<Served>>(agent::SERVED_ANNOTATION).is_some_and(|served| !served.is_empty())
    }

    /// What it says in an annotation.
    pub(crate) fn says<T: DeserializeOwned>(&self, annotation: &str) -> Option<T> {
        serde_json::from_str(self.lease.annotations().get(annotation)?).ok()
    }
}
