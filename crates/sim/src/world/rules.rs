//! What must never happen, and what is true in the end.

use athanor_crds::{Deployment, Machine, MachineState, WipeRecord, conditions::types, machine::OccupancyState};
use athanor_wire::Step;

use super::{World, ready};

impl World {
    /// A disk is touched only for the claim that owns the machine now; what runs is never destroyed unasked.
    pub(super) fn may_touch(&self, index: usize, step: &Step) {
        let machine = &self.machines[index];
        let (instance, writes) = match step {
            Step::Write(order) => (order.marker.instance.as_str(), true),
            Step::Wipe(order) => (order.instance.as_str(), false),
            _ => return,
        };
        let stored = self.api.find::<Machine>("default", &machine.name);
        let spec = stored.as_ref().map(|stored| &stored.spec);
        let claim = spec.and_then(|spec| spec.claim_ref.as_ref()).map(|claim| claim.instance_id.as_str());
        assert!(spec.is_some_and(|spec| spec.accepted) || self.restored, "{}: {}, and nobody accepted it", machine.name, step.name());
        // Between a restore and the news of it nobody can know.
        assert!(claim == Some(instance) || self.restored, "{}: {} for {instance}, but it is {claim:?}'s", machine.name, step.name());
        if let Some(marker) = machine.disk.marker.as_ref().filter(|_| machine.disk.whole) {
            let gone = self.deleted.contains(&marker.instance);
            // What ran from there is nobody's half of an image, also where a restored API knows nothing of it.
            let again = writes && marker.instance == instance && !machine.disk.ran;
            assert!(gone || again, "{}: {} for {instance} over {}, which nobody deleted", machine.name, step.name(), marker.instance);
        }
    }

    /// Status never says more than happened.
    pub(super) fn check(&self) {
        let records = self.api.all::<WipeRecord>();
        for machine in self.api.all::<Machine>() {
            let name = machine.metadata.name.clone().unwrap_or_default();
            let Some(hardware) = self.machines.iter().find(|hardware| hardware.name == name) else { continue };
            let state = machine.status.as_ref().and_then(|status| status.state.clone());
            let occupancy = machine.spec.occupancy.as_ref();
            let on_disk =
                |instance: &str| hardware.disk.whole && hardware.disk.marker.as_ref().is_some_and(|marker| marker.instance == instance);
            if let Some(occupancy) =
                occupancy.filter(|occupancy| occupancy.state == OccupancyState::Provisioned && occupancy.wipe.is_some())
            {
                assert!(on_disk(&occupancy.instance_id) || self.restored, "{name} is Provisioned, but its disk has {:?}", hardware.disk);
            }
            let free = machine.spec.claim_ref.is_none() && state == Some(MachineState::Available) && !machine.spec.cordoned;
            if free && !self.restored {
                // What somebody gave up may lie there until it is written over.
                let of = hardware.disk.marker.as_ref().map(|marker| &marker.instance);
                assert!(
                    of.is_none_or(|instance| machine.spec.overwrites.contains(instance) && self.deleted.contains(instance)),
                    "{name} is free, but its disk has {:?}",
                    hardware.disk
                );
            }
        }
        assert!(records.iter().all(|record| !record.spec.disks.is_empty()), "a record of nothing");
    }

    /// Every Machine and every Deployment is where it is to be, or says what it waits for.
    ///
    /// # Panics
    /// One is not.
    pub fn all_is_said(&self) {
        for machine in self.api.all::<Machine>() {
            let says = ready(&machine);
            assert!(!says.is_empty(), "{:?} says nothing", machine.metadata.name);
            let state = machine.status.as_ref().and_then(|status| status.state.clone());
            let rests = matches!(state, Some(MachineState::Available | MachineState::Provisioned | MachineState::Accepted));
            // Somebody has to come; and was told so.
            let waits =
                ["Set spec", "set spec", "to the Machine's spec.overwrites", "remove spec.claimRef", "Correct", "delete the Deployment"]
                    .iter()
                    .any(|words| says.contains(words));
            assert!(rests || waits, "{:?} is left {state:?}: {says}", machine.metadata.name);
        }
        for deployment in self.api.all::<Deployment>() {
            let status = deployment.status.clone().unwrap_or_default();
            let ready = status.conditions.iter().any(|condition| condition.type_ == types::READY && condition.status == "True");
            assert!(ready || status.progress.is_some_and(|says| !says.is_empty()), "{:?} says nothing", deployment.metadata.name);
            assert!(deployment.metadata.deletion_timestamp.is_none(), "{:?} is not let go", deployment.metadata.name);
        }
    }
}
