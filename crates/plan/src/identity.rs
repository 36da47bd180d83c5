//! Who a machine is: never its name, always the set {MACs, SMBIOS UUID, serial}.

use std::net::IpAddr;

use athanor_crds::{
    Machine, MachineInventory,
    conditions::{is_ready_for, reasons},
    machine::OccupancyState,
};
use athanor_wire::{
    MacAddr,
    inventory::{identifies_by_serial, identifies_by_uuid},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Which of two Machines owns a MAC address that both name: the one that is in use, whoever writes another; of two in use the one that has it,
/// whoever writes it into the other. Else the one a person wrote or accepted before one that registered itself, then the older, then the first by namespace and
/// name.
pub fn owner_of<'a>(mac: MacAddr, machines: impl IntoIterator<Item = &'a Machine>) -> Option<&'a Machine> {
    machines.into_iter().filter(|machine| machine.spec.interfaces.iter().any(|interface| interface.mac == mac)).min_by_key(|machine| {
        let (metadata, idle) = (&machine.metadata, !is_in_use(machine));
        (
            idle,
            !idle && !has(machine, mac),
            idle && registered_itself(machine) && !machine.spec.accepted,
            created(metadata),
            metadata.namespace.clone(),
            metadata.name.clone(),
        )
    })
}

/// Whether something runs on it, or is about to, or is kept on it: its hardware is promised.
fn is_in_use(machine: &Machine) -> bool {
    let spec = &machine.spec;
    spec.claim_ref.is_some() || spec.occupancy.is_some() || spec.externally_provisioned || spec.cordoned
}

/// Whether anything of a Deployment was started on a Machine, as far as is known: what was only claimed has not begun.
pub fn has_begun(machine: &Machine) -> bool {
    let occupancy = machine.spec.occupancy.as_ref();
    occupancy.is_some_and(|occupancy| occupancy.ever_started || occupancy.state != OccupancyState::Issued)
}

/// Whether something may run on a Machine, whoever put it there.
pub fn may_run(machine: &Machine) -> bool {
    has_begun(machine) || machine.spec.externally_provisioned || machine.spec.cordoned
}

/// Whether a MAC address was a Machine's when it was looked at last, and not only written there.
fn has(machine: &Machine, mac: MacAddr) -> bool {
    let Some(status) = &machine.status else { return false };
    let in_conflict = is_ready_for(&status.conditions, reasons::DUPLICATE_MAC);
    status.interfaces.iter().any(|interface| interface.mac == mac) && !in_conflict
}

/// An older Machine for which a person fixed an address that another one asks for, too. One that is being deleted asks for nothing any more.
pub fn first_promised<'a>(ip: IpAddr, asks: &Machine, machines: impl IntoIterator<Item = &'a Machine>) -> Option<&'a Machine> {
    let age = |machine: &Machine| (created(&machine.metadata), machine.metadata.namespace.clone(), machine.metadata.name.clone());
    let promised =
        |machine: &&Machine| machine.spec.interfaces.iter().flat_map(|interface| &interface.addresses).any(|claim| claim.ip == ip);
    let stays = |machine: &&Machine| machine.metadata.deletion_timestamp.is_none();
    machines.into_iter().filter(promised).filter(stays).filter(|other| age(other) < age(asks)).min_by_key(|machine| age(machine))
}

fn registered_itself(machine: &Machine) -> bool {
    machine.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(athanor_crds::machine::SELF_REGISTERED_LABEL))
}

/// The oldest Machine that a newcomer may be, because its UUID or serial number is known. Values that nobody filled in say nothing.
pub fn possible_duplicate<'a>(
    newcomer: &MachineInventory,
    inventories: impl IntoIterator<Item = &'a MachineInventory>,
) -> Option<&'a MachineInventory> {
    let facts = &newcomer.spec.facts;
    let uuid = facts.uuid.as_deref().filter(|uuid| identifies_by_uuid(uuid));
    let serial = facts.serial.as_deref().filter(|serial| identifies_by_serial(serial));
    inventories
        .into_iter()
        .filter(|other| other.metadata.name != newcomer.metadata.name || other.metadata.namespace != newcomer.metadata.namespace)
        .filter(|other| (created(&other.metadata), &other.metadata.name) < (created(&newcomer.metadata), &newcomer.metadata.name))
        .filter(|other| {
            let known = &other.spec.facts;
            uuid.is_some_and(|uuid| known.uuid.as_deref().is_some_and(|k| k.eq_ignore_ascii_case(uuid)))
                || serial.is_some_and(|serial| known.serial.as_deref() == Some(serial))
        })
        .min_by_key(|other| (created(&other.metadata), other.metadata.namespace.clone(), other.metadata.name.clone()))
}

/// When an object was stored, in seconds; one that never was is the youngest.
fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second())
}

#[cfg(test)]
mod tests {
    use athanor_crds::{
        MachineSpec,
        machine::{Interface, InterfaceStatus, MachineStatus},
    };
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn machine(name: &str, created: i64, itself: bool) -> Machine {
        let mac = "52:54:00:aa:00:01".parse().unwrap();
        let mut machine =
            Machine::new(name, MachineSpec { interfaces: vec![Interface { mac, boot: true, addresses: vec![] }], ..Default::default() });
        machine.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).unwrap()));
        if itself {
            machine.metadata.labels = Some([(athanor_crds::machine::SELF_REGISTERED_LABEL.to_owned(), "true".to_owned())].into());
        }
        machine
    }

    #[test]
    fn a_person_wins_over_a_newcomer_and_the_older_over_the_younger() {
        let mac = "52:54:00:aa:00:01".parse().unwrap();
        let owner = |machines: &[Machine]| owner_of(mac, machines).unwrap().metadata.name.clone().unwrap();
        assert_eq!(owner(&[machine("itself", 1, true), machine("person", 9, false)]), "person");
        let mut accepted = machine("accepted", 1, true);
        accepted.spec.accepted = true;
        assert_eq!(owner(&[accepted, machine("person", 9, false)]), "accepted");
        assert_eq!(owner(&[machine("younger", 9, false), machine("older", 1, false)]), "older");
        assert_eq!(owner(&[machine("b", 1, false), machine("a", 1, false)]), "a");
    }

    #[test]
    fn what_is_in_use_is_not_taken_by_whoever_writes_its_address_down() {
        let mac = "52:54:00:aa:00:01".parse().unwrap();
        let owner = |machines: &[Machine]| owner_of(mac, machines).unwrap().metadata.name.clone().unwrap();
        let used = |name: &str, created: i64, itself: bool| {
            let mut machine = machine(name, created, itself);
            machine.spec.externally_provisioned = true;
            machine
        };
        assert_eq!(owner(&[used("itself", 5, true), machine("person", 1, false)]), "itself");
        assert_eq!(owner(&[used("itself", 5, true), used("person", 9, false)]), "itself");
        // Its address is written into an older one that is in use, too.
        let mut has_it = used("younger", 9, true);
        let interfaces = vec![InterfaceStatus { mac, addresses: vec![] }];
        has_it.status = Some(MachineStatus { interfaces, ..MachineStatus::default() });
        assert_eq!(owner(&[has_it, used("older", 1, true)]), "younger");
    }
}
