//! Interfaces of this host, and what each has to serve.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use athanor_dhcp::{Link, SERVER_PORT};
use athanor_plan::Snapshot;
use athanor_wire::MacAddr;
use nix::ifaddrs::getifaddrs;

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

/// The interfaces that have a duty now: those with an address in a Subnet or that one names, and those that lead to a relay.
pub(crate) fn duties(snapshot: &Snapshot) -> Vec<Duty> {
    let relayed = behind_relays(snapshot);
    interfaces()
        .into_iter()
        .filter(|interface| interface.up && !interface.addresses.is_empty())
        .filter_map(|interface| {
            let link = Link { interface: interface.name, addresses: interface.addresses.iter().map(|(ip, _)| *ip).collect() };
            let mut subnets: Vec<String> =
                snapshot.on_interface(&link.interface, &link.ips()).into_iter().map(|subnet| subnet.name.clone()).collect();
            for (subnet, from) in &relayed {
                if link.addresses.contains(from) && !subnets.contains(subnet) {
                    subnets.push(subnet.clone());
                }
            }
            (!subnets.is_empty()).then_some(Duty { link, mac: interface.mac?, subnets })
        })
        .collect()
}

/// The Subnets that name relays and no interface, each with our address towards them.
fn behind_relays(snapshot: &Snapshot) -> Vec<(String, Ipv4Addr)> {
    let relays = snapshot
        .subnets()
        .iter()
        .filter(|subnet| subnet.spec.is_served_through_relays())
        .flat_map(|subnet| subnet.spec.relays.iter().filter_map(|relay| Some((subnet.name.clone(), address_towards(relay.address)?))));
    let mut all: Vec<_> = relays.collect();
    all.sort();
    all.dedup();
    all
}

/// From which of our addresses a packet to `ip` would go; none is sent.
fn address_towards(ip: IpAddr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((ip, SERVER_PORT)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}
