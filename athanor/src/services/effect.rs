//! When a write is in effect: a Deployment that changed is acknowledged when the boot plane serves the change.

use std::{sync::Arc, time::Duration};

use athanor_apiserver::{Changed, Effect};
use athanor_crds::Deployment;
use kube::{Api, Client};

use crate::planned;

/// How long is waited. It takes milliseconds; who asks must not hang where the change cannot be served, as with an agent that is at work.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits after changes of Deployments, as the operator sees them.
pub(super) fn of_deployments(operator: Client) -> Effect {
    Arc::new(move |changed| {
        let (client, changed) = (operator.clone(), changed.clone());
        Box::pin(async move {
            if let Some(namespace) = namespace_of(&changed) {
                // The change was taken, whatever comes of looking at it.
                let _ = wait(&client, namespace, &changed.name).await;
            }
        })
    })
}

/// The namespace of a Deployment that was changed, and not its status alone.
fn namespace_of(changed: &Changed) -> Option<&str> {
    changed.namespace.as_deref().filter(|_| changed.kind == "Deployment" && !changed.status)
}

async fn wait(client: &Client, namespace: &str, name: &str) -> kube::Result<()> {
    let deployment = Api::<Deployment>::namespaced(client.clone(), namespace).get(name).await?;
    let Some(machine) = deployment.status.as_ref().and_then(|status| status.machine.as_deref()) else { return Ok(()) };
    // Who is served nothing of it yet is not served the old either.
    if planned::generation(client, namespace, machine).await?.is_some() {
        planned::wait(client, namespace, machine, &deployment, PATIENCE).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deployment_itself_is_waited_for() {
        let of = |kind: &str, status| {
            let (kind, namespace, name) = (kind.to_owned(), Some("lab".to_owned()), "web-1".to_owned());
            namespace_of(&Changed { kind, namespace, name, status }).map(str::to_owned)
        };
        assert_eq!(of("Deployment", false).as_deref(), Some("lab"));
        assert_eq!((of("Deployment", true), of("Machine", false)), (None, None));
    }
}
