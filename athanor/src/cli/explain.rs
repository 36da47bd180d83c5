//! `explain`: what a machine asked, which row matched, what it was answered, and why. It reads BootReports only, so it is the same in a
//! cluster.

use std::time::{Duration, Instant};

use athanor_crds::{BootReport, Machine, bootreport::BootEvent, conditions, conditions::types, names};
use athanor_wire::MacAddr;
use clap::{Args, builder::NonEmptyStringValueParser};
use jiff::{Timestamp, tz::TimeZone};
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use super::{Global, connect, lifecycle, out};

/// How long an agent may keep what it saw to itself: it waits five seconds whether a newcomer becomes a Machine.
const ON_ITS_WAY: Duration = Duration::from_secs(8);
/// How soon a report that is not there is looked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A MAC address in any common spelling, or the name of a machine
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    machine: String,
    /// How many events, at the most
    #[arg(long, default_value_t = 64)]
    events: usize,
}

/// `explain`.
///
/// # Errors
/// Nothing was ever heard of it, or the API says no.
pub(crate) async fn explain(global: &Global, args: ExplainArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let mac: Option<MacAddr> = args.machine.parse().ok();
    let since = Instant::now();
    loop {
        let (text, reported) = look(&client, &args, mac).await?;
        if reported || since.elapsed() >= ON_ITS_WAY {
            out(&text);
            return Ok(());
        }
        // Agents gather what they saw before they write it, and a newcomer becomes a Machine meanwhile.
        tokio::time::sleep(AGAIN).await;
    }
}

/// What is known now, and whether an agent told anything.
async fn look(client: &Client, args: &ExplainArgs, mac: Option<MacAddr>) -> anyhow::Result<(String, bool)> {
    let machines = Api::<Machine>::all(client.clone()).list(&ListParams::default()).await?.items;
    match (lifecycle::named(&machines, &args.machine), mac) {
        (Ok(machine), _) => of_machine(client, machine, args.events).await,
        (Err(_), Some(mac)) => of_stranger(client, mac, args.events).await,
        (Err(error), None) => Err(error),
    }
}

async fn of_machine(client: &Client, machine: &Machine, events: usize) -> anyhow::Result<(String, bool)> {
    let namespace = machine.namespace().unwrap_or_default();
    let mac = machine.spec.boot_interface().map(|interface| interface.mac.to_string());
    let status = machine.status.clone().unwrap_or_default();
    let state = status.state.map_or_else(|| "not looked at yet".to_owned(), |state| state.to_string());
    let ready = conditions::find(&status.conditions, types::READY);
    let why = ready.map(|ready| format!(" ({}): {}", ready.reason, ready.message)).unwrap_or_default();
    let mut text = format!("{} is machine {}: {state}{why}.\n\n", mac.unwrap_or_else(|| "a BMC".to_owned()), machine.name_any());
    let report = Api::<BootReport>::namespaced(client.clone(), &namespace).get_opt(&machine.name_any()).await?;
    match &report {
        Some(report) => text.push_str(&timeline(report, events)),
        None => text.push_str("It has asked nothing yet. Switch it on; the network must come first in its boot order.\n"),
    }
    for problem in report.iter().flat_map(|report| &report.spec.nodes).flat_map(|node| &node.problems) {
        text.push_str(&format!("\nproblem: {problem}\n"));
    }
    if !machine.spec.accepted {
        text.push_str(&format!("\nTo let it go on: athanorctl accept {}\n", machine.name_any()));
    }
    Ok((text, report.is_some()))
}

async fn of_stranger(client: &Client, mac: MacAddr, events: usize) -> anyhow::Result<(String, bool)> {
    let report = Api::<BootReport>::namespaced(client.clone(), names::SYSTEM_NAMESPACE).get_opt(&names::stranger_report(mac)).await?;
    Ok(match report {
        Some(report) => (format!("{mac} is no machine.\n\n{}", timeline(&report, events)), true),
        None => (
            format!(
                "{mac} has asked nothing that reached an agent. Is it on a segment that is served (athanorctl get subnets), and does it boot from the network?\n"
            ),
            false,
        ),
    })
}

/// The newest events of a report, oldest first, as a timeline.
pub(crate) fn timeline(report: &BootReport, most: usize) -> String {
    let many = report.spec.nodes.len() > 1;
    let mut lines: Vec<(Timestamp, Option<&str>, String)> = Vec::new();
    for node in &report.spec.nodes {
        let at = if many { format!("  on {}", node.node) } else { String::new() };
        lines.extend(node.events.iter().map(|event| (event.time.0, event.boot.as_deref(), line(event, &at))));
        let started = node.started_at.as_ref().map(|time| time.0);
        if let Some(started) = started.filter(|started| node.events.first().is_some_and(|event| event.time.0 < *started)) {
            let told = format!("{}  -     the server was started anew{at}; what it saw last before that may be missing\n", clock(started));
            lines.push((started, None, told));
        }
    }
    lines.sort_by_key(|(time, ..)| *time);
    let newest = lines.len().saturating_sub(most);
    let mut boot = None;
    let mut text = String::new();
    for (_, word, line) in lines.iter().skip(newest) {
        if let Some(word) = word.filter(|word| boot.replace(*word) != Some(*word)) {
            text.push_str(&format!("boot {word}\n"));
        }
        text.push_str(line);
    }
    text
}

fn line(event: &BootEvent, at: &str) -> String {
    let row = event.row.as_ref().map(|row| format!("  {row}")).unwrap_or_default();
    let again = event.again.map(|count| if count == 1 { "  and once more".to_owned() } else { format!("  and {count} times again") });
    let again = again.unwrap_or_default();
    format!("{}  {:<5} {}\n              → {}{row}{at}{again}\n", clock(event.time.0), event.protocol, event.asked, event.answer)
}

fn clock(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%H:%M:%S.%3f").to_string()
}
