//! What only a real control plane can show.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::{Duration, Instant};

use athanor_crds::{
    rbac,
    rights::{Role, Rule},
};
use athanor_tests::{ControlPlane, FakeAgent, FakeIpxe, Guest, Rack, Service, dhclient, fake_agent, tools, wait_for};
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

/// All our kinds that anything is written to. Leases are no part of it: they are renewed.
const KINDS: [&str; 7] = ["machines", "deployments", "bootprofiles", "subnets", "machineinventories", "bootreports", "addresses"];

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
        // Of two that want one Machine the first shall have it, not the one that happens to be looked at when it is free.
        if line.contains("deployment one") {
            service.wait_state("deployment", "one", "Claimed", 20).unwrap();
        }
    }
    service.wait("subnet", "other", 20, |subnet| subnet["status"]["conditions"].to_string().contains("overlaps")).unwrap();
    // The probe for other servers takes five seconds and changes the Subnets once more.
    service.wait("subnet", "lab", 20, |subnet| subnet["status"]["conditions"].to_string().contains("Probed")).unwrap();
    // What came of all this settles in a moment; from then on every version stands still.
    service.becomes_quiet(&KINDS, Duration::from_secs(60), Duration::from_secs(60)).unwrap();
}

/// Everything that somebody might ask for: our kinds, what we use of others', and what is nobody's business.
const RESOURCES: [(&str, &str); 23] = [
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
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
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

/// A client that is no machine gets an address, has it for longer, and gives it back.
fn a_laptop_comes_and_goes(rack: &Rack, service: &mut Service<'_>) {
    let laptop = rack.guest().unwrap();
    let plane = service.plane().unwrap();
    let patch = |plane: &ControlPlane, what: &str, patch: &Value| {
        let file = rack.file("patch.json");
        std::fs::write(&file, patch.to_string()).unwrap();
        plane.kubectl(rack, &format!("patch {what} --type=merge --patch-file"), Some(&file)).unwrap();
    };
    patch(plane, "subnets.metal.athanor.dev lab", &json!({ "spec": { "serves": "everyone" } }));
    dhclient::run(rack, &laptop, "-1").unwrap();
    let lent = |service: &Service<'_>| -> Vec<Value> {
        let all = service.list("addresses").unwrap();
        all.into_iter().filter(|address| address["spec"]["owner"].is_null()).collect()
    };
    let first = lent(service);
    assert_eq!(first.len(), 1, "{first:?}");
    // Leases are to be longer than what it has: it gets more before it is answered.
    let plane = service.plane().unwrap();
    patch(plane, "subnets.metal.athanor.dev lab", &json!({ "spec": { "leaseSeconds": 86_400 } }));
    dhclient::run(rack, &laptop, "-1").unwrap();
    dhclient::run(rack, &laptop, "-r").unwrap();
    wait_for("its return", Duration::from_secs(20), || match lent(service) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .unwrap();
}

/// A machine is looked at, written and wiped: the installation's key is drawn, and a wipe recorded.
fn a_disk_is_written_and_wiped(rack: &Rack, service: &Service<'_>) {
    fake_agent::ramdisk(rack).unwrap();
    let machine = FakeIpxe::plug(rack).unwrap();
    let name = machine.name();
    service.wait("subnet", "lab", 30, |subnet| subnet["status"]["servers"][0]["ramdisk"] == true).unwrap();
    machine.boot_file().unwrap();
    service.wait_state("machine", &name, "Discovered", 20).unwrap();
    service.ctl(&format!("accept {name}")).unwrap();
    service.wait_state("machine", &name, "Inspecting", 20).unwrap();
    let agent = FakeAgent::boot(&machine, &machine.boot_file().unwrap()).unwrap();
    let look = agent.step(None, 0).unwrap();
    agent.tell(&look, fake_agent::inventory(None)).unwrap();
    service.wait_state("machine", &name, "Available", 20).unwrap();
    fake_agent::profile(service).unwrap();
    fake_agent::user_data(service, "disk-1", "#!/bin/sh\n").unwrap();
    fake_agent::deployment_with_data(service, "disk-1").unwrap();
    let write = agent.step(look["work"].as_str(), 1).unwrap();
    agent.tell(&write, json!({ "outcome": "Done" })).unwrap();
    service.wait_state("machine", &name, "Provisioned", 20).unwrap();
    service.ctl("delete deployment disk-1").unwrap();
    service.wait_state("machine", &name, "Releasing", 20).unwrap();
    let cleaner = FakeAgent::boot(&machine, &machine.boot_file().unwrap()).unwrap();
    let wipe = cleaner.step(None, 0).unwrap();
    cleaner.tell(&wipe, fake_agent::wiped()).unwrap();
    service.wait_state("machine", &name, "Available", 20).unwrap();
    service.ctl(&format!("delete machine {name}")).unwrap();
}

/// Every right of the table is used: one that nobody needs is no right, and without one that somebody needs this story ends early.
#[test]
fn no_component_may_do_what_it_never_does() {
    let guest = Guest::make().unwrap();
    let rack = Rack::up().unwrap();
    let mut service = start(&rack);
    let iso = service.add_media("guest.iso", &guest.iso).unwrap();
    let machine = FakeIpxe::plug(&rack).unwrap();
    // A newcomer is seen, accepted, deployed, and released.
    service.wait("subnet", "lab", 20, |subnet| subnet["status"]["conditions"].to_string().contains("Probed")).unwrap();
    let first = machine.boot_file().unwrap();
    let told = |serial: &str| {
        machine.http(&format!("{first}?vendor=Example&serial={serial}")).unwrap();
        service.wait("machineinventory", &machine.name(), 20, |inventory| inventory["spec"]["facts"]["serial"] == serial).unwrap();
    };
    told("1");
    told("2");
    service.ctl(&format!("accept {}", machine.name())).unwrap();
    service.ctl(&format!("create boot --name live --iso-path {} --kernel live/vmlinuz", iso.display())).unwrap();
    service.wait_state("machine", &machine.name(), "Available", 20).unwrap();
    // Somebody fixes an address that it has.
    service.ctl("create machine other --mac 52:54:00:aa:02:21 --address 192.168.10.100 --accept").unwrap();
    service.wait("machine", "other", 20, |other| other["status"]["conditions"].to_string().contains("is already given")).unwrap();
    service.ctl("delete machine other").unwrap();
    service.ctl(&format!("deploy --mac {} --profile live --hostname web-1", machine.mac)).unwrap();
    let script = machine.order(&first).unwrap();
    assert_eq!(tools::run(&mut machine.report(&script, "Success").unwrap()).unwrap(), "noted\n");
    service.wait_state("deployment", "web-1", "Provisioned", 30).unwrap();
    service.ctl("delete deployment web-1").unwrap();
    service.wait_state("machine", &machine.name(), "Releasing", 20).unwrap();
    service.ctl(&format!("delete machine {}", machine.name())).unwrap();
    // What may run there still has its address for a while.
    wait_for("its end", Duration::from_secs(20), || match service.list("addresses") {
        Ok(list) if list.len() == 1 && list[0]["spec"]["owner"].is_null() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    service.ctl("delete addresses --all").unwrap();

    a_disk_is_written_and_wiped(&rack, &service);
    a_laptop_comes_and_goes(&rack, &mut service);

    let plane = service.plane().unwrap();
    for role in [Role::Operator, Role::BootAgent] {
        // What the DaemonSet and a flood of strangers need is seen in other tests. An apply that creates is logged as the patch that it is.
        let elsewhere = |group: &str, resource: &str, verb: &str| {
            let applied = role == Role::BootAgent && verb == "create" && matches!(resource, "bootreports" | "leases");
            group == "apps" || applied || (resource == "bootreports" && verb == "delete")
        };
        let unused = || -> Vec<String> {
            let did = plane.did(&rbac::name(role)).unwrap();
            let used = |rule: &Rule, resource: &str, verb: &str| {
                did.iter().any(|(v, g, r, n)| v == verb && g == rule.group && r == resource && rule.namespace.is_none_or(|only| only == n))
            };
            let all = role.rules().iter().flat_map(|rule| {
                rule.resources.iter().flat_map(move |resource| rule.verbs.iter().map(move |verb| (rule, *resource, *verb)))
            });
            all.filter(|(rule, resource, verb)| !elsewhere(rule.group, resource, verb) && !used(rule, resource, verb))
                .map(|(rule, resource, verb)| format!("{verb} {resource}.{}", rule.group))
                .collect()
        };
        wait_for("every right used", Duration::from_secs(10), || match unused() {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{role:?} never did: {}", some.join(", "))),
        })
        .unwrap();
    }
}

/// What an agent's token is refused, object by object, and what it is not.
#[test]
fn an_agent_writes_what_is_its_own_and_nothing_beside_it() {
    let rack = Rack::up().unwrap();
    let plane = ControlPlane::start(&rack).unwrap();
    let agent = plane.account(&rack, "athanor-boot-agent").unwrap();
    let agent = |line: &str, object: &Value| {
        let file = rack.file("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        let mut command = rack.command(tools::kubectl().unwrap());
        tools::run(command.env("KUBECONFIG", &agent).args(line.split_whitespace()).arg("-f").arg(&file))
    };
    let apply = |object: &Value| agent("apply --server-side --force-conflicts --field-manager=an-agent", object);
    let report = |name: &str, nodes: &[&str]| {
        let nodes: Vec<Value> = nodes.iter().map(|node| json!({ "node": node })).collect();
        let metadata = json!({ "name": name, "namespace": "default" });
        json!({ "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "BootReport", "metadata": metadata, "spec": { "nodes": nodes } })
    };
    let lease = |name: &str| {
        let metadata = json!({ "name": name, "namespace": "athanor-system" });
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": { "holderIdentity": "me" } })
    };
    let machine = |name: &str, more: Value| {
        let mut spec = json!({ "interfaces": [{ "mac": format!("52:54:00:aa:04:{:02x}", name.len()), "boot": true }] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = json!({ "name": name, "namespace": "default" });
        json!({ "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "Machine", "metadata": metadata, "spec": spec })
    };
    // Another node has a part in one report already.
    let theirs = rack.file("theirs.json");
    std::fs::write(&theirs, report("shared", &["node-2"]).to_string()).unwrap();
    plane.kubectl(&rack, "apply --server-side -f", Some(&theirs)).unwrap();

    // The API server takes a moment to know a new policy.
    wait_for("the policies", Duration::from_secs(20), || match apply(&lease("agent-nobody")) {
        Err(error) if error.to_string().contains("its own Lease") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    for object in [report("own", &["node-1"]), report("shared", &["node-1"]), lease("agent-node-1")] {
        apply(&object).unwrap();
    }
    for (object, why) in [
        (report("own", &["node-2"]), "a boot-agent writes its own node's part of a BootReport and no other"),
        (report("new", &["node-1", "node-2"]), "a boot-agent writes its own node's part of a BootReport and no other"),
        (lease("agent-node-2"), "a boot-agent writes its own Lease, agent-<node>, and no other"),
        (lease("athanor-operator"), "a boot-agent writes its own Lease, agent-<node>, and no other"),
    ] {
        let refused = apply(&object).unwrap_err().to_string();
        assert!(refused.contains(why), "{object}: {refused}");
    }
    let nodes = plane.kubectl(&rack, "get bootreport shared -o jsonpath={.spec.nodes[*].node}", None).unwrap();
    assert_eq!(nodes.split_whitespace().count(), 2, "{nodes}");

    // It registers newcomers, with a create: it may not even look at Machines.
    let create = |object: &Value| agent("create --validate=false", object);
    create(&machine("a", json!({}))).unwrap();
    let claim = json!({ "apiGroup": "metal.athanor.dev", "kind": "Deployment", "namespace": "default", "name": "x", "instanceID": "i" });
    for more in [
        json!({ "accepted": true }),
        json!({ "claimRef": claim }),
        json!({ "bmc": { "address": "redfish://10.0.0.1", "credentials": { "name": "s" } } }),
    ] {
        let refused = create(&machine("bb", more.clone())).unwrap_err().to_string();
        assert!(refused.contains("it neither accepts nor claims a Machine"), "{more}: {refused}");
    }
}
