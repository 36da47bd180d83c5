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
        let is_alive = until(lease)? > now;
        is_alive.then_some(Agent { node: lease.spec.as_ref()?.holder_identity.as_deref()?, lease })
    })
}

/// When a Lease was last renewed.
pub(crate) fn renewed(lease: &Lease) -> Option<Timestamp> {
    Some(lease.spec.as_ref()?.renew_time.as_ref()?.0)
}

/// When a Lease is over, if it is not renewed.
pub(crate) fn until(lease: &Lease) -> Option<Timestamp> {
    let lifetime = lease.spec.as_ref()?.lease_duration_seconds.unwrap_or(0);
    Some(renewed(lease)? + SignedDuration::from_secs(lifetime.into()))
}

/// Whether the agent of a Lease serves a Subnet: of a node without one nobody boots.
pub(crate) fn serves(lease: &Lease) -> bool {
    says::<Vec<Served>>(lease, agent::SERVED_ANNOTATION).is_some_and(|served| !served.is_empty())
}

fn says<T: DeserializeOwned>(lease: &Lease, annotation: &str) -> Option<T> {
    serde_json::from_str(lease.annotations().get(annotation)?).ok()
}

impl Agent<'_> {
    /// Whether it serves a Subnet.
    pub(crate) fn serves(&self) -> bool {
        serves(self.lease)
    }

    /// What it says in an annotation.
    pub(crate) fn says<T: DeserializeOwned>(&self, annotation: &str) -> Option<T> {
        says(self.lease, annotation)
    }
}
