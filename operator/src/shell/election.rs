//! The lease, taken, renewed and given back.

use std::time::Duration;

use athanor_crds::{history::History, names};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::Instant;

use crate::leader::{LIFETIME, PAUSE, RENEW_DEADLINE, Step, decide};

/// The lease's name, in the system's namespace.
const LEASE: &str = "athanor-operator";

/// Whose the lease is, as far as a look and a write can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Ours,
    Theirs,
    Unsure,
    /// The API's data was restored from an older copy: all that is known here is of another time.
    Rewound,
}

/// One candidate.
pub(super) struct Election {
    client: Client,
    leases: Api<Lease>,
    me: String,
    /// What the lease said last, and since when by our clock.
    seen: Option<(LeaseSpec, Instant)>,
    history: History,
}

impl Election {
    pub(super) fn new(client: Client, me: String) -> Self {
        Self { leases: Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE), client, me, seen: None, history: History::default() }
    }

    /// Waits until we lead.
    pub(super) async fn win(&mut self) {
        loop {
            match self.step().await {
                Ok(Held::Ours) => break,
                Ok(Held::Theirs | Held::Unsure | Held::Rewound) => {}
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!(identity = self.me, "leading");
    }

    /// Leads on; ends when that can no longer be said for sure.
    pub(super) async fn hold(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            tokio::time::sleep(PAUSE).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.step()).await {
                Ok(Ok(Held::Ours)) => renewed = Instant::now(),
                Ok(Ok(Held::Theirs)) | Err(_) => break,
                Ok(Ok(Held::Rewound)) => {
                    tracing::error!(identity = self.me, "the API's data is older than it was: stopping, so that everything is read anew");
                    return;
                }
                // Whose it is the next look tells, while there is time.
                Ok(Ok(Held::Unsure)) => {}
                Ok(Err(error)) => self.failed(&error),
            }
        }
        tracing::error!(identity = self.me, "the lease could not be renewed: stopping, so that another one may act");
    }

    /// Gives the lease back, so that the next need not wait for it to run out.
    pub(super) async fn resign(&mut self) {
        if let Ok(Some(lease)) = self.leases.get_opt(LEASE).await
            && lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.me))
        {
            let spec = json!({ "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": MicroTime(Timestamp::now()) });
            if let Err(error) = self.write(&lease, spec).await {
                self.failed(&error);
            }
        }
    }

    fn failed(&self, error: &kube::Error) {
        tracing::warn!(identity = self.me, %error, "lease not reached");
    }

    /// Looks, and takes or renews it; returns whose it is now.
    async fn step(&mut self) -> Result<Held, kube::Error> {
        let lease = self.leases.get_opt(LEASE).await?;
        if lease.as_ref().is_some_and(|lease| self.history.went_back(lease.metadata.resource_version.as_deref())) {
            return Ok(Held::Rewound);
        }
        let spec = lease.as_ref().and_then(|lease| lease.spec.clone());
        let now = Timestamp::now();
        let unchanged_for = self.unchanged_for(spec.as_ref());
        match decide(spec.as_ref(), &self.me, unchanged_for) {
            Step::Wait => Ok(Held::Theirs),
            Step::Renew => match &lease {
                Some(lease) => self.write(lease, json!({ "renewTime": MicroTime(now) })).await,
                None => Ok(Held::Unsure),
            },
            Step::Take { transitions } => {
                let taken = LeaseSpec {
                    holder_identity: Some(self.me.clone()),
                    lease_duration_seconds: i32::try_from(LIFETIME.as_secs()).ok(),
                    acquire_time: Some(MicroTime(now)),
                    renew_time: Some(MicroTime(now)),
                    lease_transitions: Some(transitions),
                    ..LeaseSpec::default()
                };
                match &lease {
                    Some(lease) => self.write(lease, json!(taken)).await,
                    None => {
                        let owner_references = super::agents::installed_by(&self.client).await?.map(|owner| vec![owner]);
                        let metadata = ObjectMeta { name: Some(LEASE.to_owned()), owner_references, ..ObjectMeta::default() };
                        let created = self.leases.create(&PostParams::default(), &Lease { metadata, spec: Some(taken) }).await;
                        self.unless_raced(created)
                    }
                }
            }
        }
    }

    fn unchanged_for(&mut self, spec: Option<&LeaseSpec>) -> Duration {
        let Some(spec) = spec else { return Duration::ZERO };
        match &self.seen {
            Some((seen, since)) if seen == spec => since.elapsed(),
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Writes against the version that was read: of two that take it at once, one does.
    async fn write(&mut self, read: &Lease, spec: serde_json::Value) -> Result<Held, kube::Error> {
        let patch = json!({ "metadata": { "resourceVersion": read.metadata.resource_version }, "spec": spec });
        let written = self.leases.patch(LEASE, &PatchParams::default(), &Patch::Merge(patch)).await;
        self.unless_raced(written)
    }

    /// A conflict says that somebody wrote in between, be it ourselves with an answer that was lost; not whose it is.
    fn unless_raced(&mut self, written: Result<Lease, kube::Error>) -> Result<Held, kube::Error> {
        match written {
            Ok(lease) if self.history.went_back(lease.metadata.resource_version.as_deref()) => Ok(Held::Rewound),
            Ok(_) => Ok(Held::Ours),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Held::Unsure),
            Err(error) => Err(error),
        }
    }
}
