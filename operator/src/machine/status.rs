//! A Machine's status: one write, and only when something changed.

use athanor_crds::{
    Machine, MachineInventory, MachineState, MachineStatus,
    bootreport::NodeReport,
    conditions::{self, reasons, types},
    machine::{Attempt, Failure, HardwareSummary},
};
use athanor_plan::{
    Purpose,
    lifecycle::{Act, Decision, Obstacle},
};
use athanor_wire::Inventory;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::{Resource as _, ResourceExt as _};

use super::{World, addresses::Addresses, work};
use crate::{
    Clock, Cluster, PortError,
    status::{self, Seen},
};

/// Writes the status, if it differs from what is there.
pub(crate) async fn write(
    world: &World,
    decision: &Decision,
    addresses: &Addresses,
    obstacle: Option<Obstacle>,
    issued: Option<Attempt>,
    cluster: &impl Cluster,
    clock: &impl Clock,
) -> Result<(), PortError> {
    let machine = &world.machine;
    let old = machine.status.clone().unwrap_or_default();
    let mut new = old.clone();
    new.observed_generation = machine.meta().generation;
    // A freed Machine is looked at again at once; until then it is not claimable.
    new.state = Some(decision.state.clone());
    new.address = addresses.first();
    new.interfaces = addresses.status();
    new.hardware = hardware(machine, world.inventory.as_ref());
    new.attempt = match (&machine.spec.occupancy, issued) {
        (None, _) => None,
        (Some(_), Some(issued)) => Some(issued),
        (Some(occupancy), None) => old.attempt.clone().filter(|attempt| attempt.id == occupancy.attempt),
    };
    // The plan was written before; whoever has nothing to boot or to do is served no Deployment.
    let served = obstacle.is_none() && (decision.order || decision.work == Some(Purpose::Provision));
    // An agent that has begun does what it was given, whatever is wanted since.
    let bound = world.work().is_some_and(|work| work.purpose == Purpose::Provision && work.key.is_some());
    if !(served && bound) {
        new.planned_generation = world.deployment.as_ref().filter(|_| served).and_then(|deployment| deployment.metadata.generation);
    }
    new.failure = failure(&old, decision, machine);
    set_conditions(&mut new, decision, obstacle.as_ref(), world, clock);
    set_wiped(&mut new, decision, world, clock);
    set_conflict(&mut new, world, clock);
    set_chain_loop(&mut new, world, clock);
    conditions::observe(&mut new.conditions, new.observed_generation);
    let (before, after) = (Seen { status: &old, conditions: &old.conditions }, Seen { status: &new, conditions: &new.conditions });
    if status::write(machine, before, after, cluster, clock).await? && old.state != new.state {
        let (from, to) = (old.state.map(|state| state.to_string()), decision.state.to_string());
        tracing::info!(machine = %machine.name_any(), namespace = machine.namespace(), from, to, reason = decision.reason, "machine state");
    }
    Ok(())
}

/// A failure stays until an attempt succeeds or the claim ends.
fn failure(old: &MachineStatus, decision: &Decision, machine: &Machine) -> Option<Failure> {
    if let Some(message) = &decision.failure {
        return Some(Failure {
            phase: if decision.reason == reasons::WIPE_FAILED { MachineState::Cleaning } else { MachineState::Provisioning }.to_string(),
            attempt: machine.spec.occupancy.as_ref().map(|occupancy| occupancy.attempt.clone()),
            category: decision.reason.to_owned(),
            message: message.clone(),
            next_try: decision.next_try.and_then(|at| Timestamp::from_microsecond(at).ok()).map(Time),
        });
    }
    let over = machine.spec.claim_ref.is_none() || decision.state == MachineState::Provisioned || decision.frees();
    old.failure.clone().filter(|_| !over)
}

/// Whether somebody looked at the hardware.
fn inspected(world: &World) -> (bool, &'static str, &'static str) {
    if world.inventory.as_ref().is_some_and(|known| known.spec.source == "agent") {
        return (true, reasons::INSPECTED, "the machine-agent looked at its hardware");
    }
    if world.has_ramdisk() {
        return (false, reasons::INSPECTING, "the machine-agent has not looked at its hardware yet");
    }
    (true, reasons::NO_AGENT, "no server of its Subnet has the machine-agent's ramdisk; what firmware told is in the inventory")
}

fn set_conditions(status: &mut MachineStatus, decision: &Decision, obstacle: Option<&Obstacle>, world: &World, clock: &impl Clock) {
    let (machine, inspected) = (&world.machine, inspected(world));
    let now = clock.now();
    let list = &mut status.conditions;
    let (ready, reason, message) = match obstacle {
        Some(obstacle) => (false, obstacle.reason, obstacle.message.clone()),
        None => (decision.ready, decision.reason, decision.message.clone()),
    };
    conditions::set(list, now, types::READY, ready, reason, message);
    if machine.spec.accepted {
        let (reason, message) = match world.is_accepted_by_subnet() {
            true => (reasons::ACCEPT_ALWAYS, "its Subnet says newcomers: {accept: always}"),
            false => (reasons::ACCEPTED_BY_PERSON, "spec.accepted is set"),
        };
        conditions::set(list, now, types::ACCEPTED, true, reason, message);
        let (inspected, reason, message) = inspected;
        conditions::set(list, now, types::INSPECTED, inspected, reason, message);
    } else {
        let message = format!("athanorctl accept {}", machine.name_any());
        conditions::set(list, now, types::ACCEPTED, false, reasons::NOT_ACCEPTED, message);
    }
    match &status.failure {
        Some(failure) => conditions::set(list, now, types::FAILING, true, &failure.category, failure.message.clone()),
        None => list.retain(|condition| condition.type_ != types::FAILING),
    }
}

/// Whether its disks are wiped since somebody last had it. What is to be written to them ends that.
fn set_wiped(status: &mut MachineStatus, decision: &Decision, world: &World, clock: &impl Clock) {
    let now = clock.now();
    match (decision.work, &decision.act) {
        (Some(Purpose::Clean), Some(Act::Free(_))) => {
            let record = work::record_name(world).unwrap_or_default();
            let message = format!(
                "its disks were wiped: WipeRecord {record}; check its signature: athanorctl verify-wipe {}",
                world.machine.name_any()
            );
            conditions::set(&mut status.conditions, now, types::WIPED, true, reasons::WIPED, message);
        }
        (Some(Purpose::Clean), _) => {
            conditions::set(&mut status.conditions, now, types::WIPED, false, decision.reason, decision.message.clone());
        }
        (Some(Purpose::Provision), _) => status.conditions.retain(|condition| condition.type_ != types::WIPED),
        _ => {}
    }
}

/// Another agent asks for work that one is bound to: two machines share a MAC, or somebody speaks in its name.
fn set_conflict(status: &mut MachineStatus, world: &World, clock: &impl Clock) {
    if !work::conflict(world) {
        return status.conditions.retain(|condition| condition.type_ != types::TOKEN_CONFLICT);
    }
    let message =
        "a second machine-agent, with another key, asks for the work of this Machine and is refused; do two machines share a MAC?";
    conditions::set(&mut status.conditions, clock.now(), types::TOKEN_CONFLICT, true, reasons::TOKEN_CONFLICT, message);
}

/// A loop is over when the machine's firmware asks for a script.
fn set_chain_loop(status: &mut MachineStatus, world: &World, clock: &impl Clock) {
    let newest = |time: fn(&NodeReport) -> Option<&MicroTime>| world.reports.iter().filter_map(time).map(|time| time.0).max();
    let looped = newest(|report| report.chain_loop.as_ref()).filter(|looped| newest(|report| report.last_boot.as_ref()) < Some(*looped));
    if looped.is_none() {
        return status.conditions.retain(|condition| condition.type_ != types::CHAIN_LOOP);
    }
    let message = "it fetched its loader three times within a minute and never asked for its script, and is offered none for a minute. Does that \
                   loader know this network card? Choose another one with spec.loader, or look at its screen";
    conditions::set(&mut status.conditions, clock.now(), types::CHAIN_LOOP, true, reasons::LOADER_AGAIN, message);
}

/// A size in the unit in which it is a number worth reading.
fn sized(small: i64, step: i64, unit: &str, larger: &str) -> String {
    // What firmware keeps of a GiB is still a GiB to whoever bought it.
    if small < step / 2 * 3 / 2 { format!("{small} {unit}") } else { format!("{} {larger}", (small + step / 2) / step) }
}

/// The few facts people choose machines by, out of the inventory.
fn hardware(machine: &Machine, inventory: Option<&MachineInventory>) -> Option<HardwareSummary> {
    let facts = inventory.map(|inventory| inventory.spec.facts.clone()).unwrap_or_default();
    let spec = &machine.spec;
    if facts == Inventory::default() && spec.architecture.is_none() && spec.firmware.is_none() {
        return None;
    }
    let disk = facts.disks.iter().map(|disk| disk.size_bytes).max();
    let summary = match (facts.cpus, facts.memory_mib) {
        (Some(cpus), Some(mib)) => {
            let disk = disk.map(|bytes| format!(", {}", sized(bytes / 1_000_000, 1000, "MB", "GB"))).unwrap_or_default();
            format!("{cpus} cpu, {}{disk}", sized(i64::from(mib), 1024, "MiB", "GiB"))
        }
        _ => [spec.firmware.map(|f| f.to_string()), spec.architecture.map(|a| a.to_string())]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" "),
    };
    Some(HardwareSummary {
        summary,
        vendor: facts.vendor,
        product: facts.product,
        serial: facts.serial,
        uuid: facts.uuid,
        cpus: facts.cpus,
        memory_mib: facts.memory_mib,
        disk_bytes: disk,
    })
}
