//! What only a real control plane can show.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use athanor_crds::{rbac, rights::Role};
use athanor_tests::{ControlPlane, Rack, Service};
use serde_json::{Value, json};

fn start(rack: &Rack) -> Service<'_> {
    Service::start_on(rack, |config| config, true).unwrap()
}

#[test]
fn when_the_leader_dies_the_next_goes_on() {
    let rack = Rack::up().unwrap();
    let mut service = start(&rack);
    service.ctl("create machine one --mac 52:54:00:aa:02:01 --accept").unwrap();
    service.wait_state("machine", "one", "Available", 20).unwrap();
    service.another_operator().unwrap();
    service.kill_operator();
    let died = Instant::now();
    service.ctl("create machine two --mac 52:54:00:aa:02:02 --accept").unwrap();
    // A lease holds for 15 s; the next looks every two.
    service.wait_state("machine", "two", "Available", 30).unwrap();
    assert!(died.elapsed() > Duration::from_secs(5), "two operators led at once");
}

/// The versions of all our objects. Leases are no part of it: they are renewed.
fn versions(service: &Service<'_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for kind in ["machines", "deployments", "bootprofiles", "subnets", "machineinventories", "bootreports", "addresses"] {
        let list: Value = serde_json::from_str(&service.ctl(&format!("get {kind} -o json")).unwrap()).unwrap();
        for object in list["items"].as_array().into_iter().flatten() {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            all.insert(format!("{kind}/{}", text("name")), text("resourceVersion"));
        }
    }
    all
}

#[test]
fn a_system_in_which_nothing_happens_is_not_written_to() {
    let rack = Rack::up().unwrap();
    let service = start(&rack);
    // Something of everything, and much of it wrong.
    for line in [
        "create machine a --mac 52:54:00:aa:02:11 --address 192.168.10.50 --accept",
        "create machine b --mac 52:54:00:aa:02:12 --address 192.168.10.50 --accept",
        "create machine c --mac 52:54:00:aa:02:11 --accept",
        "create machine d --mac 52:54:00:aa:02:14",
        "create boot --name live --kernel http://example.com/k",
        "create boot --name gone --iso-path gone.iso --kernel k",
        "create boot --name preseed --type preseed --kernel k",
        "create deployment one --machine a --profile live",
        "create deployment two --machine a --profile live",
        "create deployment three --machine nobody --profile live",
        "create deployment four --profile nothing",
        "create deployment five --machine d --profile preseed",
        "create subnet --name other --cidr 192.168.10.0/25",
    ] {
        service.ctl(line).unwrap();
    }
    service.wait_state("deployment", "one", "Claimed", 20).unwrap();
    service.wait("subnet", "other", 20, |subnet| subnet["status"]["conditions"].to_string().contains("overlaps")).unwrap();
    // The probe for other servers takes five seconds and changes the Subnets once more.
    service.wait("subnet", "lab", 20, |subnet| subnet["status"]["conditions"].to_string().contains("Probed")).unwrap();
    // What came of all this settles in a moment; from then on every version stands still.
    let settled = athanor_tests::wait_for("quiet", Duration::from_secs(30), || {
        let before = versions(&service);
        std::thread::sleep(Duration::from_secs(3));
        if versions(&service) == before { Ok(before) } else { Err("still written to".to_owned()) }
    })
    .unwrap();
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(versions(&service), settled, "after {:?}\n{}", watched.elapsed(), service.log());
    }
}

/// Everything that somebody might ask for: our kinds, what we use of others', and what is nobody's business.
const RESOURCES: [(&str, &str); 20] = [
    ("metal.athanor.dev", "machines"),
    ("metal.athanor.dev", "machines/status"),
    ("metal.athanor.dev", "deployments"),
    ("metal.athanor.dev", "deployments/status"),
    ("metal.athanor.dev", "bootprofiles"),
    ("metal.athanor.dev", "bootprofiles/status"),
    ("metal.athanor.dev", "subnets"),
    ("metal.athanor.dev", "subnets/status"),
    ("metal.athanor.dev", "bootreports"),
    ("metal.athanor.dev", "addresses"),
    ("metal.athanor.dev", "machineinventories"),
    ("metal.athanor.dev", "wiperecords"),
    ("", "secrets"),
    ("", "configmaps"),
    ("", "namespaces"),
    ("", "pods"),
    ("", "nodes"),
    ("events.k8s.io", "events"),
    ("coordination.k8s.io", "leases"),
    ("rbac.authorization.k8s.io", "clusterroles"),
];

#[test]
fn each_component_may_do_what_the_table_says_and_nothing_else() {
    let rack = Rack::up().unwrap();
    let plane = ControlPlane::start(&rack).unwrap();
    let mut asked = Vec::new();
    for role in [Role::Operator, Role::BootAgent] {
        for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
            for (group, resource) in RESOURCES {
                for namespace in [None, Some("default"), Some("athanor-plans"), Some("athanor-system")] {
                    asked.push((role, verb, group, resource, namespace));
                }
            }
        }
    }
    let reviews: String = asked
        .iter()
        .map(|(role, verb, group, resource, namespace)| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {
                    "user": format!("system:serviceaccount:athanor-system:{}", rbac::name(*role)),
                    "resourceAttributes": {
                        "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace.unwrap_or_default()
                    }
                }
            });
            format!("{review}\n---\n")
        })
        .collect();
    let file = rack.file("reviews.yaml");
    std::fs::write(&file, reviews).unwrap();
    let answers = plane.kubectl(&rack, "create --validate=false -o jsonpath={.status.allowed}{\"\\n\"} -f", Some(&file)).unwrap();
    let answers: Vec<bool> = answers.split_whitespace().map(|word| word == "true").collect();
    assert_eq!(answers.len(), asked.len());
    for ((role, verb, group, resource, namespace), allowed) in asked.into_iter().zip(answers) {
        let wanted = role.may(verb, group, resource, namespace);
        assert_eq!(allowed, wanted, "{role:?}: {verb} {resource}.{group} in {namespace:?}");
    }
}
