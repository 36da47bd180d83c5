//! What only the loss of a real API's data, or of its kinds, can show.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{fs, time::Duration};

use athanor_tests::{FakeIpxe, Guest, Rack, Service, tools, wait_for};
use serde_json::Value;

/// A machine that runs `web-1`, by its guest's own report.
fn deploy(service: &Service<'_>, machine: &FakeIpxe) {
    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1", machine.mac)).unwrap();
    service.wait_state("machine", &machine.name(), "Claimed", 20).unwrap();
    let script = machine.order(&machine.boot_file().unwrap()).unwrap();
    assert_eq!(tools::run(&mut machine.report(&script, "Success").unwrap()).unwrap(), "noted\n");
    service.wait_state("deployment", "web-1", "Provisioned", 20).unwrap();
}

fn prepare(service: &Service<'_>, guest: &Guest, machine: &FakeIpxe) {
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    service.ctl(&format!("create machine {} --mac {} --accept", machine.name(), machine.mac)).unwrap();
    service.ctl(&format!("create boot --name live --iso-path {} --kernel live/vmlinuz", iso.display())).unwrap();
    service.wait_state("machine", &machine.name(), "Available", 20).unwrap();
}

#[test]
fn data_from_before_the_last_deployment_give_no_machine_away() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let mut service = Service::start_on(&rack, |config| config, true).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    prepare(&service, &guest, &machine);
    // Just after the agent wrote its Lease, which it seldom writes again before the copy is back: then that alone tells it nothing.
    let mut lease = || {
        let renewed = "get leases -n athanor-system -l metal.athanor.dev/agent=true -o jsonpath={..renewTime}";
        service.plane().unwrap().kubectl(&rack, renewed, None)
    };
    let before = lease().unwrap();
    wait_for("the Lease's next renewal", Duration::from_secs(20), || match lease() {
        Ok(now) if now != before => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    service.plane().unwrap().save(&rack, "copy").unwrap();
    deploy(&service, &machine);

    // The API's data is what it was before. An operator whose lists are of another time ends, and is started anew by whoever keeps it.
    service.plane().unwrap().restore(&rack, "copy").unwrap();
    wait_for("the operator's end", Duration::from_secs(20), || service.operator_ended().map_err(|error| error.to_string())).unwrap();
    assert!(service.log().contains("the API's data is older than it was"), "{}", service.log());
    service.another_operator().unwrap();
    assert!(service.get("deployment", "web-1").is_err(), "the copy is not from before");
    let unclear = |object: &Value| object["status"]["conditions"].to_string().contains("UnknownOccupant");
    let waiting = service.wait("machine", &machine.name(), 60, unclear).unwrap();
    assert_eq!(waiting["status"]["state"], "Accepted", "{waiting}");
    // Nobody else gets it.
    service.ctl("create deployment other --profile live").unwrap();
    let says = |object: &Value| object["status"]["conditions"].to_string().contains("no free machine");
    service.wait("deployment", "other", 20, says).unwrap();

    // It asked the network: whatever ran from memory is gone.
    let first = machine.boot_file().unwrap();
    wait_for("free", Duration::from_secs(90), || {
        machine.http(&first).map_err(|error| error.to_string())?;
        let object = service.get("deployment", "other").map_err(|error| error.to_string())?;
        if object["status"]["machine"] == machine.name() { Ok(()) } else { Err(object["status"].to_string()) }
    })
    .unwrap();
}

#[test]
fn a_kind_that_is_removed_under_a_running_operator_releases_nothing() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let mut service = Service::start_on(&rack, |config| config, true).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    prepare(&service, &guest, &machine);
    deploy(&service, &machine);
    let kinds = rack.file("kinds.yaml");
    let plane = service.plane().unwrap();
    fs::write(&kinds, plane.kubectl(&rack, "get crd deployments.metal.athanor.dev -o yaml", None).unwrap()).unwrap();
    plane.kubectl(&rack, "delete crd deployments.metal.athanor.dev --timeout=60s", None).unwrap();
    // It counts as Retain: the machine is nobody's, is not free, and what runs on it runs on.
    let kept = service.wait("machine", &machine.name(), 20, |object| object["spec"]["cordoned"] == true).unwrap();
    assert!(kept["spec"]["claimRef"].is_null(), "{kept}");
    assert!(service.list("machine").unwrap().len() == 1);

    // When the kind is back, so is everything that one can do with it.
    let plane = service.plane().unwrap();
    plane.kubectl(&rack, "apply --server-side -f", Some(&athanor_tests::plane::crds().join("deployments.yaml"))).unwrap();
    plane.kubectl(&rack, "wait --for=condition=Established --timeout=30s crd --all", None).unwrap();
    service.ctl("create deployment other --machine nobody --profile live").unwrap();
    let says = |object: &Value| object["status"]["conditions"].to_string().contains("there is no Machine nobody in this namespace");
    service.wait("deployment", "other", 60, says).unwrap();
}

#[test]
fn an_object_that_an_older_version_stored_keeps_nobody_from_the_others() {
    let rack = Rack::up().unwrap();
    let mut service = Service::start_on(&rack, |config| config, true).unwrap();
    service.ctl("create machine first --mac 52:54:00:aa:06:02 --accept").unwrap();
    service.wait_state("machine", "first", "Available", 20).unwrap();
    let plane = service.plane().unwrap();
    // A kind without any rules, as a version long ago may have had it.
    let loose = r#"{"spec":{"versions":[{"name":"v1alpha1","served":true,"storage":true,"subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}"#;
    plane.kubectl(&rack, &format!("patch crd machines.metal.athanor.dev --type=merge -p {loose}"), None).unwrap();
    let old = rack.file("old.json");
    fs::write(&old, r#"{"apiVersion":"metal.athanor.dev/v1alpha1","kind":"Machine","metadata":{"name":"old","namespace":"default"},"spec":{"interfaces":"eth0"}}"#).unwrap();
    wait_for("the loose kind", Duration::from_secs(20), || {
        plane.kubectl(&rack, "apply --validate=false -f", Some(&old)).map_err(|error| error.to_string())
    })
    .unwrap();
    // One that could be read until now is one that a running operator would have chosen.
    let unlike = r#"{"spec":{"interfaces":"eth0"}}"#;
    plane.kubectl(&rack, &format!("patch machines.metal.athanor.dev first --type=merge -p {unlike}"), None).unwrap();
    plane.kubectl(&rack, "apply --server-side --force-conflicts -f", Some(&athanor_tests::plane::crds().join("machines.yaml"))).unwrap();
    service.ctl("create boot --name live --kernel http://192.168.10.1/k").unwrap();
    service.ctl("create deployment any --profile live").unwrap();
    let says = |object: &Value| object["status"]["conditions"].to_string().contains("Machine first cannot be read");
    service.wait("deployment", "any", 20, says).unwrap();
    service.ctl("create machine second --mac 52:54:00:aa:06:03 --accept").unwrap();
    service.wait("deployment", "any", 20, |object| object["status"]["machine"] == "second").unwrap();
    service.restart().unwrap();
    let fine = rack.file("fine.json");
    fs::write(&fine, r#"{"apiVersion":"metal.athanor.dev/v1alpha1","kind":"Machine","metadata":{"name":"fine","namespace":"default"},"spec":{"accepted":true,"interfaces":[{"mac":"52:54:00:aa:06:01","boot":true}]}}"#).unwrap();
    let plane = service.plane().unwrap();
    plane.kubectl(&rack, "apply -f", Some(&fine)).unwrap();
    wait_for("the other machine", Duration::from_secs(40), || {
        let state = plane
            .kubectl(&rack, "get machines.metal.athanor.dev fine -o jsonpath={.status.state}", None)
            .map_err(|error| error.to_string())?;
        if state == "Available" { Ok(()) } else { Err(state) }
    })
    .unwrap();
    let told = plane.kubectl(&rack, "get events -o jsonpath={range.items[*]}{.reason}{.message}{\"\\n\"}{end}", None).unwrap();
    assert!(told.contains("Unreadable") && told.contains("left alone until it is corrected"), "{told}");
}
