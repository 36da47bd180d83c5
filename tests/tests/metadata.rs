//! What an operating system that runs from memory is told, and by whom it may be asked.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use athanor_tests::{FakeIpxe, Firmware, Guest, Rack, Service, Vm, fake_agent, tools, wait_for};

/// A Deployment of the profile `live`.
fn deployment(name: &str, more: &str) -> String {
    let kind = "apiVersion: metal.athanor.dev/v1alpha1\nkind: Deployment";
    format!("{kind}\nmetadata: {{name: {name}}}\nspec: {{machine: {{}}, profile: {{name: live}}{more}}}\n")
}

const ADA: &str = ", users: [{name: ada, sshKeys: [ssh-ed25519 AAAA ada]}]";
const SECRET: &str = ", userData: {secretRef: {name: web-1, key: value}}";

/// Real firmware, and a guest that does what cloud-init does.
#[test]
fn what_runs_from_memory_reads_who_it_is_and_phones_home() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:0d:01").unwrap();
    let create = "create boot --name live --kernel live/vmlinuz --initrd live/initrd.img --cmdline console=ttyS0 --iso-path";
    service.ctl(&format!("{create} {}", iso.display())).unwrap();
    service.apply(&deployment("web-1", ADA)).unwrap();
    vm.power_on().unwrap();
    service.wait_state("machine", &vm.name(), "Discovered", 90).unwrap();
    service.ctl(&format!("accept {}", vm.name())).unwrap();
    let said = vm.wait_console("ATHANOR-SEED", 120).unwrap();
    assert!(said.contains(r#""local-hostname":"web-1""#) && said.contains(r#""name":"ada""#), "{said}");
    service.wait_state("deployment", "web-1", "Provisioned", 30).unwrap();
    wait_for("its word in the story", Duration::from_secs(20), || {
        let story = service.ctl(&format!("explain {}", vm.mac)).map_err(|error| error.to_string())?;
        let told = story.contains("metadata user-data")
            && story.contains("cloud-init is done on web-1, whose SSH host key is ssh-ed25519 AAAAC3Nz");
        if told { Ok(()) } else { Err(story) }
    })
    .unwrap();
}

/// Its token is in the boot script, which is no secret: so who asks counts.
#[test]
fn the_documents_of_what_runs_from_memory_are_for_its_own_address() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let first = machine.boot_file().unwrap();
    service.wait_state("machine", &machine.name(), "Discovered", 20).unwrap();
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    service.add_media("live.iso", &Guest::make().unwrap().iso).unwrap();
    service.ctl("create boot --name live --iso-path live.iso --kernel live/vmlinuz").unwrap();
    service.apply(&deployment("web-1", SECRET)).unwrap();
    let missing =
        |object: &serde_json::Value| object["status"].to_string().contains("spec.userData: there is no Secret web-1 in this namespace");
    service.wait("deployment", "web-1", 20, missing).unwrap();
    fake_agent::user_data(&service, "web-1", "#cloud-config\npassword: hunter2\n").unwrap();
    // Nobody watches Secrets: it is looked for again after a while, or with the next change.
    service.ctl("update deployment web-1 --hostname web-9").unwrap();
    let script = machine.order(&first).unwrap();
    let token = script.split("ds=nocloud;s=${server}/v1/metadata/").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let base = format!("http://192.168.10.1:7481/v1/metadata/{token}");

    // It has another address than the one it was given: whoever knows the token could.
    let refused = machine.http(&format!("{base}/user-data")).unwrap_err().to_string();
    assert!(refused.contains("403"), "{refused}");
    tools::run(rack.command("curl").args(["-sSf", &format!("{base}/user-data")])).unwrap_err();
    tools::run(machine.host.command("ip").args(["addr", "add", "192.168.10.100/24", "dev", "eth0"])).unwrap();
    let itself = |path: &str, more: &[&str]| {
        let mut curl = machine.host.command("curl");
        tools::run(curl.args(["-sSf", "--max-time", "10", "--interface", "192.168.10.100"]).args(more).arg(format!("{base}/{path}")))
    };
    assert_eq!(itself("user-data", &[]).unwrap(), "#cloud-config\npassword: hunter2\n");
    assert_eq!(itself("latest/meta-data/local-hostname", &[]).unwrap(), "web-9");
    assert!(itself("network-config", &[]).unwrap_err().to_string().contains("404"), "it has none, and cloud-init goes on");
    assert!(itself("phone-home", &[]).unwrap_err().to_string().contains("405"));

    // What is wanted now is told at the next question.
    service.apply(&deployment("web-1", &format!("{SECRET}{ADA}, hostname: web-9"))).unwrap();
    wait_for("its new user", Duration::from_secs(10), || {
        let keys = itself("latest/meta-data/public-keys/0/openssh-key", &[]).map_err(|error| error.to_string())?;
        if keys == "ssh-ed25519 AAAA ada" { Ok(()) } else { Err(keys) }
    })
    .unwrap();
    assert!(itself("user-data", &[]).unwrap().starts_with("Content-Type: multipart/mixed"));
    itself("phone-home", &["-d", "hostname=web-9"]).unwrap();
    service.wait_state("deployment", "web-1", "Provisioned", 20).unwrap();

    let story = service.ctl(&format!("explain {}", machine.mac)).unwrap();
    for secret in [token, "hunter2"] {
        assert!(!story.contains(secret) && !service.log().contains(secret), "{secret} was told");
    }
    service.ctl("delete deployment web-1").unwrap();
    wait_for("its token to end", Duration::from_secs(10), || match itself("user-data", &[]) {
        Err(error) if error.to_string().contains("404") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}
