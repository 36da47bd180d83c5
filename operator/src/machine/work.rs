//! The machine-agent's work: what a plan gives it to do, what it told, and the record of a wipe.

use athanor_crds::{
    BootProfileSpec, Deployment, WipeRecord,
    bootreport::{AgentReport, NodeReport},
    machine::{OccupancyState, PowerWish, WipePolicy},
    wiperecord::{self, WipeRecordSpec},
};
use athanor_plan::{
    AgentWork, Purpose,
    lifecycle::{self, Decision, Found, WorkSeen},
};
use athanor_wire::{
    Disk, Inventory, Step, Work,
    work::{Marker, Wipe, Write},
};
use base64::Engine as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource as _, ResourceExt as _};

use super::World;
use crate::{Clock, Cluster, Ids, PortError, installation::Installation};

/// Agents that ask for, or do, a plan's work, as their nodes told.
fn agents<'a>(reports: &'a [NodeReport], work: &'a AgentWork) -> impl Iterator<Item = &'a AgentReport> {
    reports.iter().filter_map(|report| report.agent.as_ref()).filter(|agent| agent.work == work.work.id)
}

/// Of these the one that does it, by each node that it told something.
fn bound<'a>(reports: &'a [NodeReport], work: &'a AgentWork) -> impl Iterator<Item = &'a AgentReport> {
    agents(reports, work).filter(|agent| work.key.as_ref() == Some(&agent.key))
}

/// What is known of the work that the plan holds.
pub(super) fn seen(world: &World) -> Option<WorkSeen> {
    let work = world.work()?;
    let newest = bound(&world.reports, work).max_by_key(|agent| agent.told.as_ref().map(|time| time.0));
    Some(WorkSeen {
        purpose: work.purpose,
        bound: work.bound,
        boot: work.boot,
        asks: work.key.is_none() && agents(&world.reports, work).next().is_some(),
        told: newest.and_then(|agent| agent.steps.iter().max_by_key(|step| step.index).cloned()),
        told_at: newest.and_then(|agent| agent.told.as_ref()).map(|time| time.0.as_microsecond()),
    })
}

/// Whether an agent with another key asks for work that is bound, though nobody restarted the machine.
pub(super) fn conflict(world: &World) -> bool {
    let Some((work, seen)) = world.work().zip(seen(world)) else { return false };
    // One that was restarted comes with another key, and is no second one; unless the first goes on telling.
    let boot = seen.later_boot(super::last_boot(&world.reports));
    agents(&world.reports, work).any(|agent| {
        let told = agent.told.as_ref().map(|time| time.0.as_microsecond());
        agent.stranger.is_some() && boot.is_none_or(|boot| told.is_some_and(|told| told > boot))
    })
}

/// What the bound agent found when it looked at the hardware.
pub(super) fn inventory(world: &World) -> Option<Inventory> {
    // What was seen for a claim that is over is older than what was done for it.
    let attempt = world.machine.spec.occupancy.as_ref().map(|occupancy| &occupancy.attempt);
    let work = world.work().filter(|work| work.purpose != Purpose::Provision || attempt == Some(&work.work.id))?;
    bound(&world.reports, work).flat_map(|agent| &agent.steps).filter(|step| step.is_done()).find_map(|step| step.inventory.clone())
}

/// The disks on which there is data, and whose.
pub(super) fn data(facts: &Inventory) -> Vec<Found> {
    let fixed = facts.disks.iter().filter(|disk| !disk.can_be_taken_out());
    let found = |disk: &Disk| {
        let contents = disk.contents.as_deref().or(disk.marker.as_ref().map(|_| "no partition table"))?;
        Some(Found { what: format!("{}: {contents}", disk.name), marker: disk.marker.clone() })
    };
    fixed.filter_map(found).collect()
}

/// The work that a decision means: what the plan holds already, or new.
pub(super) async fn of(
    world: &World,
    decision: &Decision,
    cluster: &impl Cluster,
    clock: &impl Clock,
    ids: &impl Ids,
) -> Result<Option<AgentWork>, PortError> {
    // What was just freed is looked at again at once; its agent has nothing to leave for.
    if decision.frees() {
        return Ok(world.work().filter(|_| decision.work.is_some()).cloned());
    }
    let Some(purpose) = decision.work else { return Ok(world.work().filter(|work| is_under_way(world, work)).cloned()) };
    let attempt =
        world.machine.spec.occupancy.as_ref().filter(|_| purpose == Purpose::Provision).map(|occupancy| occupancy.attempt.clone());
    let holds = world.work().filter(|work| work.purpose == purpose && !decision.renew);
    let holds = holds.filter(|work| attempt.as_ref().is_none_or(|attempt| *attempt == work.work.id)).cloned();
    let mut work = match holds {
        // What a free machine does after it was looked at may have changed: it waits, or it is off.
        Some(mut work) if purpose == Purpose::Inspect => {
            work.work.steps = look(world);
            work
        }
        // Nobody has begun: what is to be done may have changed.
        Some(mut work) if work.key.is_none() && purpose == Purpose::Provision => {
            work.work.steps = steps(world, purpose, cluster, ids).await?;
            work
        }
        Some(work) => work,
        None => {
            let id = attempt.unwrap_or_else(|| ids.id("w"));
            let steps = steps(world, purpose, cluster, ids).await?;
            AgentWork { purpose, work: Work { id, steps }, key: None, bound: None, boot: None }
        }
    };
    let started = world.machine.spec.occupancy.as_ref().is_some_and(|occupancy| occupancy.state == OccupancyState::Started);
    let may_bind = work.key.is_none() && (purpose != Purpose::Provision || started);
    let asks = agents(&world.reports, &work).next().map(|agent| agent.key.clone());
    if let Some(key) = asks.filter(|_| may_bind) {
        tracing::info!(machine = %world.machine.name_any(), namespace = world.machine.namespace(), ?purpose, work = work.work.id, "machine-agent bound");
        work.key = Some(key);
        work.bound = Some(clock.now().as_microsecond());
        work.boot = super::last_boot(&world.reports);
    }
    Ok(Some(work))
}

/// Whether an agent is at it: what it will say about it is wanted, whatever stands in the way of the next thing.
fn is_under_way(world: &World, work: &AgentWork) -> bool {
    let occupancy = world.machine.spec.occupancy.as_ref();
    let is = |state: OccupancyState| occupancy.is_some_and(|occupancy| occupancy.state == state);
    match work.purpose {
        _ if work.key.is_none() => false,
        Purpose::Inspect => false,
        Purpose::Provision => is(OccupancyState::Started) && occupancy.is_some_and(|occupancy| occupancy.attempt == work.work.id),
        Purpose::Clean => is(OccupancyState::ReleaseRequested),
    }
}

/// A look at the hardware. A free machine that is to be off then goes off; whoever claims it wakes it, or somebody switches it on.
fn look(world: &World) -> Vec<Step> {
    let spec = &world.machine.spec;
    let off = spec.power == PowerWish::PoweredOff && spec.claim_ref.is_none();
    std::iter::once(Step::Inventory).chain(off.then_some(Step::PowerOff)).collect()
}

async fn steps(world: &World, purpose: Purpose, cluster: &impl Cluster, ids: &impl Ids) -> Result<Vec<Step>, PortError> {
    if purpose == Purpose::Inspect {
        return Ok(look(world));
    }
    let installation = Installation::load(cluster, ids).await?.id();
    if purpose == Purpose::Clean {
        let occupancy = world.machine.spec.occupancy.as_ref();
        let policy = occupancy.and_then(|occupancy| occupancy.wipe).unwrap_or_default().max(world.machine.spec.wipe.policy);
        let instance = occupancy.map(|occupancy| occupancy.instance_id.clone()).unwrap_or_default();
        let disks = || world.inventory.iter().flat_map(|known| &known.spec.facts.disks).filter(|disk| !disk.can_be_taken_out());
        let expected = disks().filter_map(|disk| disk.serial.clone()).collect();
        let empty = disks().filter(|disk| disk.contents.is_none());
        let were_empty = empty.map(|disk| disk.serial.clone().unwrap_or_else(|| disk.name.clone())).collect();
        let (overwrite, overwrites) = (lifecycle::may_overwrite(&world.machine), lifecycle::overwrites(&world.machine));
        return Ok(vec![Step::Wipe(Wipe { policy, expected, installation, instance, were_empty, overwrite, overwrites })]);
    }
    let (Some(deployment), Some(Ok((_, profile)))) = (&world.deployment, &world.profile) else { return Ok(Vec::new()) };
    Ok(write(world, deployment, profile, installation).into_iter().collect())
}

fn write(world: &World, deployment: &Deployment, profile: &BootProfileSpec, installation: String) -> Option<Step> {
    let image = profile.image.as_ref()?;
    let Some(Ok(handed)) = &world.documents else { return None };
    let attempt = world.machine.spec.occupancy.as_ref().map(|occupancy| occupancy.attempt.clone()).unwrap_or_default();
    let instance = deployment.spec.instance_id.clone().unwrap_or_default();
    Some(Step::Write(Box::new(Write {
        url: image.url.clone(),
        checksum: image.checksum.clone(),
        ca: image.ca.clone(),
        headers: handed.headers.clone(),
        format: image.format,
        hints: world.machine.spec.root_device_hints.clone(),
        grow: image.grow,
        // The plan has them, for whoever may ask.
        documents: None,
        marker: Marker { installation, instance, attempt, ..Marker::default() },
        overwrite: lifecycle::may_overwrite(&world.machine),
        overwrites: lifecycle::overwrites(&world.machine),
    })))
}

/// The stricter of what the Machine and its Deployment say about wiping.
pub(super) fn wipe_policy(world: &World) -> WipePolicy {
    let by_deployment = world.deployment.as_ref().and_then(|deployment| deployment.spec.wipe.as_ref()).map(|wipe| wipe.policy);
    world.machine.spec.wipe.policy.max(by_deployment.unwrap_or(WipePolicy::None))
}

/// What the record of the plan's work is called.
pub(super) fn record_name(world: &World) -> Option<String> {
    Some(format!("{}-{}", world.machine.name_any(), world.work()?.work.id))
}

/// Writes down what a wipe did, before the Machine is free.
pub(super) async fn record(world: &World, cluster: &impl Cluster, ids: &impl Ids) -> Result<(), PortError> {
    let Some(work) = world.work().filter(|work| work.purpose == Purpose::Clean) else { return Ok(()) };
    let ended = bound(&world.reports, work).find_map(|agent| Some((agent, agent.steps.iter().find(|step| step.is_done())?)));
    let Some((agent, step)) = ended else { return Ok(()) };
    let machine = &world.machine;
    let name = record_name(world).unwrap_or_default();
    let time = |micros: Option<i64>| Time(micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()).unwrap_or_default());
    let mut spec = WipeRecordSpec {
        machine: machine.name_any(),
        attempt: machine.spec.occupancy.as_ref().map(|occupancy| occupancy.attempt.clone()).unwrap_or_default(),
        started: time(work.bound),
        finished: time(agent.told.as_ref().map(|time| time.0.as_microsecond())),
        disks: step.wiped.clone(),
        missing: step.missing.clone(),
        signature: String::new(),
    };
    let signature =
        Installation::load(cluster, ids).await?.sign(&wiperecord::signed(&machine.namespace().unwrap_or_default(), &name, &spec));
    spec.signature = base64::engine::general_purpose::STANDARD.encode(signature);
    let mut record = WipeRecord::new(&name, spec);
    record.meta_mut().namespace = machine.namespace();
    match cluster.create(&record).await {
        Ok(_) => {
            tracing::info!(machine = %machine.name_any(), namespace = machine.namespace(), record = name, "wipe recorded");
            Ok(())
        }
        // Written before the Machine could be freed.
        Err(PortError::AlreadyExists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
