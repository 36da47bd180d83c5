//! BootReports: each agent applies its own node's part, and nothing else.

use std::{sync::Arc, time::Duration};

use athanor_crds::{BootReport, names};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{report::Due, shared::Shared};

/// How often what became due is looked for, besides when something happens.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    loop {
        let _ = tokio::time::timeout(LOOK, shared.reporter.woken()).await;
        let snapshot = shared.snapshot();
        for due in shared.reporter.due(&snapshot, &shared.options.node) {
            let place = match snapshot.by_mac(due.mac) {
                Some(plan) => (plan.machine.namespace.clone(), plan.machine.name.clone()),
                None => (names::SYSTEM_NAMESPACE.to_owned(), names::stranger_report(due.mac)),
            };
            if let Err(error) = write(&client, &shared.options.node, place, &due).await {
                tracing::warn!(mac = %due.mac, %error, "boot report not written; tried again");
                shared.reporter.not_written(due.mac);
            }
        }
    }
}

async fn write(client: &Client, node: &str, (namespace, name): (String, String), due: &Due) -> Result<(), kube::Error> {
    let report = json!({
        "apiVersion": athanor_crds::API_VERSION, "kind": "BootReport", "metadata": { "name": name, "namespace": namespace },
        "spec": { "mac": due.mac, "nodes": [due.report] }
    });
    let params = PatchParams::apply(&format!("boot-agent-{node}")).force();
    Api::<BootReport>::namespaced(client.clone(), &namespace).patch(&name, &params, &Patch::Apply(&report)).await?;
    Ok(())
}
