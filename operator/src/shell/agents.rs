//! Keeps the agents' DaemonSet as the settings have it, also when somebody changed it.

use std::time::Duration;

use athanor_crds::names::SYSTEM_NAMESPACE;
use futures::StreamExt as _;
use k8s_openapi::{
    api::{apps::v1::DaemonSet, apps::v1::Deployment, core::v1::Namespace},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};

use crate::agents::{self, AgentSettings};

/// Who manages it.
const MANAGER: &str = "athanor-operator";
/// The Deployment that the operator runs in.
const OPERATOR: &str = "athanor-operator";
/// The namespace whose uid names the installation: every cluster has one, and no two have the same.
const CLUSTER: &str = "kube-system";
/// How soon a failed write is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Applies the DaemonSet now and whenever it changes, for ever.
pub(super) async fn keep(client: &Client, settings: &AgentSettings) {
    let sets = Api::<DaemonSet>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", agents::NAME));
    let mut changes = watcher(sets.clone(), only).default_backoff().touched_objects().boxed();
    loop {
        while let Err(error) = apply(client, &sets, settings).await {
            tracing::warn!(%error, "the agents' DaemonSet is not applied");
            tokio::time::sleep(AGAIN).await;
        }
        // Applying what is there already writes nothing, and so wakes nobody.
        let Some(_) = changes.next().await else { return };
    }
}

async fn apply(client: &Client, sets: &Api<DaemonSet>, settings: &AgentSettings) -> Result<(), kube::Error> {
    let installation = Api::<Namespace>::all(client.clone()).get(CLUSTER).await?.uid().unwrap_or_default();
    let set = agents::daemonset(settings, &installation, installed_by(client).await?);
    sets.patch(agents::NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&set)).await?;
    Ok(())
}

/// What was installed: the Deployment that the operator runs in. What the program makes for itself goes with it.
pub(super) async fn installed_by(client: &Client) -> Result<Option<OwnerReference>, kube::Error> {
    let operator = Api::<Deployment>::namespaced(client.clone(), SYSTEM_NAMESPACE).get_opt(OPERATOR).await?;
    Ok(operator.and_then(|operator| operator.owner_ref(&())).map(|owner| OwnerReference { controller: None, ..owner }))
}
