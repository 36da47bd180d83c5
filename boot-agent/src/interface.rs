//! Interfaces of this host, and what each has to serve.

use std::net::{IpAddr, Ipv4Addr};

use athanor_dhcp::Link;
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

/// The interfaces that have a duty now.
pub(crate) fn duties(snapshot: &Snapshot) -> Vec<Duty> {
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
