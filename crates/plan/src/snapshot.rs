//! Everything an agent knows at one moment. Swapped whole; a packet never sees half an update; nothing is mutated while answering.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use athanor_crds::{
    SubnetSpec,
    subnet::{Mode, OnForeignServer},
};
use athanor_wire::{MacAddr, work::MAX_SERVERS};
use serde::{Deserialize, Serialize};

use crate::{boot_plan::BootPlan, loader::Loaders};

/// A Subnet by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedSubnet {
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: SubnetSpec,
    /// The agents of other nodes that are alive on it, by their addresses there.
    #[serde(default)]
    pub servers: Vec<Ipv4Addr>,
    /// What else their interfaces there are called by: a client may name any of an interface's addresses.
    #[serde(default)]
    pub other_addresses: Vec<Ipv4Addr>,
}

impl NamedSubnet {
    /// Whether an agent of another node is known by an address here.
    pub fn is_served_from(&self, address: Ipv4Addr) -> bool {
        self.servers.contains(&address) || self.other_addresses.contains(&address)
    }
}

/// All plans and Subnets of an agent.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    subnets: Vec<NamedSubnet>,
    plans: Vec<Arc<BootPlan>>,
    by_mac: HashMap<MacAddr, usize>,
    by_ip: HashMap<IpAddr, MacAddr>,
    by_token: HashMap<String, usize>,
    by_report_token: HashMap<String, usize>,
    by_metadata_token: HashMap<String, usize>,
    loaders: Arc<Loaders>,
}

impl Snapshot {
    /// Indexes what was watched. Where two plans claim one MAC, the first by machine wins; the operator has told both.
    pub fn new(mut subnets: Vec<NamedSubnet>, mut plans: Vec<Arc<BootPlan>>, loaders: Arc<Loaders>) -> Self {
        subnets.sort_by(|a, b| a.name.cmp(&b.name));
        plans.sort_by(|a, b| a.machine.cmp(&b.machine));
        let mut this = Self { subnets, loaders, ..Self::default() };
        for (index, plan) in plans.iter().enumerate() {
            for interface in &plan.interfaces {
                this.by_mac.entry(interface.mac).or_insert(index);
                for address in &interface.addresses {
                    this.by_ip.entry(address.ip).or_insert(interface.mac);
                }
            }
            for token in std::iter::once(&plan.token).chain(&plan.previous_token) {
                this.by_token.entry(token.clone()).or_insert(index);
            }
            if let Some(order) = &plan.order {
                this.by_report_token.entry(order.report_token.clone()).or_insert(index);
            }
            if let Some(metadata) = &plan.metadata {
                for token in std::iter::once(&metadata.token).chain(&metadata.hook) {
                    this.by_metadata_token.entry(token.clone()).or_insert(index);
                }
            }
        }
        this.plans = plans;
        this
    }

    /// Every plan, by machine.
    pub fn plans(&self) -> &[Arc<BootPlan>] {
        &self.plans
    }

    /// Whom a machine-agent may ask that was started by the agent at `agent` (`192.168.10.1:7481`): that one first, then others on its Subnets, as
    /// URLs with commas between them. Agents of one installation listen on one port.
    pub fn servers(&self, agent: &str) -> String {
        let own = agent.parse::<SocketAddrV4>().ok();
        let here = |subnet: &&NamedSubnet| own.is_some_and(|own| subnet.spec.cidr.contains(&IpAddr::V4(*own.ip())));
        let others: BTreeSet<Ipv4Addr> = self.subnets.iter().filter(here).flat_map(|subnet| subnet.servers.iter().copied()).collect();
        let others =
            others.into_iter().filter_map(|other| own.filter(|own| *own.ip() != other).map(|own| format!("{other}:{}", own.port())));
        let all: Vec<String> =
            std::iter::once(agent.to_owned()).chain(others).take(MAX_SERVERS).map(|one| format!("http://{one}")).collect();
        all.join(",")
    }

    /// Every Subnet, by name.
    pub fn subnets(&self) -> &[NamedSubnet] {
        &self.subnets
    }

    /// The loaders.
    pub fn loaders(&self) -> &Loaders {
        &self.loaders
    }

    /// The plan of the machine that has a MAC address.
    pub fn by_mac(&self, mac: MacAddr) -> Option<&Arc<BootPlan>> {
        self.by_mac.get(&mac).and_then(|&index| self.plans.get(index))
    }

    /// Under which MAC a client's story is told: a machine's under that of its boot interface, whichever of its interfaces asks.
    pub fn told_as(&self, mac: MacAddr) -> MacAddr {
        self.by_mac(mac).and_then(|plan| plan.boot_interface()).map_or(mac, |interface| interface.mac)
    }

    /// The interface behind an address: the one that a plan gives it to.
    pub fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
        self.by_ip.get(&ip).copied()
    }

    /// The plan that a script token names, be it the token before.
    pub fn by_token(&self, token: &str) -> Option<&Arc<BootPlan>> {
        self.by_token.get(token).and_then(|&index| self.plans.get(index))
    }

    /// Whether a server is one of ours: another agent on the segment is no other server.
    pub fn is_ours(&self, server: Ipv4Addr) -> bool {
        self.subnets.iter().any(|subnet| subnet.is_served_from(server))
    }

    /// The plan whose attempt a report token belongs to.
    pub fn by_report_token(&self, token: &str) -> Option<&Arc<BootPlan>> {
        self.by_report_token.get(token).and_then(|&index| self.plans.get(index))
    }

    /// The plan whose instance a metadata token belongs to, or that of its release hook.
    pub fn by_metadata_token(&self, token: &str) -> Option<&Arc<BootPlan>> {
        self.by_metadata_token.get(token).and_then(|&index| self.plans.get(index))
    }

    /// Whether clients may have addresses that nobody here knows: another server gives them.
    pub fn gives_no_addresses(&self) -> bool {
        let others = |subnet: &NamedSubnet| subnet.spec.mode == Mode::Proxy || subnet.spec.on_foreign_server == OnForeignServer::Proxy;
        self.subnets.iter().any(others)
    }

    /// The Subnets that an interface serves.
    pub fn on_interface(&self, interface: &str, addresses: &[IpAddr]) -> Vec<&NamedSubnet> {
        self.subnets.iter().filter(|subnet| subnet.spec.is_served_on(interface, addresses)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_told_whom_else_to_ask() {
        let subnet = |cidr: &str, servers: &[&str]| NamedSubnet {
            name: cidr.into(),
            spec: SubnetSpec::of(cidr.parse().unwrap()),
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            other_addresses: Vec::new(),
        };
        let subnets = vec![
            subnet("192.168.10.0/24", &["192.168.10.4", "192.168.10.1", "192.168.10.2", "192.168.10.3"]),
            subnet("10.0.0.0/8", &["10.0.0.9"]),
        ];
        let snapshot = Snapshot::new(subnets, Vec::new(), Arc::default());
        for (asked, told) in [
            ("192.168.10.3:7481", "http://192.168.10.3:7481,http://192.168.10.1:7481,http://192.168.10.2:7481"),
            ("10.0.0.1:80", "http://10.0.0.1:80,http://10.0.0.9:80"),
            ("172.16.0.1:80", "http://172.16.0.1:80"),
        ] {
            assert_eq!(snapshot.servers(asked), told);
        }
    }
}
