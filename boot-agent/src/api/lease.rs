//! The agent's Lease: that it is alive, and what it serves.

use std::{sync::Arc, time::Duration};

use athanor_crds::{
    Subnet,
    history::History,
    names,
    subnet::{self, Mode},
};
use athanor_dhcp::{Authority, SERVER_PORT};
use athanor_wire::agent::{self, Media, Served};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
};
use kube::{
    Api, Client,
    api::{ListParams, ObjectMeta, Patch, PatchParams},
};
use tokio::time::Instant;

use super::media;
use crate::{interface::Duty, options::Options, port, shared::Shared};

/// How often the Lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How often it is where operator and agent are one process, which nobody else waits for: each renewal is a write to somebody's disk.
const RENEW_ALONE: Duration = Duration::from_secs(300);
/// How many renewals may be missed.
const MISSED: u32 = 3;
/// How many other addresses of an interface are told: as many as the API takes.
const MOST_ADDRESSES: usize = 16;
/// How many kinds of firmware without a loader are told.
const MOST_LACKING: usize = 16;
/// Why everything is listed anew when the API has another Lease than was written.
const OLDER: &str = "the API's data is older than it was";
/// How long the first Lease waits for the first look at the profiles' files. It takes milliseconds, unless a disk hangs or profiles cannot be read.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    let asked: Api<Subnet> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, names::SYSTEM_NAMESPACE);
    let name = format!("agent-{}", shared.options.node);
    let (mut subnets, mut duties, mut verdicts, mut media) =
        (shared.changes(), shared.duties(), shared.authority.changes(), shared.media());
    let mut written: Option<(Vec<Served>, Option<Media>)> = None;
    // One that says nothing yet would take back what the agent before this one said.
    let _ = tokio::time::timeout(FIRST_LOOK, media.wait_for(Option::is_some)).await;
    let (mut due, mut version, mut history) = (Instant::now(), None, History::default());
    loop {
        let told = (served(&shared, &duties.borrow_and_update()), media.borrow_and_update().clone());
        verdicts.mark_unchanged();
        subnets.mark_unchanged();
        if Instant::now() >= due || written.as_ref() != Some(&told) {
            let mut lease = lease(&name, &shared.options, &told.0, told.1.as_ref());
            lease.metadata.resource_version.clone_from(&version);
            let params = PatchParams::apply("athanor-boot-agent").force();
            match leases.patch(&name, &params, &Patch::Apply(&lease)).await {
                Ok(lease) => {
                    if history.went_back(lease.metadata.resource_version.as_deref()) {
                        shared.list_anew(OLDER);
                    }
                    shared.heard_from_api();
                    (written, due, version) = (Some(told), Instant::now() + renew(&shared.options), lease.metadata.resource_version);
                }
                Err(kube::Error::Api(status)) if status.is_conflict() && version.is_some() => {
                    // Nobody else writes it, but for an agent that follows this one.
                    if !(shared.options.in_cluster && port::is_shared(SERVER_PORT)) {
                        shared.list_anew(OLDER);
                    }
                    (version, due) = (None, Instant::now());
                }
                Err(error) => {
                    tracing::warn!(%error, "lease not renewed");
                    due = Instant::now() + AGAIN;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(due.min(Instant::now() + RENEW)) => {
                // That the API answers must be known more often than the Lease is renewed.
                if Instant::now() < due && asked.list_metadata(&ListParams::default().limit(1)).await.is_ok() {
                    shared.heard_from_api();
                }
            }
            _ = duties.changed() => {}
            _ = verdicts.changed() => {}
            _ = subnets.changed() => {}
            _ = media.changed() => {}
        }
    }
}

fn renew(options: &Options) -> Duration {
    if options.in_cluster { RENEW } else { RENEW_ALONE }
}

fn served(shared: &Shared, duties: &[Duty]) -> Vec<Served> {
    let snapshot = shared.snapshot();
    let lacks: Vec<String> = shared.loaders().missing().iter().map(ToString::to_string).take(MOST_LACKING).collect();
    let mut all = Vec::new();
    for duty in duties {
        let verdict = shared.authority.of(&duty.link.interface);
        let here = duty.link.ips();
        for name in &duty.subnets {
            let Some(subnet) = snapshot.subnets().iter().find(|subnet| subnet.name == *name) else { continue };
            let (authority, foreign_server) = match &verdict {
                _ if subnet.spec.authority == subnet::Authority::Assumed => ("Assumed", None),
                _ if subnet.spec.mode != Mode::Dhcp || subnet.spec.is_behind_relays(&here) => ("Unneeded", None),
                Authority::Probing => ("Probing", None),
                Authority::Alone => ("Alone", None),
                Authority::Foreign(server) => ("Foreign", Some(server.to_string())),
            };
            all.push(Served {
                subnet: name.clone(),
                interface: duty.link.interface.clone(),
                address: duty.link.addresses.first().map(ToString::to_string).unwrap_or_default(),
                limited: shared.limited(name),
                lacks: lacks.clone(),
                other_addresses: duty.link.addresses.iter().skip(1).map(ToString::to_string).take(MOST_ADDRESSES).collect(),
                authority: authority.to_owned(),
                foreign_server,
                ramdisk: shared.options.has_ramdisk(),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            });
        }
    }
    all
}

fn lease(name: &str, options: &Options, served: &[Served], media: Option<&Media>) -> Lease {
    let owner = |(name, uid): (String, String)| OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name,
        uid,
        ..OwnerReference::default()
    };
    let served = serde_json::to_string(served).unwrap_or_default();
    let media = media.map(|media| (agent::MEDIA_ANNOTATION.to_owned(), media::text(media)));
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(agent::LABEL.to_owned(), "true".to_owned())].into()),
            annotations: Some([(agent::SERVED_ANNOTATION.to_owned(), served)].into_iter().chain(media).collect()),
            owner_references: options.installed_by.clone().map(|by| vec![owner(by)]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(options.node.clone()),
            lease_duration_seconds: i32::try_from((renew(options) * MISSED).as_secs()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}
