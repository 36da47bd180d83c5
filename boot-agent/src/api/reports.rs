//! BootReports: each agent applies its own node's part, and nothing else.

use std::{sync::Arc, time::Duration};

use athanor_crds::{BootReport, names};
use athanor_dhcp::SERVER_PORT;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{port, report::Due, shared::Shared};

/// How often what became due is looked for, besides when something happens.
const LOOK: Duration = Duration::from_secs(1);
/// How many reports are written in a second that nobody waits for: a hall that is switched on by one breaker is told of within minutes, and
/// neither the API nor those whose report is waited for stand behind it.
const CALM: usize = 50;
/// And so many of them before those that are waited for have their turn again.
const CALM_AT_ONCE: usize = 5;
/// The least time between two looks: each goes over all clients.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an agent that ends may write what it has not written yet.
const FLUSH: Duration = Duration::from_secs(5);

pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    let (mut calm, mut since) = (CALM, Instant::now());
    loop {
        let _ = tokio::time::timeout(LOOK, shared.reporter.woken()).await;
        if since.elapsed() >= LOOK {
            (calm, since) = (CALM, Instant::now());
        }
        let written = write_due(&shared, &client, calm.min(CALM_AT_ONCE), false).await;
        calm -= written;
        // There may be more; but who is waited for comes first again.
        if written < CALM_AT_ONCE {
            tokio::time::sleep(PAUSE).await;
        } else {
            shared.reporter.wake();
        }
    }
}

/// Writes all that is left, before the agent ends.
pub(super) async fn flush(shared: &Shared, client: &Client) {
    if tokio::time::timeout(FLUSH, write_due(shared, client, CALM, true)).await.is_err() {
        tracing::warn!(waited = ?FLUSH, "the last reports are not written");
    }
}

/// Writes what is due; returns how many of them nobody waits for.
async fn write_due(shared: &Shared, client: &Client, calm: usize, last: bool) -> usize {
    let snapshot = shared.snapshot();
    let due = shared.reporter.due(&snapshot, &shared.options.node, calm, last);
    let calmly = due.iter().filter(|due| !due.urgent).count().min(calm);
    // While one agent of this node follows another, both write the node's part: neither forgets what the other wrote.
    let overlap = !due.is_empty() && shared.options.in_cluster && port::is_shared(SERVER_PORT);
    for due in due {
        let plan = snapshot.by_mac(due.mac);
        let place = match plan {
            Some(plan) => (plan.machine.namespace.clone(), plan.machine.name.clone()),
            None => (names::SYSTEM_NAMESPACE.to_owned(), names::stranger_report(due.mac)),
        };
        let current = plan.and_then(|plan| plan.order.as_ref()).map(|order| order.attempt.as_str());
        let (mac, urgent) = (due.mac, due.urgent);
        match write(shared, client, place, due, overlap, current).await {
            Ok(()) => shared.reporter.was_stored(mac),
            Err(error) => {
                tracing::warn!(%mac, %error, "boot report not written; tried again");
                shared.reporter.not_written(mac, urgent);
            }
        }
    }
    calmly
}

async fn write(
    shared: &Shared,
    client: &Client,
    (namespace, name): (String, String),
    due: Due,
    overlap: bool,
    current: Option<&str>,
) -> Result<(), kube::Error> {
    let (node, reports) = (&shared.options.node, Api::<BootReport>::namespaced(client.clone(), &namespace));
    let (mut part, mut version) = (due.report, None);
    if due.first || overlap {
        let stored = reports.get_opt(&name).await?;
        version = stored.as_ref().and_then(|report| report.metadata.resource_version.clone()).filter(|_| overlap);
        let earlier = stored.into_iter().flat_map(|report| report.spec.nodes).find(|part| part.node == *node);
        if let Some(earlier) = earlier {
            part = shared.reporter.inherit(due.mac, earlier, current);
        }
    }
    let mut report = json!({
        "apiVersion": athanor_crds::API_VERSION, "kind": "BootReport", "metadata": { "name": name, "namespace": namespace },
        "spec": { "mac": due.mac, "nodes": [part] }
    });
    if let Some(version) = version {
        report["metadata"]["resourceVersion"] = version.into();
    }
    let params = PatchParams::apply(&format!("boot-agent-{node}")).force();
    reports.patch(&name, &params, &Patch::Apply(&report)).await?;
    Ok(())
}
