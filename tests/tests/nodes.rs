//! Athanor on a real cluster: the chart, the image, two nodes that serve one segment, and what happens to them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::BTreeMap,
    io::Read as _,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use athanor_tests::{
    Firmware, Guest, Rack, Vm,
    cluster::{self, Cluster},
    rack::Process,
};
use serde_json::{Value, json};

const API: &str = "metal.athanor.dev/v1alpha1";
/// A cluster with its machines is all that two cores can do: these tests run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// The segment that both nodes serve, and a profile.
fn prepare(rack: &Rack, cluster: &Cluster<'_>, guest: &Guest) {
    std::fs::create_dir_all(rack.file("media")).unwrap();
    std::fs::copy(&guest.iso, rack.file("media/guest.iso")).unwrap();
    cluster.install(&[]).unwrap();
    let reserved = ["192.168.10.1", "192.168.10.2", "192.168.10.3", "192.168.10.4"];
    let spec = json!({
        "cidr": "192.168.10.0/24", "mode": "dhcp", "reserved": reserved, "ranges": [{ "from": "192.168.10.100", "to": "192.168.10.199" }],
        "newcomers": { "whileUnaccepted": "Wait" }
    });
    cluster.apply(&json!({ "apiVersion": API, "kind": "Subnet", "metadata": { "name": "rack" }, "spec": spec })).unwrap();
    let media = json!({ "path": rack.file("media/guest.iso") });
    let spec = json!({ "media": media, "kernel": "live/vmlinuz", "initrds": ["live/initrd.img"], "cmdline": "console=ttyS0", "live": {} });
    cluster
        .apply(&json!({ "apiVersion": API, "kind": "BootProfile", "metadata": { "name": "live", "namespace": "default" }, "spec": spec }))
        .unwrap();
    let both = |subnet: &Value| {
        let servers = subnet["status"]["servers"].as_array().cloned().unwrap_or_default();
        servers.len() == 2 && servers.iter().all(|server| server["authority"] == "Alone")
    };
    cluster.wait("subnet", "rack", 40, both).unwrap();
}

/// A machine that is accepted.
fn accept(cluster: &Cluster<'_>, name: &str, mac: impl ToString) {
    let spec = json!({ "accepted": true, "interfaces": [{ "mac": mac.to_string(), "boot": true }] });
    cluster
        .apply(&json!({ "apiVersion": API, "kind": "Machine", "metadata": { "name": name, "namespace": "default" }, "spec": spec }))
        .unwrap();
}

/// A machine that is accepted, and what it is to run.
fn deploy(cluster: &Cluster<'_>, vm: &Vm<'_>, hostname: &str) {
    accept(cluster, &vm.name(), vm.mac);
    let spec = json!({ "machine": { "name": vm.name() }, "profile": { "name": "live" }, "hostname": hostname });
    cluster
        .apply(&json!({ "apiVersion": API, "kind": "Deployment", "metadata": { "name": hostname, "namespace": "default" }, "spec": spec }))
        .unwrap();
}

/// Asks DHCP, TFTP and HTTP of both nodes until [`Steady::end`].
struct Steady(Process);

impl Steady {
    fn start(host: &athanor_tests::Neighbour, mac: &str) -> Self {
        let mut command = host.command(env!("CARGO_BIN_EXE_steady"));
        let command = command.args([mac, "192.168.10.2", "192.168.10.3"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(Process(command.spawn().unwrap()))
    }

    /// The longest silences, in seconds.
    fn end(mut self) -> BTreeMap<String, f64> {
        drop(self.0.0.stdin.take());
        let mut said = String::new();
        self.0.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        said.lines().map(|line| line.rsplit_once(' ').map(|(what, seconds)| (what.to_owned(), seconds.parse().unwrap())).unwrap()).collect()
    }
}

#[test]
fn from_power_on_to_proof_while_leaders_agents_and_the_api_die() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let mut cluster = Cluster::up(&rack, 2).unwrap();
    prepare(&rack, &cluster, &guest);
    let tested = cluster.helm("test athanor --timeout 60s").unwrap();
    assert!(tested.contains("Succeeded"), "{tested}");

    // The leader is killed while a newcomer boots.
    let mut bios = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:03:01").unwrap();
    bios.power_on().unwrap();
    cluster.wait("machine", &bios.name(), 90, |machine| machine["status"]["hardware"]["vendor"] == "QEMU").unwrap();
    let killed = cluster.kill_leader().unwrap();
    deploy(&cluster, &bios, "web-1");
    let proof = bios.wait_console("ATHANOR-REPORTED", 120).unwrap();
    assert!(proof.contains("Success"), "{proof}");
    cluster.wait_state("deployment", "web-1", "Provisioned", 30).unwrap();
    let leader = cluster.kubectl("-n athanor-system get lease athanor-operator -o jsonpath={.spec.holderIdentity}").unwrap();
    assert!(!leader.starts_with(&killed), "{leader}");

    // The API server is away for a minute: a known machine boots on, a newcomer is known soon after it is back.
    cluster.plane.stop_api();
    let away = Instant::now();
    // Agents that are started anew meanwhile serve what those before them kept.
    for node in &cluster.nodes {
        node.kill_agent().unwrap();
    }
    for node in &cluster.nodes {
        node.wait_for_agent().unwrap();
    }
    bios.power_off();
    bios.power_on().unwrap();
    bios.wait_console("ATHANOR-GUEST", 100).unwrap();
    let mut uefi = Vm::plug(&rack, Firmware::Uefi, "52:54:00:aa:03:02").unwrap();
    std::thread::sleep(Duration::from_secs(45).saturating_sub(away.elapsed()));
    uefi.power_on().unwrap();
    std::thread::sleep(Duration::from_secs(60).saturating_sub(away.elapsed()));
    cluster.plane.start_api(&rack).unwrap();
    cluster.wait_state("machine", &uefi.name(), "Discovered", 30).unwrap();
    deploy(&cluster, &uefi, "web-2");

    // The agent that serves it goes, and comes again.
    let serving = cluster.serving(&uefi.name(), "script", 120).unwrap();
    let only = format!("--field-selector spec.nodeName={}", cluster.nodes[serving].name());
    cluster.kubectl(&format!("-n athanor-system delete pod -l app.kubernetes.io/component=boot-agent {only} --wait=false")).unwrap();
    uefi.wait_console("ATHANOR-REPORTED", 180).unwrap();
    cluster.wait_state("deployment", "web-2", "Provisioned", 30).unwrap();
    for (vm, hostname) in [(&bios, "web-1"), (&uefi, "web-2")] {
        let story = cluster.kubectl(&format!("describe deployments.metal.athanor.dev {hostname}")).unwrap();
        assert!(story.contains("Provisioned") && story.contains(&vm.name()), "{story}");
    }
}

#[test]
fn an_upgrade_is_not_noticed_and_a_node_that_dies_takes_no_machine_with_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let mut cluster = Cluster::up(&rack, 2).unwrap();
    prepare(&rack, &cluster, &guest);
    let asker = rack.neighbour("192.168.10.77/24").unwrap();
    let mac = asker.mac().unwrap();
    accept(&cluster, "asker", &mac);
    cluster.wait("machine", "asker", 20, |machine| machine["status"]["address"].is_string()).unwrap();
    let mut vm = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:03:11").unwrap();
    deploy(&cluster, &vm, "web-1");
    cluster.wait_state("deployment", "web-1", "Claimed", 30).unwrap();

    // A newer image is rolled out while a machine boots, and taken back while it boots again.
    let steady = Steady::start(&asker, &mac);
    vm.power_on().unwrap();
    cluster
        .helm_with("upgrade athanor --reuse-values --wait --timeout 120s", &[cluster::chart().to_str().unwrap(), "--set", "image.tag=next"])
        .unwrap();
    cluster.rolled_out(cluster::NEXT).unwrap();
    // The one before it may take a while to end: its transfers do.
    athanor_tests::wait_for("the newer image alone", Duration::from_secs(90), || {
        let images = cluster
            .kubectl("-n athanor-system get pods -o jsonpath={.items[*].spec.containers[*].image}")
            .map_err(|error| error.to_string())?;
        if images.split_whitespace().all(|image| image == "localhost/athanor:next") { Ok(()) } else { Err(images) }
    })
    .unwrap();
    vm.wait_console("ATHANOR-REPORTED", 180).unwrap();
    cluster.wait_state("deployment", "web-1", "Provisioned", 30).unwrap();
    vm.power_off();
    vm.power_on().unwrap();
    cluster.helm("rollback athanor 1 --wait --timeout 120s").unwrap();
    cluster.rolled_out(env!("CARGO_PKG_VERSION")).unwrap();
    vm.wait_console("ATHANOR-REPORTED", 180).unwrap();
    let silences = steady.end();
    eprintln!("the longest silences, in seconds: {silences:?}");
    // A client that lost one packet asks again after a second.
    assert!(silences.values().all(|silence| *silence < 1.0), "{silences:?}");

    // A machine waits in the hands of an agent whose node dies; then it is given something to run.
    vm.power_off();
    let mut other = Vm::plug(&rack, Firmware::Bios, "52:54:00:aa:03:12").unwrap();
    other.power_on().unwrap();
    let serving = cluster.serving(&other.name(), "parked", 120).unwrap();
    cluster.nodes[serving].die().unwrap();
    let died = Instant::now();
    deploy(&cluster, &other, "web-2");
    other.wait_console("ATHANOR-REPORTED", 300).unwrap();
    cluster.wait_state("deployment", "web-2", "Provisioned", 60).unwrap();
    eprintln!("from the death of its server to Provisioned: {:?}", died.elapsed());
    uninstall(&cluster);
}

/// What holds people's data stays; everything else goes.
fn uninstall(cluster: &Cluster<'_>) {
    let said = cluster.helm("uninstall athanor --wait --timeout 120s").unwrap();
    assert!(said.contains("uninstalled"), "{said}");
    let ours =
        "deployments.apps,daemonsets,configmaps,secrets,leases,roles,rolebindings,serviceaccounts,poddisruptionbudgets,networkpolicies";
    let cluster_wide = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,namespaces";
    // Kubernetes' own in every namespace, the namespace that people made, and the key that tells whose their disks are.
    let theirs = ["configmap/kube-root-ca.crt", "serviceaccount/default", "namespace/athanor-system", "secret/athanor-installation"];
    let left = || -> anyhow::Result<String> {
        let inside = cluster.kubectl(&format!("-n athanor-system get {ours} -o name"))?;
        let outside = cluster.kubectl(&format!("get {cluster_wide} -o name"))?;
        let outside = outside.lines().filter(|line| line.contains("athanor"));
        Ok(inside.lines().chain(outside).filter(|line| !theirs.contains(line)).collect::<Vec<_>>().join(" "))
    };
    athanor_tests::wait_for("nothing left", Duration::from_secs(120), || match left() {
        Ok(nothing) if nothing.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    let kept = cluster.kubectl("get machines.metal.athanor.dev -o name").unwrap();
    assert_eq!(kept.lines().count(), 3, "{kept}");
}
