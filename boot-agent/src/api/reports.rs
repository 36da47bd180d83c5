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
            let mac = due.mac;
            match write(&shared, &client, place, due).await {
                Ok(()) => shared.reporter.was_stored(mac),
                Err(error) => {
                    tracing::warn!(%mac, %error, "boot report not written; tried again");
                    shared.reporter.not_written(mac);
                }
            }
        }
    }
}

async fn write(shared: &Shared, client: &Client, (namespace, name): (String, String), due: Due) -> Result<(), kube::Error> {
    let (node, reports) = (&shared.options.node, Api::<BootReport>::namespaced(client.clone(), &namespace));
    let mut part = due.report;
    if due.first {
        let earlier = reports.get_opt(&name).await?.into_iter().flat_map(|report| report.spec.nodes).find(|part| part.node == *node);
        if let Some(earlier) = earlier {
            part = shared.reporter.inherit(due.mac, earlier);
        }
    }
    let report = json!({
        "apiVersion": athanor_crds::API_VERSION, "kind": "BootReport", "metadata": { "name": name, "namespace": namespace },
        "spec": { "mac": due.mac, "nodes": [part] }
    });
    let params = PatchParams::apply(&format!("boot-agent-{node}")).force();
    reports.patch(&name, &params, &Patch::Apply(&report)).await?;
    Ok(())
}
