//! The life of a Machine that has the machine-agent, a row a case.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use athanor_crds::{
    Deployment, DeploymentSpec, Machine, MachineSpec,
    bootprofile::Success,
    bootreport::AttemptReport,
    machine::{Attempt, ClaimRef, ExistingData, MachineStatus, Occupancy, OccupancyState, WipeEvidence, WipePolicy},
};
use athanor_plan::{
    Purpose, Safe, decide,
    lifecycle::{Act, Facts, Found, Left, Obstacle, WorkSeen},
};
use athanor_wire::{GuestOutcome, GuestReport, Outcome, StepReport, work::Marker};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

const SECOND: i64 = 1_000_000;

fn machine() -> Machine {
    Machine::new("m1", MachineSpec { accepted: true, ..MachineSpec::default() })
}

fn occupied(state: OccupancyState, number: u32) -> Machine {
    let mut machine = machine();
    let (issued, wipe) = (Time(Timestamp::from_second(100).unwrap()), Some(WipePolicy::Metadata));
    machine.spec.claim_ref = Some(ClaimRef {
        api_group: athanor_crds::GROUP.into(),
        kind: "Deployment".into(),
        namespace: "default".into(),
        name: "web-1".into(),
        instance_id: "i-1".into(),
    });
    let since = Some(issued.clone());
    machine.spec.occupancy =
        Some(Occupancy { instance_id: "i-1".into(), attempt: "a-1".into(), state, ever_started: true, wipe, retain: false, since });
    machine.status = Some(MachineStatus { attempt: Some(Attempt { id: "a-1".into(), number, issued }), ..MachineStatus::default() });
    machine
}

fn web_1() -> Deployment {
    Deployment::new("web-1", DeploymentSpec { instance_id: Some("i-1".into()), ..DeploymentSpec::default() })
}

fn with_ramdisk() -> Facts<'static> {
    Facts { ramdisk: true, ..Facts::default() }
}

fn inspected(data: &[&str]) -> Facts<'static> {
    let found = |text: &&str| Found { what: (*text).to_owned(), marker: None };
    Facts { inspected: Some(data.iter().map(found).collect()), installation: Some("home".into()), ..with_ramdisk() }
}

fn image(web: &Deployment) -> Facts<'_> {
    Facts { deployment: Some(web), runnable: Some(Ok(Success::Reported)), by_agent: true, now: 200 * SECOND, ..with_ramdisk() }
}

fn asks(purpose: Purpose) -> Option<WorkSeen> {
    Some(WorkSeen { purpose, bound: None, boot: None, asks: true, told: None, told_at: None })
}

fn bound(purpose: Purpose) -> WorkSeen {
    WorkSeen { purpose, bound: Some(150 * SECOND), boot: Some(140 * SECOND), asks: false, told: None, told_at: None }
}

fn told(purpose: Purpose, outcome: Option<Outcome>, second: i64) -> Option<WorkSeen> {
    let report = StepReport {
        outcome,
        percent: Some(40),
        bytes_per_second: Some(120_000_000),
        message: "the disk is on fire".into(),
        ..StepReport::begun("a-1", 0, "read back")
    };
    Some(WorkSeen { told: Some(report), told_at: Some(second * SECOND), ..bound(purpose) })
}

/// State, Ready's reason, the agent's work, and what is written next.
fn row(machine: &Machine, facts: &Facts<'_>) -> (String, &'static str, Option<Purpose>, Option<Act>) {
    let decision = decide(machine, facts);
    (decision.state.to_string(), decision.reason, decision.work, decision.act)
}

fn is(state: &str, reason: &'static str, work: Option<Purpose>, act: Option<Act>) -> (String, &'static str, Option<Purpose>, Option<Act>) {
    (state.to_owned(), reason, work, act)
}

#[test]
fn who_was_accepted_is_looked_at_before_it_is_free() {
    let look = Some(Purpose::Inspect);
    assert_eq!(row(&machine(), &with_ramdisk()), is("Inspecting", "Inspecting", look, None));
    assert_eq!(row(&machine(), &Facts { work: asks(Purpose::Inspect), ..with_ramdisk() }), is("Inspecting", "Inspecting", look, None));
    let failed = Facts { work: told(Purpose::Inspect, Some(Outcome::Failed), 160), ..with_ramdisk() };
    assert_eq!(row(&machine(), &failed), is("Inspecting", "InspectionFailed", look, None));
    let again = Facts { last_boot: Some(170 * SECOND), now: 200 * SECOND, ..failed };
    assert!(decide(&machine(), &again).renew, "it was restarted: another agent may look");
    assert_eq!(row(&machine(), &inspected(&[])), is("Available", "Available", look, None));
    assert_eq!(row(&machine(), &Facts::default()), is("Available", "Available", None, None), "where there is no ramdisk, nobody looks");
}

#[test]
fn who_only_has_to_be_switched_on_is_woken_and_nobody_else() {
    let web = web_1();
    let waits = occupied(OccupancyState::Issued, 1);
    assert!(decide(&machine(), &with_ramdisk()).wake, "it was accepted, and is to be looked at");
    assert!(decide(&waits, &image(&web)).wake, "it was claimed");
    for (machine, facts) in [
        (machine(), inspected(&[])),
        (machine(), inspected(&["sda: ext4"])),
        (machine(), Facts { work: asks(Purpose::Inspect), ..with_ramdisk() }),
        (waits.clone(), Facts { work: asks(Purpose::Provision), ..image(&web) }),
        (occupied(OccupancyState::Provisioned, 1), image(&web)),
        (occupied(OccupancyState::ReleaseRequested, 1), image(&web)),
    ] {
        assert!(!decide(&machine, &facts).wake, "{:?}", row(&machine, &facts));
    }
}

#[test]
fn who_waits_when_a_claim_cannot_begin_waits_on() {
    let mut claimed = occupied(OccupancyState::Issued, 1);
    claimed.spec.occupancy = None;
    let web = web_1();
    let missing = Obstacle { reason: "SecretUnusable", message: "spec.userData: there is no Secret s".into() };
    let cannot = Facts { runnable: Some(Err(missing)), work: told(Purpose::Inspect, Some(Outcome::Done), 160), ..image(&web) };
    assert_eq!(row(&claimed, &cannot), is("Claimed", "SecretUnusable", Some(Purpose::Inspect), None));
    let nobody = Facts { work: None, ..cannot };
    assert_eq!(row(&claimed, &nobody).2, None, "nobody is called to wait");
}

#[test]
fn data_from_before_is_kept_until_somebody_says_otherwise() {
    let found = inspected(&["sda: GPT with 2 partitions: fat, ext4"]);
    let decision = decide(&machine(), &found);
    assert_eq!(row(&machine(), &found), is("Accepted", "DisksNotEmpty", None, None));
    assert!(matches!(decision.safe, Safe::LocalDiskThenWait { .. }), "its operating system boots on");
    assert!(decision.message.contains("sda: GPT with 2 partitions: fat, ext4") && decision.message.contains("existingData: Overwrite"));
    let mut overwritten = machine();
    overwritten.spec.existing_data = ExistingData::Overwrite;
    assert_eq!(row(&overwritten, &found).0, "Available");
    let mut careful = machine();
    careful.spec.wipe.policy = WipePolicy::None;
    assert_eq!(row(&careful, &found).1, "DisksNotEmpty", "who wants nothing wiped wants nothing overwritten");
}

#[test]
fn what_a_deployment_put_there_is_kept_until_it_is_named() {
    let disk = |name: &str, installation: &str, instance: &str| Found {
        what: format!("{name}: GPT with 2 partitions: fat, ext4"),
        marker: Some(Marker {
            installation: installation.into(),
            instance: instance.into(),
            attempt: instance.replace('i', "a"),
            ..Marker::default()
        }),
    };
    let found = |disks: &[Found]| Facts { inspected: Some(disks.to_vec()), ..inspected(&[]) };
    let with = |existing_data, overwrites: &[&str]| {
        let mut machine = machine();
        machine.spec.existing_data = existing_data;
        machine.spec.overwrites = overwrites.iter().map(|id| (*id).to_owned()).collect();
        machine
    };
    let (keep, overwrite) = (ExistingData::Keep, ExistingData::Overwrite);
    let (vda, vdb) = (disk("vda", "home", "i-9"), disk("vdb", "home", "i-8"));
    for (machine, disks, says) in [
        (with(keep, &[]), vec![vda.clone()], "Set spec.overwrites: [i-9] to lose it"),
        (with(overwrite, &[]), vec![vda.clone()], "Set spec.overwrites: [i-9] to lose it"),
        // Whoever does what it says is done.
        (with(keep, &[]), vec![vda.clone(), vdb.clone()], "Set spec.overwrites: [i-8, i-9] to lose it"),
        (with(keep, &["a-9"]), vec![vda.clone(), vdb.clone()], "(vdb: GPT with 2 partitions: fat, ext4) that Athanor wrote"),
        (with(keep, &["a-9"]), vec![vda.clone(), vdb], "Set spec.overwrites: [a-9, i-8] to lose it"),
        (with(keep, &["i-9"]), vec![vda.clone(), Found { what: "vdb: ext4".into(), marker: None }], "(vdb: ext4), which is kept"),
        (with(overwrite, &["i-9"]), vec![disk("vda", "there", "i-9")], "of another installation (there)"),
    ] {
        let decision = decide(&machine, &found(&disks));
        assert_eq!((decision.reason, decision.act), ("DisksNotEmpty", None));
        assert!(decision.message.contains(says), "{says}: {}", decision.message);
    }
    for id in ["i-9", "a-9"] {
        assert_eq!(row(&with(keep, &[id]), &found(std::slice::from_ref(&vda))).0, "Available");
    }
    // Who deleted it and had nothing wiped may lose it, and somebody still has to say so.
    let left = |mut machine: Machine| {
        machine.status = Some(MachineStatus { released: vec!["i-9".into()], ..MachineStatus::default() });
        machine
    };
    assert_eq!(row(&left(with(overwrite, &[])), &found(std::slice::from_ref(&vda))).0, "Available");
    assert!(decide(&left(machine()), &found(&[vda])).message.contains("Set spec.existingData: Overwrite to lose it"));
}

#[test]
fn an_image_from_claim_to_disk() {
    let web = web_1();
    let write = Some(Purpose::Provision);
    let mut claimed = occupied(OccupancyState::Issued, 1);
    claimed.spec.occupancy = None;
    assert_eq!(row(&claimed, &image(&web)), is("Claimed", "Claimed", write, Some(Act::Issue(1))));
    assert_eq!(row(&occupied(OccupancyState::Issued, 1), &image(&web)), is("Claimed", "WaitingForBoot", write, None));
    let asking = Facts { work: asks(Purpose::Provision), ..image(&web) };
    let start = Some(Act::Advance(OccupancyState::Started));
    assert_eq!(row(&occupied(OccupancyState::Issued, 1), &asking), is("Provisioning", "Provisioning", write, start));
    let busy = Facts { work: told(Purpose::Provision, None, 199), ..image(&web) };
    assert_eq!(row(&occupied(OccupancyState::Started, 1), &busy), is("Provisioning", "Provisioning", write, None));
    assert_eq!(decide(&occupied(OccupancyState::Started, 1), &busy).message, "writes web-1, attempt 1 of 3: read back 40 %, 120 MB/s");
    let done = Facts { work: told(Purpose::Provision, Some(Outcome::Done), 199), ..image(&web) };
    let proved = Some(Act::Advance(OccupancyState::Provisioned));
    assert_eq!(row(&occupied(OccupancyState::Started, 1), &done), is("Provisioned", "Written", None, proved));
    let silent = image(&web);
    assert_eq!(row(&occupied(OccupancyState::Provisioned, 1), &silent).1, "Written", "nobody has said that it runs");
    let guest = Some(GuestReport { outcome: GuestOutcome::Success, message: String::new() });
    let said = |id: &str| Facts {
        attempt: Some(AttemptReport { id: id.into(), guest: guest.clone(), ..AttemptReport::default() }),
        ..image(&web)
    };
    assert_eq!(row(&occupied(OccupancyState::Provisioned, 1), &said("a-1")).1, "Provisioned");
    assert_eq!(row(&occupied(OccupancyState::Provisioned, 1), &said("a-0")).1, "Written", "that was said of another attempt");
    let runs = decide(&occupied(OccupancyState::Provisioned, 1), &image(&web));
    assert!(matches!(runs.safe, Safe::LocalDisk { .. }) && runs.work.is_none() && !runs.order, "it leaves to its disk, and nothing else");
    let without = Facts { ramdisk: false, ..image(&web) };
    assert_eq!(row(&occupied(OccupancyState::Issued, 1), &without), is("Claimed", "NoAgent", None, None));
}

#[test]
fn a_release_hook_has_ten_minutes_before_somebody_is_sent() {
    let web = web_1();
    let hooked = |hook, now: i64| Facts {
        attempt: Some(AttemptReport { id: "a-1".into(), hook, started: true, ..AttemptReport::default() }),
        now: now * SECOND,
        ..image(&web)
    };
    let mut machine = occupied(OccupancyState::ReleaseRequested, 1);
    let says = |machine: &Machine, facts: &Facts<'_>| decide(machine, facts);
    let since = machine.spec.occupancy.as_ref().and_then(|occupancy| occupancy.since.as_ref()).map_or(0, |since| since.0.as_second());
    let soon = says(&machine, &hooked(true, since + 30));
    assert!(soon.message.contains("its release hook restarts it"), "{}", soon.message);
    assert_eq!((soon.reason, soon.again), ("Releasing", Some(std::time::Duration::from_secs(570))));
    for facts in [hooked(true, since + 601), hooked(false, since + 30)] {
        assert!(says(&machine, &facts).message.contains("power-cycle it"));
    }
    assert!(soon.restart);
    let back = Facts { last_boot: Some((since + 40) * SECOND), ..hooked(false, since + 60) };
    let back = says(&machine, &back);
    assert!(back.message.contains("it restarted, and its machine-agent is awaited") && !back.restart, "{}", back.message);
    machine.spec.occupancy.as_mut().unwrap().retain = true;
    assert!(says(&machine, &hooked(true, since + 30)).message.contains("power-cycle it"), "what is kept runs on");
}

#[test]
fn what_fails_is_tried_again_a_bounded_number_of_times_and_not_at_once() {
    let web = web_1();
    let write = Some(Purpose::Provision);
    let failed = |at: i64| Facts { work: told(Purpose::Provision, Some(Outcome::Failed), at), ..image(&web) };
    let waits = decide(&occupied(OccupancyState::Started, 1), &failed(199));
    assert_eq!((waits.reason, waits.act, waits.next_try), ("WriteFailed", None, Some(204 * SECOND)));
    assert_eq!(row(&occupied(OccupancyState::Started, 1), &failed(195)), is("Provisioning", "WriteFailed", write, Some(Act::Issue(2))));
    assert_eq!(decide(&occupied(OccupancyState::Started, 2), &failed(195)).next_try, Some(255 * SECOND));
    let last = decide(&occupied(OccupancyState::Started, 3), &failed(100));
    assert_eq!((last.reason, last.act, last.work), ("WriteFailed", None, write), "what it told stays to be read");
    assert!(last.failure.unwrap().contains("the disk is on fire. Correct what it says"));

    let restarted = Facts { work: Some(bound(Purpose::Provision)), last_boot: Some(151 * SECOND), ..image(&web) };
    assert_eq!(row(&occupied(OccupancyState::Started, 1), &restarted).3, Some(Act::Issue(2)));
    let silent = Facts { work: Some(bound(Purpose::Provision)), now: 451 * SECOND, ..image(&web) };
    assert_eq!(row(&occupied(OccupancyState::Started, 1), &silent).3, Some(Act::Issue(2)));
    assert_eq!(row(&occupied(OccupancyState::Started, 1), &Facts { now: 449 * SECOND, ..silent }).3, None);
}

#[test]
fn what_was_written_is_wiped_before_the_machine_is_free() {
    let wipe = Some(Purpose::Clean);
    let released = || occupied(OccupancyState::ReleaseRequested, 1);
    assert_eq!(row(&released(), &with_ramdisk()), is("Releasing", "Releasing", wipe, None));
    let booted = Facts { last_boot: Some(500 * SECOND), ..with_ramdisk() };
    assert_eq!(row(&released(), &booted).3, None, "a boot is no wipe");
    let busy = Facts { work: Some(bound(Purpose::Clean)), ..with_ramdisk() };
    assert_eq!(row(&released(), &busy), is("Cleaning", "Cleaning", wipe, None));
    let cut = Facts { last_boot: Some(151 * SECOND), now: 200 * SECOND, ..busy };
    assert!(decide(&released(), &cut).renew, "the power was cut: from the beginning");
    let failed = Facts { work: told(Purpose::Clean, Some(Outcome::Failed), 160), ..with_ramdisk() };
    assert_eq!(row(&released(), &failed), is("Cleaning", "WipeFailed", wipe, None));
    let done = Facts { work: told(Purpose::Clean, Some(Outcome::Done), 160), ..with_ramdisk() };
    assert_eq!(row(&released(), &done), is("Cleaning", "Cleaning", wipe, Some(Act::Free(Left::Wiped))));
    assert_eq!(row(&released(), &Facts::default()), is("Releasing", "NoAgent", None, None), "nobody can wipe it");

    let mut careless = released();
    careless.spec.occupancy.as_mut().unwrap().wipe = Some(WipePolicy::None);
    assert_eq!(row(&careless, &booted), is("Releasing", "Releasing", None, Some(Act::Free(Left::Unknown))));
    careless.spec.wipe.evidence = WipeEvidence::Required;
    assert_eq!(row(&careless, &booted).2, wipe, "a record is demanded");

    // What was to be kept is kept, half of an image too.
    let mut kept = released();
    kept.spec.occupancy.as_mut().unwrap().retain = true;
    let at_work = Facts { work: Some(bound(Purpose::Provision)), ..with_ramdisk() };
    assert_eq!(row(&kept, &at_work), is("Releasing", "Releasing", None, None), "its agent may still write");
    assert_eq!(row(&kept, &booted), is("Releasing", "Releasing", None, Some(Act::Free(Left::Kept))));
}
