//! Bad things that happen to an installation, and the exact outcome. What people write wrong is in `bad_input.rs`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{fs, time::Duration};

use athanor_tests::{FakeIpxe, Guest, Rack, Service, tools, wait_for};
use serde_json::{Value, json};

/// A machine that runs `web-1` by its guest's own report, in a namespace.
fn running<'a>(service: &Service<'_>, guest: &Guest, machine: &'a FakeIpxe, namespace: &str) -> &'a FakeIpxe {
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let ctl = |line: &str| service.ctl(&format!("-n {namespace} {line}")).unwrap();
    ctl(&format!("create machine {} --mac {} --accept", machine.name(), machine.mac));
    ctl(&format!("create boot --name live --iso-path {} --kernel live/vmlinuz", iso.display()));
    ctl(&format!("deploy --mac {} --profile live --hostname web-1", machine.mac));
    wait_for("an address", Duration::from_secs(20), || {
        let said = ctl(&format!("get machine {} -o json", machine.name()));
        let object: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        if object["status"]["state"] == "Claimed" { Ok(()) } else { Err(object["status"].to_string()) }
    })
    .unwrap();
    let script = machine.order(&machine.boot_file().unwrap()).unwrap();
    assert_eq!(tools::run(&mut machine.report(&script, "Success").unwrap()).unwrap(), "noted\n");
    ctl("wait deployment web-1 --timeout 20s");
    machine
}

/// What registered itself and is in use stays whose it is, whoever writes its MAC address into another Machine, in whichever namespace.
#[test]
fn hardware_in_use_is_not_taken_by_whoever_writes_its_address_down() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    machine.boot_file().unwrap();
    service.wait_state("machine", &machine.name(), "Discovered", 20).unwrap();
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    service.ctl(&format!("create boot --name live --iso-path {} --kernel live/vmlinuz", iso.display())).unwrap();
    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1", machine.mac)).unwrap();
    service.wait_state("machine", &machine.name(), "Claimed", 20).unwrap();
    let before = machine.boot_file().unwrap();

    let is_told = |namespace: &str| {
        wait_for("a duplicate", Duration::from_secs(20), || {
            let said = service.ctl(&format!("-n {namespace} get machine thief -o json")).map_err(|error| error.to_string())?;
            if said.contains("DuplicateMAC") { Ok(()) } else { Err(said) }
        })
        .unwrap();
    };
    service.kubectl("create namespace team").unwrap();
    for namespace in ["default", "team"] {
        service.ctl(&format!("-n {namespace} create machine thief --mac {} --accept", machine.mac)).unwrap();
        is_told(namespace);
    }
    // As little does one that is said to be somebody else's work, in a namespace that comes before all others.
    service.kubectl("create namespace a").unwrap();
    let spec = format!("{{accepted: true, externallyProvisioned: true, interfaces: [{{mac: \"{}\"}}]}}", machine.mac);
    service
        .apply(&format!("apiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {{name: thief, namespace: a}}\nspec: {spec}\n"))
        .unwrap();
    is_told("a");
    assert_eq!(machine.boot_file().unwrap(), before, "another Machine's script");
    let owner = service.get("machine", &machine.name()).unwrap();
    assert_eq!(
        (owner["spec"]["claimRef"]["name"].as_str(), owner["status"]["state"].as_str()),
        (Some("web-1"), Some("Claimed")),
        "{owner}"
    );
    assert!(!owner.to_string().contains("DuplicateMAC"), "{owner}");
}

#[test]
fn a_plan_that_somebody_deleted_is_written_again() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    service.ctl("create machine one --mac 52:54:00:aa:05:01 --accept").unwrap();
    service.wait_state("machine", "one", "Available", 20).unwrap();
    let uid = || service.kubectl("-n athanor-plans get secret default.one -o jsonpath={.metadata.uid}");
    let before = uid().unwrap();
    service.kubectl("-n athanor-plans delete secret default.one").unwrap();
    wait_for("another plan", Duration::from_secs(5), || match uid() {
        Ok(after) if after != before => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}

#[test]
fn a_namespace_that_goes_takes_its_objects_and_nothing_is_released_into_other_hands() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    service.kubectl("create namespace team").unwrap();
    running(&service, &guest, &machine, "team");
    service.kubectl("delete namespace team --timeout=60s").unwrap();
    // What runs there still uses its address, which nobody else is given for as long as its lease lasts.
    let kept = service.list("addresses").unwrap();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0]["spec"]["owner"].is_null() && kept[0]["spec"]["expires"].is_string(), "{kept:?}");
    assert!(service.kubectl("-n athanor-plans get secrets -o name").unwrap().trim().is_empty(), "its plan was left behind");
    // When it asks again it is a newcomer whom nobody accepted.
    assert!(machine.boot_file().unwrap().ends_with("/boot.ipxe"));
    let newcomer = service.get("machine", &machine.name()).unwrap();
    assert_eq!(newcomer["spec"]["accepted"], false, "{newcomer}");
    // The same hardware has the same address.
    service.wait("machine", &machine.name(), 10, |newcomer| newcomer["status"]["address"] == kept[0]["spec"]["ip"]).unwrap();
}

#[test]
fn a_node_whose_interface_loses_its_address_serves_again_when_it_has_it_back() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let servers = |count: usize| move |subnet: &Value| subnet["status"]["servers"].as_array().map_or(0, Vec::len) == count;
    let serving = service.wait("subnet", "lab", 20, servers(1)).unwrap();
    assert_eq!(serving["status"]["servers"][0]["version"], env!("CARGO_PKG_VERSION"), "{serving}");
    rack.ip("addr del 192.168.10.1/24 dev br0").unwrap();
    let alone = service.wait("subnet", "lab", 20, servers(0)).unwrap();
    let said = alone["status"]["conditions"].to_string();
    assert!(
        said.contains("no agent has an interface in 192.168.10.0/24; give one an address there, or name it in spec.interfaces"),
        "{said}"
    );
    rack.ip("addr add 192.168.10.1/24 dev br0").unwrap();
    service.wait("subnet", "lab", 20, servers(1)).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    wait_for("an answer", Duration::from_secs(30), || machine.boot_file().map_err(|error| error.to_string())).unwrap();
}

#[test]
fn subnets_that_overlap_both_say_so_and_the_narrower_counts() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    service.ctl("create subnet --name other --cidr 192.168.10.0/25 --range 192.168.10.20-192.168.10.30").unwrap();
    for (name, other) in [("lab", "Subnet other (192.168.10.0/25)"), ("other", "Subnet lab (192.168.10.0/24)")] {
        let says = |subnet: &Value| {
            subnet["status"]["conditions"].to_string().contains(&format!("overlaps that of {other}; change one of the two"))
        };
        service.wait("subnet", name, 20, says).unwrap();
    }
    service.ctl("create machine one --mac 52:54:00:aa:05:02 --address 192.168.10.21 --accept").unwrap();
    let machine = service.wait("machine", "one", 20, |machine| machine["status"]["address"] == "192.168.10.21").unwrap();
    assert_eq!(machine["status"]["interfaces"][0]["addresses"][0]["subnet"], "other", "{machine}");
}

#[test]
fn a_subnet_that_rests_for_a_moment_forgets_no_address() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    // In this order, so that another order would be noticed.
    for number in [3, 2, 1] {
        service.ctl(&format!("create machine m{number} --mac 52:54:00:aa:05:1{number} --accept")).unwrap();
        service.wait_state("machine", &format!("m{number}"), "Available", 20).unwrap();
    }
    let addresses = || -> Vec<Value> {
        let machines = service.list("machines").unwrap();
        machines.iter().map(|machine| json!([machine["metadata"]["name"], machine["status"]["address"]])).collect()
    };
    let before = addresses();
    for mode in ["off", "proxy", "off"] {
        service.kubectl(&format!("patch asn lab --type merge -p {{\"spec\":{{\"mode\":\"{mode}\"}}}}")).unwrap();
        wait_for("no address", Duration::from_secs(10), || {
            let now = addresses();
            if now.iter().all(|row| row[1].is_null()) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .unwrap();
    }
    // Others come meanwhile, and take nobody's.
    service.ctl("create machine late --mac 52:54:00:aa:05:19 --accept").unwrap();
    service.ctl("create subnet --name second --cidr 10.9.0.0/24 --range 10.9.0.10-10.9.0.20").unwrap();
    service.ctl("create subnet --name v6 --cidr fd00::/64 --range fd00::10-fd00::20").unwrap();
    service.ctl("delete machine late").unwrap();
    service.kubectl("patch asn lab --type merge -p {\"spec\":{\"mode\":\"dhcp\"}}").unwrap();
    wait_for("the same addresses", Duration::from_secs(20), || {
        let now = addresses();
        if now == before { Ok(()) } else { Err(format!("{now:?}, where it was {before:?}")) }
    })
    .unwrap();
    // Nor does one that is gone, and comes back under another name.
    service.ctl("delete subnet lab").unwrap();
    wait_for("no address", Duration::from_secs(10), || {
        let now = addresses();
        if now.iter().all(|row| row[1].is_null()) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .unwrap();
    service.ctl("create machine another --mac 52:54:00:aa:05:0a --accept").unwrap();
    service.wait("machine", "another", 20, |machine| machine["status"]["address"] == "10.9.0.10").unwrap();
    service.ctl("create subnet --name rack1 --cidr 192.168.10.0/24 --range 192.168.10.100-192.168.10.199").unwrap();
    service.ctl("delete machine another").unwrap();
    wait_for("the same addresses again", Duration::from_secs(20), || {
        let now = addresses();
        if now == before { Ok(()) } else { Err(format!("{now:?}, where it was {before:?}")) }
    })
    .unwrap();
    let says = |subnet: &Value| subnet["status"]["conditions"].to_string().contains("this version serves IPv4 only");
    let stored = service.wait("subnet", "v6", 20, says).unwrap();
    let conditions = stored["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|condition| condition["type"] == "Supported" && condition["status"] == "False"), "{stored}");
}

#[test]
fn an_export_that_is_applied_elsewhere_installs_nothing_again() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    running(&service, &guest, &machine, "default");
    let exported = |kind: &str, name: &str| -> Value {
        let object = service.get(kind, name).unwrap();
        // What a backup tool keeps: no status, no uid, no version.
        json!({ "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": { "name": name, "namespace": "default" }, "spec": object["spec"] })
    };
    let (before, deployment, profile) =
        (exported("machine", &machine.name()), exported("deployment", "web-1"), exported("bootprofile", "live"));
    let attempt = before["spec"]["occupancy"]["attempt"].clone();
    drop(service);

    // Another installation, with nothing in it.
    for folder in ["data", "plane"] {
        let _ = fs::remove_dir_all(rack.file(folder));
    }
    let elsewhere = Service::start(&rack).unwrap();
    elsewhere.add_media("guest.iso", &guest.iso).unwrap();
    let apply = |object: &Value| elsewhere.apply(&object.to_string()).unwrap();
    apply(&before);
    // Without its Deployment it waits, and says for what.
    let lost = |object: &Value| {
        object["status"]["conditions"].to_string().contains("nothing is wiped. Apply the Deployment again with its instanceID")
    };
    let waiting = elsewhere.wait("machine", &machine.name(), 20, lost).unwrap();
    assert_eq!(waiting["status"]["state"], "Provisioned", "{waiting}");
    apply(&profile);
    apply(&deployment);
    elsewhere.wait_state("deployment", "web-1", "Provisioned", 20).unwrap();
    let after = elsewhere.get("machine", &machine.name()).unwrap();
    assert_eq!(after["spec"]["occupancy"]["attempt"], attempt, "it was started anew: {after}");
    assert_eq!(after["spec"]["occupancy"]["state"], "Provisioned");
}

#[test]
fn a_newcomer_whose_name_another_machine_has_gets_the_next_one() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    // Its old card is in another machine now, which was named by it.
    service.ctl(&format!("create machine {} --mac 52:54:00:aa:05:31 --accept", machine.name())).unwrap();
    service.wait_state("machine", &machine.name(), "Available", 20).unwrap();
    wait_for("an answer", Duration::from_secs(60), || machine.boot_file().map_err(|error| error.to_string())).unwrap();
    let second = service.get("machine", &format!("{}-2", machine.name())).unwrap();
    assert_eq!(second["spec"]["interfaces"][0]["mac"], machine.mac.as_str());
    assert_eq!(second["status"]["state"], "Discovered");
}

#[test]
fn newcomers_beyond_the_limit_are_told_of() {
    let rack = Rack::up().unwrap();
    let service =
        Service::start_with(&rack, |config| config.replace("whileUnaccepted: Wait", "whileUnaccepted: Wait, perMinute: 0")).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    assert!(machine.boot_file().is_err());
    let says = |subnet: &Value| {
        let told = subnet["status"]["conditions"].to_string();
        told.contains("NewcomersLimited") && told.contains("more than 0 came in a minute")
    };
    service.wait("subnet", "lab", 20, says).unwrap();
    wait_for("the story", Duration::from_secs(20), || {
        let told = service.ctl(&format!("explain {}", machine.mac)).map_err(|error| error.to_string())?;
        if told.contains("limited") && told.contains("raise spec.newcomers.perMinute of Subnet lab") { Ok(()) } else { Err(told) }
    })
    .unwrap();
}
