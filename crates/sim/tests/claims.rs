//! Many Deployments, few Machines, and an API that conflicts, returns old reads, loses answers and delivers twice. The reconcilers are the
//! very functions that run against Kubernetes. A seed that fails replays exactly: `CLAIMS_SEED=n cargo test -p athanor-sim`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use athanor_crds::{BootProfile, BootProfileSpec, Deployment, Machine, MachineState, bootprofile::Live};
use athanor_operator::{Cluster as _, deployment, machine};
use athanor_sim::{Count, Hurry, Memory, settle};
use futures::executor::block_on;
use k8s_openapi::api::core::v1::Namespace;

const MACHINES: u8 = 4;
const DEPLOYMENTS: u64 = 9;

fn play(seed: u64) {
    let (cluster, ids, clock) = (Memory::new(seed), Count::default(), Hurry::default());
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some("default".to_owned());
    cluster.put(&namespace);
    let live = BootProfileSpec { live: Some(Live {}), kernel: Some("http://example.com/vmlinuz".to_owned()), ..BootProfileSpec::default() };
    let mut profile = BootProfile::new("live", live);
    profile.metadata.namespace = Some("default".to_owned());
    cluster.put(&profile);
    for number in 0..MACHINES {
        cluster.put(&athanor_sim::machine(number));
    }
    for step in 0..400 {
        let pick = format!("d{}", cluster.dice.roll(DEPLOYMENTS));
        match cluster.dice.roll(12) {
            0 if !cluster.names("Deployment").contains(&pick) => cluster.put(&athanor_sim::deployment(&pick, "live")),
            1 if step % 3 == 0 => cluster.delete_now::<Deployment>(&pick),
            2..=6 => drop(block_on(deployment::reconcile("default", &pick, &cluster, &clock, &ids))),
            _ => {
                let name = format!("m{}", cluster.dice.roll(MACHINES.into()));
                drop(block_on(machine::reconcile("default", &name, &cluster, &clock, &ids)));
            }
        }
    }
    settle(&cluster, &ids, &clock);
    what_is_left_is_right(&cluster, seed);
}

/// As many Deployments run as there are Machines; every claim has its owner, and who waits says on what.
fn what_is_left_is_right(cluster: &Memory, seed: u64) {
    let machines: Vec<Arc<Machine>> = block_on(cluster.list(None)).unwrap();
    let deployments: Vec<Arc<Deployment>> = block_on(cluster.list(None)).unwrap();
    let claimed = machines.iter().filter(|machine| machine.spec.claim_ref.is_some()).count();
    assert_eq!(claimed, deployments.len().min(MACHINES.into()), "seed {seed}: a Machine is idle while a Deployment waits");
    for machine in machines.iter().filter_map(|machine| machine.spec.claim_ref.as_ref()) {
        let owner = deployments.iter().find(|deployment| deployment.metadata.name.as_ref() == Some(&machine.name));
        assert_eq!(owner.and_then(|owner| owner.spec.instance_id.as_ref()), Some(&machine.instance_id), "seed {seed}: a lost claim");
    }
    for machine in machines.iter().filter(|machine| machine.spec.claim_ref.is_none()) {
        assert_eq!(machine.status.as_ref().unwrap().state, Some(MachineState::Available), "seed {seed}");
    }
    for waiting in deployments.iter().filter(|deployment| deployment.status.as_ref().is_none_or(|status| status.machine.is_none())) {
        let progress = waiting.status.as_ref().and_then(|status| status.progress.clone()).unwrap_or_default();
        assert!(progress.starts_with("no free machine with amd64 (4 taken"), "seed {seed}: {progress:?}");
    }
}

#[test]
fn no_machine_has_two_owners_and_no_deployment_two_machines() {
    if let Some(seed) = std::env::var("CLAIMS_SEED").ok().and_then(|text| text.parse().ok()) {
        return play(seed);
    }
    for seed in 0..60 {
        if std::panic::catch_unwind(|| play(seed)).is_err() {
            panic!("seed {seed} fails; replay it with CLAIMS_SEED={seed}");
        }
    }
}
