//! `accept` and `delete`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use athanor_crds::{Deployment, Machine};
use athanor_plan::identity;
use athanor_wire::MacAddr;
use clap::{Args, builder::NonEmptyStringValueParser};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch},
};
use serde_json::json;

use super::{Global, connect, get, kinds::Kind, out, wait};

/// Arguments of `accept`.
#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// Machines, by name or MAC address
    #[arg(required_unless_present = "all", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    /// Every machine that waits
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Of these only those of a vendor, as their firmware tells it
    #[arg(long, requires = "all")]
    vendor: Option<String>,
    /// Of these only those whose serial number begins so
    #[arg(long, requires = "all", value_name = "PREFIX")]
    serial_prefix: Option<String>,
}

impl AcceptArgs {
    /// Whether `--all` means a machine.
    fn means(&self, machine: &Machine) -> bool {
        let hardware = machine.status.as_ref().and_then(|status| status.hardware.as_ref());
        let vendor = hardware.and_then(|hardware| hardware.vendor.as_deref()).unwrap_or_default();
        let serial = hardware.and_then(|hardware| hardware.serial.as_deref()).unwrap_or_default();
        self.vendor.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(vendor))
            && self.serial_prefix.as_ref().is_none_or(|prefix| serial.starts_with(prefix.as_str()))
    }
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// What: machine, deployment, boot, subnet; or KIND/NAME
    kind: String,
    /// Which; a machine also by a MAC address
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    /// The deployment on the machine with this MAC address
    #[arg(long, alias = "MAC", conflicts_with = "names")]
    mac: Option<MacAddr>,
    /// All of this kind (in the namespace, where it has one)
    #[arg(long, conflicts_with_all = ["names", "mac"])]
    all: bool,
    /// Wait until it is gone and its machine is free
    #[arg(long)]
    wait: bool,
    /// How long --wait waits
    #[arg(long, default_value = "30m", value_parser = wait::duration)]
    timeout: Duration,
}

/// `accept`.
///
/// # Errors
/// A machine does not exist, or the API says no.
pub(crate) async fn accept(global: &Global, args: AcceptArgs) -> anyhow::Result<()> {
    let api: Api<Machine> = Api::namespaced(connect::client(global).await?, &global.namespace);
    let machines = api.list(&ListParams::default()).await?.items;
    let chosen: Vec<&Machine> = if args.all {
        machines.iter().filter(|machine| !machine.spec.accepted && args.means(machine)).collect()
    } else {
        args.names.iter().map(|name| named(&machines, name)).collect::<anyhow::Result<_>>()?
    };
    if chosen.is_empty() {
        let waiting = machines.iter().filter(|machine| !machine.spec.accepted).count();
        if waiting > 0 {
            anyhow::bail!("none of the {waiting} machines that wait fits; athanorctl get machines -o wide tells what they are");
        }
        out("no machine waits to be accepted\n");
    }
    // As they are when they are accepted, one after the other.
    let mut after = machines.clone();
    for machine in chosen {
        let name = machine.name_any();
        if machine.spec.accepted {
            out(&format!("machine/{name} is accepted already\n"));
            continue;
        }
        api.patch(&name, &connect::patch_params(), &Patch::Merge(json!({ "spec": { "accepted": true } }))).await?;
        after.iter_mut().filter(|other| other.metadata.uid == machine.metadata.uid).for_each(|machine| machine.spec.accepted = true);
        let but = clash(machine, &after).unwrap_or_default();
        out(&format!("machine/{name} accepted; nothing is written by that, and disks that hold data wait for your word{but}\n"));
    }
    Ok(())
}

/// The name of the machine that is called so, or has that MAC address.
pub(crate) async fn machine_called(client: &Client, global: &Global, name: &str) -> anyhow::Result<String> {
    let machines = Api::<Machine>::namespaced(client.clone(), &global.namespace).list(&ListParams::default()).await?.items;
    Ok(named(&machines, name)?.name_any())
}

/// The machine that owns a MAC address, whoever else has it written down.
fn with_mac(machines: &[Machine], mac: MacAddr) -> Option<&Machine> {
    identity::owner_of(mac, machines)
}

/// The other machine that owns one of its MAC addresses, in words.
fn clash(machine: &Machine, machines: &[Machine]) -> Option<String> {
    let owners = machine.spec.interfaces.iter().filter_map(|interface| Some((interface.mac, with_mac(machines, interface.mac)?)));
    let mut others = owners.filter(|(_, owner)| owner.metadata.uid != machine.metadata.uid);
    others.next().map(|(mac, owner)| format!("; but {mac} is machine {}'s: remove the interface from one of the two", owner.name_any()))
}

/// A machine by its name or by a MAC address in any spelling.
pub(crate) fn named<'a>(machines: &'a [Machine], name: &str) -> anyhow::Result<&'a Machine> {
    machines
        .iter()
        .find(|machine| machine.metadata.name.as_deref() == Some(name))
        .or_else(|| with_mac(machines, name.parse().ok()?))
        .with_context(|| {
            let names: Vec<String> = machines.iter().map(ResourceExt::name_any).collect();
            format!("there is no machine {name:?}{}", athanor_plan::nearest::hint(name, names.iter().map(String::as_str)))
        })
}

/// `delete`.
///
/// # Errors
/// One does not exist, or the API says no; the others are deleted.
pub(crate) async fn delete(global: &Global, args: DeleteArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let (mut failed, mut released) = (Vec::new(), Vec::new());
    for (kind, name) in meant(&client, global, &args).await? {
        match delete_one(&client, global, &kind, &name).await {
            Ok(held) => released.extend(held),
            Err(error) => failed.push(error),
        }
    }
    if args.wait {
        for (deployment, machine) in released {
            let freed = wait::follow_release(&client, global, &deployment, &machine, args.timeout).await;
            failed.extend(freed.err());
        }
    }
    match failed.len() {
        0 | 1 => failed.pop().map_or(Ok(()), Err),
        _ => bail!(failed.iter().map(super::message).collect::<Vec<_>>().join("\n")),
    }
}

/// What is to be deleted; everything is known before the first goes.
async fn meant(client: &Client, global: &Global, args: &DeleteArgs) -> anyhow::Result<Vec<(Kind, String)>> {
    let mut all = Vec::new();
    for (kind, names) in Kind::with_names(&args.kind, &args.names)? {
        if !names.is_empty() && (args.mac.is_some() || args.all) {
            bail!("either names, --mac or --all");
        }
        let names = match args.mac {
            Some(mac) if kind.kind == "Deployment" => vec![on_mac(client, global, mac).await?],
            Some(_) => bail!("--mac names a deployment; give the name of the {}", kind.singular),
            None if args.all => {
                get::api(client, global, &kind).list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect()
            }
            None if names.is_empty() => return Err(kind.nameless()),
            None => {
                let mut resolved = Vec::new();
                for name in names {
                    resolved.push(get::resolve(client, global, &kind, &name).await?);
                }
                resolved
            }
        };
        if names.is_empty() {
            out(&format!("no {} to delete\n", kind.plural));
        }
        all.extend(names.into_iter().map(|name| (kind, name)));
    }
    Ok(all)
}

/// Deletes one object; returns the Deployment and the Machine that is released for it.
async fn delete_one(client: &Client, global: &Global, kind: &Kind, name: &str) -> anyhow::Result<Option<(Deployment, String)>> {
    let deployment = if kind.kind == "Deployment" {
        Api::<Deployment>::namespaced(client.clone(), &global.namespace).get_opt(name).await?
    } else {
        None
    };
    let machine = deployment.as_ref().and_then(|deployment| deployment.status.as_ref()?.machine.clone());
    let runs = kind.kind == "Machine" && {
        let going = Api::<Machine>::namespaced(client.clone(), &global.namespace).get_opt(name).await;
        // One that cannot be read can be deleted.
        going.ok().flatten().is_some_and(|machine| identity::has_begun(&machine))
    };
    let held = get::api(client, global, kind).delete(name, &DeleteParams::default()).await?.is_left();
    let what = match (&machine, held) {
        _ if runs => "is being deleted; what runs on it runs on, and was not wiped (delete its deployment first to have that)",
        (_, false) => "deleted",
        (Some(_), true) => "is being deleted: its machine is released first (--wait waits for that)",
        (None, true) => "is being deleted",
    };
    out(&format!("{}/{name} {what}\n", kind.singular));
    Ok(deployment.zip(machine))
}

/// The one Deployment that is on the machine with a MAC address, or names it.
pub(crate) async fn on_mac(client: &Client, global: &Global, mac: MacAddr) -> anyhow::Result<String> {
    let machines = Api::<Machine>::namespaced(client.clone(), &global.namespace).list(&ListParams::default()).await?.items;
    let all = Api::<Deployment>::namespaced(client.clone(), &global.namespace).list(&ListParams::default()).await?.items;
    let machine = with_mac(&machines, mac).map(ResourceExt::name_any);
    let on = |deployment: &&Deployment| {
        let has = deployment.status.as_ref().and_then(|status| status.machine.as_ref());
        machine.is_some() && has == machine.as_ref()
    };
    let wants = |deployment: &&Deployment| {
        let wants = &deployment.spec.machine;
        wants.mac == Some(mac) || (machine.is_some() && wants.name == machine)
    };
    // Whoever has the machine is meant; where nobody has, whoever waits for it.
    let has: Vec<&Deployment> = all.iter().filter(on).collect();
    let meant = if has.is_empty() { all.iter().filter(wants).collect() } else { has };
    match meant.as_slice() {
        [one] => Ok(one.name_any()),
        [] => bail!("no deployment is on {mac}; athanorctl get deployments"),
        several => {
            let names: Vec<String> = several.iter().map(|deployment| deployment.name_any()).collect();
            bail!("several deployments want the machine with {mac}: {}; give the name of one", names.join(", "))
        }
    }
}
