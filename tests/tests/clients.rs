//! The ways in which real firmware comes to its loader: beside another DHCP server, through a relay, over HTTP.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use athanor_tests::{Capture, Firmware, Guest, Rack, Service, Vm, dnsmasq, rack::HOST, tools, wait_for};
use dhcproto::v4::MessageType;

/// Accepts a machine that has come up, gives it a guest, and waits for the guest's own word; what that said on the console.
fn from_newcomer_to_proof(service: &Service<'_>, vm: &mut Vm<'_>) -> anyhow::Result<String> {
    let iso = service.add_media("guest.iso", &Guest::make()?.iso)?;
    vm.power_on()?;
    let name = vm.name();
    service.wait_state("machine", &name, "Discovered", 120)?;
    service.ctl(&format!("accept {name}"))?;
    service.wait_state("machine", &name, "Available", 15)?;
    let files = "--kernel live/vmlinuz --initrd live/initrd.img --cmdline console=ttyS0";
    service.ctl(&format!("create boot --name live --iso-path {} {files}", iso.display()))?;
    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1 --wait --timeout 240s", vm.mac))?;
    vm.wait_console("ATHANOR-GUEST", 30)
}

/// Waits until the story of a machine tells of something.
fn told(service: &Service<'_>, vm: &Vm<'_>, words: &[&str]) -> anyhow::Result<String> {
    wait_for("the story", Duration::from_secs(20), || {
        let story = service.ctl(&format!("explain {}", vm.mac)).map_err(|error| error.to_string())?;
        if words.iter().all(|word| story.contains(word)) { Ok(story) } else { Err(story) }
    })
}

/// dnsmasq gives the address, we give the boot file.
fn beside_dnsmasq(firmware: Firmware, mac: &str, row: &str) -> anyhow::Result<()> {
    let rack = Rack::up()?;
    let other = rack.neighbour("192.168.10.2/24")?;
    let _dnsmasq = dnsmasq::giving_addresses(&rack, &other)?;
    let capture = Capture::start(&rack)?;
    let service = Service::start_with(&rack, |config| config.replace("mode: dhcp", "mode: proxy"))?;
    let mut vm = Vm::plug(&rack, firmware, mac)?;
    let proof = from_newcomer_to_proof(&service, &mut vm)?;
    assert!(proof.contains("address 192.168.10.5") || proof.contains("address 192.168.10.60"), "not dnsmasq's address: {proof}");
    told(&service, &vm, &[row, "GUEST"])?;
    let ours = |seen: &&athanor_tests::capture::Seen| seen.server.is_some_and(|server| server.to_string() == HOST);
    let seen = capture.dhcp()?;
    assert!(seen.iter().filter(ours).all(|seen| seen.yiaddr.is_unspecified() && seen.type_ != MessageType::Nak), "{}", capture.text());
    assert_eq!(capture.malformed()?, "");
    Ok(())
}

#[test]
fn bios_boots_beside_a_dnsmasq_that_gives_addresses() {
    beside_dnsmasq(Firmware::Bios, "52:54:00:aa:00:21", "ipxe").unwrap();
}

#[test]
fn uefi_boots_beside_a_dnsmasq_that_gives_addresses() {
    beside_dnsmasq(Firmware::Uefi, "52:54:00:aa:00:22", "pxe-uefi").unwrap();
}

#[test]
fn a_machine_behind_a_relay_boots() {
    let rack = Rack::up().unwrap();
    let router = rack.far_segment().unwrap();
    let _relay = dnsmasq::relaying(&router, "192.168.20.1", HOST).unwrap();
    // Nothing on our own segment is served: only the relay leads here.
    let service = Service::start_with(&rack, |config| {
        let far = "cidr: 192.168.20.0/24\n    gateway: 192.168.20.1\n    relays: [{address: 192.168.20.1}]";
        let config = config.replace("cidr: 192.168.10.0/24", far).replace(&format!("    reserved: [{HOST}]\n"), "");
        config.replace("192.168.10.100", "192.168.20.100").replace("192.168.10.199", "192.168.20.199")
    })
    .unwrap();
    let capture = Capture::start(&rack).unwrap();
    let port = rack.port_on("br1").unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:00:23").unwrap().at(port);
    let proof = from_newcomer_to_proof(&service, &mut vm).unwrap();
    assert!(proof.contains("address 192.168.20.100/24"), "{proof}");
    assert!(!capture.dhcp().unwrap().is_empty());
    assert_eq!(capture.malformed().unwrap(), "");
}

#[test]
fn uefi_boots_over_http_alone() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let capture = Capture::start(&rack).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Uefi, "52:54:00:aa:00:24").unwrap().with_http_boot();
    let proof = from_newcomer_to_proof(&service, &mut vm).unwrap();
    assert!(proof.contains("address 192.168.10.100/24"), "{proof}");
    let story = told(&service, &vm, &["http-boot", "snponly.efi", "GUEST"]).unwrap();
    assert!(!story.contains("TFTP"), "something came over TFTP:\n{story}");
    assert_eq!(capture.malformed().unwrap(), "");
}

#[test]
fn an_interface_in_two_networks_serves_files_from_its_address_in_each() {
    let rack = Rack::up().unwrap();
    rack.ip("addr add 10.64.0.1/16 dev br0").unwrap();
    let _service = Service::start_with(&rack, |config| {
        config + "  second:\n    cidr: 10.64.0.0/16\n    mode: dhcp\n    ranges: [{from: 10.64.1.0, to: 10.64.1.9}]\n"
    })
    .unwrap();
    let client = rack.neighbour("10.64.0.2/16").unwrap();
    client.ip("addr add 192.168.10.9/24 dev eth0").unwrap();
    let loader = std::fs::read("/usr/lib/ipxe/snponly.efi").unwrap();
    for server in ["10.64.0.1", HOST] {
        let file = rack.file("loader");
        let mut curl = client.command("curl");
        curl.args(["-sS", "-m", "20", "--tftp-blksize", "1468", "-o"]).arg(&file).arg(format!("tftp://{server}/snponly.efi"));
        tools::run(&mut curl).unwrap();
        assert!(std::fs::read(&file).unwrap() == loader, "{server} served something else");
    }
}
