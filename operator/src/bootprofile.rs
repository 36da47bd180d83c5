//! The BootProfile controller: says whether this installation can run it.

use athanor_crds::{
    BootProfile,
    bootprofile::BootProfileStatus,
    conditions::{self, reasons, types},
};
use athanor_plan::{ipxe, support};
use kube::Resource as _;

use crate::{
    Clock, Cluster, PortError,
    status::{self, Seen},
};

/// Writes a profile's conditions.
///
/// # Errors
/// A call failed; the caller tries again later.
pub async fn reconcile(namespace: &str, name: &str, cluster: &impl Cluster, clock: &impl Clock) -> Result<(), PortError> {
    let Some(profile) = cluster.get::<BootProfile>(Some(namespace), name).await? else { return Ok(()) };
    let support = support::of(&profile.spec);
    let old = profile.status.clone().unwrap_or_default();
    let mut new = BootProfileStatus {
        observed_generation: profile.meta().generation,
        type_: Some(profile.spec.type_name()),
        conditions: old.conditions.clone(),
    };
    let now = clock.now();
    conditions::set(&mut new.conditions, now, types::SUPPORTED, support.supported, support.reason, support.message.clone());
    let fault = ipxe::words("spec.cmdline", profile.spec.cmdline.as_deref().unwrap_or_default()).err();
    let (ready, reason, message) = match fault {
        Some(fault) => (false, reasons::INVALID, fault.to_string()),
        None => (support.supported, support.reason, support.message),
    };
    conditions::set(&mut new.conditions, now, types::READY, ready, reason, message);
    let (old, new) = (Seen { status: &old, conditions: &old.conditions }, Seen { status: &new, conditions: &new.conditions });
    status::write(&profile, old, new, cluster, clock).await?;
    Ok(())
}
