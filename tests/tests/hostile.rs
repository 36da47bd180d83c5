//! Names that are made to lead somewhere else: none does, over HTTP and over TFTP.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;

use athanor_tests::{Guest, Rack, Service, rack::HOST, tools};

/// Ways up a tree, as they have worked on some server.
const UP: [&str; 12] =
    ["../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..\\", "..%5c", "....//", "..;/", "%252e%252e%252f", "..%c0%af", ".%00./", "%u002e%u002e/"];
/// Where somebody begins.
const FROM: [&str; 5] = ["", "l/", "b/x/f/", "live/", "pxelinux.cfg/"];

/// Two hundred names, and some more.
fn names() -> Vec<String> {
    let goals = ["etc/passwd", "store.redb", "data/admin.kubeconfig"];
    let climbs = UP.iter().flat_map(|up| FROM.map(|from| (from, up.repeat(6))));
    let mut all: Vec<String> = climbs.flat_map(|(from, up)| goals.map(|goal| format!("{from}{up}{goal}"))).collect();
    all.extend(
        [
            "/etc/passwd",
            "//etc/passwd",
            "file:///etc/passwd",
            "etc/passwd%00.efi",
            "l/%2fetc%2fpasswd",
            "C:/boot.ini",
            "CON",
            "aux.efi",
            "grub.cfg%00",
        ]
        .map(str::to_owned),
    );
    all.extend(
        ["snponly.efi/", "snponly.efi/.", "./snponly.efi/../snponly.efi%20", "l//snponly.efi", "l/./snponly.efi"].map(str::to_owned),
    );
    all.extend([
        format!("l/{}", "a".repeat(4000)),
        "%ff%fe%fd".to_owned(),
        "l/%F0%9F%92%A9".to_owned(),
        "%".to_owned(),
        "%zz".to_owned(),
        "l/*".to_owned(),
    ]);
    all
}

#[test]
fn two_hundred_names_lead_nowhere() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let names = names();
    assert!(names.len() >= 200, "{}", names.len());
    let client = rack.neighbour("192.168.10.9/24").unwrap();
    let fetch = |base: &str| {
        let config = rack.file("curl.cfg");
        // One file for each, so that what came can be looked at.
        let lines: String = names
            .iter()
            .enumerate()
            .map(|(number, name)| {
                let out = rack.file(&format!("got-{number}"));
                format!("url = \"{base}/{}\"\noutput = \"{}\"\n", name.replace('\\', "\\\\").replace(' ', "%20"), out.display())
            })
            .collect();
        fs::write(&config, lines).unwrap();
        let mut curl = client.command("curl");
        curl.args(["-s", "-g", "--path-as-is", "-m", "20", "--tftp-no-options", "-w", "%{http_code}\\n", "-K"]).arg(&config);
        let output = curl.output().unwrap();
        let codes = String::from_utf8_lossy(&output.stdout).into_owned();
        for (number, name) in names.iter().enumerate() {
            let got = fs::read(rack.file(&format!("got-{number}"))).unwrap_or_default();
            let secret =
                [&b"root:"[..], b"redb", b"clusters:", b"token"].iter().any(|word| got.windows(word.len()).any(|piece| piece == *word));
            assert!(!secret, "{base}/{name} gave {}", String::from_utf8_lossy(&got));
            let _ = fs::remove_file(rack.file(&format!("got-{number}")));
        }
        codes
    };
    let codes = fetch(&format!("http://{HOST}:7481"));
    assert!(codes.lines().all(|code| matches!(code, "404" | "400" | "200" | "000")), "{codes}");
    assert!(codes.lines().filter(|code| *code == "404").count() >= 190, "{codes}");
    fetch(&format!("tftp://{HOST}"));
    // It serves on as if nothing had been.
    let fine =
        tools::run(client.command("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]).arg(format!("http://{HOST}:7481/healthz")));
    assert_eq!(fine.unwrap(), "200");
    assert!(!service.log().contains("panicked"), "{}", service.log());
}

#[test]
fn whoever_names_a_machine_is_not_told_its_order_and_starts_nothing() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let iso = service.add_media("guest.iso", &Guest::make().unwrap().iso).unwrap();
    let mac = "52:54:00:aa:00:41";
    service.ctl(&format!("create machine m1 --mac {mac} --accept")).unwrap();
    service.ctl(&format!("create boot --name live --iso-path {} --kernel live/vmlinuz", iso.display())).unwrap();
    service.ctl(&format!("create deployment d1 --mac {mac} --profile live")).unwrap();
    service.wait_state("machine", "m1", "Claimed", 20).unwrap();
    service.ctl("create machine m2 --mac 52:54:00:aa:00:42 --address 192.168.10.10 --accept").unwrap();
    service.wait("machine", "m2", 20, |machine| machine["status"]["address"] == "192.168.10.10").unwrap();
    let address = service.get("machine", "m1").unwrap()["status"]["address"].as_str().unwrap().to_owned();
    let get = |from: &str, name: &str| {
        let client = rack.neighbour(&format!("{from}/24")).unwrap();
        tools::run(client.command("curl").args(["-s"]).arg(format!("http://{HOST}:7481/{name}"))).unwrap()
    };
    for name in [format!("pxelinux.cfg/01-{}", mac.replace(':', "-")), format!("grub/next-{mac}"), format!("uboot/next-{mac}")] {
        for from in ["192.168.10.9", "192.168.10.10"] {
            let said = get(from, &name);
            assert!(!said.contains("/b/") && !said.contains("report"), "{from} was told of {name}: {said}");
        }
    }
    let hex = format!("pxelinux.cfg/{:08X}", u32::from(address.parse::<std::net::Ipv4Addr>().unwrap()));
    assert!(!get("192.168.10.9", &hex).contains("/b/"));
    service.wait_state("machine", "m1", "Claimed", 5).unwrap();
    // Itself it is told.
    let own = get(&address, &format!("grub/next-{mac}"));
    assert!(own.contains("/f/kernel") && own.contains("athanor.report="), "{own}");
    service.wait_state("machine", "m1", "Provisioning", 10).unwrap();
}
