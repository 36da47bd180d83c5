//! When what was written of a Deployment is what its machine is served.

use std::time::{Duration, Instant};

use athanor_crds::{Deployment, Machine};
use kube::{Api, Client};

/// How long after the plan an agent may gather what else is new.
const SERVED: Duration = Duration::from_millis(100);
/// How soon is looked again.
const AGAIN: Duration = Duration::from_millis(10);

/// The generation of its Deployment that a machine is served; none, where it is served none.
///
/// # Errors
/// The API says no.
pub(crate) async fn generation(client: &Client, namespace: &str, machine: &str) -> kube::Result<Option<i64>> {
    let machine = Api::<Machine>::namespaced(client.clone(), namespace).get_opt(machine).await?;
    Ok(machine.and_then(|machine| machine.status).and_then(|status| status.planned_generation))
}

/// Waits until a machine is served a Deployment as it was written; whether it is, in that time.
///
/// # Errors
/// The API says no.
pub(crate) async fn wait(
    client: &Client,
    namespace: &str,
    machine: &str,
    deployment: &Deployment,
    patience: Duration,
) -> kube::Result<bool> {
    let (since, mut was_served) = (Instant::now(), false);
    while since.elapsed() < patience {
        let served = generation(client, namespace, machine).await?;
        if served >= deployment.metadata.generation {
            tokio::time::sleep(SERVED).await;
            return Ok(true);
        }
        // With the change it can be served no more: something stands in the way.
        if was_served && served.is_none() {
            return Ok(false);
        }
        was_served |= served.is_some();
        tokio::time::sleep(AGAIN).await;
    }
    Ok(false)
}
