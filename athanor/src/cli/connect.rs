//! How the CLI reaches an API: any kubeconfig, or the one of this machine's own services.

use std::path::Path;

use anyhow::{Context as _, bail};
use kube::{
    Client, Config,
    api::PatchParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::Global;
use crate::services;

/// A client for what `--kubeconfig`, `$KUBECONFIG` or the data folder names.
///
/// # Errors
/// There is no kubeconfig, or it cannot be read.
pub(crate) async fn client(global: &Global) -> anyhow::Result<Client> {
    let own = services::admin_kubeconfig(&services::data_dir_of(None)?);
    // $KUBECONFIG may be a list, or empty, which is none.
    let named = Kubeconfig::from_env().context("KUBECONFIG cannot be used; name a kubeconfig in it, or unset it")?;
    let kubeconfig = match (&global.kubeconfig, own) {
        (None, _) if named.is_some() => named.unwrap_or_default(),
        (Some(path), _) => Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}: cannot be read", path.display()))?,
        (None, Some(path)) => Kubeconfig::read_from(&path)
            .with_context(|| format!("{}: cannot be read; run as the user of the services, or give --kubeconfig", path.display()))?,
        (None, None) => match Kubeconfig::read() {
            Ok(found) => found,
            // In a pod its service account will do.
            Err(_) if let Ok(config) = Config::incluster() => return Ok(Client::try_from(config)?),
            Err(_) => bail!("no API is known: start one with `athanor start services --config FILE`, or give --kubeconfig"),
        },
    };
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.context("the kubeconfig cannot be used")?;
    Ok(Client::try_from(config)?)
}

/// A client for controllers: what `--kubeconfig` or `$KUBECONFIG` names, else the service account of the pod that this runs in.
///
/// # Errors
/// There is neither.
pub(crate) async fn cluster(global: &Global) -> anyhow::Result<Client> {
    match &global.kubeconfig {
        Some(_) => client(global).await,
        // That is $KUBECONFIG, too.
        None => Client::try_default().await.context("no Kubernetes API is known: run in a pod, or give --kubeconfig"),
    }
}

/// Who writes, in `managedFields`.
pub(crate) const MANAGER: &str = "athanorctl";

/// How a merge patch is sent.
pub(crate) fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// The kubeconfig of this machine's services.
///
/// # Errors
/// The services never ran here.
pub(crate) fn kubeconfig(config: Option<&Path>) -> anyhow::Result<String> {
    let data = services::data_dir_of(config)?;
    let Some(path) = services::admin_kubeconfig(&data) else {
        bail!(
            "{} has no kubeconfig of context {:?}: start the services once, or name their configuration with --config",
            data.display(),
            services::context_name()
        );
    };
    std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read; run as the user of the services", path.display()))
}

/// A connection that failed, in a sentence that says what to do.
pub(crate) fn explain(error: &kube::Error) -> String {
    let text = error.to_string();
    let mut source = std::error::Error::source(error);
    let mut inner = text.clone();
    while let Some(cause) = source {
        inner = cause.to_string();
        source = cause.source();
    }
    match error {
        kube::Error::HyperError(_) | kube::Error::Service(_) if inner.contains("refused") => {
            "the API does not answer (connection refused); are the services running? athanor start services --config FILE".to_owned()
        }
        kube::Error::HyperError(_) | kube::Error::Service(_) => format!("the API cannot be reached: {inner}"),
        _ => text,
    }
}
