//! Loaders that are no iPXE: shim and the distribution's signed GRUB, with Secure Boot and without.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use athanor_tests::{Capture, FakeIpxe, Firmware, Guest, Rack, Service, Vm, disk, guest, tools, wait_for};

/// The services, with shim and GRUB in their folder of loaders, as Debian's packages call them, and what newcomers do.
fn with_shim<'a>(rack: &'a Rack, newcomers: &str) -> Service<'a> {
    let folder = rack.file("loaders");
    fs::create_dir_all(&folder).unwrap();
    for (package, file) in [
        ("shim-signed", "usr/lib/shim/shimx64.efi.signed"),
        ("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
    ] {
        let found = guest::packaged(package, file).unwrap();
        fs::copy(&found, folder.join(found.file_name().unwrap())).unwrap();
    }
    let dirs = format!("loaderDirs: [{}, /usr/lib/ipxe]\n", folder.display());
    Service::start_with(rack, |config| dirs + &config.replace("Wait", newcomers)).unwrap()
}

fn accepted(service: &Service<'_>, vm: &mut Vm<'_>) {
    vm.power_on().unwrap();
    service.wait_state("machine", &vm.name(), "Discovered", 120).unwrap();
    service.ctl(&format!("accept {}", vm.name())).unwrap();
    service.wait_state("machine", &vm.name(), "Available", 15).unwrap();
}

fn profile(service: &Service<'_>, name: &str, iso: &std::path::Path) {
    let files = "--kernel live/vmlinuz --initrd live/initrd.img --cmdline console=ttyS0";
    service.ctl(&format!("create boot --name {name} --iso-path {} {files}", iso.display())).unwrap();
}

#[test]
fn secure_boot_goes_through_shim_and_grub_into_the_signed_kernel_and_no_other() {
    let made = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = with_shim(&rack, "Wait");
    // A kernel that somebody has changed.
    let tree = rack.file("tampered");
    fs::create_dir_all(tree.join("live")).unwrap();
    let mut kernel = fs::read(&made.kernel).unwrap();
    let middle = kernel.len() / 2;
    kernel[middle] ^= 1;
    fs::write(tree.join("live/vmlinuz"), kernel).unwrap();
    fs::copy(&made.initrd, tree.join("live/initrd.img")).unwrap();
    let bad = rack.file("tampered.iso");
    tools::run(Command::new("xorriso").args(["-as", "mkisofs", "-quiet", "-R", "-J", "-o"]).arg(&bad).arg(&tree)).unwrap();
    let (bad, good) = (service.add_media("tampered.iso", &bad).unwrap(), service.add_media("guest.iso", &made.iso).unwrap());
    profile(&service, "tampered", &bad);
    profile(&service, "live", &good);

    let mut vm = Vm::plug(&rack, Firmware::SecureUefi, "52:54:00:aa:00:31").unwrap();
    accepted(&service, &mut vm);
    service.ctl(&format!("create deployment bad --mac {} --profile tampered", vm.mac)).unwrap();
    vm.wait_console("bad shim signature", 120).unwrap();
    assert!(!vm.console().contains("Linux version"), "{}", vm.console());
    service.ctl("delete deployment bad").unwrap();
    service.wait_state("machine", &vm.name(), "Available", 60).unwrap();

    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1 --wait --timeout 240s", vm.mac)).unwrap();
    vm.wait_console("ATHANOR-GUEST", 30).unwrap();
    assert!(vm.console().contains("Secure boot enabled"), "{}", vm.console());
    let words = ["pxe-uefi", "loader shimx64.efi", "grubx64.efi", "GUEST"];
    wait_for("the story", Duration::from_secs(20), || {
        let story = service.ctl(&format!("explain {}", vm.mac)).map_err(|error| error.to_string())?;
        if words.iter().all(|word| story.contains(word)) { Ok(()) } else { Err(story) }
    })
    .unwrap();
}

/// From the first request to the first word of the disk's own system.
fn at_its_disk(service: &Service<'_>, capture: &Capture, vm: &mut Vm<'_>) -> Duration {
    vm.power_on().unwrap();
    wait_for("first request", Duration::from_secs(60), || {
        let asked = capture.dhcp().map_err(|error| error.to_string())?.iter().any(|seen| seen.mac == vm.mac);
        if asked { Ok(()) } else { Err("nothing asked".to_owned()) }
    })
    .unwrap();
    let asked = Instant::now();
    vm.wait_console(disk::SAYS, 120).unwrap_or_else(|error| panic!("{error}\n{}\n{}", vm.console(), service.log()));
    let took = asked.elapsed();
    vm.power_off();
    took
}

#[test]
fn with_secure_boot_a_machine_is_handed_back_to_its_disk_as_soon_as_others() {
    let rack = Rack::up().unwrap();
    let image = disk::bootable(&rack, Firmware::SecureUefi).unwrap();
    let before = fs::read(&image).unwrap();
    let service = with_shim(&rack, "LocalDiskThenWait");
    let capture = Capture::start(&rack).unwrap();
    service.wait("subnet", "lab", 20, |subnet| subnet["status"]["conditions"].to_string().contains("Probed")).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::SecureUefi, "52:54:00:aa:00:33").unwrap().with_disk(&image);
    let newcomer = at_its_disk(&service, &capture, &mut vm);
    assert!(newcomer < Duration::from_secs(35), "handed back after {newcomer:?} only:\n{}", service.log());
    // One that is to boot its disk, and nothing else.
    service.ctl(&format!("accept {}", vm.name())).unwrap();
    service.wait_state("machine", &vm.name(), "Available", 15).unwrap();
    let spec = format!("accepted: true, externallyProvisioned: true, interfaces: [{{mac: \"{}\", boot: true}}]", vm.mac);
    let machine = format!("apiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {{name: {}}}\nspec: {{{spec}}}\n", vm.name());
    let refused = service.apply(&machine).unwrap_err().to_string();
    assert!(refused.contains("conflict with \"athanor-boot-agent\"") && refused.contains("--force-conflicts takes"), "{refused}");
    service.ctl(&format!("apply --force-conflicts -f {}", rack.file("applied.yaml").display())).unwrap();
    service.wait_state("machine", &vm.name(), "Provisioned", 15).unwrap();
    wait_for("the plan", Duration::from_secs(10), || {
        let said = service.ctl(&format!("simulate --discover mac={},arch=uefi", vm.mac)).map_err(|error| error.to_string())?;
        if said.contains("which starts its disk") { Ok(()) } else { Err(said) }
    })
    .unwrap();
    let capture = Capture::start(&rack).unwrap();
    let provisioned = at_its_disk(&service, &capture, &mut vm);
    assert!(provisioned < Duration::from_secs(30), "at its disk after {provisioned:?} only:\n{}", service.log());
    eprintln!("newcomer {newcomer:?}, provisioned {provisioned:?}");
    assert!(fs::read(&image).unwrap() == before, "the disk was written");
}

#[test]
fn without_secure_boot_grub_boots_as_well_and_makes_way_for_ipxe_where_that_is_needed() {
    let made = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = with_shim(&rack, "Wait");
    let iso = service.add_media("guest.iso", &made.iso).unwrap();
    profile(&service, "live", &iso);
    let mut vm = Vm::plug(&rack, Firmware::Uefi, "52:54:00:aa:00:32").unwrap().that_restarts();
    accepted(&service, &mut vm);
    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1 --packages nginx --wait --timeout 120s", vm.mac)).unwrap();
    vm.wait_console("ATHANOR-GUEST", 30).unwrap();
    let seed = vm.wait_console("ATHANOR-SEED", 5).unwrap();
    assert!(seed.contains(r#""packages":["nginx"]"#), "GRUB's shell ends commands at semicolons: {seed}");
    let story = service.ctl(&format!("explain {}", vm.mac)).unwrap();
    assert!(story.contains("loader shimx64.efi") && !story.contains("boot.ipxe"), "{story}");

    // A machine that waits in GRUB is given an iPXE script.
    service.ctl("delete deployment web-1").unwrap();
    vm.power_on().unwrap();
    service.wait_state("machine", &vm.name(), "Available", 120).unwrap();
    let own = "apiVersion: metal.athanor.dev/v1alpha1\nkind: BootProfile\nmetadata: {name: own}\nspec:\n  script:\n    ipxe: |\n      #!ipxe\n      \
               echo SCRIPT-RAN on ${net0/mac} ${metadata}\n      sleep 600\n";
    service.apply(own).unwrap();
    service.ctl(&format!("create deployment own --mac {} --profile own", vm.mac)).unwrap();
    let said = vm.wait_console("SCRIPT-RAN", 120).unwrap();
    assert!(said.contains("http://192.168.10.1:7481/v1/metadata/"), "{said}");
}

#[test]
fn a_loader_is_offered_while_it_is_there() {
    let rack = Rack::up().unwrap();
    let loaders = rack.file("loaders");
    fs::create_dir_all(&loaders).unwrap();
    let put = || {
        fs::copy("/usr/lib/ipxe/undionly.kpxe", loaders.join("undionly.kpxe")).unwrap();
    };
    put();
    let service = Service::start_with(&rack, |config| format!("loaderDirs: [{}]\n{config}", loaders.display())).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    assert_eq!(machine.loader().unwrap(), "undionly.kpxe", "{}", service.log());
    let url = "http://192.168.10.1:7481/l/undionly.kpxe";
    fs::remove_file(loaders.join("undionly.kpxe")).unwrap();
    assert!(machine.http(url).unwrap_err().to_string().contains("404"), "what is gone is no server's error");
    wait_for("no loader", Duration::from_secs(20), || match machine.loader() {
        Ok(file) if file.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    service.wait("subnet", "lab", 30, |subnet| subnet["status"]["servers"][0]["lacks"].to_string().contains("BIOS")).unwrap();
    put();
    wait_for("the loader again", Duration::from_secs(20), || match machine.loader() {
        Ok(file) if file == "undionly.kpxe" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert!(machine.http(url).is_ok());
    assert!(machine.http(&url.replace("/l/", "/l//")).is_ok(), "shim asks so");
}
