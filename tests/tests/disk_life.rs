//! From free to running from disk, and back to free: real firmware, the real ramdisk, a real disk.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use athanor_tests::{Bus, Capture, Firmware, Rack, Service, Vm, golden, rack::Process, tools, wait_for};

const DISK: u64 = 96 << 20;

/// The ramdisk that `make ramdisk` built, where the services look for it.
fn ramdisk(rack: &Rack) -> anyhow::Result<()> {
    let kernel = tools::built("ramdisk/vmlinuz", "`make ramdisk` first, as `make test` does")?;
    Ok(std::os::unix::fs::symlink(kernel.parent().unwrap_or(&kernel), rack.file("ramdisk"))?)
}

/// Serves a folder on the rack's bridge, to who has the password.
fn file_server(rack: &Rack, folder: &Path) -> anyhow::Result<Process> {
    let users = rack.file("httpd.conf");
    fs::write(&users, "/:ada:s3cr3t\n")?;
    let mut server = rack.command("busybox");
    server.args(["httpd", "-f", "-p", "192.168.10.1:8080", "-c"]).arg(users).arg("-h").arg(folder);
    Ok(Process(server.stdin(Stdio::null()).spawn()?))
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let line = tools::run(std::process::Command::new("sha256sum").arg(path))?;
    Ok(format!("sha256:{}", line.split(' ').next().unwrap_or_default()))
}

/// A service with the ramdisk, and the profile `golden` for an image that somebody serves.
fn serving<'a>(rack: &'a Rack, image: &Path) -> anyhow::Result<(Service<'a>, Process)> {
    ramdisk(rack)?;
    let service = Service::start(rack)?;
    let images = file_server(rack, image.parent().unwrap_or(image))?;
    // ada:s3cr3t
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: images}\ntype: metal.athanor.dev/http-headers\nstringData: {Authorization: Basic YWRhOnMzY3IzdA==}\n";
    let text = format!(
        "{secret}---\napiVersion: metal.athanor.dev/v1alpha1\nkind: BootProfile\nmetadata: {{name: golden}}\nspec:\n  image:\n    headers: {{secretRef: {{name: images}}}}\n    url: http://192.168.10.1:8080/{}\n    checksum: {}\n",
        image.file_name().unwrap_or_default().to_string_lossy(),
        sha256(image)?
    );
    service.apply(&text)?;
    Ok((service, images))
}

/// An empty disk.
fn empty_disk(rack: &Rack, size: u64) -> anyhow::Result<PathBuf> {
    let disk = rack.file("disk.img");
    fs::File::create(&disk)?.set_len(size)?;
    Ok(disk)
}

/// What is left of a disk when its machine is free again.
#[derive(Clone, Copy, PartialEq)]
enum Wipe {
    /// The middle.
    Metadata,
    /// Nothing: the drive erased itself.
    Secure,
}

/// How a machine comes back that is released while it runs.
#[derive(Clone, Copy, PartialEq)]
enum Release {
    /// Its operating system restarts it.
    Hook,
    /// Somebody does.
    ByHand,
}

/// Deletes the Deployment of a machine that runs from its disk.
fn released(service: &Service<'_>, vm: &mut Vm<'_>, release: Release, disk: &Path) -> anyhow::Result<()> {
    // It is released: what runs is not known to have stopped until it restarts, by its own hook or by somebody's hand.
    let says = |text: &'static str| move |machine: &serde_json::Value| machine["status"]["conditions"].to_string().contains(text);
    if release == Release::Hook {
        service.wait("bootreport", &vm.name(), 40, |report| report["spec"].to_string().contains(r#""hook":true"#))?;
    }
    let first = fs::read(disk)?;
    assert!(first[..512].iter().any(|byte| *byte != 0));
    service.ctl("delete deployment web-1")?;
    match release {
        Release::Hook => service.wait("machine", &vm.name(), 20, says("its release hook restarts it"))?,
        Release::ByHand => service.wait("machine", &vm.name(), 20, says("power-cycle it"))?,
    };
    if release == Release::ByHand {
        vm.power_off();
        vm.power_on()?;
    }
    Ok(())
}

fn life(firmware: Firmware, bus: Bus, wipe: Wipe, release: Release, mac: &str) -> anyhow::Result<()> {
    let image = golden::image()?;
    let rack = Rack::up()?;
    let (service, _images) = serving(&rack, &image)?;
    if release == Release::ByHand {
        service.kubectl(r#"patch bootprofile golden --type merge -p {"spec":{"releaseHook":"None"}}"#)?;
    }
    let disk = empty_disk(&rack, DISK)?;
    let mut vm = Vm::plug(&rack, firmware, mac)?.with_disk_on(bus, &disk).that_restarts();
    let name = vm.name();

    vm.power_on()?;
    service.wait_state("machine", &name, "Discovered", 90)?;
    service.ctl(&format!("accept {name}"))?;
    let machine = service.wait_state("machine", &name, "Available", 120)?;
    let inspected =
        machine["status"]["conditions"].as_array().and_then(|all| all.iter().find(|condition| condition["type"] == "Inspected")).cloned();
    assert_eq!(inspected.map(|condition| condition["reason"].clone()), Some("Inspected".into()));
    let inventory = service.get("machineinventory", &name)?;
    let facts = &inventory["spec"]["facts"];
    assert_eq!(
        (facts["disks"][0]["name"].as_str(), facts["disks"][0]["sizeBytes"].as_u64()),
        (Some(bus.first_disk()), Some(DISK)),
        "{facts}"
    );
    assert_eq!(facts["nics"][0]["mac"], mac, "{facts}");

    // A claim finds the machine where it waits: nobody restarts it.
    let policy = if wipe == Wipe::Secure { "secure" } else { "metadata" };
    let object = "apiVersion: metal.athanor.dev/v1alpha1\nkind: Deployment\nmetadata: {name: web-1}\n";
    service.apply(&format!("{object}spec: {{machine: {{}}, profile: {{name: golden}}, hostname: web-1, wipe: {{policy: {policy}}}}}\n"))?;
    let machine = service.wait_state("machine", &name, "Provisioned", 120)?;
    assert_eq!(machine["spec"]["occupancy"]["wipe"], policy);
    let whose = || service.get("machineinventory", &name).map(|known| known["spec"]["facts"]["disks"][0]["marker"]["instance"].clone());
    assert_eq!(whose()?, machine["spec"]["occupancy"]["instanceID"], "whoever meets the disk later");
    let said = vm.wait_console(golden::SAYS, 180)?;
    assert!(said.contains(r#""hostname":"web-1""#), "{said}");
    // It says so itself, to where its vendor-data leads.
    let booted =
        |object: &serde_json::Value| object["status"]["conditions"].to_string().contains("runs web-1 from its disk, by its own report");
    service.wait("deployment", "web-1", 60, booted)?;

    released(&service, &mut vm, release, &disk)?;
    service.wait_state("machine", &name, "Available", 180)?;
    assert!(whose()?.is_null(), "it is nobody's any more");
    let records = service.list("wiperecord")?;
    let record = &records.first().unwrap()["spec"];
    let (method, sanitize, edge) = match wipe {
        Wipe::Metadata => ("Metadata", None, 16 << 20),
        Wipe::Secure => ("Secure", Some("NVMe Format NVM with erase of user data"), DISK as usize),
    };
    let done = &record["disks"][0];
    assert_eq!(
        (record["machine"].as_str(), done["method"].as_str(), done["sanitize"].as_str()),
        (Some(&*name), Some(method), sanitize),
        "{record}"
    );
    assert_eq!(done["mismatched"], 0);
    let wiped = fs::read(&disk)?;
    assert!(wiped[..edge].iter().chain(&wiped[wiped.len() - edge..]).all(|byte| *byte == 0), "the record says otherwise");

    // And it serves again.
    service.ctl("create deployment web-2 --profile golden --hostname web-2")?;
    service.wait_state("machine", &name, "Provisioned", 120)?;
    vm.wait_console(r#""hostname":"web-2""#, 180)?;
    Ok(())
}

/// Power that is cut in the middle of a write leaves a disk that does not boot, and a second attempt.
#[test]
fn a_power_cut_in_the_middle_of_a_write() {
    let golden = golden::image().unwrap();
    let rack = Rack::up().unwrap();
    // So large that somebody can pull the plug meanwhile.
    let (folder, size) = (rack.file("images"), 700 << 20);
    fs::create_dir_all(&folder).unwrap();
    let image = folder.join("large.raw");
    fs::copy(&golden, &image).unwrap();
    fs::File::options().write(true).open(&image).unwrap().set_len(size).unwrap();
    let (service, _images) = serving(&rack, &image).unwrap();
    let disk = empty_disk(&rack, size + (32 << 20)).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:05:03").unwrap().with_disk(&disk).that_restarts();
    let name = vm.name();
    vm.power_on().unwrap();
    service.wait_state("machine", &name, "Discovered", 90).unwrap();
    service.ctl(&format!("accept {name}")).unwrap();
    service.wait_state("machine", &name, "Available", 120).unwrap();
    service.ctl("create deployment web-1 --profile golden --hostname web-1").unwrap();
    service
        .wait("deployment", "web-1", 60, |deployment| deployment["status"]["conditions"].to_string().contains("fetch and write"))
        .unwrap();
    vm.power_off();
    let half = fs::read(&disk).unwrap();
    assert!(half[..1 << 20].iter().all(|byte| *byte == 0), "half an image has a boot sector");
    assert!(half.iter().any(|byte| *byte != 0), "nothing was written yet");

    vm.power_on().unwrap();
    service.wait_state("deployment", "web-1", "Provisioned", 180).unwrap();
    assert_eq!(service.get("machine", &name).unwrap()["status"]["attempt"]["number"], 2);
    let said = vm.wait_console(golden::SAYS, 120).unwrap();
    assert!(said.contains(r#""hostname":"web-1""#), "{said}");
}

#[test]
fn a_bios_machine_from_free_to_disk_and_back() {
    life(Firmware::Bios, Bus::Ahci, Wipe::Metadata, Release::Hook, "52:54:00:aa:05:01").unwrap();
}

#[test]
fn a_uefi_machine_from_free_to_disk_and_back() {
    life(Firmware::Uefi, Bus::Nvme, Wipe::Secure, Release::ByHand, "52:54:00:aa:05:02").unwrap();
}

/// Switches a machine on when the rack's switch sees a magic packet for its card, which is what the card itself would do.
fn woken(service: &Service<'_>, vm: &mut Vm<'_>, capture: &Capture, before: usize) {
    wait_for("a magic packet", Duration::from_secs(30), || match capture.magic(vm.mac) {
        Ok(seen) if seen > before => Ok(()),
        Ok(seen) => Err(format!("{seen} so far")),
        Err(error) => Err(error.to_string()),
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}\n{}", service.list("machines"), service.log()));
    vm.power_on().unwrap();
}

/// A machine that is off is woken, looked at, goes off, and is woken again by a claim that names no hardware.
#[test]
fn a_machine_that_is_off_is_woken_by_whoever_needs_it() {
    let golden = golden::image().unwrap();
    let rack = Rack::up().unwrap();
    let (service, _images) = serving(&rack, &golden).unwrap();
    let capture = Capture::start(&rack).unwrap();
    // A switch on which everybody sleeps has no carrier; in a rack somebody is awake.
    let _somebody = rack.neighbour("192.168.10.9/24").unwrap();
    let disk = empty_disk(&rack, DISK).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:05:09").unwrap().with_disk(&disk).that_restarts();
    let spec = format!("accepted: true, wakeOnLan: true, power: PoweredOff, interfaces: [{{mac: \"{}\", boot: true}}]", vm.mac);
    service.apply(&format!(
            "apiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {{name: sleeper, labels: {{rack: a}}}}\nspec: {{architecture: amd64, {spec}}}\n"
        )).unwrap();
    woken(&service, &mut vm, &capture, 0);
    service.wait_state("machine", "sleeper", "Available", 120).unwrap();
    vm.wait_off(60).unwrap();
    // Nobody needs it: it sleeps.
    let before = capture.magic(vm.mac).unwrap();
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(capture.magic(vm.mac).unwrap(), before, "it was woken for nothing");

    service.apply("apiVersion: metal.athanor.dev/v1alpha1\nkind: Deployment\nmetadata: {name: any}\nspec: {machine: {selector: {matchLabels: {rack: a}}}, profile: {name: golden}, hostname: any}\n").unwrap();
    woken(&service, &mut vm, &capture, before);
    service.wait_state("deployment", "any", "Provisioned", 180).unwrap();
    let said = vm.wait_console(golden::SAYS, 180).unwrap();
    assert!(said.contains(r#""hostname":"any""#), "{said}");
}
