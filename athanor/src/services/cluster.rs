//! `start operator` and `start agent`: the two halves of [`super::start`], each against an API that is somebody else's.

use std::path::PathBuf;

use athanor_boot_agent::Options;
use clap::Args;
use kube::Client;
use tokio::sync::{oneshot, watch};

use super::{hostname, wait_for_signal};
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
    /// Where verdicts about other DHCP servers are kept
    #[arg(long, value_name = "DIR", default_value = "/run/athanor")]
    data_dir: PathBuf,
    /// A folder that ISOs may be read from
    #[arg(long = "media-dir", value_name = "DIR")]
    media_dirs: Vec<PathBuf>,
    /// A folder with loaders; the first that has a file wins
    #[arg(long = "loader-dir", value_name = "DIR")]
    loader_dirs: Vec<PathBuf>,
    /// The port of boot HTTP
    #[arg(long, default_value_t = config::default_http_port())]
    http_port: u16,
}

/// Runs the controllers until SIGINT or SIGTERM.
///
/// # Errors
/// The API cannot be listed.
pub(crate) async fn operator(client: Client) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    // Two pods of one name on one node, one after the other, are two.
    let me = format!("{}_{}", hostname(), uuid::Uuid::new_v4().simple());
    let mut operator = tokio::spawn(athanor_operator::lead(client, me, until(stopped)));
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
        data_dir: args.data_dir,
        media_dirs: args.media_dirs,
        loader_dirs,
        http_port: args.http_port,
        takes_over: true,
    };
    let (stop, stopped) = watch::channel(false);
    let (ready, serving) = oneshot::channel();
    let mut agent = tokio::spawn(athanor_boot_agent::run(options, client, until(stopped), ready));
    tokio::select! {
        ended = &mut agent => return Ok(ended??),
        _ = serving => tracing::info!("serving"),
    }
    tokio::select! {
        ended = &mut agent => return Ok(ended??),
        signal = wait_for_signal() => signal?,
    }
    tracing::info!("stopping");
    let _ = stop.send(true);
    Ok(agent.await??)
}

/// Ends when `stop` is sent.
pub(super) async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}
