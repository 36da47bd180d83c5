//! Memory is the single source of truth, whatever happens to the process: what is served is what the objects say.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use athanor_tests::{Curl, FakeIpxe, Firmware, Guest, Rack, Service, Vm, rack::Process, tools, wait_for};

#[test]
fn what_is_served_is_what_the_objects_say_now() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    // It is seen, accepted, and deployed.
    let first = machine.boot_file().unwrap();
    assert!(first.ends_with("/boot.ipxe"), "{first:?}\n{}", service.log());
    assert!(String::from_utf8(machine.http(&first).unwrap()).unwrap().contains("NotAccepted"));
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    for (profile, kernel) in [("one", "live/vmlinuz"), ("two", "live/initrd.img")] {
        service.ctl(&format!("create boot --name {profile} --iso-path {} --iso-prefix tree --kernel {kernel}", iso.display())).unwrap();
    }
    service.ctl(&format!("deploy --mac {} --profile one --hostname web-1", machine.mac)).unwrap();
    service.wait_state("machine", &machine.name(), "Claimed", 10).unwrap();

    // A machine that waits with its old name for the script is led to the new one.
    let script = machine.order(&first).unwrap();
    let base = script.lines().find_map(|line| line.strip_prefix("set base ")).unwrap().to_owned();
    let kernel = format!("{base}/f/kernel");
    assert!(!first.starts_with(&base), "the token was not rotated at acceptance");
    for name in [kernel.clone(), format!("{base}/boot.ipxe"), "http://192.168.10.1:7481/tree/live/vmlinuz".to_owned()] {
        assert!(machine.http(&name).is_ok() && machine.tftp(&name).is_ok(), "{name} is advertised and not there");
    }
    assert!(machine.http(&kernel).unwrap() == fs::read(&guest.kernel).unwrap());
    assert!(machine.tftp(&kernel).unwrap() == fs::read(&guest.kernel).unwrap());

    // An updated Deployment is served at the next request, each time; a deleted one no longer.
    let (initrd, vmlinuz) = (fs::read(&guest.initrd).unwrap(), fs::read(&guest.kernel).unwrap());
    for round in 0..5 {
        for (profile, file) in [("two", &initrd), ("one", &vmlinuz), ("two", &initrd)] {
            let said = service.ctl(&format!("update deployment --mac {} --profile {profile}", machine.mac)).unwrap();
            assert!(said.contains("its machine is served the change from now on"), "{said}");
            assert!(machine.http(&kernel).unwrap() == *file, "the old kernel over HTTP, round {round}");
            assert!(machine.tftp(&kernel).unwrap() == *file, "the old kernel over TFTP, round {round}");
        }
    }
    // Whoever writes it: in the one binary a change is acknowledged when it is served.
    if service.is_embedded() {
        let curl = Curl::of(&service, &rack).unwrap();
        for (profile, file) in [("one", &vmlinuz), ("two", &initrd)].repeat(5) {
            let change = format!("{{\"spec\": {{\"profile\": {{\"name\": \"{profile}\"}}}}}}");
            assert_eq!(curl.ask("PATCH", "deployments/web-1", "application/merge-patch+json", &change).unwrap().0, "200");
            assert!(machine.http(&kernel).unwrap() == *file, "the old kernel over HTTP after a patch");
        }
    }
    service.ctl(&format!("delete deployment --mac {}", machine.mac)).unwrap();
    let deleted = Instant::now();
    wait_for("the deletion", Duration::from_secs(1), || machine.http(&kernel).map_or_else(|_| Ok(()), |_| Err("still served".to_owned())))
        .unwrap();
    assert!(machine.tftp(&kernel).is_err() && machine.http("http://192.168.10.1:7481/tree/live/vmlinuz").is_err());
    assert!(deleted.elapsed() < Duration::from_secs(3));
    // Nothing else is ever served.
    for path in ["../../etc/passwd", "/etc/passwd", "b/x/boot.ipxe", "tree/../../../etc/passwd", "autoexec.ipxe"] {
        let url = format!("http://192.168.10.1:7481/{path}");
        assert!(machine.http(&url).is_err() && machine.tftp(&url).is_err(), "{path} is served");
    }
}

#[test]
fn a_deleted_machine_is_served_no_longer_and_may_come_again() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let first = machine.boot_file().unwrap();
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    service.ctl(&format!("create boot --name live --iso-path {} --kernel live/vmlinuz", iso.display())).unwrap();
    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1", machine.mac)).unwrap();
    service.wait_state("machine", &machine.name(), "Claimed", 10).unwrap();

    service.ctl(&format!("delete machine {}", machine.name())).unwrap();
    wait_for("the deletion", Duration::from_secs(1), || machine.http(&first).map_or_else(|_| Ok(()), |_| Err("still served".to_owned())))
        .unwrap();
    assert_eq!(service.ctl("get addresses -o name").unwrap().trim(), "", "its address was not given back");
    service.wait("deployment", "web-1", 10, |deployment| deployment["status"]["state"] == "Pending").unwrap();

    // It asks again, and is a newcomer like any other: nobody has accepted it.
    let again = machine.boot_file().unwrap();
    assert!(again.ends_with("/boot.ipxe") && again != first, "{again:?}");
    assert_eq!(service.get("machine", &machine.name()).unwrap()["spec"]["accepted"], false);
}

#[test]
fn what_a_guest_was_thanked_for_survives_kill_9_and_what_ran_is_not_free() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let mut service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let first = machine.boot_file().unwrap();
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    service.ctl(&format!("create boot --name live --iso-path {} --kernel live/vmlinuz", iso.display())).unwrap();
    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1", machine.mac)).unwrap();
    let script = machine.order(&first).unwrap();
    let mut thanked = machine.report(&script, "Success").unwrap();
    assert_eq!(tools::run(&mut thanked).unwrap(), "noted\n");
    assert_eq!(tools::run(&mut thanked).unwrap(), "noted already\n");
    let mut contradicts = machine.report(&script, "Failure").unwrap();
    let said = tools::run(contradicts.args(["-w", "%{http_code}"])).unwrap();
    assert!(said.starts_with("refused: this boot has reported success already") && said.ends_with("409"), "{said}");
    service.kill();
    service.restart().unwrap();
    // In a cluster the lease of the operator that was killed runs out first.
    service.wait_state("deployment", "web-1", "Provisioned", 30).unwrap();

    // It boots again, and each boot is proved by what its guest says in it.
    for (outcome, says) in [("Failure", "reported a failure when it booted again"), ("Success", "by its own report")] {
        let script = machine.order(&first).unwrap();
        let tells = |text: &str| {
            let told = |object: &serde_json::Value| object["status"]["conditions"].to_string().contains(text);
            service.wait("deployment", "web-1", 20, told).unwrap();
        };
        tells("boots web-1 again; waiting for its own report");
        assert_eq!(tools::run(&mut machine.report(&script, outcome).unwrap()).unwrap(), "noted\n");
        tells(says);
    }

    // It runs: a release waits until it asked the network again.
    service.ctl("delete deployment web-1").unwrap();
    service.wait_state("machine", &machine.name(), "Releasing", 10).unwrap();
    let again = machine.boot_file().unwrap();
    wait_for("free", Duration::from_secs(10), || {
        let _ = machine.http(&again);
        let object = service.get("machine", &machine.name()).map_err(|error| error.to_string())?;
        if object["status"]["state"] == "Available" { Ok(()) } else { Err(object["status"].to_string()) }
    })
    .unwrap();
}

#[test]
fn a_killed_server_loses_nothing_and_the_machine_boots() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let mut service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:00:31").unwrap();
    service.ctl(&format!("create machine --mac {} --accept", vm.mac)).unwrap();
    service.ctl(&format!("create boot --name live --iso-path {} --iso-prefix tree --kernel live/vmlinuz --initrd live/initrd.img --cmdline console=ttyS0", iso.display())).unwrap();
    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1", vm.mac)).unwrap();
    service.wait_state("machine", &vm.name(), "Claimed", 10).unwrap();

    // In blocks of 512 bytes one by one the kernel takes a while; in the middle of it the server dies.
    let reader = rack.neighbour("192.168.10.78/24").unwrap();
    let fetched = rack.file("fetched");
    let mut transfer = reader.command("busybox");
    transfer.args(["tftp", "-g", "-b", "512", "-r", "tree/live/vmlinuz", "192.168.10.1", "-l"]).arg(&fetched);
    let mut transfer = transfer.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a part of the file", Duration::from_secs(10), || match fs::metadata(&fetched).map(|meta| meta.len()).unwrap_or(0) {
        0 => Err("nothing yet".to_owned()),
        _ => Ok(()),
    })
    .unwrap();
    service.kill();
    let _ = transfer.kill();
    let _ = transfer.wait();
    assert!(
        fs::metadata(&fetched).unwrap().len() < fs::metadata(&guest.kernel).unwrap().len(),
        "the transfer was over before the server died"
    );
    service.restart().unwrap();
    assert!(service.started_in < Duration::from_secs(2), "{:?}", service.started_in);
    vm.power_on().unwrap();
    service.wait_state("deployment", "web-1", "Provisioned", 120).unwrap();
    vm.wait_console("ATHANOR-GUEST", 30).unwrap();
}

#[test]
fn explain_says_where_the_server_was_started_anew_and_a_watch_goes_on() {
    let rack = Rack::up().unwrap();
    let mut service = Service::start(&rack).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let watch = |what: &str, file: &str| {
        let mut command = service.ctl_command(&format!("get {what} -w")).unwrap();
        let shown = fs::File::create(rack.file(file)).unwrap();
        Process(command.stdin(Stdio::null()).stdout(shown).stderr(Stdio::null()).spawn().unwrap())
    };
    let shows = |file: &str, name: &str, word: &str| {
        wait_for(name, Duration::from_secs(20), || {
            let text = fs::read_to_string(rack.file(file)).map_err(|error| error.to_string())?;
            if text.lines().any(|line| line.starts_with(name) && line.contains(word)) { Ok(()) } else { Err(text) }
        })
        .unwrap();
    };
    let _all = watch("machines", "all");
    let explains = |service: &Service<'_>, word: &str| {
        wait_for(word, Duration::from_secs(20), || {
            let told = service.ctl(&format!("explain {}", machine.mac)).map_err(|error| error.to_string())?;
            if told.contains(word) { Ok(told) } else { Err(told) }
        })
        .unwrap()
    };
    let file = machine.boot_file().unwrap();
    machine.http(&file).unwrap();
    assert!(!explains(&service, "boot.ipxe").contains("started anew"));
    shows("all", &machine.name(), "Discovered");
    let _one = watch(&format!("machine {}", machine.name()), "one");
    shows("one", &machine.name(), "Discovered");
    service.kill();
    service.restart().unwrap();
    machine.http(&machine.boot_file().unwrap()).unwrap();
    explains(&service, "the server was started anew; what it saw last before that may be missing");
    service.ctl("create machine late --mac 52:54:00:aa:00:61").unwrap();
    service.ctl("create machine later --mac 52:54:00:aa:00:62").unwrap();
    shows("all", "late ", "");
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    shows("one", &machine.name(), "Available");
    let shown = fs::read_to_string(rack.file("one")).unwrap();
    assert!(!shown.contains("late") && shown.matches("Discovered").count() <= 2, "what did not change is shown once: {shown}");
    let told = service.ctl("delete machine late later").unwrap();
    // One that nobody has looked at yet is gone at once.
    let names: Vec<&str> = told.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["machine/late", "machine/later"], "{told}");
}

#[test]
fn a_machine_boots_from_each_interface_that_says_so() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let port = FakeIpxe::plug(&rack).unwrap();
    let interfaces =
        format!("[{{mac: \"52:54:00:aa:00:51\", boot: true}}, {{mac: \"{}\", boot: true}}, {{mac: \"52:54:00:aa:00:53\"}}]", port.mac);
    service.apply(&format!("apiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {{name: two}}\nspec: {{accepted: true, interfaces: {interfaces}}}\n")).unwrap();
    let machine = service.wait_state("machine", "two", "Available", 10).unwrap();
    let given = machine["status"]["interfaces"].as_array().unwrap().len();
    assert_eq!(given, 2, "each that boots has an address: {machine:#}");
    assert!(port.boot_file().unwrap().ends_with("/boot.ipxe"));
    wait_for("the story", Duration::from_secs(20), || {
        let told = service.ctl("explain two").map_err(|error| error.to_string())?;
        if told.contains("ipxe") { Ok(()) } else { Err(told) }
    })
    .unwrap();
}

#[test]
fn a_machine_waits_for_a_file_that_is_not_there_and_boots_it_when_it_is() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let first = machine.boot_file().unwrap();
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    let profile = "apiVersion: metal.athanor.dev/v1alpha1\nkind: BootProfile\nmetadata: {name: late}\n\
                   spec: {live: {}, media: {path: guest.iso}, kernel: live/vmlinuz, initrds: [live/initrd.img]}\n";
    service.apply(profile).unwrap();
    service.ctl(&format!("deploy --mac {} --profile late --hostname web-1", machine.mac)).unwrap();
    let unavailable = |deployment: &serde_json::Value| deployment["status"]["conditions"].to_string().contains("ContentUnavailable");
    service.wait("deployment", "web-1", 15, unavailable).unwrap();
    let script = String::from_utf8(machine.http(&first).unwrap()).unwrap();
    assert!(script.contains("ContentUnavailable") && script.contains("athanorctl describe deployment web-1"), "{script}");
    assert!(!script.contains("/f/"), "a file is named that is not there:\n{script}");
    let media = service.add_media("guest.iso", &guest.iso).unwrap();
    let script = machine.order(&first).unwrap();
    assert!(script.contains("/f/kernel"), "{script}");

    // It runs from memory when its file goes again: it runs on, and says so of its next boot.
    tools::run(&mut machine.report(&script, "Success").unwrap()).unwrap();
    service.wait_state("deployment", "web-1", "Provisioned", 20).unwrap();
    fs::remove_file(media).unwrap();
    let says = |deployment: &serde_json::Value| deployment["status"]["conditions"].to_string().contains("it could not boot again");
    let told = service.wait("deployment", "web-1", 20, says).unwrap();
    assert!(told["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "{told}");
}

#[test]
fn explain_tells_the_reason_that_was_told_last() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let first = machine.boot_file().unwrap();
    machine.http(&first).unwrap();
    let tells = |reason: &str| {
        wait_for(reason, Duration::from_secs(25), || {
            let story = service.ctl(&format!("explain {}", machine.mac)).map_err(|error| error.to_string())?;
            let last = story.lines().rev().find(|line| line.contains("boot script")).unwrap_or_default().to_owned();
            if last.contains(reason) { Ok(()) } else { Err(story) }
        })
        .unwrap();
    };
    tells("NotAccepted");
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    service.wait_state("machine", &machine.name(), "Available", 10).unwrap();
    machine.http(&first.replace("boot.ipxe", "poll")).unwrap();
    tells("Available");
}
