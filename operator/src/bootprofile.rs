//! The BootProfile controller: says whether this installation can run it.

use std::{sync::Arc, time::Duration};

use athanor_crds::{
    BootProfile,
    bootprofile::BootProfileStatus,
    conditions::{self, reasons, types},
    names,
};
use athanor_plan::{compile, ipxe, support};
use athanor_wire::agent::{self, Looked};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Resource as _, ResourceExt as _};

use crate::{
    Clock, Cluster, PortError, alive,
    status::{self, Seen},
};

/// How soon the agents' Leases are looked at again: that one is over is no event.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How many nodes a condition names.
const MOST_TOLD: usize = 4;

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

/// What the agents that are alive say about its files.
enum Media {
    /// It has none that they could look for, or there are too many profiles to look at each.
    Unneeded,
    /// Nobody has looked at this generation yet.
    Unknown,
    /// Some agent can serve them. Who cannot, and why.
    Here(String),
    /// No agent can, and why.
    Nowhere(String),
}

fn media(profile: &BootProfile, leases: &[Arc<Lease>], now: Timestamp) -> Media {
    let key = format!("{}/{}", profile.namespace().unwrap_or_default(), profile.name_any());
    if compile::sources(&profile.spec).is_empty() {
        return Media::Unneeded;
    }
    let (mut is_here, mut problems) = (false, Vec::new());
    for agent in alive::agents(leases, now) {
        let said: agent::Media = agent.says(agent::MEDIA_ANNOTATION).unwrap_or_default();
        match said.get(&key) {
            Some(looked) if Some(looked.generation) != profile.metadata.generation => {}
            Some(Looked { problem: Some(problem), .. }) => problems.push((agent.node, problem.clone())),
            Some(Looked { problem: None, .. }) => is_here = true,
            None if said.len() >= agent::MOST_PROFILES => return Media::Unneeded,
            None => {}
        }
    }
    // A list has no order: every look says the same.
    problems.sort();
    match (is_here, problems.as_slice()) {
        (true, []) => Media::Here(String::new()),
        (true, some) => Media::Here(format!("; not on {}", by_node(some))),
        (false, []) => Media::Unknown,
        (false, [(_, one), rest @ ..]) if rest.iter().all(|(_, other)| other == one) => Media::Nowhere(one.clone()),
        (false, all) => Media::Nowhere(by_node(all)),
    }
}

/// Problems with the nodes that have them.
fn by_node(problems: &[(&str, String)]) -> String {
    let more = if problems.len() > MOST_TOLD { format!("; and on {} more", problems.len() - MOST_TOLD) } else { String::new() };
    let told: Vec<String> = problems.iter().take(MOST_TOLD).map(|(node, problem)| format!("{node}: {problem}")).collect();
    format!("{}{more}", told.join("; "))
}

/// Writes a profile's conditions. Returns when to look again, if nothing happens before.
///
/// # Errors
/// A call failed; the caller tries again later.
pub async fn reconcile(namespace: &str, name: &str, cluster: &impl Cluster, clock: &impl Clock) -> Result<Option<Duration>, PortError> {
    let Some(profile) = cluster.look::<BootProfile>(Some(namespace), name).await? else { return Ok(None) };
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
    let leases = cluster.list::<Lease>(Some(names::SYSTEM_NAMESPACE)).await?;
    let media = media(&profile, &leases, now);
    let again = (!matches!(media, Media::Unneeded)).then_some(LOOK_AGAIN);
    let (ready, reason, message) = match (fault, same_prefix(&profile, &others), media) {
        (Some(fault), ..) => (false, reasons::INVALID, fault.to_string()),
        (None, Some(conflict), _) => (false, reasons::PREFIX_TAKEN, conflict),
        (None, None, _) if !support.supported => (false, support.reason, support.message),
        (None, None, Media::Nowhere(problem)) => (false, reasons::CONTENT_UNAVAILABLE, problem),
        (None, None, Media::Unknown) => (false, reasons::CONTENT_UNKNOWN, "no server has looked for its files yet".to_owned()),
        (None, None, Media::Here(but)) => (true, support.reason, format!("{}{but}", support.message)),
        (None, None, Media::Unneeded) => (true, support.reason, support.message),
    };
    conditions::set(&mut new.conditions, now, types::READY, ready, reason, message);
    conditions::observe(&mut new.conditions, new.observed_generation);
    let (old, new) = (Seen { status: &old, conditions: &old.conditions }, Seen { status: &new, conditions: &new.conditions });
    status::write(&*profile, old, new, cluster, clock).await?;
    Ok(again)
}
