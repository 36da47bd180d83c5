//! The decision table: every packet matches exactly one row, and a row is all there is to know about an answer.
//!
//! To add a row: a variant of [`Row`] with its name, and the place in [`decide`] where it speaks.

mod dynamic;
mod options;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use athanor_crds::{
    Architecture, Firmware, MachineState, SubnetSpec,
    machine::LocalBoot,
    subnet::{self, Mode, OnForeignServer, Serves},
};
use athanor_plan::{
    BootPlan, ClientArch, Snapshot,
    loader::{NO_LOADER, local_disk},
    snapshot::NamedSubnet,
};
use athanor_wire::MacAddr;

use crate::{
    client::{self, Client},
    packet::{MessageType, Request, option, walk},
    rank,
    reply::Reply,
    rivals::Rival,
    row::Row,
};
pub use dynamic::{Lease, Wish};

/// The vendor class with which an installation's agents probe for other DHCP servers; the installation's id follows.
pub const PROBE_CLASS: &str = "athanor-probe:";

/// Why a client has to ask again.
const CLAIMABLE: &str = "another server may know it, so it is answered when it asks on";

/// What U-Boot looks for where nobody names anything else, so what it is given.
const UBOOT_SCRIPT: &str = "boot.scr.uimg";

/// What the chains are called that read iPXE scripts.
const IPXE: &str = "ipxe";
/// What the chains are called that begin with shim.
const SHIM: &str = "shim";

/// The interface a packet came in on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub interface: String,
    /// Its IPv4 addresses.
    pub addresses: Vec<Ipv4Addr>,
}

impl Link {
    /// Its addresses, of whichever family somebody asks about.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().copied().map(IpAddr::V4).collect()
    }

    /// From which address a Subnet is served here: the one in it; for machines behind a relay the first.
    pub fn address_in(&self, subnet: &SubnetSpec) -> Option<Ipv4Addr> {
        let own = self.addresses.iter().find(|ip| subnet.cidr.contains(&IpAddr::V4(**ip)));
        own.or(self.addresses.first()).copied()
    }
}

/// Whether we may answer with authority on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// The probe for another server is not finished.
    Probing,
    /// Nobody else answered.
    Alone,
    /// Another server answers, by its address.
    Foreign(Ipv4Addr),
}

/// What an answer depends on, besides the packet.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Everything that is known.
    pub snapshot: &'a Snapshot,
    /// Where the packet came in.
    pub link: &'a Link,
    /// Whether we may answer with authority there.
    pub authority: &'a Authority,
    /// It has asked for a while and nobody else has offered it anything; see [`crate::patience`].
    pub unclaimed: bool,
    /// What other servers offered the client, as far as it was heard; see [`crate::rivals`].
    pub rival: Option<Rival>,
    /// The id of our installation.
    pub installation: &'a str,
    /// The port of the boot HTTP server.
    pub http_port: u16,
    /// The packet came in on port 4011.
    pub proxy_port: bool,
    /// What the client has for a while, if it is no machine.
    pub leases: &'a [Lease],
    /// The client fetches its loader again and again, and never what comes after it: another loader would not help it.
    pub chain_loop: bool,
}

/// A newcomer to register as a Machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Who it is.
    pub mac: MacAddr,
    /// The Subnet it asked in.
    pub subnet: String,
    /// What it says it is.
    pub hardware: Option<(Architecture, Firmware)>,
    /// Its SMBIOS UUID, from option 97.
    pub uuid: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Silence,
    /// A packet.
    Reply(Box<Reply>),
    /// Nothing yet: it is to be registered, and answered from the plan that comes back.
    Register(Newcomer),
    /// Nothing yet: its lease is to be stored, and it is answered then.
    Lease(Wish),
    /// Nothing yet: what other servers offer it is to be heard first.
    AfterRivals,
}

/// A row, its answer, and why, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The row that matched.
    pub row: Row,
    /// What is answered.
    pub answer: Answer,
    /// Why, or what, in words.
    pub detail: String,
    /// The Subnet that it was decided in, if it is in one.
    pub subnet: Option<String>,
    /// How long to wait with the answer, which is not sent if the client has chosen another agent by then.
    pub after: Duration,
}

impl Decision {
    fn silence(row: Row, detail: impl Into<String>) -> Self {
        Self { row, answer: Answer::Silence, detail: detail.into(), subnet: None, after: Duration::ZERO }
    }
}

/// An address, and for how many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grant {
    ip: Ipv4Addr,
    seconds: u32,
}

/// The Subnet, the plan and the server address that an answer is made from.
struct Scene<'a> {
    request: &'a Request,
    context: &'a Context<'a>,
    subnet: &'a NamedSubnet,
    server: Ipv4Addr,
    /// That of the link, unless a person vouches for the Subnet.
    authority: &'a Authority,
    /// It took an offer of ours.
    chose_us: bool,
    /// Another server may know this client, and it alone.
    claimable: bool,
    /// A person says that there is no other server, or that it does not matter.
    vouched: bool,
    client: Client,
    proxy: bool,
    /// It came from behind a relay, but not through it.
    routed: bool,
}

/// Decides what a packet is answered.
pub fn decide(request: &Request, context: &Context<'_>) -> Decision {
    let class = request.options.text(option::VENDOR_CLASS).unwrap_or_default();
    let prober = class.strip_prefix(PROBE_CLASS);
    if prober == Some(context.installation) {
        return Decision::silence(Row::Sibling, "our own probe for other servers");
    }
    let scene = match locate(request, context) {
        Ok(scene) => scene,
        Err(why) => return Decision::silence(Row::NotOurs, why),
    };
    if prober.is_some() {
        return scene.prober();
    }
    scene.in_turn(Decision { subnet: Some(scene.subnet.name.clone()), ..scene.decide() })
}

/// Finds the Subnet a packet belongs to: the relay's, else the link's. RFC 3527 link selection and option 118 name it directly.
fn locate<'a>(request: &'a Request, context: &'a Context<'a>) -> Result<Scene<'a>, String> {
    let snapshot = context.snapshot;
    let link = context.link;
    let here = link.ips();
    let mut served: Vec<&NamedSubnet> = snapshot.on_interface(&link.interface, &here);
    if request.giaddr.is_unspecified() {
        served.retain(|subnet| !subnet.spec.is_behind_relays(&here));
    }
    // A client behind a relay speaks to us alone when it renews, and when it asks for its boot file.
    let far = routed(snapshot, request, &served);
    let subnet = if let Some(far) = far {
        far
    } else if request.giaddr.is_unspecified() {
        // Several subnets on one wire: the one where the machine has its address, else the first.
        let mine = snapshot.by_mac(request.mac);
        let home = |subnet: &&&NamedSubnet| mine.is_some_and(|plan| plan.address(request.mac, &subnet.name).is_some());
        served.iter().find(home).or(served.first()).copied().ok_or_else(|| format!("{} is in no Subnet that is served", link.interface))?
    } else {
        let selected = link_selection(request).unwrap_or(request.giaddr);
        relayed(snapshot, selected, request.giaddr).ok_or_else(|| {
            let names: Vec<String> = served.iter().map(|subnet| subnet.spec.cidr.to_string()).collect();
            format!("{} serves {} only, the relay is {selected}; add a Subnet that holds {selected}", link.interface, names.join(", "))
        })?
    };
    let server = link.address_in(&subnet.spec).ok_or_else(|| format!("{} has no IPv4 address", link.interface))?;
    let relayed = far.is_some() || !request.giaddr.is_unspecified();
    // What answers on our own wire says nothing about one behind a relay, which a person named.
    let vouched = subnet.spec.authority == subnet::Authority::Assumed || (relayed && subnet.spec.is_behind_relays(&here));
    let authority = if vouched { &Authority::Alone } else { context.authority };
    let chose_us = request.server_id().is_some_and(|chosen| link.addresses.contains(&chosen));
    let proxy = subnet.spec.mode == Mode::Proxy
        // Port 4011 is for boot files, whoever gave the address.
        || context.proxy_port
        // Who was offered an address before the other server showed up, and took it, has it.
        || (subnet.spec.on_foreign_server == OnForeignServer::Proxy && matches!(authority, Authority::Foreign(_)) && !chose_us);
    let claimable = !vouched && !proxy && !context.unclaimed && request.message == MessageType::Discover;
    Ok(Scene {
        request,
        context,
        subnet,
        server,
        authority,
        chose_us,
        claimable,
        vouched,
        client: Client::of(request),
        proxy,
        routed: far.is_some(),
    })
}

/// The Subnet of a relay: one that names it, rather the one that the relay means; where none names it, one that names no relay at all.
fn relayed(snapshot: &Snapshot, selected: Ipv4Addr, giaddr: Ipv4Addr) -> Option<&NamedSubnet> {
    let served = || snapshot.subnets().iter().filter(|subnet| subnet.spec.mode != Mode::Off && subnet.spec.is_supported());
    let names = |subnet: &&NamedSubnet| subnet.spec.relays.iter().any(|relay| relay.address == IpAddr::V4(giaddr));
    let holds = |subnet: &&NamedSubnet| subnet.spec.cidr.contains(&IpAddr::V4(selected));
    let named = served().filter(names).find(holds).or_else(|| served().find(names));
    named.or_else(|| served().filter(|subnet| subnet.spec.relays.is_empty()).find(holds))
}

/// The Subnet behind a relay whose address a client has that speaks to us alone.
fn routed<'a>(snapshot: &'a Snapshot, request: &Request, here: &[&NamedSubnet]) -> Option<&'a NamedSubnet> {
    let from = IpAddr::V4(request.ciaddr);
    if !request.giaddr.is_unspecified() || request.ciaddr.is_unspecified() || here.iter().any(|subnet| subnet.spec.cidr.contains(&from)) {
        return None;
    }
    let behind = |subnet: &&NamedSubnet| subnet.spec.mode != Mode::Off && subnet.spec.is_supported() && !subnet.spec.relays.is_empty();
    snapshot.subnets().iter().filter(behind).find(|subnet| subnet.spec.cidr.contains(&from))
}

/// The link-selection suboption of option 82 (RFC 3527).
const LINK_SELECTION: u8 = 5;

fn link_selection(request: &Request) -> Option<Ipv4Addr> {
    if let Some(subnet) = request.options.address(option::SUBNET_SELECTION) {
        return Some(subnet);
    }
    let (_, value) = walk(request.options.get(option::RELAY_AGENT)?).find(|(code, _)| *code == LINK_SELECTION)?;
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}

impl Scene<'_> {
    fn decide(&self) -> Decision {
        let plan = self.context.snapshot.by_mac(self.request.mac).map(AsRef::as_ref);
        match self.request.message {
            MessageType::Discover => {}
            MessageType::Request => {
                if let Some(decision) = self.refuse_request(plan) {
                    return decision;
                }
            }
            MessageType::Inform => return self.inform(plan),
            // Whose lease it is says option 54; what is meant for another server is not ours.
            MessageType::Release | MessageType::Decline
                if self.request.server_id().is_some_and(|server| !self.context.link.addresses.contains(&server)) =>
            {
                return Decision::silence(Row::NotOurs, "it speaks to another server");
            }
            MessageType::Release => return Decision::silence(Row::Release, "noted; a known machine keeps its address"),
            MessageType::Decline => {
                let address = self.request.wanted().map_or_else(|| "its address".to_owned(), |ip| ip.to_string());
                return Decision::silence(Row::Decline, format!("{address} is used by somebody else"));
            }
            other => return Decision::silence(Row::NotOurs, format!("{other} is no question of a client")),
        }
        plan.map_or_else(|| self.unknown(), |plan| self.known(plan))
    }

    /// Several agents on a segment answer in turn. Who speaks to us alone is answered at once.
    fn in_turn(&self, mut decision: Decision) -> Decision {
        let request = self.request;
        // Agents are listed by the first address of their interface, whichever of them they speak from.
        let listed = self.context.link.addresses.first().copied().unwrap_or(self.server);
        let place = rank::place(request.mac, listed, &self.subnet.servers);
        // A relay asks whom it was told to ask, and nobody knows who else that is.
        let alone = self.context.proxy_port || request.server_id().is_some() || !request.giaddr.is_unspecified() || self.routed;
        if !matches!(decision.answer, Answer::Reply(_)) || alone || place == 0 {
            return decision;
        }
        // A renewal may have come to us alone, and one that has asked for long has found nobody else.
        if place >= rank::ANSWERING && request.ciaddr.is_unspecified() && request.secs < rank::LONG {
            let detail = format!("{place} other agents answer before this one");
            return Decision { answer: Answer::Silence, detail, ..decision };
        }
        let place = u32::try_from(place.min(rank::ANSWERING)).unwrap_or(u32::MAX);
        decision.after = rank::STEP * place;
        decision
    }

    /// Another installation looks for servers. It finds us where we have authority, also where we serve machines only: of two the second
    /// must not believe that it is alone. It asks for no address, so ours stands for one.
    fn prober(&self) -> Decision {
        if self.proxy || *self.authority != Authority::Alone {
            return Decision::silence(Row::Sibling, "the probe of another installation, and no authority here");
        }
        let options = vec![(option::SERVER_ID, self.server.octets().to_vec())];
        let reply = Reply { message: MessageType::Offer, yiaddr: self.server, siaddr: Ipv4Addr::UNSPECIFIED, file: String::new(), options };
        let detail = "the probe of another installation; it shall not answer with authority here".to_owned();
        let subnet = Some(self.subnet.name.clone());
        Decision { row: Row::Sibling, answer: Answer::Reply(Box::new(reply)), detail, subnet, after: Duration::ZERO }
    }

    /// A REQUEST that is not for us, or wants what it cannot have (RFC 2131 table 4).
    fn refuse_request(&self, plan: Option<&BootPlan>) -> Option<Decision> {
        let request = self.request;
        if self.context.proxy_port {
            return None;
        }
        if let Some(server) = request.server_id()
            && !self.context.link.addresses.contains(&server)
        {
            return Some(Decision::silence(Row::NotOurs, format!("it chose the server {server}")));
        }
        if self.proxy {
            return request.server_id().is_none().then(|| Decision::silence(Row::NotOurs, "mode proxy: addresses are another server's"));
        }
        let Some(wanted) = request.wanted() else {
            return Some(Decision::silence(Row::NotOurs, "a REQUEST without an address"));
        };
        let ours = plan.and_then(|plan| self.address(plan));
        let nak = |why: String| {
            if *self.authority != Authority::Alone {
                return Some(Decision::silence(Row::Nak, format!("{why}; no NAK without authority")));
            }
            // INIT-REBOOT (RFC 2131 table 4): it does not say whose address that was.
            let remembers = request.server_id().is_none() && request.ciaddr.is_unspecified();
            if remembers && plan.is_some_and(|plan| plan.state == MachineState::Discovered) {
                return Some(Decision::silence(
                    Row::Nak,
                    format!("{why}; nobody has accepted it, so that may be another server's address"),
                ));
            }
            if self.routed {
                // It would be broadcast on a wire where the client is not.
                return Some(Decision::silence(Row::Nak, format!("{why}; a NAK does not reach it, it asks its relay next")));
            }
            Some(self.answer(Row::Nak, MessageType::Nak, None, None, None, why))
        };
        match ours {
            Some(address) if address == wanted => None,
            Some(address) => nak(format!("it wants {wanted}, but has {address}")),
            None if plan.is_some() => nak(format!("it wants {wanted}, but has no address in {}", self.subnet.name)),
            None if self.client.boots_from_network() || self.subnet.spec.serves == Serves::Everyone => None,
            None => Some(Decision::silence(Row::NotOurs, format!("nothing is known of {wanted}"))),
        }
    }

    fn address(&self, plan: &BootPlan) -> Option<Ipv4Addr> {
        match plan.address(self.request.mac, &self.subnet.name) {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        }
    }

    fn inform(&self, plan: Option<&BootPlan>) -> Decision {
        if self.proxy {
            return Decision::silence(Row::Inform, "mode proxy: options are another server's");
        }
        match plan {
            Some(_) => self.answer(Row::Inform, MessageType::Ack, None, None, None, "options without an address".to_owned()),
            None if self.subnet.spec.serves == Serves::Everyone => {
                self.answer(Row::Inform, MessageType::Ack, None, None, None, "options without an address".to_owned())
            }
            None => Decision::silence(Row::Inform, "nothing is known of it, and the Subnet serves machines only"),
        }
    }

    fn known(&self, plan: &BootPlan) -> Decision {
        if !self.proxy && *self.authority == Authority::Probing {
            return Decision::silence(Row::Held, "the probe for another DHCP server is not finished");
        }
        // Another server may have shown up between our offer and its choice.
        if let (Authority::Foreign(server), MachineState::Discovered, false) = (self.authority, &plan.state, self.proxy || self.chose_us) {
            return Decision::silence(Row::Limited, format!("nobody has accepted {}, and {server} also answers DHCP here", plan.machine));
        }
        if self.claimable && plan.state == MachineState::Discovered {
            return Decision::silence(Row::Held, format!("nobody has accepted {}; {CLAIMABLE}", plan.machine));
        }
        let address = self.address(plan);
        if !self.proxy && address.is_none() {
            return Decision::silence(Row::Held, format!("{} has no address in {} yet", plan.machine, self.subnet.name));
        }
        // Until the operator knows where its servers are, it may have given one of their addresses away; it takes it back when it does.
        if let Some(ip) = address.filter(|ip| !self.proxy && self.context.link.addresses.contains(ip)) {
            return Decision::silence(
                Row::Held,
                format!("{} was given {ip}, which is this server's own; it gets another one", plan.machine),
            );
        }
        let (row, file) = self.boot_file(plan);
        if self.proxy && file.is_none() {
            return Decision::silence(row, "mode proxy, and no boot file for it");
        }
        if let Some(decision) = self.beside_rivals(plan) {
            return decision;
        }
        let message = if self.request.message == MessageType::Request { MessageType::Ack } else { MessageType::Offer };
        let detail = match (&file, address) {
            (Some(file), Some(ip)) if !self.proxy => format!("{ip}, {}", describe_file(row, file)),
            (Some(file), _) => describe_file(row, file),
            (None, Some(ip)) => format!("{ip}, no boot file"),
            (None, None) => "no boot file".to_owned(),
        };
        let looping = row == Row::NoLoader && self.context.chain_loop;
        let detail =
            if looping { format!("{detail}: it fetched its loader again and again and got no further (ChainLoop)") } else { detail };
        let grant = address.filter(|_| !self.proxy).map(|ip| Grant { ip, seconds: self.subnet.spec.lease_seconds });
        self.answer(row, message, Some(plan), grant, file, detail)
    }

    /// Where addresses are another server's, a machine that nobody accepted is left to whoever boots it.
    fn beside_rivals(&self, plan: &BootPlan) -> Option<Decision> {
        let asks = self.request.message == MessageType::Discover && self.client.boots_from_network();
        let unaccepted = self.proxy && asks && plan.state == MachineState::Discovered;
        // A relay's client is answered through it, where nothing is heard.
        if !unaccepted || self.vouched || self.context.proxy_port || !self.request.giaddr.is_unspecified() {
            return None;
        }
        match self.context.rival {
            Some(Rival::Boots(server)) => {
                let detail = format!("nobody has accepted {}, and {server} offers it something to boot", plan.machine);
                Some(Decision::silence(Row::Theirs, detail))
            }
            Some(Rival::Nothing) => None,
            None => {
                let detail = format!("nobody has accepted {}; what other servers offer it to boot is heard first", plan.machine);
                Some(Decision { answer: Answer::AfterRivals, ..Decision::silence(Row::Held, detail) })
            }
        }
    }

    /// The row of a known client, and the file it is given.
    fn boot_file(&self, plan: &BootPlan) -> (Row, Option<String>) {
        if self.client.boots_from_network() && plan.leaves_to_disk() && plan.local_boot == LocalBoot::NoOffer {
            return (Row::LocalDisk, self.nothing_to_boot(plan));
        }
        let (row, arch) = match self.client {
            Client::Plain => return (Row::Address, None),
            Client::RaspberryPi => return (Row::RaspberryPi, None),
            Client::Ipxe { http: true, .. } => {
                return (Row::Ipxe, Some(format!("http://{}:{}/b/{}/boot.ipxe", self.server, self.context.http_port, plan.token)));
            }
            Client::Ipxe { http: false, arch } => (Row::Ipxe, arch),
            Client::HttpClient(arch) => (Row::HttpBoot, arch),
            Client::PxeClient(arch) if arch.machine().is_some_and(|(_, firmware)| firmware == Firmware::Bios) => (Row::PxeBios, arch),
            Client::PxeClient(arch) => (Row::PxeUefi, arch),
            // Its script; it names everything else.
            Client::UBoot(_) => return (Row::UBoot, Some(UBOOT_SCRIPT.to_owned())),
        };
        if self.context.chain_loop {
            return (Row::NoLoader, None);
        }
        let chosen = plan.loader.as_deref().or(self.subnet.spec.loader.as_deref());
        // An iPXE script needs a loader that reads it.
        let script = plan.order.as_ref().is_some_and(|order| order.linux.is_none());
        let chosen = if script && !chosen.is_some_and(|name| name.starts_with(IPXE)) { Some(IPXE) } else { chosen };
        match self.context.snapshot.loaders().select(arch, chosen) {
            None => (Row::NoLoader, None),
            Some(loader) if script && !loader.name.starts_with(IPXE) => (Row::NoLoader, None),
            Some(loader) if row == Row::HttpBoot => {
                (row, Some(format!("http://{}:{}/l/{}", self.server, self.context.http_port, loader.first)))
            }
            Some(loader) => (row, Some(loader.first.clone())),
        }
    }

    /// What sends firmware on to its disk. BIOS goes on when nothing is named; UEFI asks on for minutes, over PXE and over HTTP each, so it is given
    /// a program that starts the disk. Nobody signs ours, so where shim is what it boots, that is it: its GRUB starts the disk.
    fn nothing_to_boot(&self, plan: &BootPlan) -> Option<String> {
        let chosen = plan.loader.as_deref().or(self.subnet.spec.loader.as_deref());
        let arch = self.client.arch()?;
        let (architecture, firmware) = arch.machine()?;
        let shim = self.context.snapshot.loaders().select(arch, chosen).filter(|loader| loader.name == SHIM);
        let file = shim.map_or(local_disk(architecture), |loader| loader.first.as_str());
        match self.client {
            Client::HttpClient(_) => Some(format!("http://{}:{}/l/{file}", self.server, self.context.http_port)),
            Client::PxeClient(_) if firmware == Firmware::Uefi => Some(file.to_owned()),
            _ => None,
        }
    }

    fn unknown(&self) -> Decision {
        if !self.client.boots_from_network() {
            let why = match self.subnet.spec.serves {
                Serves::Machines => "it does not boot from the network, and the Subnet serves machines only",
                Serves::Everyone if self.proxy => "mode proxy: addresses are another server's",
                Serves::Everyone => return self.dynamic(),
            };
            return Decision::silence(Row::Other, why);
        }
        match self.authority {
            Authority::Foreign(server) if !self.proxy => {
                Decision::silence(Row::Limited, format!("newcomers are not registered while {server} also answers DHCP here"))
            }
            Authority::Probing if !self.proxy => Decision::silence(Row::Held, "the probe for another DHCP server is not finished"),
            _ if self.claimable => Decision::silence(Row::Held, format!("a newcomer; {CLAIMABLE}")),
            _ => Decision {
                row: Row::Held,
                answer: Answer::Register(Newcomer {
                    mac: self.request.mac,
                    subnet: self.subnet.name.clone(),
                    hardware: self.client.arch().and_then(ClientArch::machine),
                    uuid: client::uuid(self.request),
                }),
                detail: "a newcomer; it is registered and answered from its plan".to_owned(),
                subnet: None,
                after: Duration::ZERO,
            },
        }
    }

    fn answer(
        &self,
        row: Row,
        message: MessageType,
        plan: Option<&BootPlan>,
        grant: Option<Grant>,
        file: Option<String>,
        detail: String,
    ) -> Decision {
        let mut options = vec![(option::SERVER_ID, self.server.octets().to_vec())];
        if message == MessageType::Nak {
            options.push((option::MESSAGE, detail.clone().into_bytes()));
        } else {
            if let Some(grant) = grant {
                options::lease(grant.seconds, &mut options);
            }
            if !self.proxy {
                self.network_options(plan, &mut options);
            }
            self.boot_options(file.as_deref(), &mut options);
        }
        for echoed in [option::CLIENT_ID, option::CLIENT_MACHINE_ID, option::RELAY_AGENT] {
            if let Some(value) = self.request.options.get(echoed) {
                options::put(&mut options, echoed, value.to_vec());
            }
        }
        let siaddr = if file.is_some() { self.server } else { Ipv4Addr::UNSPECIFIED };
        let yiaddr = grant.map_or(Ipv4Addr::UNSPECIFIED, |grant| grant.ip);
        Decision {
            row,
            answer: Answer::Reply(Box::new(Reply { message, yiaddr, siaddr, file: file.unwrap_or_default(), options })),
            detail,
            subnet: None,
            after: Duration::ZERO,
        }
    }
}

fn describe_file(row: Row, file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or_default();
    if name == NO_LOADER {
        format!("{name}, which starts nothing, so that its disk is next")
    } else if row == Row::LocalDisk {
        format!("{name}, which starts its disk")
    } else if file.starts_with("http://") && file.ends_with("/boot.ipxe") {
        "script over HTTP".to_owned()
    } else if file.starts_with("http://") {
        format!("loader {name} over HTTP")
    } else {
        format!("loader {file}")
    }
}
