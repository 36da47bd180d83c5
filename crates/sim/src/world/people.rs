//! People, who want things and do what a status tells them; and what happens to them.

use athanor_crds::{Deployment, Machine, deployment::DeletionPolicy, machine::ExistingData, names};
use k8s_openapi::api::core::v1::Secret;

use super::{World, ready};
use crate::{deployment, hardware::Runs, server::Server};

impl World {
    /// People want things, and do what a status tells them.
    pub(super) fn people(&mut self) {
        for index in 0..self.machines.len() {
            if self.api.dice.roll(25) != 0 {
                continue;
            }
            let Some(machine) = self.api.find::<Machine>("default", &self.machines[index].name) else { continue };
            if !machine.spec.accepted {
                let mut accepted = Machine::clone(&machine);
                accepted.spec.accepted = true;
                self.api.put(&accepted);
                let name = self.machines[index].name.clone();
                self.tell(|| format!("somebody accepts {name}"));
            }
            let says = ready(&machine);
            let asked = ["power-cycle it", "Power-cycle it", "switch it on", "Restart it", "Restart the machine"];
            let waits_in_agent = matches!(self.machines[index].runs, Runs::Agent(_)) && says.contains("switch it on");
            // Whether that may be lost is not theirs to say.
            let unclear = says.contains("spec.existingData: Overwrite") || says.contains("spec.overwrites");
            if asked.iter().any(|words| says.contains(words)) && !waits_in_agent && !unclear {
                self.power_cycle(index, &format!("as its status says: {says}"));
            }
            self.give_up_kept(index);
        }
        if self.api.dice.roll(6) != 0 {
            return;
        }
        let deployments = self.api.all::<Deployment>();
        for deployment in &deployments {
            let says = deployment.status.as_ref().and_then(|status| status.progress.clone()).unwrap_or_default();
            if says.contains("delete the Deployment") && self.api.dice.roll(4) == 0 {
                self.delete(deployment);
            }
        }
        if self.weather.faults && self.api.dice.roll(2) == 0 {
            if deployments.len() < self.machines.len() + 2 && self.api.dice.roll(2) == 0 {
                self.named += 1;
                let profile = if self.api.dice.roll(4) == 0 { "live" } else { "golden" };
                let name = format!("d{}", self.named);
                let mut wanted = deployment(&name, profile);
                if self.api.dice.roll(6) == 0 {
                    wanted.spec.deletion_policy = DeletionPolicy::Retain;
                }
                self.api.put(&wanted);
                self.tell(|| format!("somebody wants {name}, {profile}, {:?}", wanted.spec.deletion_policy));
            } else if !deployments.is_empty() && self.api.dice.roll(3) == 0 {
                self.delete(&deployments[self.api.dice.pick(deployments.len())]);
            }
        }
    }

    fn delete(&mut self, deployment: &Deployment) {
        let name = deployment.metadata.name.clone().unwrap_or_default();
        if deployment.metadata.deletion_timestamp.is_none() {
            self.lives += 1;
        }
        if deployment.spec.deletion_policy == DeletionPolicy::Wipe {
            self.deleted.extend(deployment.spec.instance_id.clone());
        }
        self.api.delete_now::<Deployment>(&name);
        self.tell(|| format!("somebody deletes {name}"));
    }

    /// What a Deployment left on purpose is kept until somebody says otherwise: first that the Machine may be claimed again, then, when it says
    /// what its disks hold, that this may be lost. What was there before may be lost wherever somebody says so.
    fn give_up_kept(&mut self, index: usize) {
        let name = self.machines[index].name.clone();
        let Some(machine) = self.api.find::<Machine>("default", &name).filter(|machine| machine.spec.claim_ref.is_none()) else { return };
        let mut changed = Machine::clone(&machine);
        if machine.spec.cordoned {
            changed.spec.cordoned = false;
            self.tell(|| format!("somebody uncordons {name}"));
        } else if let Some(marker) = self.machines[index].disk.marker.clone()
            && ready(&machine).contains("Set spec.overwrites: [")
            && ready(&machine).contains(&marker.instance)
            // Nobody here remembers what a restored API does not know of.
            && self.weather.faults
            && !self.weather.restores
        {
            changed.spec.overwrites.push(marker.instance.clone());
            self.tell(|| format!("somebody gives up {} on {name}", marker.instance));
            self.deleted.insert(marker.instance);
        } else if ready(&machine).contains("Set spec.existingData: Overwrite") && self.weather.faults {
            changed.spec.existing_data = ExistingData::Overwrite;
            self.tell(|| format!("somebody gives up what was on {name} before"));
        } else {
            return;
        }
        self.api.put(&changed);
    }

    fn power_cycle(&mut self, index: usize, why: &str) {
        let now = self.clock.micros();
        self.machines[index].restart(now);
        let name = self.machines[index].name.clone();
        self.tell(|| format!("{name} is power-cycled, {why}"));
    }

    pub(super) fn misfortune(&mut self) {
        if !self.weather.faults {
            return;
        }
        for index in 0..self.machines.len() {
            if self.api.dice.roll(150) == 0 {
                self.power_cycle(index, "by misfortune");
            }
        }
        for index in 0..self.servers.len() {
            if self.api.dice.roll(200) == 0 {
                self.servers[index].restart();
                self.tell(|| format!("agent {index} restarts"));
            }
            let connected = self.servers[index].connected;
            if self.api.dice.roll(if connected { 150 } else { 30 }) == 0 {
                self.servers[index].connected = !connected;
                self.tell(|| format!("agent {index} reaches the API: {}", !connected));
            }
        }
        if self.api.dice.roll(120) == 0 {
            let (pause, now) = (self.api.dice.roll(400), self.clock.micros());
            self.clock.pass(pause * 1000);
            self.tell(|| format!("{pause} s pass at once, from {now}"));
        }
        if self.weather.restores && self.api.dice.roll(400) == 0 {
            match self.backup.take() {
                // A copy from before the installation is one of nothing.
                None => {
                    let installed = self.api.find::<Secret>(names::SYSTEM_NAMESPACE, names::INSTALLATION_SECRET).is_some();
                    self.backup = installed.then(|| self.api.backup());
                }
                Some(copy) => {
                    self.api.restore(copy);
                    self.restored = true;
                    self.servers.iter_mut().for_each(Server::list_anew);
                    self.look_at_all();
                    self.tell(|| "the API's data is restored from a copy".to_owned());
                }
            }
        }
    }
}
