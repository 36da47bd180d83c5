//! What goes by itself: the oldest reports about clients that are no Machines, which are kept for `explain`; addresses whose time is over.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use athanor_crds::{Address, BootReport, names};
use jiff::Timestamp;
use kube::ResourceExt as _;

use super::KubeCluster;
use crate::{Cluster, PortError};

/// How many are kept; the ones that were silent longest go. An office has fewer laptops.
const MOST: usize = 256;
/// How often that is looked at.
const PAUSE: Duration = Duration::from_secs(60);

pub(super) async fn for_ever(cluster: &KubeCluster) {
    loop {
        if let Err(error) = prune(cluster).await {
            tracing::debug!(%error, "reports of strangers not pruned");
        }
        if let Err(error) = free_expired(cluster, Timestamp::now()).await {
            tracing::debug!(%error, "addresses whose time is over not freed");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn prune(cluster: &impl Cluster) -> Result<(), PortError> {
    let mut reports = cluster.list::<BootReport>(Some(names::SYSTEM_NAMESPACE)).await?;
    // A Machine may live in this namespace, too.
    reports.retain(|report| report.spec.mac.is_some_and(|mac| report.name_any() == names::stranger_report(mac)));
    reports.sort_by_key(|report| Reverse(newest(report)));
    for old in reports.iter().skip(MOST) {
        unless_changed(cluster.delete_read(&**old).await)?;
    }
    Ok(())
}

/// What changed in this moment is not old, and keeps no other from going.
fn unless_changed(deleted: Result<(), PortError>) -> Result<(), PortError> {
    deleted.or_else(|error| if matches!(error, PortError::Conflict(_)) { Ok(()) } else { Err(error) })
}

/// Frees addresses whose quarantine or lease is over.
async fn free_expired(cluster: &impl Cluster, now: Timestamp) -> Result<(), PortError> {
    for address in cluster.list::<Address>(None).await? {
        if address.spec.owner.is_none() && address.spec.expires.as_ref().is_some_and(|expires| expires.0 < now) {
            unless_changed(cluster.delete_read(&*address).await)?;
        }
    }
    Ok(())
}

fn newest(report: &Arc<BootReport>) -> Option<Timestamp> {
    report.spec.nodes.iter().flat_map(|node| &node.events).map(|event| event.time.0).max()
}
