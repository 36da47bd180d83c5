//! Real firmware, from power-on to a guest that proves itself.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use athanor_tests::{Capture, Firmware, Guest, Rack, Service, Vm};
use dhcproto::v4::MessageType;

const CMDLINE: &str = "console=ttyS0";

/// The whole story of one machine, as a person would type it.
fn from_power_on_to_proof(firmware: Firmware, mac: &str) -> anyhow::Result<()> {
    let guest = Guest::make()?;
    let rack = Rack::up()?;
    let capture = Capture::start(&rack)?;
    let service = Service::start(&rack)?;
    let iso = service.add_media("guest.iso", &guest.iso)?;
    let mut vm = Vm::plug(&rack, firmware, mac)?;
    let name = vm.name();

    vm.power_on()?;
    let machine = service.wait_state("machine", &name, "Discovered", 90)?;
    assert_eq!(machine["spec"]["accepted"], false);
    assert_eq!(machine["spec"]["interfaces"][0]["mac"], mac);
    let wanted = if firmware == Firmware::Bios { "BIOS" } else { "UEFI" };
    assert_eq!(machine["spec"]["firmware"], wanted);
    assert_eq!(machine["status"]["address"], "192.168.10.100");

    // A newcomer has its SMBIOS facts before anything else runs on it.
    service.wait("machine", &name, 90, |machine| machine["status"]["hardware"]["vendor"] == "QEMU")?;
    service.ctl(&format!("accept {name}"))?;
    service.wait_state("machine", &name, "Available", 10)?;

    let created = service.ctl(&format!(
        "create boot --name live --iso-path {} --kernel live/vmlinuz --initrd live/initrd.img --cmdline {CMDLINE}",
        iso.display()
    ))?;
    assert!(created.starts_with("bootprofile/live created: kernel 14.1 MB and initrd") && created.contains("(ATHANOR_GUEST)"), "{created}");
    let told = service.ctl(&format!("deploy --mac {mac} --profile live --hostname web-1 --wait --timeout 180s"))?;
    assert!(told.contains("deployment/web-1 created") && told.contains("by its own report at 192.168.10.100"), "{told}");

    let proof = vm.wait_console("ATHANOR-GUEST", 30)?;
    assert!(proof.contains(mac) && proof.contains("address 192.168.10.100/24") && proof.contains(CMDLINE), "{proof}");
    let deployment = service.wait_state("deployment", "web-1", "Provisioned", 5)?;
    assert_eq!(deployment["status"]["machine"], name.as_str());
    service.wait_state("machine", &name, "Provisioned", 5)?;

    what_is_told_agrees_with_the_wire(&service, &capture, &vm)
}

/// `explain` and the objects say what the packet capture shows.
fn what_is_told_agrees_with_the_wire(service: &Service<'_>, capture: &Capture, vm: &Vm<'_>) -> anyhow::Result<()> {
    let story = athanor_tests::wait_for("the whole story", std::time::Duration::from_secs(20), || {
        let story = service.ctl(&format!("explain {}", vm.mac)).map_err(|error| error.to_string())?;
        if story.contains("GUEST") && story.contains("  address") { Ok(story) } else { Err(story) }
    })?;
    let seen: Vec<_> = capture.dhcp()?.into_iter().filter(|seen| seen.mac == vm.mac).collect();
    let offers: Vec<_> = seen.iter().filter(|seen| seen.type_ == MessageType::Offer).collect();
    assert!(!offers.is_empty() && offers.iter().all(|offer| offer.yiaddr.to_string() == "192.168.10.100"), "{}", capture.text());
    for file in offers.iter().filter_map(|offer| offer.file.as_deref()) {
        // Every name that an answer advertises is told, and tokens are not.
        let told = if file.starts_with("http") { "script over HTTP" } else { file };
        assert!(story.contains(told), "{file} was offered, but:\n{story}");
        if let Some(token) = file.strip_prefix("http://192.168.10.1:7481/b/").and_then(|rest| rest.split('/').next()) {
            assert!(!story.contains(token), "a token is in the story:\n{story}");
            assert!(!service.log().contains(token), "a token is in the log");
        }
    }
    let asked = |word: &str| seen.iter().any(|seen| format!("{:?}", seen.type_).eq_ignore_ascii_case(word));
    for word in ["discover", "offer", "request", "ack", "nak"] {
        assert_eq!(
            asked(word),
            story.contains(&word.to_uppercase()),
            "{word} differs between wire and story:\n{story}\n{}",
            capture.text()
        );
    }
    assert_eq!(capture.malformed()?, "");
    Ok(())
}

#[test]
fn bios_goes_from_power_on_to_proof() {
    from_power_on_to_proof(Firmware::Bios, "52:54:00:aa:00:01").unwrap();
}

#[test]
fn uefi_goes_from_power_on_to_proof() {
    from_power_on_to_proof(Firmware::Uefi, "52:54:00:aa:00:02").unwrap();
}
