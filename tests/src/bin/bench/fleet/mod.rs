//! What a fleet costs on a real control plane: operator and agent beside it, and so many Machines with a Deployment each.
//!
//! ```text
//!   this process     the rack, the services, their memory
//!     ├── api        in the host's namespace: creates, changes, accepts, and looks when it is served
//!     └── firmware   on another host of the bridge: newcomers that ask DHCP and fetch their script
//! ```

pub(crate) mod api;
pub(crate) mod firmware;

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use athanor_crds::{rbac, rights::Role};
use athanor_tests::{Rack, Service, rack::Process};

use super::{
    figure::{Aim, Figure},
    process,
};

/// The word with which the bench starts itself as one of the others.
pub(crate) const API: &str = "fleet-api";
/// Likewise.
pub(crate) const FIRMWARE: &str = "fleet-firmware";
/// The services' address in the fleet's network; the rack's own network is too small.
pub(crate) const SERVER: &str = "10.64.0.1";
/// How many changes are followed until they are served.
const CHANGES: usize = 200;
/// How many newcomers enrol: a minute's worth of the aim.
const NEWCOMERS: usize = 1500;
/// An agent that was started anew serves within this time, or something is wrong.
const RESTART: Duration = Duration::from_secs(60);
/// Operator and agent, in the order in which the services start them.
const OPERATOR: usize = 0;
const AGENT: usize = 1;

pub(crate) fn run(machines: usize) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut measure = |what: &str, value, aim, unit| figures.push(Figure::own(what, value, aim, unit));
    let rack = Rack::up()?;
    rack.ip(&format!("addr add {SERVER}/15 dev br0"))?;
    let mut service = Service::start_on(&rack, |config| config, true)?;
    let many = machines as f64;

    let filled = said(inside(&rack, &service, &["fill", &machines.to_string()])?)?;
    measure("create all, by 32 at once", number(&filled, "created")?, Aim::None, "s");
    measure("from the first create to the last plan", number(&filled, "planned")?, Aim::None, "s");
    let calls = service.plane()?.calls(&rbac::name(Role::Operator))? as f64;
    measure("API calls of the operator per machine", calls / many, Aim::None, "");
    let memory = |service: &Service<'_>, index: usize| -> anyhow::Result<f64> {
        process::resident_mb(*service.pids().get(index).context("a service ended")?)
    };
    measure("resident, operator", memory(&service, OPERATOR)?, Aim::Below(64.0 * 1.048_576 + many * 16.384e-3), "MB");
    measure("resident, agent", memory(&service, AGENT)?, Aim::Below(48.0 * 1.048_576 + many * 8.192e-3), "MB");

    let changed = said(inside(&rack, &service, &["change", &machines.to_string(), &CHANGES.to_string()])?)?;
    measure("from a changed Deployment to what is served, p50", number(&changed, "p50")?, Aim::None, "s");
    measure("from a changed Deployment to what is served, p99", number(&changed, "p99")?, Aim::Below(1.0), "s");
    let restarted = service.restart_one(AGENT, "serving interface=", RESTART)?;
    measure("agent started anew until it serves", restarted.as_secs_f64(), Aim::Below(10.0), "s");
    measure("resident, agent started anew", memory(&service, AGENT)?, Aim::Below(48.0 * 1.048_576 + many * 8.192e-3), "MB");

    let host = rack.neighbour("10.64.0.9/15")?;
    let accepting = Process(inside(&rack, &service, &["accept", &NEWCOMERS.to_string()])?.stdout(Stdio::piped()).spawn()?);
    let mut firmware = host.command(std::env::current_exe()?);
    let _firmware = Process(firmware.args([FIRMWARE, &NEWCOMERS.to_string()]).spawn()?);
    let enrolled = finish(accepting)?;
    let seconds = number(&enrolled, "enrolled")?;
    measure("newcomers a minute, DISCOVER to Available with inventory", NEWCOMERS as f64 / seconds * 60.0, Aim::AtLeast(1500.0), "");
    measure(
        "resident, operator, at the end",
        memory(&service, OPERATOR)?,
        Aim::Below(64.0 * 1.048_576 + (many + 1500.0) * 16.384e-3),
        "MB",
    );
    Ok(figures)
}

/// The bench as the API's client, in the namespace in which the API listens.
fn inside(rack: &Rack, service: &Service<'_>, args: &[&str]) -> anyhow::Result<Command> {
    let mut command = rack.command(std::env::current_exe()?);
    command.env("KUBECONFIG", service.kubeconfig()).arg(API).args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

fn said(mut command: Command) -> anyhow::Result<BTreeMap<String, f64>> {
    finish(Process(command.spawn()?))
}

/// Lines of a word and a number.
fn finish(mut process: Process) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut process.0.stdout.take().context("no output")?, &mut text)?;
    let status = process.0.wait()?;
    anyhow::ensure!(status.success(), "a part of the bench ended with {status}");
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(word, value)| Some((word.to_owned(), value.parse().ok()?)))
        .collect())
}

fn number(said: &BTreeMap<String, f64>, word: &str) -> anyhow::Result<f64> {
    said.get(word).copied().with_context(|| format!("nothing was said about {word}"))
}
