//! The network from the machine's side: links up, an address for each by DHCP, names looked up.

mod dhcp;
mod dns;

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

pub use self::dns::Names;
use athanor_sys::link;

/// How long a link may take to come up: spanning tree lets a port wait for 30 s.
const LINK_PATIENCE: Duration = Duration::from_secs(45);
/// How long an interface tries for an address before the next one is tried.
const LEASE_PATIENCE: Duration = Duration::from_secs(20);
/// How often a link is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What DHCP gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The interface.
    pub interface: String,
    /// Our address.
    pub address: Ipv4Addr,
    /// The mask of its network.
    pub netmask: Ipv4Addr,
    /// The way out.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
}

/// Brings every interface up, and gives those with a link an address. The one that the firmware booted from comes first; one address is enough.
pub fn bring_up(boot_mac: Option<&str>) -> Vec<Lease> {
    let mut names = interfaces();
    for name in &names {
        if let Err(error) = link::up(name) {
            eprintln!("athanor: {name} cannot be brought up: {error}");
        }
    }
    names.sort_by_key(|name| boot_mac.is_none() || address_of(name).as_deref() != boot_mac);
    let began = Instant::now();
    loop {
        let linked: Vec<&String> = names.iter().filter(|name| has_link(name)).collect();
        // The one that the firmware booted from had a link a moment ago: it is waited for.
        let waits = linked.first() != names.first().as_ref() && began.elapsed() < LINK_PATIENCE / 3;
        if !waits {
            let leases: Vec<Lease> = linked.iter().filter_map(|name| lease(name)).collect();
            if !leases.is_empty() {
                return leases;
            }
        }
        if began.elapsed() > LINK_PATIENCE {
            eprintln!("athanor: no interface got an address; trying again");
            return Vec::new();
        }
        std::thread::sleep(LOOK);
    }
}

fn lease(interface: &str) -> Option<Lease> {
    let mac = address_of(interface)?.parse().ok()?;
    let lease = match dhcp::ask(interface, mac, LEASE_PATIENCE) {
        Ok(lease) => lease,
        Err(error) => {
            eprintln!("athanor: {interface}: no address by DHCP: {error}");
            return None;
        }
    };
    if let Err(error) = link::set_address(interface, lease.address, lease.netmask) {
        eprintln!("athanor: {interface}: {} cannot be set: {error}", lease.address);
        return None;
    }
    if let Some(gateway) = lease.gateway {
        // A second interface's route is one too many, and no harm.
        let _ = link::add_default_route(gateway);
    }
    println!("athanor: {interface} has {}", lease.address);
    Some(lease)
}

fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("device").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn of(interface: &str, file: &str) -> Option<String> {
    fs::read_to_string(Path::new("/sys/class/net").join(interface).join(file)).ok().map(|text| text.trim().to_owned())
}

fn address_of(interface: &str) -> Option<String> {
    of(interface, "address")
}

fn has_link(interface: &str) -> bool {
    of(interface, "carrier").as_deref() == Some("1")
}
