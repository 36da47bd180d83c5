//! A newcomer becomes a Machine named by its MAC, so that two agents that see it at once cannot create two.

use std::sync::Arc;

use athanor_crds::{
    Machine, MachineSpec,
    machine::{Interface, SELF_REGISTERED_LABEL, SUBNET_LABEL},
    names,
};
use athanor_dhcp::Newcomer;
use kube::{Api, Client, api::PostParams};
use tokio::sync::mpsc;

use crate::{report::Seen, shared::Shared};

pub(super) async fn run(shared: Arc<Shared>, client: Client, mut registrations: mpsc::Receiver<Newcomer>) {
    while let Some(newcomer) = registrations.recv().await {
        let snapshot = shared.snapshot();
        let Some(subnet) = snapshot.subnets().iter().find(|subnet| subnet.name == newcomer.subnet) else { continue };
        let namespace = subnet.spec.newcomers.namespace.clone();
        let machine = machine(&newcomer);
        let name = names::machine(newcomer.mac);
        match Api::<Machine>::namespaced(client.clone(), &namespace).create(&PostParams::default(), &machine).await {
            Ok(_) => tracing::info!(machine = %name, %namespace, subnet = %newcomer.subnet, "newcomer registered"),
            // It is there already, and its plan is on its way; or somebody gave its name to another machine.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let answer = format!(
                    "Machine {namespace}/{name} exists; if it stays without an answer, that Machine has another MAC address: rename it, or give it {}",
                    newcomer.mac
                );
                let (asked, subnet) = ("registration".to_owned(), Some(newcomer.subnet.clone()));
                shared.reporter.saw(newcomer.mac, Seen { protocol: "API", asked, answer, row: None, subnet });
            }
            Err(error) => {
                let why = match error {
                    kube::Error::Api(status) => status.message,
                    other => other.to_string(),
                };
                tracing::warn!(machine = %name, %namespace, why, "newcomer not registered; it is asked for again with its next DISCOVER");
                let (asked, subnet) = ("registration".to_owned(), Some(newcomer.subnet.clone()));
                shared
                    .reporter
                    .saw(newcomer.mac, Seen { protocol: "API", asked, answer: format!("not registered: {why}"), row: None, subnet });
            }
        }
    }
}

fn machine(newcomer: &Newcomer) -> Machine {
    let spec = MachineSpec {
        interfaces: vec![Interface { mac: newcomer.mac, boot: true, addresses: Vec::new() }],
        architecture: newcomer.hardware.map(|(architecture, _)| architecture),
        firmware: newcomer.hardware.map(|(_, firmware)| firmware),
        ..MachineSpec::default()
    };
    let mut machine = Machine::new(&names::machine(newcomer.mac), spec);
    let labels = [(SELF_REGISTERED_LABEL, "true"), (SUBNET_LABEL, newcomer.subnet.as_str())];
    machine.metadata.labels = Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
    machine
}
