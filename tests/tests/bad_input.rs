//! What people do wrong, and the exact words they get. What the API refuses on its own is in `api.rs`; configuration files, ISOs and packets
//! have tables beside their code.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    time::Duration,
};

use athanor_tests::{FakeIpxe, Guest, Rack, Service, rack::Process, tools, wait_for};

/// The error of a command that must fail, without `error: `.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?} should have failed:\n{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| !line.contains("INFO") && !line.contains("ERROR"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_command_line_says_what_is_wrong_and_what_to_do() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let (iso, media) = (iso.display().to_string(), rack.file("media").display().to_string());
    fs::write(rack.file("media/text.iso"), "not an image").unwrap();
    fs::write(rack.file("media/cut.iso"), &fs::read(&guest.iso).unwrap()[..300_000]).unwrap();
    let (key, secret) = (rack.file("key.pub"), rack.file("key"));
    fs::write(&secret, "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
    let folder = rack.folder().display().to_string();
    fs::write(rack.file("kindless.yaml"), "spec: {mode: dhcp}\n").unwrap();

    for (line, says) in [
        ("get machins".to_owned(), "error: there is no kind \"machins\"; did you mean \"machines\"?".to_owned()),
        ("get machines nobody".to_owned(), "error: machines.metal.athanor.dev \"nobody\" not found".to_owned()),
        ("accept nobody".to_owned(), "error: there is no machine \"nobody\"".to_owned()),
        ("create deployment --mac 1:2:3 --profile x".to_owned(), "error: invalid value '1:2:3' for '--mac <MAC>': \"1:2:3\" is not a MAC address; write it like 52:54:00:aa:00:01".to_owned()),
        ("create deployment --mac 52:54:00:aa:00:01".to_owned(), "error: which boot profile? Give --profile; athanorctl get boot lists them".to_owned()),
        ("create deployment --profile x".to_owned(), "error: the deployment needs a name: give one, or --hostname, or --mac".to_owned()),
        ("create deployment Web_1 --profile x".to_owned(), "error: Deployment.metal.athanor.dev \"Web_1\" is invalid: metadata.name: Invalid value: \"Web_1\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned()),
        (format!("create boot --name a --iso-path {iso} --kernel install/vmlinuz"), "error: guest.iso has no install/vmlinuz; it has live/vmlinuz".to_owned()),
        (format!("create boot --name a --iso-path {iso} --kernel live/vmlinux"), "error: guest.iso has no live/vmlinux; did you mean \"live/vmlinuz\"?".to_owned()),
        (format!("create boot --name a --iso-path {iso} --kernel live"), "error: live in guest.iso is a folder, not a file".to_owned()),
        (format!("create boot --name a --iso-path {media}/text.iso --kernel k"), format!("error: {media}/text.iso is not an ISO 9660 image; check that the download is the .iso itself")),
        ("create subnet --name b --cidr 10.0.0.0/24 --range 10.0.0.1".to_owned(), "error: invalid value '10.0.0.1' for '--range <RANGE>': write it like 192.168.10.100-192.168.10.199".to_owned()),
        ("create subnet --name b --cidr 10.0.0.1/24".to_owned(), "error: Subnet.metal.athanor.dev \"b\" is invalid: spec.cidr: Invalid value: \"10.0.0.1/24\": has bits set behind its prefix; write the network's own address".to_owned()),
        ("update deployment --mac 52:54:00:aa:00:01 --profile x".to_owned(), "error: no deployment is on 52:54:00:aa:00:01; athanorctl get deployments".to_owned()),
        ("deploy --mac 52:54:00:aa:00:01 --type kickstart".to_owned(), "error: no profile is of type kickstart; there are: none. Create one with athanorctl create boot --type kickstart".to_owned()),
        (format!("create deployment w --profile x --ssh-key {}", secret.display()), format!("error: --ssh-key {folder}/key: this is a private key; give the public one, {}", key.display())),
        (format!("apply -f {folder}/nothing.yaml"), format!("error: -f {folder}/nothing.yaml: cannot be read: No such file or directory (os error 2)")),
        (format!("apply -f {folder}/kindless.yaml"), format!("error: {folder}/kindless.yaml: this is no object of an API: it has no kind; begin it with apiVersion: and kind:")),
        ("create machine --mac 52:54:00:aa:00:01 --address 300.1.1.1".to_owned(), "error: invalid value '300.1.1.1' for '--address <ADDRESS>': no IP address; write it like 192.168.10.20".to_owned()),
        ("create boot --name a --kernel=".to_owned(), "error: a value is required for '--kernel <KERNEL>' but none was supplied".to_owned()),
        ("wait machine nobody --timeout 1s".to_owned(), "machine/nobody: does not exist\nmachine/nobody is not ready after 1 s: does not exist".to_owned()),
        ("wait machine nobody --timeout soon".to_owned(), "error: invalid value 'soon' for '--timeout <TIMEOUT>': write it like 90s, 10m or 2h".to_owned()),
        ("wait machine nobody --for blah".to_owned(), "error: invalid value 'blah' for '--for <WHAT>': write ready, deleted, condition=TYPE or state=STATE".to_owned()),
        ("wait machine nobody --for state=Bogus".to_owned(), "error: invalid value 'state=Bogus' for '--for <WHAT>': this version knows no state Bogus; it knows Discovered, Accepted, Inspecting, Available, Claimed, Provisioning, Provisioned, Releasing, Cleaning, Pending".to_owned()),
        ("explain nobody".to_owned(), "error: there is no machine \"nobody\"".to_owned()),
    ] {
        let said = refused(&mut service.ctl_command(&line).unwrap());
        let said = said.split("\n\nFor more information").next().unwrap();
        assert_eq!(said, says, "athanorctl {line}");
    }
    let said =
        refused(&mut service.ctl_command(&format!("create boot --name a --iso-path {media}/cut.iso --kernel live/vmlinuz")).unwrap());
    assert!(said.starts_with(&format!("error: {media}/cut.iso is cut off: it has 300000 bytes of at least")), "{said}");
}

#[test]
fn an_interface_that_cannot_serve_says_what_it_lacks() {
    let rack = Rack::up().unwrap();
    let bare = rack.port().unwrap();
    let detect =
        |name: &str| refused(rack.command(athanor_tests::service::binary().unwrap()).args(["config", "detect", "--interface", name]));
    let says = format!(
        "error: --interface {bare}: it has no IPv4 address; give it one first, for example: ip addr add 192.168.10.1/24 dev {bare}; \
         these could serve: br0"
    );
    assert_eq!(detect(&bare), says);
    let says = detect("eth7");
    assert!(says.starts_with("error: --interface eth7: there is no such interface; there are: ") && says.contains("br0"), "{says}");
    tools::run(rack.command("ip").args(["link", "set", &bare, "down"])).unwrap();
    assert!(detect(&bare).starts_with(&format!("error: --interface {bare}: it is down; for example: ip link set {bare} up")));
}

/// Nor does a file that is not there.
#[test]
fn an_object_that_is_refused_holds_up_no_other() {
    let rack = Rack::up().unwrap();
    let mut service = Service::start(&rack).unwrap();
    let (two, objects) = (
        rack.file("two.yaml"),
        [
            "{name: m1}\nspec: {loader: nonsense, interfaces: [{mac: \"52:54:00:aa:00:47\"}]}",
            "{name: m2}\nspec: {interfaces: [{mac: \"52:54:00:aa:00:48\"}]}",
        ],
    );
    fs::write(
        &two,
        objects.map(|object| format!("---\napiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {object}\n")).concat(),
    )
    .unwrap();
    let said = refused(&mut service.ctl_command(&format!("apply -f {0}x -f {0}", two.display())).unwrap());
    // A kube-apiserver puts the faults in brackets and adds which rules it did not come to.
    let (start, fault) = (
        format!(
            "error: -f {0}x: cannot be read: No such file or directory (os error 2)\n{0}: Machine.metal.athanor.dev \"m1\" is invalid: ",
            two.display()
        ),
        "spec.loader: Unsupported value: \"nonsense\": supported values: \"grub\", \"ipxe\", \"ipxe-native\", \"pxelinux\", \"shim\"",
    );
    let found = said.strip_prefix(&start).unwrap_or_else(|| panic!("{said}"));
    assert!(if service.is_embedded() { found == fault } else { found.starts_with(&format!("[{fault}, ")) }, "{found}");
    assert!(service.get("machine", "m2").is_ok());
    if service.is_embedded() {
        service.kill();
        let said = refused(&mut service.ctl_command(&format!("apply -f {}", two.display())).unwrap());
        assert_eq!(
            said,
            "error: the API does not answer (connection refused); are the services running? athanor start services --config FILE"
        );
    }
}

#[test]
fn objects_that_cannot_go_on_say_why() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    symlink("/etc/passwd", rack.file("media/link.iso")).unwrap();
    let says = |kind: &str, name: &str, words: &str| says(&service, kind, name, words);
    service.ctl("create machine a --mac 52:54:00:aa:00:41 --address 192.168.10.50 --accept").unwrap();
    service.ctl("create machine b --mac 52:54:00:aa:00:42 --address 192.168.10.50 --accept").unwrap();
    says("machine", "b", "192.168.10.50 is already given to Machine default/a; choose another one");
    service.ctl("create machine c --mac 52:54:00:aa:00:43 --address 10.9.9.9 --accept").unwrap();
    says("machine", "c", "10.9.9.9 is not inside any Subnet; add one that holds it");
    service.ctl("create machine d --mac 52:54:00:aa:00:41 --accept").unwrap();
    says("machine", "d", "Machine default/a owns one of its MAC addresses; remove the interface from one of the two");
    service.ctl("create machine e --mac 52:54:00:aa:00:45 --address 192.168.10.1 --accept").unwrap();
    says("machine", "e", "192.168.10.1 cannot be given in Subnet lab");

    let path = iso.display();
    service.ctl(&format!("create boot --name live --iso-path {path} --kernel live/vmlinuz")).unwrap();
    service.ctl(&format!("create boot --name arm --iso-path {path} --kernel live/vmlinuz --architecture arm64")).unwrap();
    service.ctl(&format!("create boot --name preseed --iso-path {path} --kernel live/vmlinuz --type preseed")).unwrap();
    service.ctl("create boot --name shell --kernel http://example.com/k --cmdline a||b").unwrap();
    service.ctl("create boot --name gone --iso-path gone.iso --kernel k").unwrap();
    service.ctl("create boot --name link --iso-path link.iso --kernel k").unwrap();
    says("bootprofile", "preseed", "preseed profiles are stored, but this version only runs live, script and image profiles");

    service.wait_state("machine", "a", "Available", 10).unwrap();
    let said = service.ctl("create deployment unknown --mac 52:54:00:aa:00:99 --profile live").unwrap();
    assert!(said.starts_with("deployment/unknown created; it waits: spec.machine.mac: no Machine in this namespace has"), "{said}");
    says(
        "deployment",
        "unknown",
        "no Machine in this namespace has 52:54:00:aa:00:99; switch it on so that it registers itself, or create it",
    );
    service.ctl("create deployment noprofile --machine a --profile nothing").unwrap();
    says("deployment", "noprofile", "there is no BootProfile nothing in this namespace; create it, or name another");
    assert_eq!(service.ctl("create deployment first --machine a --profile live").unwrap(), "deployment/first created\n");
    service.wait_state("deployment", "first", "Claimed", 10).unwrap();
    service.ctl("create deployment second --machine a --profile live").unwrap();
    says("deployment", "second", "Machine a belongs to Deployment first; delete that one first, or choose another Machine");
    let said = refused(&mut service.ctl_command("update deployment first --mac 52:54:00:aa:00:42").unwrap());
    assert_eq!(said, "error: deployment/first is on machine a and stays there; delete it and deploy it anew to have it on another one");
    service.ctl("update deployment unknown --mac 52:54:00:aa:00:98").unwrap();
    says("deployment", "unknown", "no Machine in this namespace has 52:54:00:aa:00:98");
    let said = refused(&mut service.ctl_command("deploy --machine e --type preseed --hostname third --wait").unwrap());
    assert!(said.contains("deployment/third will not run: profile preseed: preseed profiles are stored"), "{said}");

    for (profile, words) in [
        ("gone", "gone.iso does not exist; put the ISO there, or correct spec.media.path"),
        ("link", "/etc/passwd is not below a mediaDir"),
    ] {
        service.ctl(&format!("update deployment first --profile {profile}")).unwrap();
        says("deployment", "first", words);
    }
    let table = service.ctl("get boot").unwrap();
    assert!(table.contains("READY"), "{table}");
    service.ctl("update deployment first --profile live").unwrap();
    says("deployment", "first", "switch it on");

    // A profile of another architecture: for a Machine that is claimed, and for one that shall be.
    service.apply("apiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {name: x}\nspec: {accepted: true, architecture: amd64, interfaces: [{mac: \"52:54:00:aa:00:46\"}]}\n").unwrap();
    service.wait_state("machine", "x", "Available", 10).unwrap();
    service.ctl("create deployment sixth --machine x --profile arm").unwrap();
    says("deployment", "sixth", "its profile is for arm64, but Machine x is amd64; choose another profile or Machine");
    service.ctl("update deployment sixth --profile live").unwrap();
    service.wait_state("deployment", "sixth", "Claimed", 10).unwrap();
    service.ctl("update deployment sixth --profile arm").unwrap();
    says("deployment", "sixth", "profile arm is for arm64, but the Machine is amd64; choose another profile or Machine");
    // Whoever owns a Machine keeps it, and is told so.
    let patch = rack.file("moved.yaml");
    fs::write(&patch, "apiVersion: metal.athanor.dev/v1alpha1\nkind: Deployment\nmetadata: {name: sixth}\nspec: {machine: {name: a}, profile: {name: live}}\n").unwrap();
    service.ctl(&format!("apply --force-conflicts -f {}", patch.display())).unwrap();
    says("deployment", "sixth", "spec.machine now means another one, which takes effect when this Deployment is deleted and created again");
}

#[test]
fn profiles_and_subnets_that_cannot_be_used_say_why() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let says = |kind: &str, name: &str, words: &str| says(&service, kind, name, words);
    service.ctl(&format!("create boot --name live --iso-path {} --kernel live/vmlinuz", iso.display())).unwrap();
    symlink("/etc/passwd", rack.file("media/link.iso")).unwrap();
    // A profile says what is wrong with its files before anybody uses it, and whoever creates it is told at once.
    for (profile, words) in [
        ("gone", "gone.iso does not exist; put the ISO there, or correct spec.media.path"),
        ("link", "/etc/passwd is not below a mediaDir"),
    ] {
        let created = service.ctl(&format!("create boot --name {profile} --iso-path {profile}.iso --kernel k")).unwrap();
        assert!(
            created.starts_with(&format!("bootprofile/{profile} created; it cannot be used yet: ")) && created.contains(words),
            "{created}"
        );
        says("bootprofile", profile, words);
    }
    service.ctl("create boot --name late --iso-path late.iso --kernel live/vmlinuz").unwrap();
    fs::copy(&iso, rack.file("media/late.iso")).unwrap();
    service.ctl("wait boot late --timeout 10s").unwrap();
    fs::write(rack.file("media/late.iso"), "no longer").unwrap();
    says("bootprofile", "late", "late.iso is not an ISO 9660 image");
    fs::copy(&iso, rack.file("media/copy.iso")).unwrap();
    service.ctl("create boot --name other --iso-path copy.iso --iso-prefix live --kernel live/vmlinuz").unwrap();
    says("bootprofile", "other", "live is also where profile default/live serves another image; choose another prefix");
    service.ctl("create subnet --name twice --cidr 10.7.0.0/24 --range 10.7.0.10-10.7.0.20,10.7.0.15-10.7.0.30").unwrap();
    says("subnet", "twice", "spec.ranges: 10.7.0.10–10.7.0.20 and 10.7.0.15–10.7.0.30 overlap; make one range of them");
    service.ctl("create boot --name ftp --kernel ftp://example.com/k").unwrap();
    says("bootprofile", "ftp", "ftp://example.com/k: only http URLs and paths inside spec.media are fetched; name one of these");
    service.ctl("create boot --name nowhere --kernel live/vmlinuz").unwrap();
    says("bootprofile", "nowhere", "this is a path inside media, but there is no spec.media; name an ISO there, or an http URL here");
}

/// Waits until an object's conditions say something.
fn says(service: &Service<'_>, kind: &str, name: &str, words: &str) {
    let right = |object: &serde_json::Value| object["status"]["conditions"].to_string().contains(words);
    let said = service.wait(kind, name, 10, right);
    assert!(said.is_ok(), "{kind}/{name} should say {words:?}: {said:?}");
}

#[test]
fn what_comes_right_goes_on_by_itself() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let says = |kind: &str, name: &str, words: &str| says(&service, kind, name, words);
    service.ctl("create machine a --mac 52:54:00:aa:00:41 --accept").unwrap();
    service.ctl("create boot --name gone --iso-path gone.iso --kernel k").unwrap();
    service.wait_state("machine", "a", "Available", 10).unwrap();
    service.ctl("create deployment first --machine a --profile gone").unwrap();
    says("deployment", "first", "gone.iso does not exist; put the ISO there, or correct spec.media.path");
    // It says so all the time, and notices what becomes of the file.
    let versions = || service.get("deployment", "first").unwrap()["metadata"]["resourceVersion"].clone();
    let (before, since) = (versions(), std::time::Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        assert_eq!(versions(), before, "the status of a Deployment that waits for a file is written again and again");
    }
    let arrived = rack.file("media/gone.iso");
    fs::copy(&iso, &arrived).unwrap();
    says("deployment", "first", "gone.iso has no k");
    fs::remove_file(&arrived).unwrap();
    says("deployment", "first", "gone.iso does not exist");

    // What somebody gives back is given to who waits for it, without anybody's help.
    service.ctl("create machine f --mac 52:54:00:aa:00:47 --address 192.168.10.51 --accept").unwrap();
    service.ctl("create machine g --mac 52:54:00:aa:00:48 --address 192.168.10.51 --accept").unwrap();
    says("machine", "g", "192.168.10.51 is already given to Machine default/f");
    service.ctl("delete machine f").unwrap();
    service.wait_state("machine", "g", "Available", 5).unwrap();
    service.ctl("create machine h --mac 52:54:00:aa:00:48 --accept").unwrap();
    says("machine", "h", "Machine default/g owns one of its MAC addresses");
    service.ctl("delete machine g").unwrap();
    service.wait_state("machine", "h", "Available", 5).unwrap();
}

#[test]
fn services_that_cannot_start_say_who_stands_in_the_way() {
    let rack = Rack::up().unwrap();
    drop(Service::start(&rack).unwrap());
    let mut dnsmasq = rack.command("dnsmasq");
    dnsmasq.args([
        "--no-daemon",
        "--port=0",
        "--interface=br0",
        "--bind-interfaces",
        "--no-resolv",
        "--user=root",
        "--dhcp-range=192.168.10.50,192.168.10.60",
    ]);
    dnsmasq.arg(format!("--dhcp-leasefile={}", rack.file("leases").display()));
    let dnsmasq = Process(dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_for("dnsmasq", Duration::from_secs(10), || {
        let table = tools::run(rack.command("cat").arg("/proc/net/udp")).map_err(|error| error.to_string())?;
        if table.contains(":0043 ") { Ok(()) } else { Err(table) }
    })
    .unwrap();
    let said = refused(&mut Service::start_command(&rack).unwrap());
    let wanted = format!(
        "error: cannot serve DHCP on br0: port 67 is in use by dnsmasq (pid {}). Stop it, or set mode: off for the subnets of this interface",
        dnsmasq.0.id()
    );
    assert_eq!(said, wanted);
    drop(dnsmasq);

    fs::write(rack.file("athanor.yaml"), "dataDir: /tmp\nsubnet: {}\n").unwrap();
    assert_eq!(
        refused(&mut Service::start_command(&rack).unwrap()),
        "error: athanor.yaml:2:1: unknown key \"subnet\"; did you mean \"subnets\"?"
    );
    fs::remove_file(rack.file("athanor.yaml")).unwrap();
    let said = refused(&mut Service::start_command(&rack).unwrap());
    assert!(said.contains("cannot read") && said.contains("`athanor config detect > athanor.yaml` writes one"), "{said}");
}

#[test]
fn an_installation_that_lost_a_file_is_not_begun_anew_without_a_word() {
    let rack = Rack::up().unwrap();
    let mut service = Service::start(&rack).unwrap();
    if !service.is_embedded() {
        return;
    }
    service.ctl("create machine a --mac 52:54:00:aa:00:41").unwrap();
    service.kill();
    let start = || refused(&mut Service::start_command(&rack).unwrap());
    let data = rack.file("data").display().to_string();
    let store = rack.file("data/store.redb");
    let kept = fs::read(&store).unwrap();
    let lost = |how: &str| {
        format!(
            "error: dataDir: {data}/store.redb {how}, but an installation lived in {data}: put a copy of the file back. To begin anew, without its \
             machines and unable to wipe what it wrote to their disks, move the folder away"
        )
    };
    fs::write(&store, "").unwrap();
    assert_eq!(start(), lost("is empty"));
    fs::remove_file(&store).unwrap();
    assert_eq!(start(), lost("is gone"));
    fs::write(&store, &kept[..kept.len() / 2]).unwrap();
    assert!(start().contains("put a copy of it back"));
    fs::write(&store, kept).unwrap();
    let (key, aside) = (rack.file("data/pki/ca.key"), rack.file("ca.key"));
    fs::rename(&key, &aside).unwrap();
    let says =
        format!("error: the certificate authority's key {data}/pki/ca.key is gone; put a copy of it back, or remove {data}/pki to have");
    assert!(start().starts_with(&says), "{}", start());
    fs::rename(&aside, &key).unwrap();
    // An id that is blank is told of; a certificate that is gone is made again by the same key: who trusted the old one trusts it.
    let authority = rack.file("old-ca.crt");
    fs::copy(rack.file("data/pki/ca.crt"), &authority).unwrap();
    fs::write(rack.file("data/installation"), "").unwrap();
    fs::write(rack.file("data/pki/ca.crt"), "").unwrap();
    service.restart().unwrap();
    assert!(service.log().contains("the installation's id is blank or damaged and drawn anew"), "{}", service.log());
    assert!(service.ctl("get machine a").is_ok());
    tools::run(rack.command("curl").args(["-sS", "--cacert"]).arg(&authority).arg("https://127.0.0.1:7480/version")).unwrap();
}

#[test]
fn newcomers_have_a_namespace_or_somebody_says_that_they_have_none() {
    let rack = Rack::up().unwrap();
    let service = Service::start_with(&rack, |config| config.replace("newcomers: {", "newcomers: {namespace: cellar, ")).unwrap();
    if !service.is_embedded() {
        // A real cluster's namespaces are not ours to make.
        return;
    }
    assert!(service.banner().contains("namespace cellar was created for newcomers"), "{}", service.banner());
    let client = FakeIpxe::plug(&rack).unwrap();
    service.wait("subnet", "lab", 20, |subnet| subnet["status"]["conditions"].to_string().contains("Probed")).unwrap();
    assert!(!client.loader().unwrap().is_empty(), "{}", service.log());
    service.apply("apiVersion: metal.athanor.dev/v1alpha1\nkind: Subnet\nmetadata: {name: attic}\nspec: {cidr: 10.7.0.0/24, mode: dhcp, interfaces: [br0], newcomers: {namespace: attic}}\n").unwrap();
    says(&service, "subnet", "attic", "there is no namespace attic, so no newcomer can register");
    assert!(service.ctl("-n cellar get machines").unwrap().contains(&client.name()));
}
