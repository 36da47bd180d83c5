//! The Subnet controller: who serves it, whether anything stands in the way, how many addresses are in use.

use std::{sync::Arc, time::Duration};

use athanor_crds::{
    Address, Subnet, SubnetSpec,
    conditions::{self, reasons, types},
    names,
    subnet::{Accept, Authority, Mode, SubnetServer, SubnetStatus},
};
use athanor_wire::agent::{self, Served};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Namespace},
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::Timestamp,
};
use kube::{Resource as _, ResourceExt as _};

use crate::{
    Clock, Cluster, PortError, alive,
    status::{self, Seen},
};

/// How soon a namespace that may come or go is looked for again: nobody watches namespaces for the few that are named.
const NAMESPACE_AGAIN: Duration = Duration::from_secs(30);
/// How many addresses or agents a condition names.
const MOST_TOLD: usize = 8;

/// Writes a Subnet's status. Returns when to look again, if nothing happens before.
///
/// # Errors
/// A call failed; the caller tries again later.
pub async fn reconcile(name: &str, cluster: &impl Cluster, clock: &impl Clock) -> Result<Option<Duration>, PortError> {
    let others = cluster.list::<Subnet>(None).await?;
    let Some(subnet) = others.iter().find(|subnet| subnet.name_any() == name) else { return Ok(None) };
    let leases = cluster.list::<Lease>(Some(names::SYSTEM_NAMESPACE)).await?;
    let addresses = cluster.list::<Address>(None).await?;
    let inside: Vec<&Address> = addresses.iter().map(AsRef::as_ref).filter(|address| address.spec.subnet == name).collect();
    let now = clock.now();
    let servers = servers(name, &leases, now);
    let old = subnet.status.clone().unwrap_or_default();
    let mut new = SubnetStatus {
        observed_generation: subnet.meta().generation,
        used: u32::try_from(inside.len()).ok(),
        servers,
        conditions: old.conditions.clone(),
    };
    let place = &subnet.spec.newcomers.namespace;
    // The default one cannot go.
    let may_lack = subnet.spec.mode != Mode::Off && place != names::DEFAULT_NAMESPACE;
    let homeless = may_lack && cluster.get::<Namespace>(None, place).await?.is_none();
    judge(subnet, &others, homeless, &mut new, now);
    tell_quarantined(&inside, &mut new.conditions, now);
    tell_accepting(subnet, &mut new.conditions, now);
    tell_lacking(&mut new, now);
    conditions::observe(&mut new.conditions, new.observed_generation);
    let (old, new) = (Seen { status: &old, conditions: &old.conditions }, Seen { status: &new, conditions: &new.conditions });
    status::write(&**subnet, old, new, cluster, clock).await?;
    Ok(may_lack.then_some(NAMESPACE_AGAIN))
}

/// The agents that are alive and serve the Subnet.
fn servers(name: &str, leases: &[Arc<Lease>], now: Timestamp) -> Vec<SubnetServer> {
    let serving = alive::agents(leases, now).flat_map(|agent| {
        let served: Vec<Served> = agent.says(agent::SERVED_ANNOTATION).unwrap_or_default();
        let node = agent.node.to_owned();
        served.into_iter().filter(|served| served.subnet == name).map(move |served| SubnetServer {
            node: node.clone(),
            interface: served.interface,
            address: served.address,
            limited: served.limited,
            lacks: served.lacks,
            other_addresses: served.other_addresses,
            authority: Some(served.authority),
            foreign_server: served.foreign_server,
            ramdisk: served.ramdisk,
            version: served.version,
        })
    });
    let mut servers: Vec<SubnetServer> = serving.collect();
    servers.sort_by(|a, b| (&a.node, &a.interface).cmp(&(&b.node, &b.interface)));
    servers
}

/// Addresses that nobody is given, and why.
fn tell_quarantined(addresses: &[&Address], conditions: &mut Vec<Condition>, now: Timestamp) {
    let mut told: Vec<String> = addresses
        .iter()
        .filter_map(|address| {
            let until = address.spec.expires.as_ref().map(|time| format!(", until {}", time.0.strftime("%H:%M UTC"))).unwrap_or_default();
            Some(format!("{} ({}{until})", address.spec.ip, address.spec.quarantine.as_ref()?))
        })
        .collect();
    told.sort();
    match told.len() {
        0 => conditions.retain(|condition| condition.type_ != types::ADDRESSES_QUARANTINED),
        count => {
            let more = if count > MOST_TOLD { format!(" and {} more", count - MOST_TOLD) } else { String::new() };
            let message = format!("{}{more}; find who uses them", told.into_iter().take(MOST_TOLD).collect::<Vec<_>>().join(", "));
            conditions::set(conditions, now, types::ADDRESSES_QUARANTINED, true, reasons::DECLINED, message);
        }
    }
}

/// Firmware that gets nowhere because an agent has no loader for it.
fn tell_lacking(status: &mut SubnetStatus, now: Timestamp) {
    let told: Vec<String> = status
        .servers
        .iter()
        .filter(|server| !server.lacks.is_empty())
        .map(|server| format!("{} has no loader for {}", server.node, server.lacks.join(", ")))
        .take(MOST_TOLD)
        .collect();
    if told.is_empty() {
        status.conditions.retain(|condition| condition.type_ != types::LOADERS_MISSING);
    } else {
        let message = format!("{}; install the package ipxe there, or fill one of its loaderDirs", told.join("; "));
        conditions::set(&mut status.conditions, now, types::LOADERS_MISSING, true, reasons::NO_LOADER, message);
    }
}

/// Said loudly: whoever can plug a machine in there can have it installed.
fn tell_accepting(subnet: &Subnet, conditions: &mut Vec<Condition>, now: Timestamp) {
    if subnet.spec.newcomers.accept == Accept::Always {
        let message = "every machine that boots from the network here is accepted without anybody's word, and Deployments may claim it; disks that \
                       hold data are kept. Outside of a lab set spec.newcomers.accept: manual";
        conditions::set(conditions, now, types::ACCEPTS_NEWCOMERS, true, reasons::ACCEPT_ALWAYS, message);
    } else {
        conditions.retain(|condition| condition.type_ != types::ACCEPTS_NEWCOMERS);
    }
}

/// Why nobody serves it.
fn unserved(spec: &SubnetSpec) -> String {
    match spec.interfaces.join(", ") {
        named if named.is_empty() => {
            format!("no agent has an interface in {}; give one an address there, or name it in spec.interfaces", spec.cidr)
        }
        named => format!(
            "spec.interfaces: no agent serves on {named}; name an interface that one of them has, with an address, or leave the field out"
        ),
    }
}

/// `homeless`: there is no namespace that newcomers could register in.
fn judge(subnet: &Subnet, others: &[Arc<Subnet>], homeless: bool, status: &mut SubnetStatus, now: Timestamp) {
    let spec = &subnet.spec;
    let overlapping = others.iter().find(|other| other.metadata.name != subnet.metadata.name && spec.overlaps(&other.spec));
    let foreign = status.servers.iter().find_map(|server| server.foreign_server.clone());
    let probing = status.servers.iter().any(|server| server.authority.as_deref() == Some("Probing"));
    let set = |list: &mut Vec<Condition>, type_, value, reason, message: String| conditions::set(list, now, type_, value, reason, message);
    let list = &mut status.conditions;
    match &foreign {
        Some(server) => {
            let message = format!(
                "{server} also answers DHCP: accepted machines are still served, others are not, and nobody is sent a NAK until it is gone (one that a client chose counts for an hour). Stop it, or set spec.mode: proxy"
            );
            set(list, types::FOREIGN_DHCP, true, reasons::FOREIGN_SERVER, message);
        }
        // Nobody looked: nothing is said about it.
        None if status.servers.iter().all(|server| server.authority.as_deref() != Some("Alone")) => {
            list.retain(|condition| condition.type_ != types::FOREIGN_DHCP);
        }
        None => set(list, types::FOREIGN_DHCP, false, reasons::NO_FOREIGN_SERVER, "no other DHCP server answered".to_owned()),
    }
    let unsupported = (!spec.is_supported() && spec.mode != Mode::Off)
        .then(|| "IPv6 is stored, but this version serves IPv4 only: nothing is answered here; set spec.mode: off".to_owned());
    match &unsupported {
        Some(message) => set(list, types::SUPPORTED, false, reasons::NOT_SUPPORTED, message.clone()),
        None => list.retain(|condition| condition.type_ != types::SUPPORTED),
    }
    match status.servers.iter().find_map(|server| server.limited.clone()) {
        Some(message) => set(list, types::NEWCOMERS_LIMITED, true, reasons::LIMIT_REACHED, message),
        None => list.retain(|condition| condition.type_ != types::NEWCOMERS_LIMITED),
    }
    let (authoritative, reason, message) = match (spec.mode, &foreign) {
        (Mode::Dhcp, Some(server)) => (false, reasons::FOREIGN_SERVER, format!("{server} also answers")),
        (Mode::Dhcp, None) if status.servers.is_empty() => (false, reasons::NO_SERVER, "no agent serves it".to_owned()),
        (Mode::Dhcp, None) if probing => (false, reasons::PROBING, "an agent still looks for another DHCP server".to_owned()),
        (Mode::Dhcp, None) if spec.authority == Authority::Assumed => (true, reasons::ASSUMED, "spec.authority: assumed".to_owned()),
        (Mode::Dhcp, None) => (true, reasons::PROBED, "no other DHCP server answered the probe".to_owned()),
        (mode, _) => (false, reasons::MODE_WITHOUT_AUTHORITY, format!("mode {mode} gives no addresses")),
    };
    set(list, types::AUTHORITATIVE, authoritative, reason, message);
    let (ready, reason, message) = match (spec.fault(), overlapping, spec.mode) {
        _ if unsupported.is_some() => (false, reasons::NOT_SUPPORTED, unsupported.unwrap_or_default()),
        (Some(fault), ..) => (false, reasons::INVALID, fault),
        (None, Some(other), _) => {
            let message =
                format!("its cidr {} overlaps that of Subnet {} ({}); change one of the two", spec.cidr, other.name_any(), other.spec.cidr);
            (false, reasons::OVERLAP, message)
        }
        (None, None, Mode::Off) => {
            (false, reasons::MODE_WITHOUT_AUTHORITY, "mode off: nothing is served; set spec.mode to dhcp or proxy".to_owned())
        }
        (None, None, _) if homeless => {
            let message = format!(
                "spec.newcomers.namespace: there is no namespace {0}, so no newcomer can register; create it (kubectl create namespace {0}) or name another",
                spec.newcomers.namespace
            );
            (false, reasons::NO_NAMESPACE, message)
        }
        (None, None, _) if status.servers.is_empty() => (false, reasons::NO_SERVER, unserved(spec)),
        (None, None, mode) => {
            let places: Vec<String> = status.servers.iter().map(|server| format!("{} on {}", server.interface, server.node)).collect();
            let beside = foreign.as_ref().filter(|_| mode == Mode::Dhcp);
            let beside = beside.map(|server| format!("; not for newcomers while {server} answers DHCP, too")).unwrap_or_default();
            (true, reasons::SERVING, format!("mode {mode}, served by {}{beside}", places.join(", ")))
        }
    };
    set(list, types::READY, ready, reason, message);
}
