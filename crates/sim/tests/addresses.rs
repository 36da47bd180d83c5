//! Which addresses Machines get comes to rest, in whatever order an API lists its objects.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use athanor_crds::{
    Address, AddressSpec, BootReport, BootReportSpec, Machine, Subnet, SubnetSpec,
    bootreport::{Declined, NodeReport},
    machine::AddressClaim,
    subnet::{AddressRange, Mode},
};
use athanor_operator::{Clock as _, Cluster as _};
use athanor_sim::{Count, Hurry, Memory, settle};
use futures::executor::block_on;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

fn subnet(name: &str, cidr: &str, range: Option<(&str, &str)>) -> Subnet {
    let ranges = range.into_iter().map(|(from, to)| AddressRange { from: from.parse().unwrap(), to: to.parse().unwrap() }).collect();
    Subnet::new(name, SubnetSpec { mode: Mode::Dhcp, ranges, ..SubnetSpec::of(cidr.parse().unwrap()) })
}

#[test]
fn a_fixed_address_that_a_narrower_subnet_takes_over_leaves_the_machine_at_rest() {
    for seed in 0..20 {
        let (cluster, ids, clock) = (Memory::new(seed), Count::default(), Hurry::default());
        cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
        let mut machine = athanor_sim::machine(1);
        machine.spec.interfaces[0].addresses = vec![AddressClaim { subnet: None, ip: "192.168.10.50".parse().unwrap() }];
        cluster.put(&machine);
        settle(&cluster, &ids, &clock);
        cluster.put(&subnet("other", "192.168.10.0/25", None));
        settle(&cluster, &ids, &clock);
        let mut addresses: Vec<String> =
            block_on(cluster.list::<Address>(None)).unwrap().iter().map(|address| address.spec.ip.to_string()).collect();
        addresses.sort();
        assert_eq!(addresses, ["192.168.10.100", "192.168.10.50"], "seed {seed}");
    }
}

/// A report of one node: the Machine declined an address now.
fn declined(ip: &str, clock: &Hurry) -> BootReport {
    let declined = Declined { ip: ip.parse().unwrap(), time: MicroTime(clock.now()) };
    let node = NodeReport { node: "n1".to_owned(), declined: Some(declined), ..NodeReport::default() };
    let mut report = BootReport::new("m1", BootReportSpec { mac: None, nodes: vec![node] });
    report.metadata.namespace = Some("default".to_owned());
    report
}

/// The Machine's own addresses, and those that nobody is given.
fn given(cluster: &Memory) -> (Vec<String>, Vec<String>) {
    let all = block_on(cluster.list::<Address>(None)).unwrap();
    let mut sorted: Vec<_> = all.iter().map(|address| (address.spec.ip.to_string(), address.spec.quarantine.is_some())).collect();
    sorted.sort();
    let (quarantined, own): (Vec<_>, Vec<_>) = sorted.into_iter().partition(|(_, quarantined)| *quarantined);
    let ips = |list: Vec<(String, bool)>| list.into_iter().map(|(ip, _)| ip).collect();
    (ips(own), ips(quarantined))
}

#[test]
fn a_declined_address_is_given_to_nobody_and_a_machine_declines_only_so_many() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
    cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
    cluster.put(&athanor_sim::machine(1));
    settle(&cluster, &ids, &clock);
    assert_eq!(given(&cluster), (vec!["192.168.10.100".to_owned()], vec![]));
    for number in 0..3 {
        cluster.put(&declined(&format!("192.168.10.10{number}"), &clock));
        settle(&cluster, &ids, &clock);
    }
    let quarantined = ["192.168.10.100", "192.168.10.101", "192.168.10.102"].map(str::to_owned).to_vec();
    assert_eq!(given(&cluster), (vec!["192.168.10.103".to_owned()], quarantined.clone()));
    // Somebody answers for everything, or speaks in its name: it keeps what it has, and says so.
    cluster.put(&declined("192.168.10.103", &clock));
    settle(&cluster, &ids, &clock);
    assert_eq!(given(&cluster), (vec!["192.168.10.103".to_owned()], quarantined));
    let machine = block_on(cluster.get::<Machine>(Some("default"), "m1")).unwrap().unwrap();
    let ready = machine.status.unwrap().conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert!(ready.message.contains("declined 192.168.10.103 after 3 others"), "{}", ready.message);
}

#[test]
fn a_fixed_address_that_is_declined_stays_and_its_owner_is_told() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
    cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
    let mut machine = athanor_sim::machine(1);
    machine.spec.interfaces[0].addresses = vec![AddressClaim { subnet: None, ip: "192.168.10.50".parse().unwrap() }];
    cluster.put(&machine);
    settle(&cluster, &ids, &clock);
    cluster.put(&declined("192.168.10.50", &clock));
    settle(&cluster, &ids, &clock);
    assert_eq!(given(&cluster), (vec!["192.168.10.50".to_owned()], vec![]));
    let machine = block_on(cluster.get::<Machine>(Some("default"), "m1")).unwrap().unwrap();
    let conditions = format!("{:?}", machine.status.unwrap().conditions);
    assert!(conditions.contains("AddressConflict") && conditions.contains("192.168.10.50 is fixed, but"), "{conditions}");
}

#[test]
fn an_address_that_was_lent_becomes_its_machines() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
    cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
    let mut machine = athanor_sim::machine(1);
    let ip = "192.168.10.50".parse().unwrap();
    let lent = AddressSpec::lent(ip, "lab", machine.spec.interfaces[0].mac, Time(clock.now()));
    cluster.put(&Address::new("v4-192-168-10-50", lent));
    machine.spec.interfaces[0].addresses = vec![AddressClaim { subnet: None, ip }];
    cluster.put(&machine);
    settle(&cluster, &ids, &clock);
    let addresses = block_on(cluster.list::<Address>(None)).unwrap();
    let owner = addresses[0].spec.owner.as_ref().map(|owner| owner.name.as_str());
    assert_eq!((addresses.len(), owner, addresses[0].spec.fixed), (1, Some("m1"), true), "{addresses:?}");
}

#[test]
fn a_fixed_address_is_free_as_soon_as_its_object_is_gone() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
    cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
    let ip: std::net::IpAddr = "192.168.10.50".parse().unwrap();
    for number in [1, 2] {
        let mut machine = athanor_sim::machine(number);
        machine.spec.interfaces[0].addresses = vec![AddressClaim { subnet: None, ip }];
        cluster.put(&machine);
    }
    settle(&cluster, &ids, &clock);
    let owner = || {
        let addresses = block_on(cluster.list::<Address>(None)).unwrap();
        let fixed = addresses.iter().find(|address| address.spec.ip == ip);
        fixed.and_then(|address| Some(address.spec.owner.as_ref()?.name.clone()))
    };
    assert_eq!(owner().as_deref(), Some("m1"));
    // The older is being deleted, and its address was given back; it is known still while the younger is looked at.
    let older = block_on(cluster.get::<Machine>(Some("default"), "m1")).unwrap().unwrap();
    let mut leaving = older.clone();
    leaving.metadata.deletion_timestamp = Some(Time(clock.now()));
    cluster.put(&leaving);
    block_on(cluster.delete::<Address>(None, "v4-192-168-10-50")).unwrap();
    block_on(athanor_operator::machine::reconcile("default", "m2", &cluster, &clock, &ids)).unwrap();
    assert_eq!(owner().as_deref(), Some("m2"));
}

#[test]
fn what_a_waiting_deployment_fixed_is_given_to_no_newcomer() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
    cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
    let mut waits = athanor_sim::deployment("web", "live");
    waits.spec.machine.name = Some("m9".to_owned());
    waits.spec.addresses = vec![AddressClaim { subnet: None, ip: "192.168.10.100".parse().unwrap() }];
    cluster.put(&waits);
    cluster.put(&athanor_sim::machine(1));
    settle(&cluster, &ids, &clock);
    assert_eq!(given(&cluster), (vec!["192.168.10.101".to_owned()], vec![]));
}

/// A report of one node: the Machine asked in a Subnet.
fn asked(subnet: &str) -> BootReport {
    let node = NodeReport { node: "n1".to_owned(), subnet: Some(subnet.to_owned()), ..NodeReport::default() };
    let mut report = BootReport::new("m1", BootReportSpec { mac: None, nodes: vec![node] });
    report.metadata.namespace = Some("default".to_owned());
    report
}

fn occupied() -> Machine {
    let occupancy = serde_json::json!({ "instanceID": "i1", "attempt": "a1", "state": "Provisioned" });
    let mut machine = athanor_sim::machine(1);
    machine.spec.occupancy = Some(serde_json::from_value(occupancy).unwrap());
    machine
}

#[test]
fn who_is_plugged_in_elsewhere_is_answered_and_what_may_run_keeps_its_address() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
    cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
    cluster.put(&subnet("two", "192.168.30.0/24", Some(("192.168.30.10", "192.168.30.99"))));
    cluster.put(&athanor_sim::machine(1));
    cluster.put(&asked("two"));
    settle(&cluster, &ids, &clock);
    assert_eq!(given(&cluster).0, ["192.168.30.10"]);
    // A free one just moves.
    cluster.put(&asked("lab"));
    settle(&cluster, &ids, &clock);
    assert_eq!(given(&cluster).0, ["192.168.10.100"]);
    cluster.put(&occupied());
    cluster.put(&asked("two"));
    settle(&cluster, &ids, &clock);
    assert_eq!(given(&cluster).0, ["192.168.10.100", "192.168.30.10"]);
    cluster.put(&asked("lab"));
    settle(&cluster, &ids, &clock);
    assert_eq!(given(&cluster).0, ["192.168.10.100", "192.168.30.10"], "nobody knows from which of them it runs");
}

#[test]
fn of_what_several_nodes_saw_the_newest_says_where_a_machine_is() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
    cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
    cluster.put(&subnet("two", "192.168.30.0/24", Some(("192.168.30.10", "192.168.30.99"))));
    cluster.put(&athanor_sim::machine(1));
    let now = clock.now();
    let seen = |nodes: &[(&str, &str, i64)]| {
        let node = |(node, subnet, at): &(&str, &str, i64)| NodeReport {
            node: (*node).to_owned(),
            subnet: Some((*subnet).to_owned()),
            subnet_at: Some(MicroTime(now + SignedDuration::from_secs(*at))),
            ..NodeReport::default()
        };
        let mut report = asked("lab");
        report.spec.nodes = nodes.iter().map(node).collect();
        cluster.put(&report);
        settle(&cluster, &ids, &clock);
        given(&cluster).0
    };
    assert_eq!(seen(&[("n1", "lab", 0)]), ["192.168.10.100"]);
    assert_eq!(seen(&[("n1", "lab", 0), ("n2", "two", 60)]), ["192.168.30.10"]);
    assert_eq!(seen(&[("n1", "lab", 120), ("n2", "two", 60)]), ["192.168.10.100"], "it came back");
    assert_eq!(seen(&[("n1", "lab", 240), ("n2", "two", 243)]), ["192.168.10.100"], "both are on its wire, and it has an address there");
}

#[test]
fn however_many_subnets_are_asked_in_what_runs_keeps_its_address_and_all_comes_to_rest() {
    for order in [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [3, 6, 1, 5, 2, 4]] {
        let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
        for number in order {
            let range = (format!("192.168.{number}.10"), format!("192.168.{number}.99"));
            cluster.put(&subnet(&format!("s{number}"), &format!("192.168.{number}.0/24"), Some((&range.0, &range.1))));
        }
        cluster.put(&athanor_sim::machine(1));
        let mut first = None;
        for number in order {
            cluster.put(&asked(&format!("s{number}")));
            settle(&cluster, &ids, &clock);
            if first.is_none() {
                first = Some(given(&cluster).0);
                cluster.put(&occupied());
            }
        }
        let (first, at_last) = (first.unwrap(), given(&cluster).0);
        assert!(first.len() == 1 && at_last.contains(&first[0]) && at_last.len() == 4, "{first:?} {at_last:?}");
    }
}

#[test]
fn what_runs_on_a_machine_that_is_deleted_keeps_its_address_for_a_while() {
    let (cluster, ids, clock) = (Memory::new(1), Count::default(), Hurry::default());
    cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
    let fixed = |mut machine: Machine, last: u8| {
        machine.spec.interfaces[0].addresses = vec![AddressClaim { subnet: None, ip: format!("192.168.10.{last}").parse().unwrap() }];
        machine
    };
    cluster.put(&fixed(occupied(), 50));
    settle(&cluster, &ids, &clock);
    let machine = block_on(cluster.get::<Machine>(Some("default"), "m1")).unwrap().unwrap();
    let mut going = machine.clone();
    going.metadata.deletion_timestamp = Some(Time(clock.now()));
    cluster.put(&going);
    settle(&cluster, &ids, &clock);
    let addresses = block_on(cluster.list::<Address>(None)).unwrap();
    let kept = addresses.iter().find(|address| address.spec.ip.to_string() == "192.168.10.50").unwrap();
    assert!(kept.spec.owner.is_none() && kept.spec.expires.is_some(), "{kept:?}");
    // Another cannot have it; the same hardware gets it back.
    cluster.put(&fixed(athanor_sim::machine(2), 50));
    settle(&cluster, &ids, &clock);
    let conditions = format!("{:?}", block_on(cluster.get::<Machine>(Some("default"), "m2")).unwrap().unwrap().status.unwrap().conditions);
    assert!(conditions.contains("192.168.10.50 is already given to 52:54:00:00:00:01 until "), "{conditions}");
    let owner = || {
        let addresses = block_on(cluster.list::<Address>(None)).unwrap();
        let at = |ip: &str| {
            addresses
                .iter()
                .find(|address| address.spec.ip.to_string() == ip)
                .and_then(|address| Some(address.spec.owner.as_ref()?.name.clone()))
        };
        at("192.168.10.50")
    };
    cluster.put(&athanor_sim::machine(1));
    settle(&cluster, &ids, &clock);
    assert_eq!(owner(), None, "a person fixed it for another one, who waits for it");
}
