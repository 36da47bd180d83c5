//! Clients that are no machines: laptops that get an address for a while, from real DHCP clients.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::{fs, time::Duration};

use athanor_tests::{Rack, Service, dhclient, rack::Neighbour, tools, wait_for};

/// What udhcpc does with what it got: it says so, and configures nothing.
const SAYS: &str = "#!/bin/sh\n[ \"$1\" = bound ] && echo \"address $ip lease $lease router $router\"\nexit 0\n";

fn everyone(rack: &Rack) -> Service<'_> {
    let serves = |config: String| {
        config.replace("    mode: dhcp", "    mode: dhcp\n    serves: everyone\n    gateway: 192.168.10.254\n    leaseSeconds: 120")
    };
    let service = Service::start_with(rack, serves).unwrap();
    script(rack, "says.sh", SAYS);
    service.wait("subnet", "lab", 20, |subnet| subnet["status"]["conditions"].to_string().contains("Probed")).unwrap();
    service
}

fn script(rack: &Rack, name: &str, text: &str) {
    fs::write(rack.file(name), text).unwrap();
    tools::run(std::process::Command::new("chmod").arg("+x").arg(rack.file(name))).unwrap();
}

/// Asks as busybox' client does; the address and the whole line.
fn udhcpc(rack: &Rack, client: &Neighbour, more: &[&str]) -> anyhow::Result<(String, String)> {
    let mut command = client.command("busybox");
    command.args(["udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "6", "-T", "2", "-s"]).arg(rack.file("says.sh")).args(more);
    let said = tools::run(&mut command)?;
    let line = said.lines().find(|line| line.starts_with("address ")).unwrap_or_default().to_owned();
    let address = line.split(' ').nth(1).unwrap_or_default().to_owned();
    anyhow::ensure!(!address.is_empty(), "no address: {said}");
    Ok((address, line))
}

/// The Address objects that are no Machine's, by their addresses.
fn lent(service: &Service<'_>) -> Vec<(String, bool)> {
    let mut all: Vec<(String, bool)> = service
        .list("addresses")
        .unwrap()
        .iter()
        .filter(|address| address["spec"]["owner"].is_null())
        .map(|address| (address["spec"]["ip"].as_str().unwrap_or_default().to_owned(), address["spec"]["quarantine"].is_string()))
        .collect();
    all.sort();
    all
}

#[test]
fn a_laptop_has_an_address_for_a_while_and_is_no_machine() {
    let rack = Rack::up().unwrap();
    let mut service = everyone(&rack);
    let laptop = rack.guest().unwrap();
    let (address, line) = udhcpc(&rack, &laptop, &[]).unwrap();
    assert!(address.starts_with("192.168.10.1") && line.ends_with("router 192.168.10.254"), "{line}");
    let lease: u32 = line.split(' ').nth(3).unwrap().parse().unwrap();
    assert!((100..=120).contains(&lease), "{line}");
    assert_eq!(lent(&service), [(address.clone(), false)]);
    assert!(service.list("machines").unwrap().is_empty());
    wait_for("the story", Duration::from_secs(30), || {
        let story = service.ctl(&format!("explain {}", laptop.mac().unwrap())).map_err(|error| error.to_string())?;
        if story.contains("other") && story.contains(&address) { Ok(()) } else { Err(story) }
    })
    .unwrap();

    // Whoever serves next knows it; another client gets another one.
    service.kill();
    service.restart().unwrap();
    assert_eq!(udhcpc(&rack, &laptop, &[]).unwrap().0, address);
    let other = rack.guest().unwrap();
    assert_ne!(udhcpc(&rack, &other, &["-r", &address]).unwrap().0, address);
    assert_eq!(lent(&service).len(), 2);
}

#[test]
fn an_address_that_somebody_uses_unasked_is_offered_to_nobody() {
    let rack = Rack::up().unwrap();
    let service = everyone(&rack);
    let _unasked = rack.neighbour("192.168.10.150/24").unwrap();
    let laptop = rack.guest().unwrap();
    let (address, _) = udhcpc(&rack, &laptop, &["-r", "192.168.10.150"]).unwrap();
    assert_ne!(address, "192.168.10.150");
    assert!(lent(&service).contains(&("192.168.10.150".to_owned(), true)), "{:?}", lent(&service));
    let told = |subnet: &serde_json::Value| subnet["status"]["conditions"].to_string().contains("AddressesQuarantined");
    let subnet = service.wait("subnet", "lab", 20, told).unwrap();
    assert!(subnet["status"]["conditions"].to_string().contains("192.168.10.150 ("), "{subnet}");
}

#[test]
fn dhclient_has_renews_and_returns_its_address() {
    let rack = Rack::up().unwrap();
    let service = everyone(&rack);
    let laptop = rack.guest().unwrap();
    dhclient::run(&rack, &laptop, "-1").unwrap();
    let leases = fs::read_to_string(rack.file(dhclient::LEASES)).unwrap();
    let first = lent(&service);
    assert!(first.len() == 1 && leases.contains(&format!("fixed-address {};", first[0].0)), "{first:?}\n{leases}");
    let expires = |service: &Service<'_>| service.list("addresses").unwrap()[0]["spec"]["expires"].as_str().unwrap_or_default().to_owned();
    let before = expires(&service);
    // It renews at half its time, which it was told is a minute from now at the latest.
    wait_for("a renewal", Duration::from_secs(90), || if expires(&service) == before { Err(before.clone()) } else { Ok(()) }).unwrap();
    dhclient::run(&rack, &laptop, "-r").unwrap();
    wait_for("its return", Duration::from_secs(10), || match lent(&service) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .unwrap();
}

#[test]
fn a_machine_that_declines_its_address_gets_another() {
    let rack = Rack::up().unwrap();
    let service = everyone(&rack);
    let laptop = rack.guest().unwrap();
    let mac = laptop.mac().unwrap();
    service.ctl(&format!("create machine m1 --mac {mac} --accept")).unwrap();
    let given = service.wait("machine", "m1", 20, |machine| machine["status"]["address"].is_string()).unwrap();
    assert_eq!(given["status"]["address"], "192.168.10.100");
    let unasked = rack.neighbour("192.168.10.100/24").unwrap();
    // busybox asks the wire before it takes an address, and declines.
    let (address, _) = udhcpc(&rack, &laptop, &["-a500"]).unwrap();
    assert_eq!(address, "192.168.10.101");
    let moved = service.wait("machine", "m1", 20, |machine| machine["status"]["address"] != "192.168.10.100").unwrap();
    assert_eq!(moved["status"]["address"], "192.168.10.101");
    assert_eq!(lent(&service), [("192.168.10.100".to_owned(), true)]);
    let story = service.ctl(&format!("explain {mac}")).unwrap();
    assert!(story.contains("decline"), "{story}");
    drop(unasked);
}
