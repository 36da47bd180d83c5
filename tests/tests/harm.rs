//! No harm by default: a machine that has an operating system gets it back, and another server's clients stay its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::time::{Duration, Instant};

use athanor_tests::{
    Capture, FakeIpxe, Firmware, Guest, Rack, Service, Vm, capture, disk, dnsmasq, firmware_client, rack, tools, wait_for,
};

/// A freshly started Athanor, as a person who changes nothing gets it: with what `config detect` writes.
fn detected(rack: &Rack) -> anyhow::Result<Service<'_>> {
    let written = tools::run(rack.command(athanor_tests::service::binary()?).args(["config", "detect"]))?;
    Service::start_with(rack, |ours| {
        let data = ours.lines().find(|line| line.starts_with("dataDir")).unwrap_or_default().to_owned();
        written.lines().map(|line| if line.starts_with("dataDir") { data.clone() } else { line.to_owned() } + "\n").collect()
    })
}

fn handed_back(firmware: Firmware, mac: &str) -> anyhow::Result<()> {
    let rack = Rack::up()?;
    handed_back_in(&rack, "Probed", firmware, mac)
}

/// A dnsmasq gives addresses, as a router does, and nothing to boot.
fn handed_back_beside_a_dnsmasq(firmware: Firmware, mac: &str) -> anyhow::Result<()> {
    let rack = Rack::up()?;
    let other = rack.neighbour("192.168.10.2/24")?;
    let _dnsmasq = dnsmasq::giving_addresses(&rack, &other)?;
    handed_back_in(&rack, "mode proxy", firmware, mac)
}

/// `served` is what the Subnet says when it is served.
fn handed_back_in(rack: &Rack, served: &str, firmware: Firmware, mac: &str) -> anyhow::Result<()> {
    let image = disk::bootable(rack, firmware)?;
    let before = std::fs::read(&image)?;
    let service = detected(rack)?;
    let capture = Capture::start(rack)?;
    service.wait("subnet", "lab", 20, |subnet| subnet["status"]["conditions"].to_string().contains(served))?;
    let mut vm = Vm::plug(rack, firmware, mac)?.with_disk(&image);
    vm.power_on()?;
    wait_for("first request", Duration::from_secs(60), || {
        let asked = capture.dhcp().map_err(|error| error.to_string())?.iter().any(|seen| seen.mac == vm.mac);
        if asked { Ok(()) } else { Err("nothing asked".to_owned()) }
    })?;
    let asked = Instant::now();
    vm.wait_console(disk::SAYS, 60)?;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(35), "handed back after {took:?} only:\n{}", service.log());
    // It is known and waits for a person's word, and its disk is as it was.
    service.wait_state("machine", &vm.name(), "Discovered", 5)?;
    service.ctl(&format!("accept {}", vm.name()))?;
    service.wait_state("machine", &vm.name(), "Available", 5)?;
    vm.power_off();
    assert!(std::fs::read(&image)? == before, "the disk was written");
    Ok(())
}

#[test]
fn a_bios_machine_with_an_operating_system_is_handed_back_to_its_disk() {
    handed_back(Firmware::Bios, "52:54:00:aa:00:11").unwrap();
}

#[test]
fn a_bios_machine_beside_a_dnsmasq_is_handed_back_to_its_disk() {
    handed_back_beside_a_dnsmasq(Firmware::Bios, "52:54:00:aa:00:1d").unwrap();
}

#[test]
fn a_uefi_machine_beside_a_dnsmasq_is_handed_back_to_its_disk() {
    handed_back_beside_a_dnsmasq(Firmware::Uefi, "52:54:00:aa:00:1e").unwrap();
}

#[test]
fn a_uefi_machine_with_an_operating_system_is_handed_back_to_its_disk() {
    handed_back(Firmware::Uefi, "52:54:00:aa:00:12").unwrap();
}

#[test]
fn a_uefi_machine_without_an_operating_system_is_given_back_to_its_firmware() {
    let rack = Rack::up().unwrap();
    let service = detected(&rack).unwrap();
    let disk = rack.file("empty.img");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Uefi, "52:54:00:aa:00:16").unwrap().with_disk(&disk);
    wait_probed(&service, "Probed");
    vm.power_on().unwrap();
    vm.wait_console("no disk of this machine starts; the firmware goes on", 90).unwrap();
    // It does, and asks the network again in the end.
    assert_eq!(vm.console().matches("Athanor: starting the local disk").count(), 1, "{}", vm.console());
}

#[test]
fn who_asks_while_another_server_is_looked_for_is_answered_when_there_is_none() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let host = rack.neighbour("192.168.10.77/24").unwrap();
    // It asks twice, as firmware does, and no more.
    let line = "udhcpc -i eth0 -n -q -f -t 2 -T 4 -V PXEClient:Arch:00000:UNDI:002001 -s /bin/true";
    let said = host.command("busybox").args(line.split(' ')).output().unwrap();
    assert!(said.status.success(), "{}\n{}", String::from_utf8_lossy(&said.stderr), service.log());
}

/// What was started and came back has left nothing behind that the next kernel trips over when it takes the machine from its firmware.
#[test]
fn a_uefi_machine_that_was_given_back_boots_what_it_is_given_next() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service =
        Service::start_with(&rack, |config| config.replace("whileUnaccepted: Wait", "whileUnaccepted: LocalDiskThenWait")).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    service
        .ctl(&format!(
            "create boot --name live --iso-path {} --kernel live/vmlinuz --initrd live/initrd.img --cmdline console=ttyS0",
            iso.display()
        ))
        .unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Uefi, "52:54:00:aa:00:17").unwrap();
    wait_probed(&service, "Probed");
    vm.power_on().unwrap();
    vm.wait_console("no disk of this machine starts; the firmware goes on", 90).unwrap();
    service.ctl(&format!("accept {}", vm.name())).unwrap();
    service.ctl(&format!("deploy --machine {} --profile live --hostname web-1", vm.name())).unwrap();
    let booted = service.wait_state("deployment", "web-1", "Provisioned", 120);
    assert!(booted.is_ok(), "{booted:?}\n{}", vm.console());
}

/// What we said, and what was said to us.
fn answers_of_ours(capture: &Capture) -> Vec<capture::Seen> {
    let ours = |seen: &capture::Seen| seen.server.is_some_and(|server| server.to_string() == rack::HOST);
    capture.dhcp().unwrap().into_iter().filter(ours).collect()
}

/// Waits until the probe is through.
fn wait_probed(service: &Service<'_>, says: &str) {
    service.wait("subnet", "lab", 20, |subnet| subnet["status"]["conditions"].to_string().contains(says)).unwrap();
}

/// Waits until somebody else is seen to answer.
fn wait_foreign(service: &Service<'_>) -> serde_json::Value {
    wait_foreign_within(service, 20)
}

fn wait_foreign_within(service: &Service<'_>, seconds: u64) -> serde_json::Value {
    let foreign = |subnet: &serde_json::Value| {
        let conditions = subnet["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "ForeignDHCP" && condition["status"] == "True")
    };
    service.wait("subnet", "lab", seconds, foreign).unwrap()
}

#[test]
fn a_dnsmasq_that_came_while_nobody_looked_is_noticed_at_the_next_start() {
    let rack = Rack::up().unwrap();
    let mut service = Service::start(&rack).unwrap();
    wait_probed(&service, "Probed");
    service.kill();
    let other = rack.neighbour("192.168.10.2/24").unwrap();
    let _dnsmasq = dnsmasq::giving_addresses(&rack, &other).unwrap();
    service.restart().unwrap();
    wait_foreign(&service);
}

#[test]
fn a_dnsmasq_that_was_there_first_keeps_all_its_clients() {
    let rack = Rack::up().unwrap();
    let other = rack.neighbour("192.168.10.2/24").unwrap();
    let _dnsmasq = dnsmasq::giving_addresses(&rack, &other).unwrap();
    let service = Service::start(&rack).unwrap();
    let subnet = wait_foreign(&service);
    assert!(subnet["status"]["conditions"].to_string().contains("192.168.10.2 also answers DHCP"), "{subnet}");

    // A client of dnsmasq's, and firmware that nobody knows: both are left to it.
    let capture = Capture::start(&rack).unwrap();
    let client = rack.neighbour("192.168.10.9/24").unwrap();
    let said = tools::run(client.command("busybox").args(["udhcpc", "-i", "eth0", "-n", "-q", "-t", "10", "-T", "1", "-s", "/bin/true"]));
    assert!(said.is_ok(), "{said:?}");
    let mut vm = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:00:13").unwrap();
    vm.power_on().unwrap();
    wait_for("dnsmasq's offer to firmware", Duration::from_secs(60), || {
        let offered =
            capture.dhcp().map_err(|error| error.to_string())?.iter().any(|seen| seen.mac == vm.mac && !seen.yiaddr.is_unspecified());
        if offered { Ok(()) } else { Err("no offer yet".to_owned()) }
    })
    .unwrap();
    let ours = answers_of_ours(&capture);
    assert!(ours.is_empty(), "we answered: {ours:?}");
    assert!(service.get("machine", &vm.name()).is_err(), "a newcomer registered beside a foreign server");
}

/// It ignores our probe, and we do not know its clients: what we offer them must not be the first that they see.
fn stays_with_the_dnsmasq_that_knows_it_by_name(firmware: Firmware, mac: &str, has: &str) {
    let rack = Rack::up().unwrap();
    let other = rack.neighbour("192.168.10.2/24").unwrap();
    let _dnsmasq = dnsmasq::knowing_only(&rack, &other, &format!("{mac},{has}")).unwrap();
    let service = detected(&rack).unwrap();
    wait_probed(&service, "no other DHCP server answered");
    let capture = Capture::start(&rack).unwrap();
    let mut vm = Vm::plug(&rack, firmware, mac).unwrap();
    vm.power_on().unwrap();
    wait_foreign_within(&service, 60);
    let ours = answers_of_ours(&capture);
    assert!(ours.is_empty(), "we answered: {ours:?}\n{}\n{}", capture.text(), service.log());
    assert!(service.get("machine", &vm.name()).is_err(), "another server's client registered");
}

#[test]
fn a_bios_machine_stays_with_the_dnsmasq_that_knows_it_by_name() {
    stays_with_the_dnsmasq_that_knows_it_by_name(Firmware::Bios, "52:54:00:aa:00:18", "192.168.10.55");
}

#[test]
fn a_uefi_machine_stays_with_the_dnsmasq_that_knows_it_by_name() {
    stays_with_the_dnsmasq_that_knows_it_by_name(Firmware::Uefi, "52:54:00:aa:00:19", "192.168.10.55");
}

/// dnsmasq pings for 3 s before it offers an address that is not fixed, and iPXE asks for the third time just then.
#[test]
fn a_bios_machine_stays_with_the_dnsmasq_that_pings_for_its_address() {
    stays_with_the_dnsmasq_that_knows_it_by_name(Firmware::Bios, "52:54:00:aa:00:2a", "known1");
}

/// A router gives addresses and a dnsmasq beside it boot files, as we would: it was there first.
#[test]
fn a_bios_machine_stays_with_the_proxy_that_boots_it() {
    let mac = "52:54:00:aa:00:2b";
    let rack = Rack::up().unwrap();
    let (router, proxy) = (rack.neighbour("192.168.10.2/24").unwrap(), rack.neighbour("192.168.10.3/24").unwrap());
    let _router = dnsmasq::giving_addresses(&rack, &router).unwrap();
    let _proxy = dnsmasq::proxying(&rack, &proxy, "theirs").unwrap();
    let service = detected(&rack).unwrap();
    assert_eq!(service.get("subnet", "lab").unwrap()["spec"]["mode"], "proxy");
    // It has been here before: nothing has to be registered until it could be answered.
    service.ctl(&format!("create machine spare --mac {mac}")).unwrap();
    service.wait_state("machine", "spare", "Discovered", 10).unwrap();
    let capture = Capture::start(&rack).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Bios, mac).unwrap();
    vm.power_on().unwrap();
    wait_for("the other proxy's boot file", Duration::from_secs(60), || {
        let text = capture.text();
        if text.contains("theirs.0\" octet") || text.contains("theirs.0 octet") { Ok(()) } else { Err(text) }
    })
    .unwrap();
    let ours = answers_of_ours(&capture);
    assert!(ours.is_empty(), "we answered: {ours:?}");
}

/// Where `config detect` found it, addresses are its own, and boot files might be ours.
fn stays_with_the_dnsmasq_that_boots_it(firmware: Firmware, mac: &str) -> Vec<capture::Seen> {
    let rack = Rack::up().unwrap();
    let other = rack.neighbour("192.168.10.2/24").unwrap();
    let _dnsmasq = dnsmasq::booting(&rack, &other, "theirs.efi").unwrap();
    let service = detected(&rack).unwrap();
    assert_eq!(service.get("subnet", "lab").unwrap()["spec"]["mode"], "proxy");
    let capture = Capture::start(&rack).unwrap();
    let mut vm = Vm::plug(&rack, firmware, mac).unwrap();
    vm.power_on().unwrap();
    wait_for("the other server's boot file", Duration::from_secs(60), || {
        let text = capture.text();
        if text.contains("theirs.efi\" octet") || text.contains("theirs.efi octet") { Ok(()) } else { Err(text) }
    })
    .unwrap();
    assert!(!capture.text().contains("snponly.efi octet") && !capture.text().contains("undionly.kpxe octet"), "{}", capture.text());
    // It is known, and waits for a person's word.
    service.wait_state("machine", &vm.name(), "Discovered", 5).unwrap();
    answers_of_ours(&capture)
}

#[test]
fn a_bios_machine_stays_with_the_dnsmasq_that_boots_it() {
    stays_with_the_dnsmasq_that_boots_it(Firmware::Bios, "52:54:00:aa:00:1b");
}

#[test]
fn a_uefi_machine_stays_with_the_dnsmasq_that_boots_it() {
    let ours = stays_with_the_dnsmasq_that_boots_it(Firmware::Uefi, "52:54:00:aa:00:1c");
    assert!(ours.is_empty(), "we answered: {ours:?}");
}

/// dnsmasq pings for one after the other before it offers them an address.
#[test]
fn two_uefi_machines_at_once_stay_with_the_dnsmasq_that_boots_them() {
    let rack = Rack::up().unwrap();
    let other = rack.neighbour("192.168.10.2/24").unwrap();
    let _dnsmasq = dnsmasq::booting(&rack, &other, "theirs.efi").unwrap();
    let _service = detected(&rack).unwrap();
    let capture = Capture::start(&rack).unwrap();
    let mut vms = ["52:54:00:aa:00:1f", "52:54:00:aa:00:20"].map(|mac| Vm::plug(&rack, Firmware::Uefi, mac).unwrap());
    vms.iter_mut().for_each(|vm| vm.power_on().unwrap());
    wait_for("both to ask for the other server's boot file", Duration::from_secs(90), || {
        let text = capture.text();
        let asked: std::collections::BTreeSet<&str> =
            text.lines().filter(|line| line.contains("theirs.efi")).filter_map(|line| line.split_whitespace().next()).collect();
        if asked.iter().filter(|from| from.starts_with("192.168.10.5")).count() > 1 { Ok(()) } else { Err(format!("{asked:?}\n{text}")) }
    })
    .unwrap();
    let ours = answers_of_ours(&capture);
    assert!(ours.is_empty(), "we answered: {ours:?}");
}

#[test]
fn a_dnsmasq_that_knows_its_clients_by_name_is_seen_when_one_of_them_chooses_it() {
    let rack = Rack::up().unwrap();
    let other = rack.neighbour("192.168.10.2/24").unwrap();
    let client = rack.guest().unwrap();
    let link = tools::run(client.command("ip").args(["-o", "link", "show", "eth0"])).unwrap();
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();
    let _dnsmasq = dnsmasq::knowing_only(&rack, &other, &format!("{mac},192.168.10.55")).unwrap();
    let mut service = Service::start(&rack).unwrap();
    // It ignores the probe.
    wait_probed(&service, "no other DHCP server answered");
    // A machine registered itself meanwhile, and nobody accepted it.
    let stranger = FakeIpxe::plug(&rack).unwrap();
    assert!(!stranger.loader().unwrap().is_empty(), "{}", service.log());
    tools::run(client.command("busybox").args(["udhcpc", "-i", "eth0", "-n", "-q", "-t", "10", "-T", "1", "-s", "/bin/true"])).unwrap();
    let subnet = wait_foreign(&service);
    assert!(subnet["status"]["conditions"].to_string().contains("192.168.10.2 also answers DHCP"), "{subnet}");
    assert!(stranger.loader().is_err(), "nobody accepted it, and another server is there");
    // Who starts anew knows it still.
    service.restart().unwrap();
    wait_foreign(&service);
    assert!(stranger.loader().is_err(), "the other server was forgotten at a restart");
}

#[test]
fn a_dnsmasq_that_knows_its_clients_by_name_is_seen_when_it_offers_one_of_them_something() {
    let rack = Rack::up().unwrap();
    let (other, client) = (rack.neighbour("192.168.10.2/24").unwrap(), rack.neighbour("192.168.10.9/24").unwrap());
    let mac = "52:54:00:aa:00:1a";
    let _dnsmasq = dnsmasq::knowing_only(&rack, &other, &format!("{mac},192.168.10.55")).unwrap();
    let service = Service::start(&rack).unwrap();
    // It ignores the probe.
    wait_probed(&service, "no other DHCP server answered");
    let discover = rack.file("discover");
    std::fs::write(&discover, firmware_client::discover(mac.parse().unwrap(), false).unwrap()).unwrap();
    // Sent to that server alone: we see its offer, and nothing else.
    let send = format!("cat {} > /dev/udp/192.168.10.2/67", discover.display());
    wait_for("what is heard", Duration::from_secs(20), || {
        tools::run(client.command("bash").args(["-c", &send])).map_err(|error| error.to_string())?;
        let subnet = service.get("subnet", "lab").map_err(|error| error.to_string())?["status"].to_string();
        if subnet.contains("192.168.10.2 also answers DHCP") { Ok(()) } else { Err(subnet) }
    })
    .unwrap();
}

/// A machine that somebody else installed, in each of the three ways to its disk.
fn leaves_to_its_disk(firmware: Firmware, mac: &str) {
    let rack = Rack::up().unwrap();
    let image = disk::bootable(&rack, firmware).unwrap();
    let before = std::fs::read(&image).unwrap();
    let service = Service::start(&rack).unwrap();
    let mut vm = Vm::plug(&rack, firmware, mac).unwrap().with_disk(&image);
    wait_probed(&service, "Probed");
    for (way, row) in [("NoOffer", "local-disk"), ("Exit", "script over HTTP"), ("Sanboot", "script over HTTP")] {
        let spec = format!("accepted: true, externallyProvisioned: true, localBoot: {way}, interfaces: [{{mac: \"{mac}\", boot: true}}]");
        let machine = format!("apiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {{name: theirs}}\nspec: {{{spec}}}\n");
        service.apply(&machine).unwrap();
        service.wait_state("machine", "theirs", "Provisioned", 15).unwrap();
        // The agent has the new plan when it answers by it.
        wait_for("the plan", Duration::from_secs(10), || {
            let asked = format!("simulate --discover mac={mac},client=ipxe,arch=7");
            let said = service.ctl(&asked).map_err(|error| error.to_string())?;
            if said.contains(row) { Ok(()) } else { Err(said) }
        })
        .unwrap();
        let began = Instant::now();
        vm.power_on().unwrap();
        vm.wait_console(disk::SAYS, 120).unwrap_or_else(|error| panic!("{way}: {error}\n{}", service.log()));
        eprintln!("{firmware:?} {way}: {:?}", began.elapsed());
        vm.power_off();
    }
    assert!(std::fs::read(&image).unwrap() == before, "the disk was written");
}

#[test]
fn a_bios_machine_leaves_to_its_disk_in_each_way() {
    leaves_to_its_disk(Firmware::Bios, "52:54:00:aa:00:14");
}

#[test]
fn a_uefi_machine_leaves_to_its_disk_in_each_way() {
    leaves_to_its_disk(Firmware::Uefi, "52:54:00:aa:00:15");
}
