//! The boot plan of a Machine, as a Secret that agents watch.

use std::collections::BTreeMap;

use athanor_crds::{Machine, MachineState, conditions::reasons, names};
use athanor_plan::{
    AgentWork, BootPlan,
    boot_plan::Safe,
    build,
    compile::{Decided, OrderInput, Tokens},
    lifecycle::{Decision, Obstacle},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{ResourceExt as _, api::ObjectMeta};
use serde_json::json;

use super::{World, addresses::Addresses, metadata};
use crate::{Cluster, Ids, PortError};

/// Writes the plan that a decision means. A profile that cannot be compiled is an obstacle, and the plan then has no order.
pub(crate) async fn write(
    world: &World,
    decision: &Decision,
    work: Option<AgentWork>,
    addresses: &Addresses,
    cluster: &impl Cluster,
    ids: &impl Ids,
) -> Result<Option<Obstacle>, PortError> {
    let machine = &world.machine;
    let name = names::plan_secret(&machine.namespace().unwrap_or_default(), &machine.name_any());
    let before = world.plan.as_ref().and_then(|(_, plan)| plan.clone());
    let order = match (&world.deployment, &world.profile, &machine.spec.occupancy) {
        // What is about to be issued anew, or was just freed, has no order until the next look.
        (Some(deployment), Some(Ok((profile_name, profile))), Some(occupancy))
            if (decision.order || work.is_some()) && !decision.frees() =>
        {
            Some(OrderInput { attempt: occupancy.attempt.clone(), deployment, profile_name: profile_name.clone(), profile })
        }
        _ => None,
    };
    let attempt = order.as_ref().map(|order| &order.attempt).or(work.as_ref().map(|work| &work.work.id));
    let tokens = tokens(before.as_ref(), decision, attempt, ids);
    let mut decided = Decided {
        state: decision.state.clone(),
        safe: decision.safe.clone(),
        order,
        work,
        metadata: metadata::of(world, decision, before.as_ref(), ids),
        wake: decision.wake && machine.spec.wake_on_lan,
        interfaces: served(decision, addresses),
    };
    let (plan, obstacle) = match build(machine, &decided, &tokens) {
        Ok(plan) => (plan, None),
        Err(error) => {
            let obstacle = Obstacle { reason: reasons::INVALID, message: error.to_string() };
            // Nor does the machine say that it waits for a boot: whoever stands before it shall read what is wrong.
            (decided.order, decided.work, decided.wake) = (None, None, false);
            if matches!(decided.safe, Safe::Wait { .. }) {
                decided.safe = Safe::Wait { reason: obstacle.reason.to_owned(), message: obstacle.message.clone() };
            }
            // Without an order nothing is left that could fail.
            let Ok(plan) = build(machine, &decided, &tokens) else { return Ok(Some(obstacle)) };
            (plan, Some(obstacle))
        }
    };
    if before.as_ref() != Some(&plan) {
        if world.plan.is_some() {
            unchanged(machine, cluster).await?;
        }
        store(&name, world.plan.as_ref().map(|(secret, _)| secret), &plan, cluster).await?;
    }
    Ok(obstacle)
}

/// A plan is written over only for the Machine as it is now: the plan's own version says nothing of what it was made from.
async fn unchanged(machine: &Machine, cluster: &impl Cluster) -> Result<(), PortError> {
    let now = cluster.get::<Machine>(machine.namespace().as_deref(), &machine.name_any()).await?;
    if now.is_some_and(|now| now.metadata.resource_version == machine.metadata.resource_version && now.metadata.uid == machine.metadata.uid)
    {
        return Ok(());
    }
    Err(PortError::Conflict(format!("Machine {} changed since it was looked at", machine.name_any())))
}

/// A Machine whose MAC is another's answers for none of its interfaces.
fn served(decision: &Decision, addresses: &Addresses) -> Vec<athanor_plan::PlanInterface> {
    if decision.reason == reasons::DUPLICATE_MAC { Vec::new() } else { addresses.interfaces.clone() }
}

/// Tokens live in the plan. The script's is drawn anew at acceptance and release, the report's with each attempt, or each work of an agent.
fn tokens(before: Option<&BootPlan>, decision: &Decision, attempt: Option<&String>, ids: &impl Ids) -> Tokens {
    let report = before
        .and_then(|plan| plan.order.as_ref())
        .filter(|old| attempt == Some(&old.attempt))
        .map_or_else(|| ids.token(), |old| old.report_token.clone());
    let Some(before) = before else { return Tokens { script: ids.token(), previous: None, report } };
    let accepted = before.state == MachineState::Discovered && decision.state != MachineState::Discovered;
    let released = before.state == MachineState::Releasing && decision.state != MachineState::Releasing;
    if accepted || released {
        return Tokens { script: ids.token(), previous: Some(before.token.clone()), report };
    }
    Tokens { script: before.token.clone(), previous: before.previous_token.clone(), report }
}

/// The plan as it is stored, if there is one; one that cannot be read is replaced.
pub(crate) async fn stored(namespace: &str, name: &str, cluster: &impl Cluster) -> Result<Option<(Secret, Option<BootPlan>)>, PortError> {
    let secret = cluster.look::<Secret>(Some(names::PLANS_NAMESPACE), &names::plan_secret(namespace, name)).await?;
    Ok(secret.map(|secret| (Secret::clone(&secret), read(&secret))))
}

fn read(secret: &Secret) -> Option<BootPlan> {
    serde_json::from_slice(&secret.data.as_ref()?.get(names::PLAN_SECRET_KEY)?.0).ok()
}

async fn store(name: &str, stored: Option<&Secret>, plan: &BootPlan, cluster: &impl Cluster) -> Result<(), PortError> {
    let bytes = serde_json::to_vec(plan).map_err(|error| PortError::Refused(error.to_string()))?;
    let subnets = plan.interfaces.iter().flat_map(|interface| &interface.addresses).map(|address| &address.subnet);
    let labels: BTreeMap<String, String> =
        subnets.map(|subnet| (format!("{}{subnet}", names::SUBNET_LABEL_PREFIX), "true".to_owned())).collect();
    let data = BTreeMap::from([(names::PLAN_SECRET_KEY.to_owned(), ByteString(bytes))]);
    match stored {
        Some(secret) => {
            let gone = secret.labels().keys().filter(|label| !labels.contains_key(*label)).map(|label| (label.clone(), json!(null)));
            let all: serde_json::Map<_, _> = gone.chain(labels.iter().map(|(label, value)| (label.clone(), json!(value)))).collect();
            cluster.patch(secret, json!({ "metadata": { "labels": all }, "data": data })).await?;
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(names::PLANS_NAMESPACE.to_owned()),
                labels: Some(labels),
                ..ObjectMeta::default()
            };
            let type_ = Some(names::PLAN_SECRET_TYPE.to_owned());
            cluster.create(&Secret { metadata, type_, data: Some(data), ..Secret::default() }).await?;
        }
    }
    Ok(())
}

/// The Machines that have plans, by namespace and name.
pub(crate) async fn machines(cluster: &impl Cluster) -> Result<Vec<(String, String)>, PortError> {
    let secrets = cluster.list::<Secret>(Some(names::PLANS_NAMESPACE)).await?;
    let plans = secrets.iter().filter_map(|secret| read(secret));
    Ok(plans.map(|plan| (plan.machine.namespace, plan.machine.name)).collect())
}

/// The Machine is gone: so is its plan.
pub(crate) async fn forget(namespace: &str, name: &str, cluster: &impl Cluster) -> Result<(), PortError> {
    cluster.delete::<Secret>(Some(names::PLANS_NAMESPACE), &names::plan_secret(namespace, name)).await
}
