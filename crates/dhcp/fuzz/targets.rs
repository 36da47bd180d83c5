//! Whatever comes in on a DHCP port, or stands in a capture.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a target fails by panicking, and runs for a time")]

#[path = "../../../tests/fuzz/engine.rs"]
mod engine;

use std::{net::Ipv4Addr, sync::Arc};

use athanor_crds::{
    MachineState, SubnetSpec,
    machine::LocalBoot,
    subnet::{Mode, Serves},
};
use athanor_dhcp::{Answer, Authority, Client, Context, Link, Request, Row, decide, pcap, question, reply::encode, rivals::Rival};
use athanor_plan::{BootPlan, Loaders, MachineKey, PlanAddress, PlanInterface, Safe, Snapshot, snapshot::NamedSubnet};
use dhcproto::{Decodable as _, Decoder, v4::Message};
use proptest::prelude::*;

const KNOWN: &str = "52:54:00:aa:00:01";

/// A client of each kind, known and unknown, and one with much more to say.
fn seeds() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = ["bios", "uefi", "arm64"]
        .iter()
        .flat_map(|arch| ["pxe", "ipxe", "http", "u-boot", "raspberry", "plain"].map(|client| format!("arch={arch},client={client}")))
        .flat_map(|what| [KNOWN, "52:54:00:bb:00:09"].map(|mac| format!("mac={mac},{what}")))
        .chain([
            format!("mac={KNOWN},type=request,ip=192.168.10.100"),
            format!("mac={KNOWN},type=request,ip=192.168.10.7"),
            format!("mac={KNOWN},arch=7,relay=192.168.20.1,uuid=b8945908-d6a6-41a9-611d-74a6ab80b83d"),
        ])
        .map(|text| question::describe(&text).unwrap().bytes)
        .collect();
    let mut talkative = all[0].clone();
    talkative.pop();
    for (code, value) in
        [(55, &[1, 3, 6, 15, 43, 60, 66, 67, 97][..]), (57, &[5, 220]), (61, &[1, 2, 3]), (82, &[1, 2, 7, 7, 5, 4, 10, 0, 0, 0])]
    {
        talkative.extend([code, u8::try_from(value.len()).unwrap()]);
        talkative.extend(value);
    }
    talkative.extend([52, 1, 3, 255]);
    all.push(talkative);
    all
}

fn snapshot() -> Snapshot {
    let mut lab = SubnetSpec::of("192.168.10.0/24".parse().unwrap());
    (lab.mode, lab.serves) = (Mode::Dhcp, Serves::Everyone);
    let address = PlanAddress { subnet: "lab".into(), ip: "192.168.10.100".parse().unwrap() };
    let plan = BootPlan {
        format: 1,
        machine: MachineKey { namespace: "default".into(), name: "m".into() },
        state: MachineState::Available,
        token: "TOKEN".into(),
        previous_token: None,
        interfaces: vec![PlanInterface { mac: KNOWN.parse().unwrap(), boot: true, addresses: vec![address] }],
        hostname: Some("web-1".into()),
        local_boot: LocalBoot::NoOffer,
        loader: None,
        safe: Safe::Wait { reason: "Available".into(), message: "it is free".into() },
        order: None,
        work: None,
        metadata: None,
        wake: false,
    };
    let loaders = Loaders::from_files(["undionly.kpxe", "snponly.efi"].map(|name| (name.to_owned(), name.to_owned())));
    Snapshot::new(
        vec![NamedSubnet { name: "lab".into(), spec: lab, servers: Vec::new(), other_addresses: Vec::new() }],
        vec![Arc::new(plan)],
        Arc::new(loaders),
    )
}

#[test]
fn whatever_is_asked_matches_one_row_and_whatever_is_answered_decodes() {
    let (snapshot, known) = (snapshot(), KNOWN.parse::<athanor_wire::MacAddr>().unwrap());
    let link = Link { interface: "eth1".into(), addresses: vec![Ipv4Addr::new(192, 168, 10, 1)] };
    engine::fuzz(&seeds(), |bytes| {
        let Ok(request) = Request::parse(bytes) else { return Ok(()) };
        let _ = Client::of(&request).describe();
        for proxy_port in [false, true] {
            let context = Context {
                snapshot: &snapshot,
                link: &link,
                authority: &Authority::Alone,
                unclaimed: !proxy_port,
                rival: proxy_port.then_some(Rival::Nothing),
                installation: "ours",
                http_port: 7481,
                proxy_port,
                leases: &[],
                chain_loop: false,
            };
            let decision = decide(&request, &context);
            prop_assert!(Row::ALL.contains(&decision.row) && !decision.detail.is_empty());
            let Answer::Reply(reply) = decision.answer else { continue };
            let answered = encode(&request, &reply);
            prop_assert!((300..=1500).contains(&answered.len()), "{} bytes", answered.len());
            prop_assert!(Message::decode(&mut Decoder::new(&answered)).is_ok());
            // Nobody gets an address or a file that is not its own.
            let is_known = request.mac == known;
            prop_assert!(is_known || (reply.yiaddr.is_unspecified() && reply.file.is_empty()) || decision.row == Row::Sibling, "{reply:?}");
        }
        Ok(())
    });
}

#[test]
fn nothing_in_a_capture_panics() {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for question in seeds() {
        let mut frame = vec![0xff; 12];
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67]);
        frame.extend(u16::try_from(question.len() + 8).unwrap().to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(question);
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        file.extend([0; 8]);
        file.extend(length);
        file.extend(length);
        file.extend(frame);
    }
    engine::fuzz(&[file], |bytes| {
        for question in pcap::questions(bytes).into_iter().flatten() {
            let _ = Request::parse(&question.bytes);
        }
        Ok(())
    });
}
