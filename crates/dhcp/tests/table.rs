//! The decision table, row by row, and the bytes of answers read back by an independent decoder.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::{net::Ipv4Addr, sync::Arc};

use athanor_crds::{
    MachineState, SubnetSpec,
    machine::LocalBoot,
    subnet::{self, AddressRange, Mode, RawOption, Relay, Serves},
};
use athanor_dhcp::{
    Answer, Authority, Context, Decision, Destination, Lease, Link, Reply, Request, Row, decide, probe,
    reply::{destination, encode},
    rivals::Rival,
};
use athanor_plan::{BootPlan, Loaders, MachineKey, PlanAddress, PlanInterface, Safe, Snapshot, snapshot::NamedSubnet};
use dhcproto::{
    Decodable as _, Decoder,
    v4::{DhcpOption, Message, OptionCode},
};
use proptest::prelude::*;

const KNOWN: [u8; 6] = [0x52, 0x54, 0, 0xaa, 0, 1];
const STRANGER: [u8; 6] = [0x52, 0x54, 0, 0xbb, 0, 9];

/// A packet as a sentence: what it is, then the options that make it so.
#[derive(Clone)]
struct Ask {
    mac: [u8; 6],
    ciaddr: [u8; 4],
    giaddr: [u8; 4],
    broadcast: bool,
    options: Vec<(u8, Vec<u8>)>,
}

fn ask(mac: [u8; 6], type_: u8) -> Ask {
    Ask { mac, ciaddr: [0; 4], giaddr: [0; 4], broadcast: false, options: vec![(53, vec![type_])] }
}
fn discover(mac: [u8; 6]) -> Ask {
    ask(mac, 1)
}
fn request(mac: [u8; 6]) -> Ask {
    ask(mac, 3)
}

impl Ask {
    fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.options.push((code, value.to_vec()));
        self
    }
    fn pxe(self, arch: u8) -> Self {
        let class = format!("PXEClient:Arch:{arch:05}:UNDI:003000");
        self.option(60, class.as_bytes()).option(93, &[0, arch])
    }
    fn ipxe(self) -> Self {
        self.pxe(7).option(77, b"iPXE").option(175, &[19, 1, 1])
    }
    fn wants(self, ip: [u8; 4]) -> Self {
        self.option(50, &ip)
    }
    fn relayed(mut self, by: [u8; 4]) -> Self {
        self.giaddr = by;
        self
    }
    fn broadcast(mut self) -> Self {
        self.broadcast = true;
        self
    }
    fn has(mut self, ip: [u8; 4]) -> Self {
        self.ciaddr = ip;
        self
    }
    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 236];
        out[..4].copy_from_slice(&[1, 1, 6, 0]);
        out[4..8].copy_from_slice(&[1, 2, 3, 4]);
        out[10] = if self.broadcast { 0x80 } else { 0 };
        out[12..16].copy_from_slice(&self.ciaddr);
        out[24..28].copy_from_slice(&self.giaddr);
        out[28..34].copy_from_slice(&self.mac);
        out.extend([99, 130, 83, 99]);
        for (code, value) in &self.options {
            out.extend([*code, u8::try_from(value.len()).unwrap()]);
            out.extend(value);
        }
        out.push(255);
        out
    }
}

/// A rack with one known machine, in a world that a test may change.
#[derive(Clone)]
struct World {
    subnet: SubnetSpec,
    plan: BootPlan,
    authority: Authority,
    unclaimed: bool,
    rival: Option<Rival>,
    servers: Vec<Ipv4Addr>,
    /// Subnets beside the first.
    others: Vec<(&'static str, SubnetSpec)>,
    chain_loop: bool,
    leases: Vec<Lease>,
    loaders: Vec<&'static str>,
}

fn world() -> World {
    let mut subnet = SubnetSpec::of("192.168.10.0/24".parse().unwrap());
    subnet.mode = Mode::Dhcp;
    subnet.gateway = Some("192.168.10.254".parse().unwrap());
    subnet.ranges = vec![AddressRange { from: "192.168.10.100".parse().unwrap(), to: "192.168.10.199".parse().unwrap() }];
    let address = PlanAddress { subnet: "lab".into(), ip: "192.168.10.100".parse().unwrap() };
    let plan = BootPlan {
        format: 1,
        machine: MachineKey { namespace: "default".into(), name: "m".into() },
        state: MachineState::Available,
        token: "TOKEN".into(),
        previous_token: None,
        interfaces: vec![PlanInterface { mac: athanor_wire::MacAddr(KNOWN), boot: true, addresses: vec![address] }],
        hostname: Some("web-1".into()),
        local_boot: LocalBoot::NoOffer,
        loader: None,
        safe: Safe::Wait { reason: "NotAccepted".into(), message: "accept it".into() },
        order: None,
        work: None,
        metadata: None,
        wake: false,
    };
    let (servers, others, leases) = (Vec::new(), Vec::new(), Vec::new());
    let loaders = vec!["undionly.kpxe", "snponly.efi"];
    World {
        subnet,
        plan,
        authority: Authority::Alone,
        unclaimed: true,
        rival: Some(Rival::Nothing),
        servers,
        others,
        chain_loop: false,
        leases,
        loaders,
    }
}

impl World {
    fn decide(&self, ask: &Ask) -> (Request, Decision) {
        let loaders = Loaders::from_files(self.loaders.iter().map(|name| ((*name).to_owned(), (*name).to_owned())));
        let mut subnets =
            vec![NamedSubnet { name: "lab".into(), spec: self.subnet.clone(), servers: self.servers.clone(), other_addresses: Vec::new() }];
        let others = self.others.iter().cloned();
        subnets.extend(others.map(|(name, spec)| NamedSubnet {
            name: name.into(),
            spec,
            servers: self.servers.clone(),
            other_addresses: Vec::new(),
        }));
        let snapshot = Snapshot::new(subnets, vec![Arc::new(self.plan.clone())], Arc::new(loaders));
        let link = Link { interface: "eth1".into(), addresses: vec![Ipv4Addr::new(192, 168, 10, 1)] };
        let context = Context {
            snapshot: &snapshot,
            link: &link,
            authority: &self.authority,
            unclaimed: self.unclaimed,
            rival: self.rival,
            installation: "ours",
            http_port: 7481,
            proxy_port: false,
            chain_loop: self.chain_loop,
            leases: &self.leases,
        };
        let request = Request::parse(&ask.bytes()).unwrap();
        let decision = decide(&request, &context);
        (request, decision)
    }

    fn row(&self, ask: &Ask) -> (Row, &'static str) {
        let (_, decision) = self.decide(ask);
        let answer = match decision.answer {
            Answer::Silence => "silence",
            Answer::Register(_) => "register",
            Answer::Lease(_) => "lease",
            Answer::AfterRivals => "rivals first",
            Answer::Reply(reply) => match reply.message.code() {
                2 => "OFFER",
                5 => "ACK",
                _ => "NAK",
            },
        };
        (decision.row, answer)
    }

    fn reply(&self, ask: &Ask) -> (Request, Reply) {
        match self.decide(ask) {
            (request, Decision { answer: Answer::Reply(reply), .. }) => (request, *reply),
            (_, other) => panic!("no reply: {other:?}"),
        }
    }

    fn message(&self, ask: &Ask) -> Message {
        let (request, reply) = self.reply(ask);
        let bytes = encode(&request, &reply);
        assert!(bytes.len() >= 300);
        Message::decode(&mut Decoder::new(&bytes)).unwrap()
    }
}

#[test]
fn an_option_that_a_subnet_gives_stands_in_for_ours_but_not_beside_it() {
    let mut world = world();
    world.subnet.options = [43, 60, 66, 67].map(|code| RawOption { code, hex: "6162".into() }).to_vec();
    for ask in [discover(KNOWN), discover(KNOWN).pxe(0), discover(KNOWN).pxe(7), discover(KNOWN).ipxe()] {
        let (_, reply) = world.reply(&ask);
        let mut codes: Vec<u8> = reply.options.iter().map(|(code, _)| *code).collect();
        codes.sort_unstable();
        let once = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), once, "{:?}", reply.options);
        // Whoever boots is told our file, a telephone what the Subnet says.
        let file = reply.options.iter().find(|(code, _)| *code == 67).map(|(_, value)| value.clone()).unwrap();
        assert_eq!(file == b"ab", reply.file.is_empty(), "{:?}", reply.options);
    }
}

/// Also where known machines are given boot files only beside another server.
#[test]
fn who_took_our_offer_is_given_its_address_whoever_shows_up_then() {
    let mut foreign = world();
    foreign.authority = Authority::Foreign([192, 168, 10, 2].into());
    foreign.subnet.on_foreign_server = subnet::OnForeignServer::Proxy;
    let (_, ack) = foreign.reply(&request(KNOWN).ipxe().wants([192, 168, 10, 100]).option(54, &[192, 168, 10, 1]));
    assert_eq!(ack.yiaddr, Ipv4Addr::new(192, 168, 10, 100));
    assert!(ack.options.iter().any(|(code, _)| *code == 51), "no lease time");
    let (_, offer) = foreign.reply(&discover(KNOWN).ipxe());
    assert!(offer.yiaddr.is_unspecified());
}

/// Unless somebody accepted it here, or vouches that there is no other server.
#[test]
fn another_server_may_know_who_asks() {
    let there = world();
    let waits = World { unclaimed: false, ..world() };
    let mut unaccepted = world();
    unaccepted.plan.state = MachineState::Discovered;
    let unaccepted_waits = World { unclaimed: false, ..unaccepted.clone() };
    let (mut vouched, mut proxy_waits) = (waits.clone(), waits.clone());
    vouched.subnet.authority = subnet::Authority::Assumed;
    proxy_waits.subnet.mode = Mode::Proxy;
    let too_late = World { authority: Authority::Foreign([192, 168, 10, 2].into()), ..unaccepted.clone() };
    let mine = [192, 168, 10, 100];
    for (world, ask, row, answer) in [
        (&waits, discover(STRANGER).pxe(0), Row::Held, "silence"),
        (&there, discover(STRANGER).pxe(0), Row::Held, "register"),
        (&vouched, discover(STRANGER).pxe(0), Row::Held, "register"),
        (&proxy_waits, discover(STRANGER).pxe(0), Row::Held, "register"),
        (&unaccepted_waits, discover(KNOWN).ipxe(), Row::Held, "silence"),
        (&unaccepted_waits, request(KNOWN).ipxe().wants(mine).option(54, &[192, 168, 10, 1]), Row::Ipxe, "ACK"),
        (&unaccepted, discover(KNOWN).ipxe(), Row::Ipxe, "OFFER"),
        (&waits, discover(KNOWN).ipxe(), Row::Ipxe, "OFFER"),
        // Another server shows up between our offer and its choice: it has what it was offered.
        (&too_late, discover(KNOWN).ipxe(), Row::Limited, "silence"),
        (&too_late, request(KNOWN).ipxe().wants(mine).option(54, &[192, 168, 10, 1]), Row::Ipxe, "ACK"),
        (&too_late, request(KNOWN).ipxe().wants(mine).option(54, &[192, 168, 10, 2]), Row::NotOurs, "silence"),
    ] {
        assert_eq!(world.row(&ask), (row, answer), "{:?}", ask.options);
    }
}

/// Where addresses are another server's: who is offered something to boot is left to it, unless somebody accepted it here.
#[test]
fn what_boots_an_unaccepted_machine_is_heard_first() {
    let server = [192, 168, 10, 2].into();
    let mut unheard = World { rival: None, ..world() };
    unheard.subnet.mode = Mode::Proxy;
    unheard.plan.state = MachineState::Discovered;
    let booted = World { rival: Some(Rival::Boots(server)), ..unheard.clone() };
    let free = World { rival: Some(Rival::Nothing), ..unheard.clone() };
    let (mut accepted, mut vouched) = (booted.clone(), booted.clone());
    accepted.plan.state = MachineState::Available;
    vouched.subnet.authority = subnet::Authority::Assumed;
    let mut beside = World { authority: Authority::Foreign(server), ..booted.clone() };
    (beside.subnet.mode, beside.subnet.on_foreign_server) = (Mode::Dhcp, subnet::OnForeignServer::Proxy);
    let asks = || discover(KNOWN).pxe(7).broadcast();
    for (world, ask, row, answer) in [
        (&unheard, asks(), Row::Held, "rivals first"),
        (&unheard, discover(KNOWN).broadcast(), Row::Address, "silence"),
        (&booted, asks(), Row::Theirs, "silence"),
        (&booted, discover(KNOWN).ipxe(), Row::Theirs, "silence"),
        (&beside, asks(), Row::Theirs, "silence"),
        (&free, asks(), Row::PxeUefi, "OFFER"),
        (&accepted, asks(), Row::PxeUefi, "OFFER"),
        (&vouched, asks(), Row::PxeUefi, "OFFER"),
    ] {
        assert_eq!(world.row(&ask), (row, answer), "{:?}", ask.options);
    }
}

#[test]
fn an_offer_tells_whether_there_is_something_to_boot() {
    let offer = |yiaddr: [u8; 4], file: &[u8], options: &[(u8, &[u8])]| {
        let mut out = vec![0; 236];
        out[..4].copy_from_slice(&[2, 1, 6, 0]);
        out[16..20].copy_from_slice(&yiaddr);
        out[28..34].copy_from_slice(&STRANGER);
        out[108..108 + file.len()].copy_from_slice(file);
        out.extend([99, 130, 83, 99, 53, 1, 2, 54, 4, 192, 168, 10, 2]);
        for (code, value) in options {
            out.extend([*code, u8::try_from(value.len()).unwrap()]);
            out.extend(*value);
        }
        out.push(255);
        let offer = probe::any_offer(&out).unwrap();
        assert_eq!((offer.client.0, offer.server), (STRANGER, [192, 168, 10, 2].into()));
        (offer.gives_address, offer.boots)
    };
    let given = [192, 168, 10, 50];
    assert_eq!(offer(given, b"", &[]), (true, false), "a router's");
    assert_eq!(offer(given, b"grub.efi", &[]), (true, true));
    assert_eq!(offer(given, b"", &[(67, b"grub.efi")]), (true, true));
    assert_eq!(offer([0; 4], b"", &[(60, b"PXEClient")]), (false, true), "a PXE server that names its file on port 4011");
    assert_eq!(offer([0; 4], b"", &[]), (false, false));
    assert_eq!(offer(given, b"", &[(60, b"PXEClient:Arch:00007:UNDI:003000")]), (true, false), "it echoes what the client said");
    assert_eq!(offer(given, &[3, 4, 192, 168, 10, 1, 255], &[(52, &[1])]), (true, false), "options in the place of the file");
    assert_eq!(offer(given, &[67, 2, b'a', b'b', 255], &[(52, &[1])]), (true, true));
}

#[test]
fn every_row_has_its_client() {
    let there = world();
    let mut disk = world();
    disk.plan.safe = Safe::LocalDisk { reason: "Provisioned".into() };
    let (mut proxy, mut probing, mut foreign, mut everyone) = (world(), world(), world(), world());
    proxy.subnet.mode = Mode::Proxy;
    probing.authority = Authority::Probing;
    foreign.authority = Authority::Foreign(Ipv4Addr::new(192, 168, 10, 2));
    let mut nobodys = world();
    nobodys.authority = foreign.authority.clone();
    nobodys.plan.state = MachineState::Discovered;
    let mut unaccepted = world();
    unaccepted.plan.state = MachineState::Discovered;
    let mut given_ours = world();
    given_ours.plan.interfaces[0].addresses[0].ip = "192.168.10.1".parse().unwrap();
    everyone.subnet.serves = Serves::Everyone;
    let mine = [192, 168, 10, 100];
    for (world, ask, row, answer) in [
        (&there, discover(STRANGER).option(60, b"athanor-probe:ours"), Row::Sibling, "silence"),
        (&there, discover(STRANGER).option(60, b"athanor-probe:theirs"), Row::Sibling, "OFFER"),
        (&probing, discover(STRANGER).option(60, b"athanor-probe:theirs"), Row::Sibling, "silence"),
        (&foreign, discover(STRANGER).option(60, b"athanor-probe:theirs"), Row::Sibling, "silence"),
        (&proxy, discover(STRANGER).option(60, b"athanor-probe:theirs"), Row::Sibling, "silence"),
        (&there, discover(KNOWN).ipxe().relayed([10, 9, 0, 1]), Row::NotOurs, "silence"),
        (&there, discover(KNOWN).ipxe().relayed([192, 168, 10, 9]), Row::Ipxe, "OFFER"),
        (&there, request(KNOWN).ipxe().wants(mine).option(54, &[192, 168, 10, 2]), Row::NotOurs, "silence"),
        (&there, request(KNOWN).ipxe().wants(mine).option(54, &[192, 168, 10, 1]), Row::Ipxe, "ACK"),
        (&there, request(KNOWN).wants([192, 168, 10, 7]), Row::Nak, "NAK"),
        (&there, request(KNOWN).has([10, 0, 0, 7]), Row::Nak, "NAK"),
        (&foreign, request(KNOWN).wants([192, 168, 10, 7]), Row::Nak, "silence"),
        (&there, request(STRANGER).wants([192, 168, 10, 7]), Row::NotOurs, "silence"),
        (&there, ask(KNOWN, 8).has(mine), Row::Inform, "ACK"),
        (&there, ask(STRANGER, 8).has([192, 168, 10, 9]), Row::Inform, "silence"),
        (&there, ask(KNOWN, 7).has(mine), Row::Release, "silence"),
        (&there, ask(KNOWN, 4).wants(mine), Row::Decline, "silence"),
        (&there, ask(KNOWN, 4).wants(mine).option(54, &[10, 0, 0, 77]), Row::NotOurs, "silence"),
        (&there, ask(KNOWN, 7).option(54, &[10, 0, 0, 77]), Row::NotOurs, "silence"),
        (&disk, discover(KNOWN).pxe(7), Row::LocalDisk, "OFFER"),
        (&disk, discover(KNOWN).ipxe(), Row::LocalDisk, "OFFER"),
        (&there, discover(KNOWN).pxe(0).option(97, b"\0RPi4xxxxxxxxxxxxx"), Row::RaspberryPi, "OFFER"),
        (&there, discover(KNOWN).ipxe(), Row::Ipxe, "OFFER"),
        (&there, discover(KNOWN).pxe(7).option(77, b"\x04iPXE"), Row::Ipxe, "OFFER"),
        (&there, discover(KNOWN).option(60, b"HTTPClient:Arch:00016:UNDI:003000").option(93, &[0, 16]), Row::HttpBoot, "OFFER"),
        (&there, discover(KNOWN).pxe(0), Row::PxeBios, "OFFER"),
        (&there, discover(KNOWN).option(60, b"PXEClient"), Row::PxeBios, "OFFER"),
        (&there, discover(KNOWN).pxe(7), Row::PxeUefi, "OFFER"),
        (&there, discover(KNOWN).pxe(9), Row::PxeUefi, "OFFER"),
        (&there, discover(KNOWN).option(60, b"U-Boot.armv8"), Row::UBoot, "OFFER"),
        (&there, discover(KNOWN).pxe(11), Row::NoLoader, "OFFER"),
        (&there, discover(KNOWN), Row::Address, "OFFER"),
        (&there, request(KNOWN).has(mine), Row::Address, "ACK"),
        (&there, discover(STRANGER), Row::Other, "silence"),
        (&everyone, discover(STRANGER), Row::Other, "lease"),
        (&there, discover(STRANGER).ipxe(), Row::Held, "register"),
        (&probing, discover(STRANGER).ipxe(), Row::Held, "silence"),
        (&probing, discover(KNOWN).ipxe(), Row::Held, "silence"),
        (&foreign, discover(STRANGER).ipxe(), Row::Limited, "silence"),
        (&foreign, discover(KNOWN).ipxe(), Row::Ipxe, "OFFER"),
        (&nobodys, discover(KNOWN).ipxe(), Row::Limited, "silence"),
        (&nobodys, discover(KNOWN), Row::Limited, "silence"),
        (&unaccepted, discover(KNOWN).ipxe(), Row::Ipxe, "OFFER"),
        (&unaccepted, request(KNOWN).wants([192, 168, 10, 7]), Row::Nak, "silence"),
        (&given_ours, discover(KNOWN).ipxe(), Row::Held, "silence"),
        (&proxy, discover(KNOWN).pxe(7), Row::PxeUefi, "OFFER"),
        (&proxy, discover(KNOWN), Row::Address, "silence"),
        (&proxy, request(KNOWN).wants(mine), Row::NotOurs, "silence"),
    ] {
        assert_eq!(world.row(&ask), (row, answer), "{:?}", ask.options);
    }
}

#[test]
fn an_offer_says_what_the_client_needs_in_its_order() {
    let message = world().message(&discover(KNOWN).pxe(0).option(55, &[3, 1, 54]).option(97, &[0; 17]).option(61, &[1, 2, 3]));
    assert_eq!(message.yiaddr(), Ipv4Addr::new(192, 168, 10, 100));
    assert_eq!(message.siaddr(), Ipv4Addr::new(192, 168, 10, 1));
    assert_eq!(message.fname_str().unwrap().unwrap().trim_end_matches('\0'), "undionly.kpxe");
    let option = |code| message.opts().get(code).cloned();
    assert_eq!(option(OptionCode::BootfileName), Some(DhcpOption::BootfileName(b"undionly.kpxe".to_vec())));
    assert_eq!(option(OptionCode::Router), Some(DhcpOption::Router(vec![Ipv4Addr::new(192, 168, 10, 254)])));
    assert_eq!(option(OptionCode::Hostname), Some(DhcpOption::Hostname("web-1".into())));
    assert_eq!(option(OptionCode::AddressLeaseTime), Some(DhcpOption::AddressLeaseTime(3600)));
    assert_eq!(option(OptionCode::Renewal), Some(DhcpOption::Renewal(1800)));
    assert_eq!(option(OptionCode::ClassIdentifier), Some(DhcpOption::ClassIdentifier(b"PXEClient".to_vec())));
    assert_eq!(option(OptionCode::ClientIdentifier), Some(DhcpOption::ClientIdentifier(vec![1, 2, 3])));
}

#[test]
fn options_60_and_43_are_as_each_firmware_bears_them() {
    let has = |message: &Message, code| message.opts().get(code).is_some();
    let uefi = world().message(&discover(KNOWN).pxe(7));
    assert!(!has(&uefi, OptionCode::ClassIdentifier) && !has(&uefi, OptionCode::VendorExtensions));
    let bios = world().message(&discover(KNOWN).pxe(0));
    assert!(has(&bios, OptionCode::ClassIdentifier) && has(&bios, OptionCode::VendorExtensions));
    let mut proxy = world();
    proxy.subnet.mode = Mode::Proxy;
    let offer = proxy.message(&discover(KNOWN).pxe(7));
    assert!(has(&offer, OptionCode::ClassIdentifier) && !has(&offer, OptionCode::VendorExtensions));
    assert!(offer.yiaddr().is_unspecified() && !has(&offer, OptionCode::AddressLeaseTime));
    let http = world().message(&discover(KNOWN).option(60, b"HTTPClient:Arch:00016:UNDI:003000"));
    assert_eq!(http.opts().get(OptionCode::ClassIdentifier), Some(&DhcpOption::ClassIdentifier(b"HTTPClient".to_vec())));
    assert_eq!(
        http.opts().get(OptionCode::BootfileName),
        Some(&DhcpOption::BootfileName(b"http://192.168.10.1:7481/l/snponly.efi".to_vec()))
    );
}

#[test]
fn answers_go_where_the_client_can_hear_them() {
    let to = |ask: &Ask| {
        let (request, reply) = world().reply(ask);
        destination(&request, &reply)
    };
    let mine = Ipv4Addr::new(192, 168, 10, 100);
    assert_eq!(to(&discover(KNOWN).ipxe()), Destination::Link(athanor_wire::MacAddr(KNOWN), mine));
    assert_eq!(to(&request(KNOWN).has(mine.octets())), Destination::Unicast(mine));
    assert_eq!(to(&discover(KNOWN).ipxe().relayed([192, 168, 10, 9])), Destination::Relay(Ipv4Addr::new(192, 168, 10, 9)));
    assert_eq!(to(&request(KNOWN).wants([1, 2, 3, 4])), Destination::Broadcast);
}

#[test]
fn a_probe_is_answered_by_others_and_judged_right() {
    let ours = probe::discover(7, athanor_wire::MacAddr(STRANGER), "ours");
    let request = Request::parse(&ours).unwrap();
    assert!(request.broadcast);
    assert_eq!(request.options.text(60).unwrap(), "athanor-probe:ours");
    let offer = |server: [u8; 4], yiaddr: u8| {
        let mut bytes = vec![0; 236];
        bytes[0] = 2;
        bytes[4..8].copy_from_slice(&7u32.to_be_bytes());
        bytes[19] = yiaddr;
        bytes.extend([99, 130, 83, 99, 53, 1, 2, 54, 4]);
        bytes.extend(server);
        bytes.push(255);
        bytes
    };
    let me = [Ipv4Addr::new(192, 168, 10, 1)];
    assert_eq!(probe::foreign_server(&offer([10, 0, 0, 2], 9), 7, &me), Some(Ipv4Addr::new(10, 0, 0, 2)));
    // Of two installations the second finds the first.
    let (theirs, decision) = world().decide(&discover(STRANGER).option(60, b"athanor-probe:theirs"));
    let Answer::Reply(reply) = decision.answer else { panic!("no answer to another installation's probe") };
    let seen = encode(&theirs, &reply);
    assert_eq!(probe::foreign_server(&seen, theirs.xid, &[Ipv4Addr::new(192, 168, 10, 9)]), Some(Ipv4Addr::new(192, 168, 10, 1)));
    assert_eq!(probe::foreign_server(&offer([10, 0, 0, 2], 9), 8, &me), None, "another transaction");
    assert_eq!(probe::foreign_server(&offer([192, 168, 10, 1], 9), 7, &me), None, "our own");
    assert_eq!(probe::foreign_server(&offer([10, 0, 0, 2], 0), 7, &me), None, "a proxy takes nobody's authority");
}

#[test]
fn agents_on_one_segment_answer_in_turn() {
    let ours = Ipv4Addr::new(192, 168, 10, 1);
    let after = |others: u8, ask: &Ask| {
        let servers: Vec<Ipv4Addr> = (1..=1 + others).map(|last| Ipv4Addr::new(192, 168, 10, last)).collect();
        let place = athanor_dhcp::rank::place(athanor_wire::MacAddr(KNOWN), ours, &servers);
        let (_, decision) = World { servers, ..world() }.decide(ask);
        (place, matches!(decision.answer, Answer::Reply(_)).then_some(decision.after.as_millis()))
    };
    let mut seen = std::collections::BTreeSet::new();
    for others in 0..40 {
        let (place, answered) = after(others, &discover(KNOWN).pxe(7));
        seen.insert(place.min(3));
        assert_eq!(answered, [Some(0), Some(200), Some(400), None][place.min(3)], "{place}");
        // Whoever is meant answers at once, and a renewal is never left alone.
        let mine = ours.octets();
        assert_eq!(after(others, &request(KNOWN).wants([192, 168, 10, 100]).option(54, &mine)).1, Some(0));
        assert!(after(others, &request(KNOWN).has([192, 168, 10, 100])).1.is_some());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3], "the example has no agent at some place");
}

#[test]
fn whoever_is_served_has_an_address_for_as_long_as_it_is_stored() {
    let mut there = world();
    there.subnet.serves = Serves::Everyone;
    let seconds = there.subnet.lease_seconds;
    let lent = |remaining| World { leases: vec![Lease { ip: [192, 168, 10, 150].into(), subnet: "lab".into(), remaining }], ..world() };
    let lent = |remaining| World { subnet: there.subnet.clone(), ..lent(remaining) };
    // Nobody is promised what is not stored.
    assert_eq!(there.row(&discover(STRANGER)), (Row::Other, "lease"));
    assert_eq!(there.row(&request(STRANGER).wants([192, 168, 10, 150])), (Row::NotOurs, "silence"));
    assert_eq!(lent(seconds).row(&discover(STRANGER)), (Row::Other, "OFFER"));
    assert_eq!(lent(seconds / 2).row(&discover(STRANGER)), (Row::Other, "lease"));
    let (_, ack) = lent(seconds - 5).reply(&request(STRANGER).wants([192, 168, 10, 150]));
    assert_eq!(ack.yiaddr, Ipv4Addr::new(192, 168, 10, 150));
    assert!(ack.options.contains(&(51, (seconds - 5).to_be_bytes().to_vec())), "{ack:?}");
    // It renews at half its time: that is stored first, too.
    assert_eq!(lent(seconds / 2).row(&request(STRANGER).has([192, 168, 10, 150])), (Row::Other, "lease"));
    assert_eq!(lent(seconds).row(&request(STRANGER).wants([192, 168, 10, 151])), (Row::Nak, "NAK"));
    // Of several that it has, the one that it speaks of; and none that would not be given today.
    let several = |ips: [u8; 2]| {
        let lease = |last: u8| Lease { ip: [192, 168, 10, last].into(), subnet: "lab".into(), remaining: seconds };
        World { leases: ips.map(lease).to_vec(), ..lent(seconds) }
    };
    assert_eq!(several([150, 151]).row(&request(STRANGER).has([192, 168, 10, 151])), (Row::Other, "ACK"));
    assert_eq!(several([7, 7]).row(&request(STRANGER).has([192, 168, 10, 7])), (Row::NotOurs, "silence"), "outside the ranges");
    let foreign = World { authority: Authority::Foreign([192, 168, 10, 7].into()), ..lent(seconds) };
    assert_eq!(foreign.row(&discover(STRANGER)), (Row::Other, "silence"));
    assert_eq!(World { subnet: world().subnet, ..lent(seconds) }.row(&discover(STRANGER)), (Row::Other, "silence"));
}

/// A rack behind the relay 10.2.0.1, where the machine has 10.2.0.7, and another one behind the same relay.
fn behind_a_relay() -> World {
    let relayed = |cidr: &str| {
        let mut spec = SubnetSpec::of(cidr.parse().unwrap());
        spec.mode = Mode::Dhcp;
        spec.relays = vec![Relay { address: "10.2.0.1".parse().unwrap() }];
        spec
    };
    let mut there = World { others: vec![("far", relayed("10.1.0.0/24")), ("rack", relayed("10.2.0.0/24"))], ..world() };
    there.plan.interfaces[0].addresses = vec![PlanAddress { subnet: "rack".into(), ip: "10.2.0.7".parse().unwrap() }];
    there
}

#[test]
fn a_client_behind_a_relay_has_its_address_whether_the_relay_speaks_or_the_client() {
    let there = behind_a_relay();
    let subnet = |ask: &Ask| there.decide(ask).1.subnet;
    for ask in [
        discover(KNOWN).pxe(7).relayed([10, 2, 0, 1]),
        request(KNOWN).wants([10, 2, 0, 7]).relayed([10, 2, 0, 1]),
        // It renews, and speaks to us alone.
        request(KNOWN).has([10, 2, 0, 7]),
    ] {
        assert_eq!((there.reply(&ask).1.yiaddr, subnet(&ask).as_deref()), (Ipv4Addr::new(10, 2, 0, 7), Some("rack")));
    }
    // A NAK would be broadcast where the client is not.
    assert_eq!(there.row(&request(KNOWN).has([10, 2, 0, 99])), (Row::Nak, "silence"));
    assert_eq!(there.row(&request(KNOWN).wants([10, 2, 0, 99]).relayed([10, 2, 0, 1])), (Row::Nak, "NAK"));
    // Of two Subnets behind one relay the one that it means.
    let selected = discover(STRANGER).pxe(7).relayed([10, 2, 0, 1]).option(82, &[5, 4, 10, 1, 0, 0]);
    let Answer::Register(newcomer) = there.decide(&selected).1.answer else { panic!("not registered") };
    assert_eq!(newcomer.subnet, "far");
    // A relay that nobody named is nobody's.
    assert_eq!(there.row(&discover(KNOWN).pxe(7).relayed([10, 2, 0, 250])), (Row::NotOurs, "silence"));
}

#[test]
fn what_answers_on_our_own_wire_says_nothing_about_one_behind_a_relay() {
    let foreign = World { authority: Authority::Foreign(Ipv4Addr::new(192, 168, 10, 7)), ..behind_a_relay() };
    assert_eq!(foreign.row(&discover(STRANGER).pxe(7).relayed([10, 2, 0, 1])), (Row::Held, "register"));
    assert_eq!(foreign.row(&discover(STRANGER).pxe(7)), (Row::Limited, "silence"));
}

#[test]
fn uefi_that_is_to_boot_its_disk_is_given_what_starts_it() {
    let mut disk = world();
    disk.plan.safe = Safe::LocalDisk { reason: "Provisioned".into() };
    let file = |ask: Ask| disk.reply(&ask).1.file;
    assert_eq!(file(discover(KNOWN).pxe(7)), "local-disk.efi");
    assert_eq!(file(discover(KNOWN).pxe(11)), "local-disk-arm64.efi");
    // No program is built for it; what firmware cannot start sends it on as well.
    assert_eq!(file(discover(KNOWN).pxe(6)), "no-loader.efi");
    let http = discover(KNOWN).option(60, b"HTTPClient:Arch:00016:UNDI:003000").option(93, &[0, 16]);
    assert_eq!(file(http), "http://192.168.10.1:7481/l/local-disk.efi");
    assert_eq!(file(discover(KNOWN).pxe(0)), "");
    assert_eq!(file(discover(KNOWN).ipxe()), "");
    // Where shim is the loader, firmware may start nothing else: its GRUB starts the disk.
    disk.loaders.extend(["shimx64.efi", "grubx64.efi"]);
    let file = |ask: Ask| disk.reply(&ask).1.file;
    assert_eq!(file(discover(KNOWN).pxe(7)), "shimx64.efi");
    let http = discover(KNOWN).option(60, b"HTTPClient:Arch:00016:UNDI:003000").option(93, &[0, 16]);
    assert_eq!(file(http), "http://192.168.10.1:7481/l/shimx64.efi");
    assert_eq!(file(discover(KNOWN).pxe(11)), "local-disk-arm64.efi");
}

#[test]
fn a_relay_asks_whom_it_was_told_to_ask_and_is_answered_at_once() {
    let servers: Vec<Ipv4Addr> = (1..=40).map(|last| Ipv4Addr::new(192, 168, 10, last)).collect();
    let (_, decision) = World { servers, ..behind_a_relay() }.decide(&discover(KNOWN).pxe(7).relayed([10, 2, 0, 1]));
    assert!(matches!(decision.answer, Answer::Reply(_)) && decision.after.is_zero(), "{decision:?}");
}

#[test]
fn who_fetches_its_loader_again_and_again_is_offered_none() {
    let circles = World { chain_loop: true, ..world() };
    let (_, reply) = circles.reply(&discover(KNOWN).pxe(7));
    assert_eq!((circles.row(&discover(KNOWN).pxe(7)), reply.file.as_str()), ((Row::NoLoader, "OFFER"), ""));
    assert!(circles.decide(&discover(KNOWN).pxe(7)).1.detail.contains("ChainLoop"));
    assert_eq!(circles.row(&discover(KNOWN).ipxe()), (Row::Ipxe, "OFFER"), "its loader runs: it asks for its script");
}

proptest! {
    #[test]
    fn every_packet_matches_one_row_and_every_answer_decodes(
        type_ in 0u8..10, known: bool, ciaddr: [u8; 4], giaddr in prop_oneof![Just([0; 4]), any::<[u8; 4]>()],
        options in proptest::collection::vec((1u8..255, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
    ) {
        let mut packet = ask(if known { KNOWN } else { STRANGER }, type_);
        packet.ciaddr = ciaddr;
        packet.giaddr = giaddr;
        packet.options.extend(options.into_iter().filter(|(code, _)| *code != 53 && *code != 52));
        let (request, decision) = world().decide(&packet);
        prop_assert!(Row::ALL.contains(&decision.row) && !decision.detail.is_empty());
        if let Answer::Reply(reply) = decision.answer {
            let bytes = encode(&request, &reply);
            prop_assert!(bytes.len() >= 300 && bytes.len() <= 1500);
            let message = Message::decode(&mut Decoder::new(&bytes)).unwrap();
            prop_assert_eq!(message.xid(), 0x0102_0304);
        }
    }
}
