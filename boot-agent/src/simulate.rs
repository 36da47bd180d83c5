//! What a client would be answered, from what the API says now: no socket, no network, nothing written.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use athanor_crds::{Address, Subnet, names, subnet::Mode};
use athanor_dhcp::{Answer, Authority, Context, Decision, Link, Request, decide, packet::option, pcap::Question, reply, rivals::Rival};
use athanor_plan::{Snapshot, snapshot::NamedSubnet};
use athanor_wire::MacAddr;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use crate::{api, lent::Lent, loaders};

/// Where and with what it is simulated.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The Subnet in which the client asks; else the one where its Machine is at home, else the only one that is served.
    pub subnet: Option<String>,
    /// Folders with loaders, as the agent has them.
    pub loader_dirs: Vec<PathBuf>,
    /// The port of boot HTTP.
    pub http_port: u16,
}

/// Why nothing can be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The API says no.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// It is not clear where the client asks.
    #[error("{0}")]
    Where(String),
}

/// All that is known now, for any number of questions.
pub struct Simulation {
    snapshot: Snapshot,
    subnets: BTreeMap<String, Subnet>,
    lent: Lent,
    scene: Scene,
}

impl Simulation {
    /// Reads plans and Subnets.
    ///
    /// # Errors
    /// The API says no.
    pub async fn prepare(client: &Client, scene: Scene) -> Result<Self, SimulateError> {
        let all = ListParams::default();
        let plans = Api::<Secret>::namespaced(client.clone(), names::PLANS_NAMESPACE).list(&all).await?;
        let subnets = Api::<Subnet>::all(client.clone()).list(&all).await?.items;
        let named = subnets.iter().map(|subnet| NamedSubnet {
            name: subnet.name_any(),
            spec: subnet.spec.clone(),
            servers: Vec::new(),
            other_addresses: Vec::new(),
        });
        let snapshot =
            Snapshot::new(named.collect(), plans.iter().filter_map(api::read).collect(), Arc::new(loaders::scan(&scene.loader_dirs)));
        let subnets = subnets.into_iter().map(|subnet| (subnet.name_any(), subnet)).collect();
        let lent = Lent::default();
        lent.replace(Api::<Address>::all(client.clone()).list(&all).await?.iter().map(|address| &address.spec));
        Ok(Self { snapshot, subnets, lent, scene })
    }

    /// What a question would be answered, in words: the row that matches, and the answer with its options.
    ///
    /// # Errors
    /// It is not clear where the client asks.
    pub fn ask(&self, question: &Question) -> Result<String, SimulateError> {
        let request = match Request::parse(&question.bytes) {
            Ok(request) => request,
            Err(error) => return Ok(format!("{} bytes\nrow      malformed: {error}\nanswer   none\n", question.bytes.len())),
        };
        let subnet = self.subnet_of(&request)?;
        let (link, authority) = (link(subnet), authority(subnet));
        let leases = self.lent.of(request.mac, Timestamp::now());
        let context = Context {
            snapshot: &self.snapshot,
            link: &link,
            authority: &authority,
            // What it is answered in the end.
            unclaimed: true,
            rival: Some(Rival::Nothing),
            installation: "",
            http_port: self.scene.http_port,
            proxy_port: question.proxy_port,
            leases: &leases,
            chain_loop: false,
        };
        let decision = decide(&request, &context);
        let who = athanor_dhcp::Client::of(&request).describe();
        let head = format!("{} {} {who}, in Subnet {}\nrow      {}\n", request.mac, request.message, subnet.name_any(), decision.row);
        Ok(head + &answer(&request, &decision))
    }

    fn subnet_of(&self, request: &Request) -> Result<&Subnet, SimulateError> {
        let known = || self.subnets.keys().cloned().collect::<Vec<_>>().join(", ");
        if let Some(name) = &self.scene.subnet {
            let missing = || SimulateError::Where(format!("there is no Subnet {name}; known are: {}", known()));
            return self.subnets.get(name).ok_or_else(missing);
        }
        let at_home = |mac: MacAddr| {
            let plan = self.snapshot.by_mac(mac)?;
            let address = plan.interface(mac)?.addresses.first()?;
            self.subnets.get(&address.subnet)
        };
        let mut served = self.subnets.values().filter(|subnet| subnet.spec.mode != Mode::Off);
        let only = served.next().filter(|_| served.next().is_none());
        let unclear = || SimulateError::Where(format!("in which Subnet does it ask? Say --subnet, one of: {}", known()));
        at_home(request.mac).or(only).ok_or_else(unclear)
    }
}

/// The interface of the first agent that serves a Subnet; where none does, one that would.
fn link(subnet: &Subnet) -> Link {
    let server = subnet.status.iter().flat_map(|status| &status.servers).next();
    let first = || subnet.spec.cidr.hosts().next().and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
    let address = server.and_then(|server| server.address.parse().ok()).or_else(first).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let interface = server.map(|server| server.interface.clone()).or_else(|| subnet.spec.interfaces.first().cloned());
    Link { interface: interface.unwrap_or_else(|| "eth0".to_owned()), addresses: vec![address] }
}

/// What its agent's probe said.
fn authority(subnet: &Subnet) -> Authority {
    let server = subnet.status.iter().flat_map(|status| &status.servers).next();
    match server.and_then(|server| server.authority.as_deref()) {
        Some("Probing") => Authority::Probing,
        Some("Foreign") => {
            let other = server.and_then(|server| server.foreign_server.as_ref()).and_then(|ip| ip.parse().ok());
            Authority::Foreign(other.unwrap_or(Ipv4Addr::UNSPECIFIED))
        }
        _ => Authority::Alone,
    }
}

fn answer(request: &Request, decision: &Decision) -> String {
    let reply = match &decision.answer {
        Answer::Silence => return format!("answer   none: {}\n", decision.detail),
        Answer::Register(newcomer) => return format!("answer   none yet: {}, in Subnet {}\n", decision.detail, newcomer.subnet),
        Answer::Lease(_) | Answer::AfterRivals => return format!("answer   none yet: {}\n", decision.detail),
        Answer::Reply(reply) => reply,
    };
    let mut out = format!("answer   {} {}\n", reply.message, redacted(&decision.detail));
    let to = match reply::destination(request, reply) {
        reply::Destination::Relay(ip) => format!("the relay {ip}"),
        reply::Destination::Unicast(ip) => ip.to_string(),
        reply::Destination::Link(mac, ip) => format!("{ip} at {mac}"),
        reply::Destination::Broadcast => "everybody on the link".to_owned(),
    };
    out.push_str(&format!("  to       {to}\n  yiaddr   {}\n  siaddr   {}\n", reply.yiaddr, reply.siaddr));
    if !reply.file.is_empty() {
        out.push_str(&format!("  file     {}\n", redacted(&reply.file)));
    }
    for (code, value) in &reply.options {
        out.push_str(&format!("  {code:<8} {} {}\n", name(*code), redacted(&shown(*code, value))));
    }
    out
}

/// Script tokens are nobody's business.
fn redacted(text: &str) -> String {
    match text.split_once("/b/") {
        Some((before, after)) => format!("{before}/b/…/{}", after.split_once('/').map_or("", |(_, rest)| rest)),
        None => text.to_owned(),
    }
}

/// An option's name, as RFC 2132 and its successors have it.
fn name(code: u8) -> &'static str {
    match code {
        option::SUBNET_MASK => "subnet mask",
        option::ROUTER => "router",
        option::DOMAIN_NAME_SERVER => "domain name server",
        option::HOST_NAME => "host name",
        option::DOMAIN_NAME => "domain name",
        option::BROADCAST_ADDRESS => "broadcast address",
        option::NTP_SERVERS => "NTP servers",
        option::VENDOR_SPECIFIC => "vendor-specific information",
        option::LEASE_TIME => "lease time",
        option::RENEWAL_TIME => "renewal time",
        option::REBINDING_TIME => "rebinding time",
        option::SERVER_ID => "server identifier",
        option::MESSAGE => "message",
        option::VENDOR_CLASS => "vendor class",
        option::CLIENT_ID => "client identifier",
        option::TFTP_SERVER_NAME => "TFTP server name",
        option::BOOT_FILE_NAME => "boot file name",
        option::RELAY_AGENT => "relay agent information",
        option::CLIENT_MACHINE_ID => "client machine identifier",
        _ => "option",
    }
}

fn shown(code: u8, value: &[u8]) -> String {
    let addresses = |value: &[u8]| -> Option<String> {
        let all: Option<Vec<String>> =
            value.chunks(4).map(|piece| <[u8; 4]>::try_from(piece).ok().map(|octets| Ipv4Addr::from(octets).to_string())).collect();
        all.map(|all| all.join(" "))
    };
    let hex = || value.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    match code {
        option::SUBNET_MASK
        | option::ROUTER
        | option::DOMAIN_NAME_SERVER
        | option::BROADCAST_ADDRESS
        | option::NTP_SERVERS
        | option::SERVER_ID => addresses(value).unwrap_or_else(hex),
        option::LEASE_TIME | option::RENEWAL_TIME | option::REBINDING_TIME => {
            <[u8; 4]>::try_from(value).map_or_else(|_| hex(), |bytes| format!("{} s", u32::from_be_bytes(bytes)))
        }
        option::HOST_NAME
        | option::DOMAIN_NAME
        | option::MESSAGE
        | option::VENDOR_CLASS
        | option::TFTP_SERVER_NAME
        | option::BOOT_FILE_NAME => String::from_utf8_lossy(value).into_owned(),
        _ => hex(),
    }
}
