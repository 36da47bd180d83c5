//! The main job, told on the terminal: two machines with real firmware are switched on, register themselves, are accepted, get a
//! Deployment, and boot a kernel and initrd straight out of an ISO file.

use std::{
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use athanor_tests::{Firmware, Guest, Rack, Service, Vm};

/// Lines of two machines do not mix.
static TERMINAL: Mutex<()> = Mutex::new(());

fn say(start: Instant, who: &str, what: &str) {
    let _guard = TERMINAL.lock();
    for line in what.trim_end().lines() {
        println!("{:>5.1} s  {who:<5} {line}", start.elapsed().as_secs_f64());
    }
}

fn main() -> ExitCode {
    match tell() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell() -> anyhow::Result<()> {
    let start = Instant::now();
    say(start, "", "A guest is made: Debian's kernel, a one-file initramfs, both in an ISO.");
    let guest = Guest::make()?;
    say(start, "", "A rack comes up: a bridge in a network namespace of its own.");
    let rack = Rack::up()?;
    let service = Service::start(&rack)?;
    say(start, "", "$ athanor start services --config athanor.yaml");
    say(start, "", &service.banner());
    let iso = service.add_media("guest.iso", &guest.iso)?;
    ctl(
        &service,
        start,
        "",
        &format!(
            "create boot --name live --iso-path {} --kernel live/vmlinuz --initrd live/initrd.img --cmdline console=ttyS0",
            iso.display()
        ),
    )?;
    std::thread::scope(|scope| {
        let bios = scope.spawn(|| machine(&rack, &service, start, Firmware::Bios, "bios", "52:54:00:aa:00:01"));
        let uefi = scope.spawn(|| machine(&rack, &service, start, Firmware::Uefi, "uefi", "52:54:00:aa:00:02"));
        let joined =
            |result: std::thread::Result<anyhow::Result<()>>| result.unwrap_or_else(|_| Err(anyhow::anyhow!("the story broke off")));
        joined(bios.join()).context("bios")?;
        joined(uefi.join()).context("uefi")
    })?;
    ctl(&service, start, "", "get machines")?;
    ctl(&service, start, "", "get deployments")?;
    say(start, "", "Both machines prove what they run. The rack is taken down; nothing is left behind.");
    Ok(())
}

/// A line as a person would type it, and what it prints.
fn ctl(service: &Service<'_>, start: Instant, who: &str, line: &str) -> anyhow::Result<()> {
    say(start, who, &format!("$ athanorctl {line}"));
    say(start, who, &service.ctl(line)?);
    Ok(())
}

fn machine(rack: &Rack, service: &Service<'_>, start: Instant, firmware: Firmware, who: &str, mac: &str) -> anyhow::Result<()> {
    let mut vm = Vm::plug(rack, firmware, mac)?;
    let name = vm.name();
    say(start, who, &format!("{mac} is switched on ({firmware:?} firmware, boots from the network). Nobody typed its MAC."));
    vm.power_on()?;
    service.wait_state("machine", &name, "Discovered", 120)?;
    say(start, who, &format!("It has registered itself as {name}."));
    ctl(service, start, who, &format!("accept {name}"))?;
    service.wait_state("machine", &name, "Available", 30)?;
    let hostname = format!("web-{who}");
    say(start, who, &format!("$ athanorctl deploy --mac {mac} --profile live --hostname {hostname} --wait"));
    say(start, who, &service.ctl(&format!("deploy --mac {mac} --profile live --hostname {hostname} --wait"))?);
    let proof = vm.wait_console("ATHANOR-GUEST", 60)?;
    say(start, who, "On its own console:");
    say(start, who, proof.split(" cmdline").next().unwrap_or_default());
    // The newest events are written within ten seconds.
    let _ = athanor_tests::wait_for("the story", Duration::from_secs(15), || {
        let story = service.ctl(&format!("explain {mac}")).map_err(|error| error.to_string())?;
        if story.contains("GUEST") { Ok(()) } else { Err(story) }
    });
    ctl(service, start, who, &format!("explain {mac}"))
}
