//! The Deployment controller: claims a Machine, tells how it goes, gives it back.
//!
//! A claim is two guarded writes: the choice into `status.candidate`, then `claimRef` into the Machine that was read. Two operators, or one
//! that looks at old data, meet at one of the two `resourceVersion`s; so no Machine has two owners and no Deployment two Machines.

use std::{collections::BTreeSet, sync::Arc};

use athanor_crds::{
    Deployment, Machine, MachineInventory, MachineState,
    bootprofile::Architecture,
    conditions::{self, reasons, types},
    deployment::{DeletionPolicy, DeploymentStatus, PENDING},
    machine::{Occupancy, OccupancyState},
};
use athanor_plan::{
    claim,
    lifecycle::{Left, Obstacle, Release, release},
};
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{CustomResourceExt as _, Resource as _, ResourceExt as _, core::ObjectMeta};
use serde_json::json;

use crate::{
    Clock, Cluster, Ids, PortError, finalizer,
    machine::{end_claim, note_release, profile_of},
    status::{self, Seen},
    term::Term,
};

/// Brings one Deployment closer to what is wanted.
///
/// # Errors
/// A call failed; the caller tries again later.
pub async fn reconcile(namespace: &str, name: &str, cluster: &impl Cluster, clock: &impl Clock, ids: &impl Ids) -> Result<(), PortError> {
    let Some(deployment) = cluster.look::<Deployment>(Some(namespace), name).await? else { return Ok(()) };
    if deployment.metadata.deletion_timestamp.is_some() {
        // A release cannot be taken back: the one that is deleted must be the one that there is.
        let live = cluster.get::<Deployment>(Some(namespace), name).await?;
        let Some(deployment) = live.filter(|live| live.metadata.deletion_timestamp.is_some()) else { return Ok(()) };
        return give_back(&deployment, cluster, clock).await;
    }
    let deployment = prepare(Deployment::clone(&deployment), cluster, ids).await?;
    let (deployment, machine) = claim_one(deployment, cluster).await?;
    write_status(&deployment, machine.as_ref(), cluster, clock).await
}

/// The finalizer and the instance's id, in one write, before anything is claimed.
async fn prepare(deployment: Deployment, cluster: &impl Cluster, ids: &impl Ids) -> Result<Deployment, PortError> {
    if finalizer::is_on(&deployment) && deployment.spec.instance_id.is_some() {
        return Ok(deployment);
    }
    let id = deployment.spec.instance_id.clone().unwrap_or_else(|| ids.id("i"));
    cluster.patch(&deployment, json!({ "metadata": { "finalizers": finalizer::added(&deployment) }, "spec": { "instanceID": id } })).await
}

/// The Deployment, as it is then, and the Machine it owns, after claiming one if it owned none.
async fn claim_one(deployment: Deployment, cluster: &impl Cluster) -> Result<(Deployment, Result<Machine, Obstacle>), PortError> {
    if let Some(mine) = owned(&deployment, cluster).await?.first() {
        let mine = Machine::clone(mine);
        return Ok((deployment, Ok(mine)));
    }
    // The list may be old, and what was chosen before be claimed already.
    let candidate = match deployment.status.as_ref().and_then(|status| status.candidate.as_ref()) {
        Some(name) => match cluster.get::<Machine>(deployment.namespace().as_deref(), name).await {
            // It may be its own: then there is no other for it, and what was said of it stays.
            Err(PortError::Unreadable(why)) if deployment.status.as_ref().is_some_and(|status| status.machine.is_none()) => {
                let obstacle = unreadable(name, &why);
                return Ok((deployment, Err(obstacle)));
            }
            candidate => candidate?,
        },
        None => None,
    };
    if let Some(mine) = candidate.as_ref().filter(|machine| claim::owns(&deployment, machine)) {
        return Ok((deployment, Ok(mine.clone())));
    }
    let architecture = match profile_of(&deployment, cluster).await? {
        Ok((_, profile)) => Some(profile.architecture),
        Err(obstacle) => return Ok((deployment, Err(obstacle))),
    };
    let all;
    let again = candidate.as_ref().and_then(|machine| claim::choose(&deployment, architecture, &[machine]).ok());
    let chosen = match again {
        Some(machine) => Ok(machine),
        None => match candidates(&deployment, cluster).await? {
            Ok(found) => {
                all = found;
                choose(&deployment, architecture, &all, cluster).await?
            }
            Err(obstacle) => Err(obstacle),
        },
    };
    match chosen {
        Ok(machine) => take(&deployment, machine, cluster).await.map(|(deployment, machine)| (deployment, Ok(machine))),
        Err(obstacle) => Ok((deployment, Err(obstacle))),
    }
}

/// The Machines whose claim is this very Deployment, as far as is known: one, as a rule.
async fn owned(deployment: &Deployment, cluster: &impl Cluster) -> Result<Vec<Arc<Machine>>, PortError> {
    let term = Term::BelongsTo(deployment.namespace().unwrap_or_default(), deployment.name_any());
    let mut owned = cluster.about::<Machine>(&[term]).await?;
    owned.retain(|machine| claim::owns(deployment, machine));
    Ok(owned)
}

/// The Machines among which a Deployment chooses: all of its namespace only where any of them may do.
async fn candidates(deployment: &Deployment, cluster: &impl Cluster) -> Result<Result<Vec<Arc<Machine>>, Obstacle>, PortError> {
    let (namespace, wants) = (deployment.namespace(), &deployment.spec.machine);
    if let Some(name) = &wants.name {
        return match cluster.look::<Machine>(namespace.as_deref(), name).await {
            Err(PortError::Unreadable(why)) => Ok(Err(unreadable(name, &why))),
            found => Ok(Ok(found?.into_iter().collect())),
        };
    }
    let Some(mac) = wants.mac else { return cluster.list(namespace.as_deref()).await.map(Ok) };
    let mut machines = cluster.about::<Machine>(&[Term::Mac(mac)]).await?;
    machines.retain(|machine| machine.namespace() == namespace);
    Ok(Ok(machines))
}

fn unreadable(name: &str, why: &str) -> Obstacle {
    let message = format!("Machine {name} cannot be read, and is left alone until it is corrected: {why}");
    Obstacle { reason: reasons::UNREADABLE, message }
}

/// The Machine that a Deployment gets. One that cannot be read is left alone, and keeps nobody from the others.
async fn choose<'a>(
    deployment: &Deployment,
    architecture: Option<Architecture>,
    machines: &'a [Arc<Machine>],
    cluster: &impl Cluster,
) -> Result<Result<&'a Machine, Obstacle>, PortError> {
    let mut all: Vec<&Machine> = machines.iter().map(AsRef::as_ref).collect();
    let mut passed_over = None;
    loop {
        let machine = match (claim::choose(deployment, architecture, &all), passed_over) {
            (Ok(machine), _) => machine,
            (Err(_), Some(obstacle)) | (Err(obstacle), None) => return Ok(Err(obstacle)),
        };
        let name = machine.name_any();
        match cluster.look::<Machine>(deployment.namespace().as_deref(), &name).await {
            Err(PortError::Unreadable(why)) => {
                // Nor is another the owner of its MAC addresses for that.
                let macs: Vec<_> = machine.spec.interfaces.iter().map(|interface| interface.mac).collect();
                let shares = |other: &Machine| other.spec.interfaces.iter().any(|interface| macs.contains(&interface.mac));
                all.retain(|other| other.metadata.name != machine.metadata.name && !shares(other));
                passed_over = Some(unreadable(&name, &why));
            }
            looked => return looked.map(|_| Ok(machine)),
        }
    }
}

/// Writes the choice, then the claim. The first write proves that this Deployment is the one that exists now, the second that the Machine is.
async fn take(deployment: &Deployment, machine: &Machine, cluster: &impl Cluster) -> Result<(Deployment, Machine), PortError> {
    let deployment = cluster.patch_status(deployment, json!({ "status": { "candidate": machine.name_any() } })).await?;
    let Some(claim) = claim::claim_ref(&deployment) else {
        return Err(PortError::Conflict("the Deployment has no instanceID yet".to_owned()));
    };
    let claimed = cluster.patch(machine, json!({ "spec": { "claimRef": claim } })).await?;
    // Between the two writes the Deployment may have been deleted and released; then nobody else would give this Machine back.
    let alive = cluster.get::<Deployment>(deployment.namespace().as_deref(), &deployment.name_any()).await?;
    let same = |alive: &Deployment| alive.metadata.deletion_timestamp.is_none() && alive.spec.instance_id == deployment.spec.instance_id;
    let Some(alive) = alive.filter(same) else {
        cluster.patch(&claimed, json!({ "spec": claim::given_back(Left::Nothing) })).await?;
        return Err(PortError::Conflict("the Deployment was deleted while it claimed a Machine".to_owned()));
    };
    tracing::info!(deployment = %deployment.name_any(), namespace = deployment.namespace(), machine = %machine.name_any(), "machine claimed");
    Ok((alive, claimed))
}

/// The Deployment is deleted: its Machine learns so in one recorded act, and then the Deployment may go.
async fn give_back(deployment: &Deployment, cluster: &impl Cluster, clock: &impl Clock) -> Result<(), PortError> {
    if !finalizer::is_on(deployment) {
        return Ok(());
    }
    let namespace = deployment.namespace().unwrap_or_default();
    let on_purpose = on_purpose(&namespace, cluster).await?;
    let retain = deployment.spec.deletion_policy == DeletionPolicy::Retain;
    // What is known may be old: what was chosen is looked at in any case, and what is released is what the Machine says now.
    let mut names: BTreeSet<String> = owned(deployment, cluster).await?.iter().map(|machine| machine.name_any()).collect();
    names.extend(deployment.status.iter().flat_map(|status| status.candidate.iter().chain(&status.machine)).cloned());
    for name in names {
        let Some(machine) = cluster.get::<Machine>(Some(&namespace), &name).await? else { continue };
        if claim::owns(deployment, &machine) {
            release_one(&machine, release(machine.spec.occupancy.as_ref(), retain, on_purpose), cluster, clock).await?;
        }
    }
    finalizer::take_off(deployment, cluster).await
}

/// Whether a Deployment was deleted for its own sake, and not with its namespace or its whole kind.
async fn on_purpose(namespace: &str, cluster: &impl Cluster) -> Result<bool, PortError> {
    let stays = |metadata: ObjectMeta| metadata.deletion_timestamp.is_none();
    let namespace = cluster.get::<Namespace>(None, namespace).await?;
    // The embedded API has no such kind, and its kinds cannot be deleted.
    let kind = cluster.get::<CustomResourceDefinition>(None, Deployment::crd_name()).await?;
    Ok(namespace.is_some_and(|found| stays(found.metadata)) && kind.is_none_or(|found| stays(found.metadata)))
}

async fn release_one(machine: &Machine, how: Release, cluster: &impl Cluster, clock: &impl Clock) -> Result<(), PortError> {
    let mut kept = None;
    let spec = match how {
        Release::Free => claim::given_back(Left::Nothing),
        Release::Retain => {
            let namespace = machine.namespace();
            let inventory = cluster.look::<MachineInventory>(namespace.as_deref(), &machine.name_any()).await?;
            let spec = end_claim(Left::Kept, inventory.as_deref(), cluster).await?;
            kept = note_release(machine, Left::Kept, cluster).await?;
            spec
        }
        Release::Request { retain } => {
            let occupancy = machine.spec.occupancy.clone();
            if occupancy.as_ref().is_some_and(|occupancy| occupancy.state == OccupancyState::ReleaseRequested) {
                return Ok(());
            }
            let requested = occupancy.map(|old| Occupancy {
                ever_started: old.ever_started || matches!(old.state, OccupancyState::Started | OccupancyState::Provisioned),
                state: OccupancyState::ReleaseRequested,
                retain,
                since: Some(Time(clock.now())),
                ..old
            });
            json!({ "occupancy": requested })
        }
    };
    let machine = kept.as_ref().unwrap_or(machine);
    cluster.patch(machine, json!({ "spec": spec })).await?;
    tracing::info!(machine = %machine.name_any(), namespace = machine.namespace(), ?how, "machine released");
    Ok(())
}

async fn write_status(
    deployment: &Deployment,
    machine: Result<&Machine, &Obstacle>,
    cluster: &impl Cluster,
    clock: &impl Clock,
) -> Result<(), PortError> {
    let old = deployment.status.clone().unwrap_or_default();
    let mut new = old.clone();
    new.observed_generation = deployment.meta().generation;
    match machine {
        Ok(machine) => mirror(deployment, &mut new, machine, clock),
        Err(obstacle) => wait(&mut new, obstacle, clock),
    }
    conditions::observe(&mut new.conditions, new.observed_generation);
    let (old, new) = (Seen { status: &old, conditions: &old.conditions }, Seen { status: &new, conditions: &new.conditions });
    status::write(deployment, old, new, cluster, clock).await?;
    Ok(())
}

/// How it goes is how its Machine goes.
fn mirror(deployment: &Deployment, status: &mut DeploymentStatus, machine: &Machine, clock: &impl Clock) {
    let now = clock.now();
    let list = &mut status.conditions;
    let (reason_claimed, claimed) = if claim::means(deployment, machine) {
        (reasons::CLAIMED, format!("Machine {}", machine.name_any()))
    } else {
        let message = format!(
            "Machine {}; spec.machine now means another one, which takes effect when this Deployment is deleted and created again",
            machine.name_any()
        );
        (reasons::CLAIMED_ANOTHER, message)
    };
    conditions::set(list, now, types::CLAIMED, true, reason_claimed, claimed);
    let seen = machine.status.clone().unwrap_or_default();
    // Until the Machine controller has looked at what is new, its status speaks of the time before, and what was said of it stays. Of one that
    // goes nothing more is said.
    let current = seen.observed_generation == machine.metadata.generation;
    if !current && status.machine == machine.metadata.name && machine.metadata.deletion_timestamp.is_none() {
        return;
    }
    let ready = conditions::find(&seen.conditions, types::READY).filter(|_| current);
    let (is_ready, reason, message) = ready.map_or((false, reasons::CLAIMED.to_owned(), "claimed".to_owned()), |condition| {
        (condition.status == "True", condition.reason.clone(), condition.message.clone())
    });
    status.state = Some(seen.state.filter(|_| current).unwrap_or(MachineState::Claimed).to_string());
    status.machine = machine.metadata.name.clone();
    status.candidate = machine.metadata.name.clone();
    status.address = seen.address;
    status.progress = Some(if is_ready { String::new() } else { message.clone() }).filter(|text| !text.is_empty()).map(short);
    let list = &mut status.conditions;
    let booted = is_ready && reason == reasons::PROVISIONED;
    // Said of images only: nothing else is written.
    match machine.spec.occupancy.as_ref().filter(|occupancy| occupancy.wipe.is_some()).map(|occupancy| occupancy.state) {
        Some(OccupancyState::Provisioned) => {
            conditions::set(list, now, types::WRITTEN, true, reasons::WRITTEN, "its image was written and read back".to_owned());
        }
        Some(_) => conditions::set(list, now, types::WRITTEN, false, &reason, message.clone()),
        None => list.retain(|condition| condition.type_ != types::WRITTEN),
    }
    conditions::set(list, now, types::BOOTED, booted, &reason, message.clone());
    conditions::set(list, now, types::READY, is_ready, &reason, message);
    match conditions::find(&seen.conditions, types::FAILING) {
        Some(failing) => conditions::set(list, now, types::FAILING, true, &failing.reason, failing.message.clone()),
        None => list.retain(|condition| condition.type_ != types::FAILING),
    }
}

fn wait(status: &mut DeploymentStatus, obstacle: &Obstacle, clock: &impl Clock) {
    let now = clock.now();
    status.state = Some(PENDING.to_owned());
    status.machine = None;
    status.address = None;
    status.progress = Some(short(obstacle.message.clone()));
    conditions::set(&mut status.conditions, now, types::CLAIMED, false, obstacle.reason, obstacle.message.clone());
    conditions::set(&mut status.conditions, now, types::READY, false, obstacle.reason, obstacle.message.clone());
}

/// What fits `status.progress`.
fn short(text: String) -> String {
    if text.chars().count() <= 512 { text } else { text.chars().take(511).chain(['…']).collect() }
}
