//! `start operator` and `start agent`: the two halves of [`super::start`], each against an API that is somebody else's.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use athanor_boot_agent::Options;
use athanor_operator::AgentSettings;
use clap::Args;
use kube::Client;
use tokio::sync::{oneshot, watch};

use prometheus_client::registry::Registry;

use super::{
    health::{self, HealthArgs},
    hostname, wait_for_signal,
};
use crate::config;

/// Arguments of `start agent`.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The name of this node [default: the host's name]
    #[arg(long, env = "ATHANOR_NODE")]
    node: Option<String>,
    /// The id of the installation: agents that share one do not take each other for foreign servers
    #[arg(long, env = "ATHANOR_INSTALLATION")]
    installation: String,
    /// The Deployment that installed it, as NAME/UID: what the agent makes for itself goes with that
    #[arg(long, env = "ATHANOR_INSTALLED_BY", value_parser = name_and_uid, hide = true)]
    installed_by: Option<(String, String)>,
    /// Where verdicts about other DHCP servers are kept
    #[arg(long, value_name = "DIR", default_value = "/run/athanor")]
    data_dir: PathBuf,
    /// A folder that ISOs may be read from
    #[arg(long = "media-dir", value_name = "DIR")]
    media_dirs: Vec<PathBuf>,
    /// A folder with loaders; the first that has a file wins
    #[arg(long = "loader-dir", value_name = "DIR")]
    loader_dirs: Vec<PathBuf>,
    /// The folder with the machine-agent's ramdisk
    #[arg(long, value_name = "DIR", default_value = "/usr/share/athanor/ramdisk")]
    ramdisk_dir: PathBuf,
    /// The port of boot HTTP
    #[arg(long, default_value_t = config::default_http_port())]
    http_port: u16,
    #[command(flatten)]
    health: HealthArgs,
}

fn name_and_uid(text: &str) -> Result<(String, String), &'static str> {
    text.split_once('/').map(|(name, uid)| (name.to_owned(), uid.to_owned())).ok_or("write NAME/UID")
}

/// Arguments of `start operator`.
#[derive(Debug, Args)]
pub(crate) struct OperatorArgs {
    /// How the agents run, as YAML; without it somebody else runs them
    #[arg(long, value_name = "FILE")]
    agent_settings: Option<PathBuf>,
    #[command(flatten)]
    health: HealthArgs,
}

/// Runs the controllers until SIGINT or SIGTERM.
///
/// # Errors
/// The API cannot be listed.
pub(crate) async fn operator(client: Client, args: OperatorArgs) -> anyhow::Result<()> {
    let settings = args.agent_settings.as_deref().map(read_settings).transpose()?;
    let (stop, stopped) = watch::channel(false);
    let (metrics, mut registry) = (athanor_operator::Metrics::default(), Registry::default());
    metrics.register(&mut registry);
    // One that waits for its turn is as ready as one that leads.
    let (_ready, told) = watch::channel(true);
    health::tell(&args.health, registry, told)?;
    // Two pods of one name on one node, one after the other, are two.
    let me = format!("{}_{}", hostname(), uuid::Uuid::new_v4().simple());
    let mut operator = tokio::spawn(athanor_operator::lead(client, me, settings, metrics, until(stopped)));
    tokio::select! {
        ended = &mut operator => return Ok(ended??),
        signal = wait_for_signal() => signal?,
    }
    tracing::info!("stopping");
    let _ = stop.send(true);
    Ok(operator.await??)
}

/// Serves the boot protocols on this node until SIGINT or SIGTERM.
///
/// # Errors
/// A port or a folder cannot be had, or the API cannot be listed.
pub(crate) async fn agent(client: Client, args: AgentArgs) -> anyhow::Result<()> {
    super::access::keep_private();
    super::access::allow_many_files();
    super::access::make_folder(&args.data_dir)?;
    let loader_dirs = if args.loader_dirs.is_empty() { config::default_loader_dirs() } else { args.loader_dirs };
    let options = Options {
        node: args.node.unwrap_or_else(hostname),
        installation: args.installation,
        installed_by: args.installed_by,
        data_dir: args.data_dir,
        media_dirs: args.media_dirs,
        loader_dirs,
        ramdisk_dir: Some(args.ramdisk_dir),
        http_port: args.http_port,
        in_cluster: true,
    };
    let (stop, stopped) = watch::channel(false);
    let (ready, serving) = oneshot::channel();
    let (metrics, mut registry) = (athanor_boot_agent::Metrics::default(), Registry::default());
    metrics.register(&mut registry);
    let (tell_ready, told) = watch::channel(false);
    health::tell(&args.health, registry, told)?;
    let mut agent = tokio::spawn(athanor_boot_agent::run(options, client, metrics, until(stopped), ready));
    tokio::select! {
        ended = &mut agent => return Ok(ended??),
        Ok(()) = serving => tracing::info!("serving"),
    }
    tell_ready.send_replace(true);
    tokio::select! {
        ended = &mut agent => return Ok(ended??),
        signal = wait_for_signal() => signal?,
    }
    tracing::info!("stopping");
    tell_ready.send_replace(false);
    let _ = stop.send(true);
    Ok(agent.await??)
}

/// The settings in a file; a mistake is told with its place.
fn read_settings(path: &Path) -> anyhow::Result<AgentSettings> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
}

/// Ends when `stop` is sent.
pub(super) async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_waits_longer_than_an_agent_drains() {
        let settings: AgentSettings = serde_json::from_str(r#"{"image": "a"}"#).unwrap();
        let pod = athanor_operator::agents::daemonset(&settings, "lab", None).spec.template.spec.unwrap();
        let grace = u64::try_from(pod.termination_grace_period_seconds.unwrap()).unwrap();
        assert!(grace > athanor_boot_agent::DRAIN.as_secs(), "{grace}");
    }
}
