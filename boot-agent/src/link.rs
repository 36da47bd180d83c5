//! Interfaces, and the server sets of those that a Subnet serves: they come and go with addresses and Subnets.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use athanor_dhcp::Link;
use athanor_wire::MacAddr;
use nix::ifaddrs::getifaddrs;
use tokio::task::JoinSet;

use crate::{AgentError, authority, dhcp, shared::Shared, tftp};

/// How often interfaces are looked at, besides whenever a Subnet changes: an address that comes later is served within this time.
const LOOK: Duration = Duration::from_secs(5);

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address; loopback has none.
    pub mac: Option<MacAddr>,
    /// Its IPv4 addresses and prefix lengths.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// Whether it is up.
    pub up: bool,
}

/// Every interface, by name.
pub fn interfaces() -> Vec<Interface> {
    let mut all: Vec<Interface> = Vec::new();
    for entry in getifaddrs().into_iter().flatten() {
        let up = entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        let at = all.iter().position(|interface| interface.name == entry.interface_name).unwrap_or_else(|| {
            all.push(Interface { name: entry.interface_name.clone(), mac: None, addresses: Vec::new(), up });
            all.len() - 1
        });
        let Some(address) = entry.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in().map(|mask| u32::from(mask.ip())));
            let prefix = u8::try_from(mask.unwrap_or(u32::MAX).count_ones()).unwrap_or(32);
            all[at].addresses.push((v4.ip(), prefix));
        }
        // Loopback says all zeros.
        if let Some(mac) = address.as_link_addr().and_then(nix::sys::socket::LinkAddr::addr).map(MacAddr).filter(|mac| mac.is_unicast()) {
            all[at].mac = Some(mac);
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// What one interface serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Duty {
    pub(crate) link: Link,
    pub(crate) mac: MacAddr,
    pub(crate) subnets: Vec<String>,
}

/// The interfaces that have a duty now.
pub(crate) fn duties(shared: &Shared) -> Vec<Duty> {
    let snapshot = shared.snapshot();
    interfaces()
        .into_iter()
        .filter(|interface| interface.up && !interface.addresses.is_empty())
        .filter_map(|interface| {
            let addresses: Vec<Ipv4Addr> = interface.addresses.iter().map(|(ip, _)| *ip).collect();
            let here: Vec<IpAddr> = addresses.iter().copied().map(IpAddr::V4).collect();
            let subnets: Vec<String> =
                snapshot.on_interface(&interface.name, &here).into_iter().map(|subnet| subnet.name.clone()).collect();
            let link = Link { interface: interface.name, addresses };
            (!subnets.is_empty()).then_some(Duty { link, mac: interface.mac?, subnets })
        })
        .collect()
}

struct Running {
    duty: Duty,
    _tasks: JoinSet<()>,
}

/// Keeps a server set on every interface that has a duty. The first problem with a socket at the start is an error; later ones are tried
/// again with the next look.
pub(crate) async fn run(shared: Arc<Shared>, started: tokio::sync::oneshot::Sender<Result<(), AgentError>>) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut changes = shared.changes();
    let mut started = Some(started);
    loop {
        changes.mark_unchanged();
        let wanted = duties(&shared);
        running.retain(|name, set| wanted.iter().any(|duty| duty.link.interface == *name && *duty == set.duty));
        let mut problem = None;
        for duty in wanted {
            if running.contains_key(&duty.link.interface) {
                continue;
            }
            match start(&shared, &duty) {
                Ok(tasks) => {
                    tracing::info!(interface = %duty.link.interface, subnets = ?duty.subnets, "serving");
                    running.insert(duty.link.interface.clone(), Running { duty, _tasks: tasks });
                }
                Err(error) => {
                    tracing::error!(category = error.category(), %error, "interface not served");
                    problem = Some(error);
                }
            }
        }
        shared.authority.keep_only(running.keys());
        if let Some(started) = started.take() {
            let _ = started.send(problem.map_or(Ok(()), Err));
        }
        let _ = tokio::time::timeout(LOOK, changes.changed()).await;
    }
}

fn start(shared: &Arc<Shared>, duty: &Duty) -> Result<JoinSet<()>, AgentError> {
    let mut tasks = JoinSet::new();
    dhcp::start(shared, duty, &mut tasks)?;
    tftp::start(shared, duty, &mut tasks)?;
    tasks.spawn(authority::watch(shared.clone(), duty.clone()));
    Ok(tasks)
}
