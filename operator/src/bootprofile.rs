//! The BootProfile controller: says whether this installation can run it.

use std::sync::Arc;

use athanor_crds::{
    BootProfile, Deployment,
    bootprofile::BootProfileStatus,
    conditions::{self, reasons, types},
};
use athanor_plan::{compile, ipxe, support};
use kube::{Resource as _, ResourceExt as _};

use crate::{
    Clock, Cluster, PortError,
    status::{self, Seen},
};

/// Another profile that serves other media under the same prefix: a machine finds its own there, anybody else one of the two.
fn same_prefix(profile: &BootProfile, others: &[Arc<BootProfile>]) -> Option<String> {
    let tree = |profile: &BootProfile| Some((compile::prefix(&profile.name_any(), &profile.spec)?, profile.spec.media.clone()?.path));
    let (prefix, path) = tree(profile)?;
    let other = others.iter().find(|other| tree(other).is_some_and(|(theirs, from)| theirs == prefix && from != path))?;
    let (namespace, name) = (other.namespace().unwrap_or_default(), other.name_any());
    Some(format!(
        "spec.media.prefix: {prefix} is also where profile {namespace}/{name} serves another image; choose another prefix for one of the two"
    ))
}

/// What agents found wrong with its files, when they looked for a Machine that is to boot it. Nobody looks before.
fn unservable(profile: &str, deployments: &[Arc<Deployment>]) -> Option<String> {
    let users = deployments.iter().filter(|deployment| deployment.spec.profile.name.as_deref() == Some(profile));
    let told = users.filter_map(|deployment| {
        let ready = conditions::find(&deployment.status.as_ref()?.conditions, types::READY)?;
        // What is said of the profile that it had before is not said of this one.
        let problem =
            ready.message.strip_prefix(&format!("profile {profile}: ")).filter(|_| ready.reason == reasons::CONTENT_UNAVAILABLE)?;
        Some((deployment.name_any(), problem.to_owned()))
    });
    // A list has no order: every look names the same.
    told.min().map(|(name, problem)| format!("{problem} (Deployment {name})"))
}

/// Writes a profile's conditions.
///
/// # Errors
/// A call failed; the caller tries again later.
pub async fn reconcile(namespace: &str, name: &str, cluster: &impl Cluster, clock: &impl Clock) -> Result<(), PortError> {
    let Some(profile) = cluster.look::<BootProfile>(Some(namespace), name).await? else { return Ok(()) };
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
    let others = cluster.list::<BootProfile>(None).await?;
    let users = cluster.list::<Deployment>(Some(namespace)).await?;
    let (ready, reason, message) = match (fault, same_prefix(&profile, &others), unservable(name, &users)) {
        (Some(fault), ..) => (false, reasons::INVALID, fault.to_string()),
        (None, Some(conflict), _) => (false, reasons::PREFIX_TAKEN, conflict),
        (None, None, Some(problem)) if support.supported => (false, reasons::CONTENT_UNAVAILABLE, problem),
        (None, None, _) => (support.supported, support.reason, support.message),
    };
    conditions::set(&mut new.conditions, now, types::READY, ready, reason, message);
    conditions::observe(&mut new.conditions, new.observed_generation);
    let (old, new) = (Seen { status: &old, conditions: &old.conditions }, Seen { status: &new, conditions: &new.conditions });
    status::write(&*profile, old, new, cluster, clock).await?;
    Ok(())
}
