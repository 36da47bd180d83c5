//! `ATHANOR_API=FILE`: tests on somebody's own cluster, which they leave as they found it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use athanor_tests::{ControlPlane, FakeIpxe, Rack, Service};

#[test]
fn a_cluster_of_ones_own_is_used_and_left_as_it_was() {
    let (there, here) = (Rack::up().unwrap(), Rack::up().unwrap());
    let theirs = ControlPlane::for_nodes(&there).unwrap();
    let seen = || {
        let all = ["namespaces,crd", "clusterroles,clusterrolebindings,validatingadmissionpolicies", "nodes", "secrets -A"];
        all.map(|kinds| theirs.kubectl(&there, &format!("get {kinds} -o name"), None).unwrap())
    };
    let before = seen();
    {
        let service = Service::start_on_own(&here, |config| config, theirs.kubeconfig(), Some(&there)).unwrap();
        let machine = FakeIpxe::plug(&here).unwrap();
        machine.boot_file().unwrap();
        service.wait_state("machine", &machine.name(), "Discovered", 20).unwrap();
        assert_ne!(seen(), before);
    }
    assert_eq!(seen(), before);

    theirs.kubectl(&there, "create namespace athanor-system", None).unwrap();
    let refused = ControlPlane::own(&here, theirs.kubeconfig(), Some(&there)).err().unwrap().to_string();
    assert_eq!(refused, "this cluster has an Athanor that no test made; tests remove it, so name a cluster that is there for tests");
    assert!(theirs.kubectl(&there, "get namespace athanor-system", None).is_ok());
}
