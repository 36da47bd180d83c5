//! The agent's Lease: that it is alive, and what it serves.

use std::{sync::Arc, time::Duration};

use athanor_crds::{names, subnet};
use athanor_dhcp::Authority;
use athanor_wire::agent::{self, Served};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};

use crate::{interface, shared::Shared};

/// How often the Lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long it holds without renewal: three missed ones.
const LIFETIME_SECONDS: i32 = 30;
/// How soon what is served is looked at for changes.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    let leases: Api<Lease> = Api::namespaced(client, names::SYSTEM_NAMESPACE);
    let name = format!("agent-{}", shared.options.node);
    let mut written: Option<(tokio::time::Instant, Vec<Served>)> = None;
    loop {
        let served = served(&shared);
        let due = written.as_ref().is_none_or(|(at, before)| at.elapsed() >= RENEW || *before != served);
        if due {
            let lease = lease(&name, &shared.options.node, &served);
            let params = PatchParams::apply("athanor-boot-agent").force();
            match leases.patch(&name, &params, &Patch::Apply(&lease)).await {
                Ok(_) => {
                    shared.heard_from_api();
                    written = Some((tokio::time::Instant::now(), served));
                }
                Err(error) => tracing::warn!(%error, "lease not renewed"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn served(shared: &Shared) -> Vec<Served> {
    let snapshot = shared.snapshot();
    let mut all = Vec::new();
    for duty in interface::duties(&snapshot) {
        let verdict = shared.authority.of(&duty.link.interface);
        for name in &duty.subnets {
            let Some(subnet) = snapshot.subnets().iter().find(|subnet| subnet.name == *name) else { continue };
            let (authority, foreign_server) = match &verdict {
                Authority::Probing => ("Probing", None),
                Authority::Alone if subnet.spec.authority == subnet::Authority::Assumed => ("Assumed", None),
                Authority::Alone => ("Alone", None),
                Authority::Foreign(server) => ("Foreign", Some(server.to_string())),
            };
            all.push(Served {
                subnet: name.clone(),
                interface: duty.link.interface.clone(),
                address: duty.link.addresses.first().map(ToString::to_string).unwrap_or_default(),
                authority: authority.to_owned(),
                foreign_server,
            });
        }
    }
    all
}

fn lease(name: &str, node: &str, served: &[Served]) -> Lease {
    let list = serde_json::to_string(served).unwrap_or_default();
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(agent::LABEL.to_owned(), "true".to_owned())].into()),
            annotations: Some([(agent::SERVED_ANNOTATION.to_owned(), list)].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LIFETIME_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}
