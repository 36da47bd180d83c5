//! What machine-agents are told and who may tell what, without the wait for machines.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use athanor_tests::{
    FakeAgent, FakeIpxe, Rack, Service,
    fake_agent::{self, inventory, profile},
    tools, wait_for,
};
use serde_json::{Value, json};

/// A service with a ramdisk that nobody boots, and a machine that was accepted.
fn accepted<'a>(rack: &'a Rack, machine: &FakeIpxe) -> anyhow::Result<(Service<'a>, String)> {
    fake_agent::ramdisk(rack)?;
    let service = Service::start(rack)?;
    machine.boot_file()?;
    service.wait_state("machine", &machine.name(), "Discovered", 20)?;
    service.ctl(&format!("accept {}", machine.name()))?;
    service.wait_state("machine", &machine.name(), "Inspecting", 20)?;
    // Acceptance draws a new token, and DHCP names it.
    let first = machine.boot_file()?;
    Ok((service, first))
}

/// What an agent that waits after its look is given to write.
fn write_after(agent: &FakeAgent<'_>, look: &Value) -> anyhow::Result<Value> {
    wait_for("the write", std::time::Duration::from_secs(60), || agent.step(look["work"].as_str(), 1).map_err(|error| error.to_string()))
}

fn condition(object: &Value, type_: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == type_).cloned().unwrap_or_default()
}

fn reason(object: &Value, type_: &str) -> String {
    condition(object, type_)["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn one_key_does_the_work_and_every_other_is_refused() {
    let rack = Rack::up().unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let (service, first) = accepted(&rack, &machine).unwrap();
    let agent = FakeAgent::boot(&machine, &first).unwrap();
    let step = agent.step(None, 0).unwrap();
    assert_eq!((step["step"]["do"].as_str(), step["index"].as_u64()), (Some("inventory"), Some(0)), "{step}");

    // Whoever has the token only, or changes what was signed, gets nothing.
    let twin = agent.twin().unwrap();
    assert_eq!(twin.next(None, 0).unwrap().0, 403);
    assert_eq!(twin.tell(&step, inventory(None)).unwrap().0, 403);
    assert_eq!(agent.post("next", &json!({}), Some(b"{\"done\":1}")).unwrap().0, 401);
    assert_eq!(agent.post("tell", &json!({ "work": "w-0", "index": 0, "phase": "x" }), None).unwrap().0, 410);
    let (code, said) = agent.post("tell", &json!({ "work": 7 }), None).unwrap();
    assert!(code == 400 && said.to_string().contains("the question cannot be read"), "{said}");
    let conflict = |object: &Value| reason(object, "TokenConflict") == "TokenConflict";
    service.wait("machine", &machine.name(), 20, conflict).unwrap();

    // Disks that hold data stop it, and its operating system boots on.
    assert_eq!(agent.tell(&step, inventory(Some("GPT with 1 partition: ext4"))).unwrap().0, 204);
    let stopped = service.wait("machine", &machine.name(), 10, |object| reason(object, "Ready") == "DisksNotEmpty").unwrap();
    assert_eq!(stopped["status"]["hardware"]["summary"], "4 cpu, 8 GiB, 107 GB");
    let work = step["work"].as_str();
    assert_eq!(agent.step(work, 1).unwrap()["step"]["do"], "reboot");
    let told = service.ctl(&format!("describe machine {}", machine.name())).unwrap();
    assert!(
        told.contains("disk       sda        107.4 GB  S1  (GPT with 1 partition: ext4)") && told.contains("told by    agent"),
        "{told}"
    );
}

#[test]
fn a_life_with_a_server_that_is_killed_in_each_phase() {
    let rack = Rack::up().unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let (mut service, first) = accepted(&rack, &machine).unwrap();
    let name = machine.name();
    let agent = FakeAgent::boot(&machine, &first).unwrap();
    let look = agent.step(None, 0).unwrap();
    service.restart().unwrap();
    assert_eq!(agent.tell(&look, inventory(None)).unwrap().0, 204, "who was bound stays bound");
    service.wait_state("machine", &name, "Available", 40).unwrap();

    // It is claimed where it waits, and begins when the start is on record.
    profile(&service).unwrap();
    service.ctl("create deployment web-1 --profile image --hostname web-1").unwrap();
    let write = agent.step(look["work"].as_str(), 1).unwrap();
    assert_eq!(
        (write["step"]["do"].as_str(), write["step"]["marker"]["attempt"].as_str()),
        (Some("write"), write["work"].as_str()),
        "{write}"
    );
    let started = service.get("machine", &name).unwrap();
    assert_eq!(
        (started["spec"]["occupancy"]["state"].as_str(), started["spec"]["occupancy"]["wipe"].as_str()),
        (Some("Started"), Some("metadata"))
    );
    agent.tell(&write, json!({ "phase": "fetch and write", "percent": 40, "bytesPerSecond": 90_000_000 })).unwrap();
    let says = |words: &'static str| move |object: &Value| object["status"]["conditions"].to_string().contains(words);
    service.wait("deployment", "web-1", 40, says("fetch and write 40 %, 90 MB/s")).unwrap();
    service.restart().unwrap();
    assert_eq!(agent.tell(&write, json!({ "outcome": "Failed", "message": "Fetch: the server answers 503" })).unwrap().0, 204);
    let failed = service.wait("machine", &name, 40, says("attempt 1 of 3 to write web-1 failed: Fetch: the server answers 503")).unwrap();
    // An operator that had to be elected first comes after the time of the next attempt.
    assert!(failed["status"]["failure"]["nextTry"].is_string() || !service.is_embedded(), "{failed}");

    // The next attempt is other work: an end of the first says nothing about it.
    let again = agent.step(write["work"].as_str(), 1).unwrap();
    assert_ne!(again["work"], write["work"]);
    assert_eq!(agent.tell(&write, json!({ "outcome": "Done" })).unwrap().0, 410);
    assert_eq!(agent.tell(&again, json!({ "outcome": "Done", "message": "written" })).unwrap().0, 204);
    service.wait_state("deployment", "web-1", "Provisioned", 40).unwrap();
    assert_eq!(agent.step(again["work"].as_str(), 1).unwrap()["step"]["do"], "reboot");
    assert_eq!(agent.tell(&again, json!({ "outcome": "Failed" })).unwrap().0, 410, "what succeeded cannot fail any more");
    // Its firmware is sent to its disk, and nowhere else.
    assert!(!machine.boot_file().unwrap().contains("boot.ipxe"));

    // Released: a machine that boots is wiped, by whoever comes up there now.
    service.ctl("delete deployment web-1").unwrap();
    service.wait_state("machine", &name, "Releasing", 40).unwrap();
    let cleaner = FakeAgent::boot(&machine, &machine.boot_file().unwrap()).unwrap();
    let wipe = cleaner.step(None, 0).unwrap();
    assert_eq!((wipe["step"]["do"].as_str(), wipe["step"]["expected"][0].as_str()), (Some("wipe"), Some("S1")), "{wipe}");
    service.restart().unwrap();
    assert_eq!(cleaner.tell(&wipe, fake_agent::wiped()).unwrap().0, 204);
    let free = service.wait_state("machine", &name, "Available", 40).unwrap();
    assert_eq!(reason(&free, "Wiped"), "Wiped");
    let verified = service.ctl(&format!("verify-wipe {name}")).unwrap();
    assert!(
        verified.contains("signed by this installation\n  S1: Metadata, 33554432 bytes; 1024 places read back, 0 of them not empty"),
        "{verified}"
    );

    // Who keeps the record and the public key can show it to whomever, without the installation; and what was changed shows.
    let key = verified.lines().find_map(|line| line.strip_prefix("public key ")).unwrap().to_owned();
    let kept = rack.file("record.yaml");
    let record = service.ctl("get wiperecords -o yaml").unwrap();
    let outside = |text: &str| {
        std::fs::write(&kept, text).unwrap();
        let mut command = service.ctl_command(&format!("verify-wipe -f {} --public-key {key}", kept.display())).unwrap();
        command.env("KUBECONFIG", "/nowhere").output().unwrap()
    };
    assert!(outside(&record).status.success(), "{record}");
    let forged = outside(&record.replace("33554432", "33554433"));
    let said = String::from_utf8_lossy(&forged.stdout).into_owned();
    assert!(!forged.status.success() && said.contains("NOT signed by this installation, or changed since"), "{said}");
}

#[test]
fn what_secrets_say_reaches_the_machine_and_nobody_else() {
    let rack = Rack::up().unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let (service, first) = accepted(&rack, &machine).unwrap();
    let name = machine.name();
    let agent = FakeAgent::boot(&machine, &first).unwrap();
    let look = agent.step(None, 0).unwrap();
    agent.tell(&look, inventory(None)).unwrap();
    service.wait_state("machine", &name, "Available", 40).unwrap();
    profile(&service).unwrap();

    // It is said what is missing, and the machine goes on when it is there.
    fake_agent::deployment_with_data(&service, "web-1").unwrap();
    let waits = |object: &Value| reason(object, "Ready") == "SecretUnusable";
    let waiting = service.wait("deployment", "web-1", 20, waits).unwrap();
    assert!(waiting["status"].to_string().contains("spec.userData: there is no Secret web-1 in this namespace; create it"), "{waiting}");
    fake_agent::user_data(&service, "web-1", "#!/bin/sh\necho hunter2\n").unwrap();
    let write = write_after(&agent, &look).unwrap();
    let documents = &write["step"]["documents"];
    assert_eq!(
        (documents["label"].as_str(), documents["files"]["user-data"].as_str()),
        (Some("cidata"), Some("#!/bin/sh\necho hunter2\n"))
    );
    agent.tell(&write, json!({ "outcome": "Done" })).unwrap();
    let deployment = service.wait_state("deployment", "web-1", "Provisioned", 40).unwrap();
    let is = |object: &Value, kind: &str| condition(object, kind)["status"].clone();
    assert_eq!((is(&deployment, "Written"), is(&deployment, "Booted")), ("True".into(), "False".into()), "{deployment}");

    // Its operating system finds them again with the token on its disk, whatever its address, and says that it runs.
    let metadata = documents["metadata"]["urls"][0].as_str().unwrap().to_owned();
    assert_eq!(machine.http(&format!("{metadata}user-data")).unwrap(), b"#!/bin/sh\necho hunter2\n");
    assert_eq!(machine.http(&format!("{metadata}latest/meta-data/hostname")).unwrap(), b"web-1");
    tools::run(machine.host.command("curl").args(["-sSf", "-d", "hostname=web-1", &format!("{metadata}phone-home")])).unwrap();
    service.wait("deployment", "web-1", 10, |object| is(object, "Booted") == "True" && reason(object, "Ready") == "Provisioned").unwrap();

    // A Secret that is gone takes nothing away from who has it.
    service.ctl("delete secret web-1").unwrap();
    let mut told = service.ctl(&format!("explain {}", machine.mac)).unwrap();
    for kind in ["machine", "deployment", "bootreport"] {
        told.push_str(&serde_json::to_string(&service.list(kind).unwrap()).unwrap());
    }
    let token = metadata.trim_end_matches('/').rsplit('/').next().unwrap().to_owned();
    assert!(!told.contains(&token) && !service.log().contains(&token), "a token was told");
    let asks = documents["metadata"]["hook"][0].as_str().unwrap().to_owned();
    assert!(machine.http(&asks.replace("release", "user-data")).is_err(), "other users of its system see what its hook asks");
    let hook = || String::from_utf8(machine.http(&asks).unwrap()).unwrap();
    assert_eq!(hook(), "");
    service.wait("bootreport", &name, 20, |report| report["spec"].to_string().contains(r#""hook":true"#)).unwrap();
    assert!(!told.contains("hunter2") && !service.log().contains("hunter2"), "a secret was told");
    service.wait_state("deployment", "web-1", "Provisioned", 5).unwrap();

    // Its release hook asks, and nobody has to walk to the rack.
    service.ctl("delete deployment web-1").unwrap();
    service.wait("machine", &name, 10, |object| condition(object, "Ready").to_string().contains("its release hook restarts it")).unwrap();
    wait_for("the word to restart", std::time::Duration::from_secs(10), || {
        if hook() == "restart" { Ok(()) } else { Err("nothing yet".to_owned()) }
    })
    .unwrap();
    assert!(machine.http(&format!("{metadata}user-data")).unwrap_err().to_string().contains("404"), "it is nobody's any more");
}

#[test]
fn in_a_lab_nobody_has_to_accept_a_machine_and_its_data_is_kept_all_the_same() {
    let rack = Rack::up().unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    fake_agent::ramdisk(&rack).unwrap();
    let service =
        Service::start_with(&rack, |config| config.replace("whileUnaccepted: Wait", "whileUnaccepted: Wait, accept: always")).unwrap();
    service.wait("subnet", "lab", 20, |subnet| reason(subnet, "AcceptsNewcomers") == "AcceptAlways").unwrap();
    service.ctl("create machine made-by-hand --mac 52:54:00:aa:09:02").unwrap();
    machine.boot_file().unwrap();
    let accepted = service.wait_state("machine", &machine.name(), "Inspecting", 20).unwrap();
    assert_eq!(reason(&accepted, "Accepted"), "AcceptAlways");
    let agent = FakeAgent::boot(&machine, &machine.boot_file().unwrap()).unwrap();
    let look = agent.step(None, 0).unwrap();
    agent.tell(&look, inventory(Some("GPT with 1 partition: ext4"))).unwrap();
    service.wait("machine", &machine.name(), 10, |object| reason(object, "Ready") == "DisksNotEmpty").unwrap();
    assert_eq!(
        service.get("machine", "made-by-hand").unwrap()["status"]["state"],
        "Discovered",
        "a person made it, and a person accepts it"
    );
}

/// As after the API was restored: a disk with the work of a Deployment that nobody knows, and a word that is older than it.
#[test]
fn what_an_unknown_deployment_wrote_is_kept_until_somebody_names_it() {
    let rack = Rack::up().unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    let (service, first) = accepted(&rack, &machine).unwrap();
    let name = machine.name();
    let set = |spec: &Value| {
        let patch = json!({ "spec": spec });
        service.kubectl(&format!("patch machine {name} --type merge -p {patch}"))
    };
    set(&json!({ "existingData": "Overwrite" })).unwrap();
    let agent = FakeAgent::boot(&machine, &first).unwrap();
    let look = agent.step(None, 0).unwrap();
    let mut found = inventory(Some("GPT with 2 partitions: fat, ext4"));
    let ours = "-n athanor-system get secret athanor-installation -o go-template={{.data.public|base64decode}}";
    let installation = &service.kubectl(ours).unwrap()[..16];
    found["inventory"]["disks"][0]["marker"] = json!({ "installation": installation, "instance": "i-9", "attempt": "a-9" });
    agent.tell(&look, found).unwrap();
    let kept = service.wait("machine", &name, 10, |object| reason(object, "Ready") == "DisksNotEmpty").unwrap();
    assert!(kept["status"]["conditions"].to_string().contains("Set spec.overwrites: [i-9] to lose it"), "{kept}");

    set(&json!({ "existingData": "Overwrite", "overwrites": ["i-9"] })).unwrap();
    service.wait_state("machine", &name, "Available", 10).unwrap();
    profile(&service).unwrap();
    service.ctl("create deployment web-1 --profile image").unwrap();
    let write = write_after(&agent, &look).unwrap();
    assert_eq!((&write["step"]["overwrite"], &write["step"]["overwrites"]), (&true.into(), &json!(["i-9"])), "{write}");
}
