//! A bad road to the API loses nothing and makes nobody run in circles.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use athanor_tests::{ControlPlane, Rack, Service, rack::Process, wait_for};
use serde_json::Value;

const ROAD: &str = "127.0.0.1:6444";
const MACHINES: usize = 20;

/// Puts the bad road before a control plane.
fn bad_road(rack: &Rack, plane: &mut ControlPlane, seed: u64) -> Process {
    let mut command = rack.command(env!("CARGO_BIN_EXE_faulty"));
    let command = command.arg(plane.folder()).args([ROAD, "127.0.0.1:6443", &seed.to_string()]);
    let mut road = Process(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(road.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "open\n");
    plane.accounts_go_to = format!("https://{ROAD}");
    road
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Waits until so many Deployments have a Machine each, and Machines and Deployments agree on who has whom.
fn settled(service: &Service<'_>, deployments: usize) {
    // Who is unlucky eight times in a row waits for a minute each time: that is the longest pause of its back-off.
    wait_for("everybody has what it asked for", Duration::from_secs(300), || {
        let claimed: BTreeMap<String, String> = service
            .list("machines")
            .unwrap()
            .iter()
            .filter_map(|machine| Some((machine["spec"]["claimRef"]["name"].as_str()?.to_owned(), name(machine))))
            .collect();
        let owners: BTreeMap<String, String> = service
            .list("deployments")
            .unwrap()
            .iter()
            .filter(|deployment| deployment["status"]["state"] == "Claimed")
            .map(|deployment| (name(deployment), deployment["status"]["machine"].as_str().unwrap_or_default().to_owned()))
            .collect();
        let free = service.list("machines").unwrap().iter().filter(|machine| machine["status"]["state"] == "Available").count();
        if claimed == owners && owners.len() == deployments && free == MACHINES - deployments {
            Ok(())
        } else {
            Err(format!("claimed {claimed:?}, owners {owners:?}, free {free}"))
        }
    })
    .with_context(|| service.log())
    .unwrap();
    let addresses: BTreeSet<String> =
        service.list("machines").unwrap().iter().map(|machine| machine["status"]["address"].to_string()).collect();
    assert_eq!(addresses.len(), MACHINES, "{addresses:?}");
}

#[test]
fn a_bad_road_to_the_api_loses_nothing() {
    let rack = Rack::up().unwrap();
    let mut plane = ControlPlane::start(&rack).unwrap();
    let mut road = bad_road(&rack, &mut plane, 42);
    let service = Service::start_through(&rack, plane).unwrap();
    for number in 0..MACHINES {
        service.ctl(&format!("create machine m{number} --mac 52:54:00:aa:05:{number:02x} --accept")).unwrap();
    }
    service.ctl("create boot --name live --kernel http://192.168.10.1/k").unwrap();
    for number in 0..MACHINES {
        service.ctl(&format!("create deployment d{number} --profile live")).unwrap();
    }
    settled(&service, MACHINES);
    for number in 0..MACHINES / 2 {
        service.ctl(&format!("delete deployment d{number}")).unwrap();
    }
    settled(&service, MACHINES / 2);
    for number in 0..MACHINES / 4 {
        service.ctl(&format!("create deployment e{number} --profile live")).unwrap();
    }
    settled(&service, MACHINES / 2 + MACHINES / 4);

    // Nothing happens any more: nothing is written, however bad the road. What is left to write may have been unlucky, and have a minute's pause;
    // so quiet is longer than that.
    let kinds = ["machines", "deployments", "addresses", "subnets"];
    service.becomes_quiet(&kinds, Duration::from_secs(180), Duration::from_secs(70)).unwrap();

    drop(road.0.stdin.take());
    let mut said = String::new();
    road.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    eprintln!("{said}");
    let count =
        |what: &str| -> u64 { said.lines().find_map(|line| line.strip_prefix(&format!("{what} "))).map_or(0, |n| n.parse().unwrap()) };
    for fault in ["TooManyRequests", "Broken", "Unauthorized", "Conflict", "AnswerLost", "Expired", "Cut", "Slow"] {
        assert!(count(fault) > 0, "{fault} never happened:\n{said}");
    }
    // A Machine's life here is a dozen writes; four times that is patience, more is a circle.
    assert!(count("writes") < 48 * MACHINES as u64, "{said}");
}
