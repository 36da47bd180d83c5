//! `simulate`: what a client would be answered now, without a network.

use std::{fs, io::Read as _, path::PathBuf};

use anyhow::{Context as _, bail};
use athanor_boot_agent::simulate::{Scene, Simulation};
use clap::{ArgGroup, Args};

use super::{Global, connect, out};
use crate::config;

/// The largest capture that is read: some hundred thousand DHCP packets.
const MAX_PCAP: u64 = 64 << 20;

/// Arguments of `simulate`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("question").required(true).multiple(true).args(["discover", "pcap"])))]
pub(crate) struct SimulateArgs {
    /// A question, described: mac=52:54:00:aa:00:01,arch=uefi [keys: mac, client, arch, type, relay, ip, uuid]
    #[arg(long, value_name = "KEY=VALUE,…")]
    discover: Vec<String>,
    /// Every question in a capture, as tcpdump -w writes it
    #[arg(long, value_name = "FILE")]
    pcap: Vec<PathBuf>,
    /// The Subnet in which it is asked [default: where the machine has its address, else the only one]
    #[arg(long, value_name = "NAME")]
    subnet: Option<String>,
    /// A folder with loaders, as the server has it [repeatable; default: those of this machine]
    #[arg(long = "loader-dir", value_name = "DIR")]
    loader_dirs: Vec<PathBuf>,
    /// The port of boot HTTP
    #[arg(long, value_name = "PORT", default_value_t = config::default_http_port())]
    http_port: u16,
}

/// `simulate`.
///
/// # Errors
/// A description or a file cannot be understood, or the API says no.
pub(crate) async fn simulate(global: &Global, args: SimulateArgs) -> anyhow::Result<()> {
    let mut questions = Vec::new();
    for text in &args.discover {
        questions.push(athanor_boot_agent::describe(text).context("--discover")?);
    }
    for file in &args.pcap {
        let mut bytes = Vec::new();
        let opened = fs::File::open(file).with_context(|| file.display().to_string())?;
        opened.take(MAX_PCAP + 1).read_to_end(&mut bytes).with_context(|| file.display().to_string())?;
        if bytes.len() as u64 > MAX_PCAP {
            bail!(
                "{}: it has more than {} MiB; cut it: tcpdump -r FILE -w SMALLER 'port 67 or port 68 or port 4011'",
                file.display(),
                MAX_PCAP >> 20
            );
        }
        questions.extend(athanor_boot_agent::questions(&bytes).with_context(|| file.display().to_string())?);
    }
    if questions.is_empty() {
        bail!("no DHCP question is in it");
    }
    let loader_dirs = if args.loader_dirs.is_empty() { config::default_loader_dirs() } else { args.loader_dirs };
    let scene = Scene { subnet: args.subnet, loader_dirs, http_port: args.http_port };
    let simulation = Simulation::prepare(&connect::client(global).await?, scene).await?;
    let answers: Vec<String> = questions.iter().map(|question| simulation.ask(question)).collect::<Result<_, _>>()?;
    out(&answers.join("\n"));
    Ok(())
}
