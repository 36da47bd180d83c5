//! The life of a Machine, a row a case; and the scripts of its plans.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use athanor_crds::{
    BootProfileSpec, Deployment, DeploymentSpec, Machine, MachineSpec, MachineState,
    bootprofile::{Live, Media, Success},
    bootreport::AttemptReport,
    machine::{Attempt, ClaimRef, ExistingData, Interface, MachineStatus, Occupancy, OccupancyState},
    subnet::WhileUnaccepted,
};
use athanor_plan::{
    Safe,
    compile::{Decided, OrderInput, Tokens, build},
    decide,
    ipxe::{self, Place},
    lifecycle::{Act, Facts, Left, Obstacle, Release, release},
};
use athanor_wire::{GuestOutcome, GuestReport};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};

fn machine() -> Machine {
    let mac = "52:54:00:aa:00:01".parse().unwrap();
    let interfaces = vec![Interface { mac, boot: true, addresses: vec![] }];
    let mut machine = Machine::new("m1", MachineSpec { accepted: true, interfaces, ..MachineSpec::default() });
    machine.metadata.namespace = Some("default".into());
    machine
}

fn claimed() -> Machine {
    let mut machine = machine();
    machine.spec.claim_ref = Some(ClaimRef {
        api_group: athanor_crds::GROUP.into(),
        kind: "Deployment".into(),
        namespace: "default".into(),
        name: "web-1".into(),
        instance_id: "i-1".into(),
    });
    machine
}

fn occupied(state: OccupancyState) -> Machine {
    let mut machine = claimed();
    let since = Some(Time(Timestamp::from_second(100).unwrap()));
    machine.spec.occupancy =
        Some(Occupancy { instance_id: "i-1".into(), attempt: "a-1".into(), state, ever_started: true, wipe: None, retain: false, since });
    machine
}

fn in_attempt(number: u32) -> Machine {
    let mut machine = occupied(OccupancyState::Started);
    let issued = Time(Timestamp::from_second(100).unwrap());
    machine.status = Some(MachineStatus { attempt: Some(Attempt { id: "a-1".into(), number, issued }), ..MachineStatus::default() });
    machine
}

fn web_1() -> Deployment {
    let mut deployment = Deployment::new("web-1", DeploymentSpec { instance_id: Some("i-1".into()), ..DeploymentSpec::default() });
    deployment.metadata.namespace = Some("default".into());
    deployment
}

fn owned(deployment: &Deployment) -> Facts<'_> {
    Facts { deployment: Some(deployment), runnable: Some(Ok(Success::Reported)), ..Facts::default() }
}

fn reported(outcome: GuestOutcome) -> Option<AttemptReport> {
    let guest = Some(GuestReport { outcome, message: "disk is on fire".into() });
    Some(AttemptReport { id: "a-1".into(), started: true, served: true, guest, ..AttemptReport::default() })
}

/// State, Ready's reason, whether the plan has an order, and what is written next.
fn row(machine: &Machine, facts: &Facts<'_>) -> (String, &'static str, bool, Option<Act>) {
    let decision = decide(machine, facts);
    (decision.state.to_string(), decision.reason, decision.order, decision.act)
}

fn is(state: &str, reason: &'static str, order: bool, act: Option<Act>) -> (String, &'static str, bool, Option<Act>) {
    (state.to_owned(), reason, order, act)
}

#[test]
fn a_machine_without_an_owner() {
    let mut newcomer = machine();
    newcomer.spec.accepted = false;
    assert_eq!(row(&newcomer, &Facts::default()), is("Discovered", "NotAccepted", false, None));
    assert_eq!(row(&machine(), &Facts::default()), is("Available", "Available", false, None));
    let (mut cordoned, mut parked, mut elsewhere) = (machine(), machine(), machine());
    cordoned.spec.cordoned = true;
    parked.spec.parked = true;
    elsewhere.spec.externally_provisioned = true;
    assert_eq!(row(&cordoned, &Facts::default()), is("Available", "Cordoned", false, None));
    assert_eq!(row(&parked, &Facts::default()), is("Available", "Parked", false, None));
    assert_eq!(row(&elsewhere, &Facts::default()), is("Provisioned", "Provisioned", false, None));
    let duplicate = Facts { mac_owner: Some("default/m0".into()), ..Facts::default() };
    assert_eq!(row(&machine(), &duplicate), is("Accepted", "DuplicateMAC", false, None));
    let again = Facts { possible_duplicate: Some("m0".into()), ..Facts::default() };
    assert_eq!(row(&machine(), &again), is("Accepted", "PossibleDuplicate", false, None));
    let homeless = Facts { no_address: Some(Obstacle { reason: "NoAddress", message: "none left".into() }), ..Facts::default() };
    assert_eq!(row(&machine(), &homeless), is("Accepted", "NoAddress", false, None));
}

#[test]
fn what_nobody_owns_and_may_still_run_is_not_free() {
    let unclear = Facts { unknown_occupant: Some("a-9".into()), ..Facts::default() };
    assert_eq!(row(&machine(), &unclear), is("Accepted", "UnknownOccupant", false, None));
    let mut overwritten = machine();
    overwritten.spec.existing_data = ExistingData::Overwrite;
    assert_eq!(row(&overwritten, &unclear).1, "UnknownOccupant", "that was said before anybody knew of it");
    overwritten.spec.overwrites = vec!["a-9".into()];
    assert_eq!(row(&overwritten, &unclear), is("Available", "Available", false, None));
}

#[test]
fn what_a_newcomer_does_is_as_its_subnet_says() {
    let mut newcomer = machine();
    newcomer.spec.accepted = false;
    let safe = |while_unaccepted| decide(&newcomer, &Facts { while_unaccepted, ..Facts::default() }).safe;
    assert!(matches!(safe(WhileUnaccepted::Wait), Safe::Wait { .. }));
    let lab = Facts { accepted_by_subnet: true, ..Facts::default() };
    assert_eq!(decide(&newcomer, &lab).act, Some(Act::Accept));
    assert!(matches!(safe(WhileUnaccepted::LocalDisk), Safe::LocalDisk { .. }));
    let Safe::LocalDiskThenWait { message, .. } = safe(WhileUnaccepted::default()) else { panic!("the default hands machines back") };
    assert_eq!(message, "accept it: athanorctl accept m1");
}

#[test]
fn an_attempt_from_claim_to_proof() {
    let web = web_1();
    assert_eq!(row(&claimed(), &owned(&web)), is("Claimed", "Claimed", false, Some(Act::Issue(1))));
    assert_eq!(row(&occupied(OccupancyState::Issued), &owned(&web)), is("Claimed", "WaitingForBoot", true, None));
    let started = Facts { attempt: Some(AttemptReport { id: "a-1".into(), started: true, ..AttemptReport::default() }), ..owned(&web) };
    let advance = |state| Some(Act::Advance(state));
    assert_eq!(
        row(&occupied(OccupancyState::Issued), &started),
        is("Provisioning", "Provisioning", true, advance(OccupancyState::Started))
    );
    assert_eq!(row(&occupied(OccupancyState::Started), &started), is("Provisioning", "Provisioning", true, None));
    let proved = Facts { attempt: reported(GuestOutcome::Success), ..owned(&web) };
    assert_eq!(
        row(&occupied(OccupancyState::Started), &proved),
        is("Provisioned", "Provisioned", true, advance(OccupancyState::Provisioned))
    );
    assert_eq!(row(&occupied(OccupancyState::Provisioned), &owned(&web)), is("Provisioned", "Provisioned", true, None));
}

#[test]
fn what_a_guest_said_counts_for_the_boot_in_which_it_said_so() {
    let web = web_1();
    let later = |outcome, said: i64, boot: i64| {
        let at = Some(MicroTime(Timestamp::from_microsecond(said).unwrap()));
        let attempt = reported(outcome).map(|report| AttemptReport { guest_at: at, ..report });
        decide(&occupied(OccupancyState::Provisioned), &Facts { attempt, live: true, last_boot: Some(boot), ..owned(&web) })
    };
    assert!(later(GuestOutcome::Success, 7, 5).ready);
    let again = later(GuestOutcome::Success, 7, 9);
    assert_eq!((again.ready, again.order, again.reason), (false, true, "Provisioning"), "{}", again.message);
    let failed = later(GuestOutcome::Failure, 11, 9);
    assert_eq!((failed.ready, failed.order, failed.reason, failed.state), (false, true, "GuestFailed", MachineState::Provisioned));
    assert!(failed.failure.is_some());
}

#[test]
fn nothing_is_believed_without_proof() {
    let web = web_1();
    let served = |id: &str| Some(AttemptReport { id: id.into(), started: true, served: true, ..AttemptReport::default() });
    let only_served = Facts { attempt: served("a-1"), ..owned(&web) };
    assert_eq!(row(&occupied(OccupancyState::Started), &only_served).1, "Provisioning", "files that were fetched prove nothing");
    let enough = Facts { runnable: Some(Ok(Success::Served)), ..only_served };
    assert_eq!(row(&occupied(OccupancyState::Started), &enough).1, "Served");
    let other_attempt =
        Facts { attempt: reported(GuestOutcome::Success).map(|report| AttemptReport { id: "a-0".into(), ..report }), ..owned(&web) };
    assert_eq!(row(&occupied(OccupancyState::Started), &other_attempt).1, "Provisioning", "an old attempt speaks for itself only");
}

#[test]
fn failures_are_retried_a_bounded_number_of_times() {
    let web = web_1();
    let failed = Facts { attempt: reported(GuestOutcome::Failure), ..owned(&web) };
    assert_eq!(row(&in_attempt(1), &failed), is("Claimed", "GuestFailed", true, Some(Act::Issue(2))));
    assert_eq!(row(&in_attempt(3), &failed), is("Claimed", "GuestFailed", false, None));
    let message = decide(&in_attempt(3), &failed).failure.unwrap();
    assert_eq!(
        message,
        "the guest of web-1 reported a failure in attempt 3 of 3: disk is on fire. Correct the profile, then delete the Deployment and create it again"
    );
}

#[test]
fn a_lost_claim_waits_and_a_release_needs_a_new_boot() {
    assert_eq!(row(&claimed(), &Facts::default()), is("Claimed", "ClaimLost", false, None));
    assert_eq!(row(&occupied(OccupancyState::Provisioned), &Facts::default()), is("Provisioned", "ClaimLost", false, None));
    let releasing = occupied(OccupancyState::ReleaseRequested);
    let booted = |second: i64| Facts { last_boot: Some(second * 1_000_000), ..Facts::default() };
    assert_eq!(row(&releasing, &booted(99)), is("Releasing", "Releasing", false, None));
    assert_eq!(
        row(&releasing, &booted(100)),
        is("Releasing", "Releasing", false, None),
        "in the second of the release: nobody knows which was first"
    );
    assert_eq!(row(&releasing, &booted(101)), is("Releasing", "Releasing", false, Some(Act::Free(Left::Unknown))));

    // Where nothing was started as far as anybody told, news may still come for a moment.
    let mut revoked = releasing.clone();
    revoked.spec.occupancy.as_mut().unwrap().ever_started = false;
    let at = |second: i64| Facts { now: second * 1_000_000, ..Facts::default() };
    assert_eq!(row(&revoked, &at(101)), is("Releasing", "Releasing", false, None));
    assert_eq!(decide(&revoked, &at(101)).again, Some(Duration::from_secs(4)));
    assert_eq!(row(&revoked, &at(105)), is("Releasing", "Releasing", false, Some(Act::Free(Left::Nothing))));
    let told = AttemptReport { id: "a-1".into(), started: true, ..AttemptReport::default() };
    assert_eq!(row(&revoked, &Facts { attempt: Some(told), ..at(105) }), is("Releasing", "Releasing", false, None));

    let occupancy = |state| occupied(state).spec.occupancy;
    assert_eq!(release(None, false, true), Release::Free);
    assert_eq!(
        release(occupancy(OccupancyState::Issued).as_ref(), false, true),
        Release::Request { retain: false },
        "an earlier attempt may run"
    );
    let first = occupancy(OccupancyState::Issued).map(|occupancy| Occupancy { ever_started: false, ..occupancy });
    assert_eq!(release(first.as_ref(), true, true), Release::Request { retain: true }, "news of a start may still come");
    assert_eq!(release(occupancy(OccupancyState::Started).as_ref(), true, true), Release::Request { retain: true }, "it may still write");
    assert_eq!(release(occupancy(OccupancyState::Started).as_ref(), false, true), Release::Request { retain: false });
    assert_eq!(release(occupancy(OccupancyState::Provisioned).as_ref(), true, true), Release::Retain);
    assert_eq!(
        release(occupancy(OccupancyState::Provisioned).as_ref(), false, false),
        Release::Retain,
        "a namespace that is deleted retains"
    );
}

/// The plan of a machine that boots web-1, or waits.
fn plan(profile: Option<&BootProfileSpec>, safe: Safe) -> Result<athanor_plan::BootPlan, athanor_plan::PlanError> {
    let web = web_1();
    let order = profile.map(|profile| OrderInput { attempt: "a-1".into(), deployment: &web, profile_name: "live".into(), profile });
    let decided = Decided { state: MachineState::Claimed, safe, order, work: None, metadata: None, wake: false, interfaces: vec![] };
    build(&machine(), &decided, &Tokens { script: "T".into(), previous: None, report: "R".into() })
}

fn live() -> BootProfileSpec {
    BootProfileSpec {
        live: Some(Live {}),
        media: Some(Media { path: Some("/iso/debian.iso".into()), prefix: Some("debian".into()), ..Media::default() }),
        kernel: Some("live/vmlinuz".into()),
        initrds: vec!["live/initrd.img".into(), "http://example.com/extra.img".into()],
        cmdline: Some("console=ttyS0  quiet".into()),
        ..BootProfileSpec::default()
    }
}

const PLACE: Place<'_> = Place {
    base: "http://192.168.10.1:7481/b/T",
    report: "http://192.168.10.1:7481/v1/report",
    server: "http://192.168.10.1:7481",
    servers: "http://192.168.10.1:7481,http://192.168.10.2:7481",
};

#[test]
fn the_scripts_that_machines_are_given() {
    let wait = || Safe::Wait { reason: "NotAccepted".into(), message: "accept it: athanorctl accept m1 ${shell} ; reboot".into() };
    let disk_then_wait = || Safe::LocalDiskThenWait { reason: "NotAccepted".into(), message: "accept it".into() };
    let ordered = plan(Some(&live()), wait()).unwrap();
    insta::assert_snapshot!("order", ipxe::script(&ordered, ipxe::Part::Order, &PLACE, Duration::ZERO));
    insta::assert_snapshot!("no_files", ipxe::script(&ordered, ipxe::Part::NoFiles, &PLACE, Duration::ZERO));
    insta::assert_snapshot!("parked", ipxe::script(&ordered, ipxe::Part::Safe, &PLACE, Duration::ZERO));
    let waiting = plan(None, disk_then_wait()).unwrap();
    insta::assert_snapshot!("disk_then_wait_late", ipxe::script(&waiting, ipxe::Part::Order, &PLACE, Duration::from_secs(30)));
    let disk = plan(None, Safe::LocalDisk { reason: "Provisioned".into() }).unwrap();
    insta::assert_snapshot!("disk", ipxe::script(&disk, ipxe::Part::Order, &PLACE, Duration::ZERO));
    insta::assert_json_snapshot!("plan", ordered);
}

#[test]
fn what_cannot_become_a_script_says_which_field() {
    let wait = || Safe::Wait { reason: "x".into(), message: "y".into() };
    let message = |profile: BootProfileSpec| plan(Some(&profile), wait()).unwrap_err().to_string();
    assert_eq!(
        message(BootProfileSpec { cmdline: Some("a || shell".into()), ..live() }),
        "profile live: spec.cmdline: the word \"||\" cannot stand in an iPXE script; leave it out"
    );
    assert_eq!(
        message(BootProfileSpec { media: None, ..live() }),
        "profile live: spec.kernel is \"live/vmlinuz\", a path, but spec.media.path names no ISO to look it up in"
    );
}
