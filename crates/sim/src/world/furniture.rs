//! What a world begins with.

use athanor_crds::{
    BootProfile, BootProfileSpec, Subnet, SubnetSpec,
    bootprofile::{Datasource, Image, Live},
    subnet::{AddressRange, Mode, SubnetServer, SubnetStatus},
};
use k8s_openapi::api::core::v1::Namespace;

use crate::Memory;

/// The namespace, a Subnet that two agents serve, two profiles, and machines of which half were accepted.
pub fn furnish(api: &Memory, machines: u8) {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some("default".to_owned());
    api.put(&namespace);
    let ranges = vec![AddressRange { from: "192.168.10.100".parse().unwrap(), to: "192.168.10.199".parse().unwrap() }];
    let spec = SubnetSpec { mode: Mode::Dhcp, ranges, ..SubnetSpec::of("192.168.10.0/24".parse().unwrap()) };
    let mut subnet = Subnet::new("lab", spec);
    let server = |node: &str, last: u8| SubnetServer {
        node: node.to_owned(),
        interface: "eth0".to_owned(),
        address: format!("192.168.10.{last}"),
        authority: Some("Alone".to_owned()),
        foreign_server: None,
        lacks: Vec::new(),
        limited: None,
        other_addresses: Vec::new(),
        ramdisk: true,
        version: None,
    };
    subnet.status = Some(SubnetStatus { servers: vec![server("n1", 1), server("n2", 2)], ..SubnetStatus::default() });
    api.put(&subnet);
    let image = Image {
        url: "http://example.com/golden.raw".to_owned(),
        checksum: format!("sha256:{}", "0".repeat(64)),
        ca: None,
        headers: None,
        format: None,
        grow: false,
        datasource: Datasource::default(),
    };
    let live = BootProfileSpec { live: Some(Live {}), kernel: Some("http://example.com/vmlinuz".to_owned()), ..BootProfileSpec::default() };
    for (name, spec) in [("golden", BootProfileSpec { image: Some(image), ..BootProfileSpec::default() }), ("live", live)] {
        let mut profile = BootProfile::new(name, spec);
        profile.metadata.namespace = Some("default".to_owned());
        api.put(&profile);
    }
    for number in 0..machines {
        let mut machine = crate::machine(number);
        machine.spec.accepted = number % 2 == 0;
        api.put(&machine);
    }
}
