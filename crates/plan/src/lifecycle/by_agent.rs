//! What needs the machine-agent: a look at the hardware, an image on the disk, a wipe.
//!
//! An agent that shows its key and asks for a step is proof that nothing else runs on the machine. Its key is bound to the work before the first
//! step is given; firmware that asks after that ended it, and the work begins anew.

use std::{collections::BTreeSet, time::Duration};

use athanor_crds::{
    Machine, MachineState,
    conditions::reasons,
    machine::{ExistingData, Occupancy, OccupancyState, WipeEvidence, WipePolicy},
};
use athanor_wire::{Outcome, StepReport, work::Marker};

use super::{Act, Decision, Facts, Found, Left, MAX_ATTEMPTS};
use crate::boot_plan::Purpose;

/// How long a busy agent may say nothing. It tells every second; what reaches the API comes every ten.
const SILENCE: Duration = Duration::from_secs(300);

/// How long after a failure the next attempt begins: a server that was restarted is back after the first, a disk full of images is cleared within
/// the second.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// How long what an agent told may take until it is known here: reports are written every ten seconds.
const LAST_NEWS: Duration = Duration::from_secs(15);

/// What is known of the work that a plan holds.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkSeen {
    /// What it is for.
    pub purpose: Purpose,
    /// When its agent was bound, in microseconds since the epoch.
    pub bound: Option<i64>,
    /// When firmware had last asked, as far as was known when its agent was bound.
    pub boot: Option<i64>,
    /// An agent asks for it.
    pub asks: bool,
    /// The newest that its agent told.
    pub told: Option<StepReport>,
    /// When that was, in microseconds since the epoch.
    pub told_at: Option<i64>,
}

impl WorkSeen {
    fn failed(&self) -> Option<&str> {
        self.told.as_ref().filter(|report| report.outcome == Some(Outcome::Failed)).map(|report| report.message.as_str())
    }

    fn done(&self) -> bool {
        self.told.as_ref().is_some_and(StepReport::is_done)
    }

    /// When firmware last asked, if that was after the agent was bound. What was known then is no news, whatever its time.
    #[must_use]
    pub fn later_boot(&self, last_boot: Option<i64>) -> Option<i64> {
        last_boot.filter(|boot| self.bound.is_some_and(|bound| *boot > bound) && Some(*boot) > self.boot)
    }

    /// What it is at, for people.
    fn progress(&self) -> String {
        let Some(report) = self.told.as_ref().filter(|report| report.outcome.is_none()) else { return String::new() };
        let percent = report.percent.map(|percent| format!(" {percent} %")).unwrap_or_default();
        let speed = report.bytes_per_second.map(|speed| format!(", {} MB/s", speed / 1_000_000)).unwrap_or_default();
        format!(": {}{percent}{speed}", report.phase)
    }
}

/// The work of a purpose, as far as the plan holds it.
fn seen<'a>(facts: &'a Facts<'_>, purpose: Purpose) -> Option<&'a WorkSeen> {
    facts.work.as_ref().filter(|work| work.purpose == purpose)
}

/// Whether the machine was restarted, so that its agent is no more. One that tells something after that boot is alive: another machine has its
/// MAC address, or somebody speaks in its name.
fn was_restarted(facts: &Facts<'_>, work: &WorkSeen) -> bool {
    let late = i64::try_from(LAST_NEWS.as_micros()).unwrap_or(i64::MAX);
    work.later_boot(facts.last_boot)
        .is_some_and(|boot| work.told_at.is_none_or(|told| told < boot) && facts.now.saturating_sub(boot) >= late)
}

/// It may have been restarted: what its agent told last may be on its way still.
fn may_have_been_restarted(facts: &Facts<'_>, work: &WorkSeen) -> bool {
    work.later_boot(facts.last_boot).is_some() && !was_restarted(facts, work)
}

/// Whether this Machine can be given the machine-agent. What one has begun it goes on with, whichever server is away for a moment.
fn has_ramdisk(facts: &Facts<'_>) -> bool {
    facts.ramdisk || facts.work.as_ref().is_some_and(|work| work.bound.is_some())
}

/// An accepted Machine without an owner: its hardware is looked at, and what is on its disks. `None`: nothing stands in its way.
pub(super) fn inspect(machine: &Machine, facts: &Facts<'_>) -> Option<Decision> {
    if !has_ramdisk(facts) {
        return None;
    }
    let work = seen(facts, Purpose::Inspect);
    let Some(data) = &facts.inspected else {
        let looking = |reason, message: &str| Decision::wait(MachineState::Inspecting, reason, message).work(Purpose::Inspect);
        return Some(match work {
            Some(work) if was_restarted(facts, work) => {
                looking(reasons::INSPECTING, "it was restarted; its hardware is looked at again").renewed()
            }
            Some(work) if work.failed().is_some() => {
                let why = work.failed().unwrap_or_default();
                looking(reasons::INSPECTION_FAILED, &format!("its hardware could not be looked at: {why}. Restart it to try again"))
                    .restart_awaited(facts, work)
            }
            Some(work) if silent(facts, work) => looking(
                reasons::INSPECTION_FAILED,
                "the machine-agent that looked at its hardware said nothing for five minutes. Restart it",
            )
            .restart_awaited(facts, work),
            Some(work) if work.bound.is_some() || work.asks => {
                looking(reasons::INSPECTING, "the machine-agent looks at its hardware").looked_at_again(facts, work)
            }
            _ => {
                looking(reasons::INSPECTING, "switch it on, or restart it, so that it boots from the network and its hardware is looked at")
                    .waking()
            }
        });
    };
    let message = what_is_kept(machine, data, facts.installation.as_deref())?;
    Some(Decision::wait(MachineState::Accepted, reasons::DISKS_NOT_EMPTY, message).disk_then_wait())
}

/// What on a Machine's disks is to be kept, and what to do about it; `None` where nothing is.
fn what_is_kept(machine: &Machine, data: &[Found], installation: Option<&str>) -> Option<String> {
    let may_go = overwrites(machine);
    let is_foreign = |marker: &Marker| installation.is_some_and(|ours| marker.installation != ours);
    let kept = |found: &&Found| match &found.marker {
        Some(marker) => is_foreign(marker) || !marker.is_named(&may_go),
        None => !may_overwrite(machine),
    };
    let kept: Vec<&Found> = data.iter().filter(kept).collect();
    let markers = || kept.iter().filter_map(|found| found.marker.as_ref());
    let what = kept.iter().map(|found| found.what.as_str()).collect::<Vec<_>>().join("; ");
    if let Some(foreign) = markers().find(|marker| is_foreign(marker)) {
        return Some(format!(
            "its disks hold data ({what}) of another installation ({}). If that one is gone, wipe all of the disk by hand, its end too, and \
             delete this Machine, so that it is looked at anew",
            foreign.installation
        ));
    }
    let released = |id: &String| machine.status.as_ref().is_some_and(|status| status.released.contains(id));
    let nobodys: Vec<&String> = markers().map(|marker| &marker.instance).filter(|id| !released(id)).collect();
    if !nobodys.is_empty() {
        let naming = naming(machine, nobodys.iter().copied());
        return Some(format!(
            "its disks hold data ({what}) that Athanor wrote for a Deployment that does not own it now. Set {naming} to lose it, or \
             spec.externallyProvisioned: true to keep it"
        ));
    }
    (!kept.is_empty()).then(|| {
        format!(
            "its disks hold data ({what}), which is kept. Set spec.existingData: Overwrite to lose it, or spec.externallyProvisioned: true \
             to adopt it"
        )
    })
}

/// What to write so that these are named, too.
pub(super) fn naming<'a>(machine: &'a Machine, ids: impl IntoIterator<Item = &'a String>) -> String {
    let all: BTreeSet<&str> = machine.spec.overwrites.iter().chain(ids).map(String::as_str).collect();
    format!("spec.overwrites: [{}]", all.into_iter().collect::<Vec<_>>().join(", "))
}

/// Whether data that is there may be lost: somebody said so.
pub fn may_overwrite(machine: &Machine) -> bool {
    machine.spec.existing_data == ExistingData::Overwrite
}

/// What this installation put on a Machine's disks and may be lost: what somebody named, and, where data may be lost at all, what was left unwiped
/// by whom somebody deleted.
pub fn overwrites(machine: &Machine) -> Vec<String> {
    // An instance that came back is not what was deleted.
    let own = machine.spec.claim_ref.as_ref().map(|claim| &claim.instance_id);
    let released = machine.status.iter().flat_map(|status| &status.released).filter(|id| may_overwrite(machine) && own != Some(*id));
    machine.spec.overwrites.iter().chain(released).cloned().collect()
}

/// What an accepted Machine without an owner does while it is free: it waits where it can begin at once. One that was restarted is looked at anew.
pub(super) fn waiting(decision: Decision, facts: &Facts<'_>) -> Decision {
    if !has_ramdisk(facts) {
        return decision;
    }
    let decision = decision.work(Purpose::Inspect);
    match seen(facts, Purpose::Inspect) {
        Some(work) if was_restarted(facts, work) => decision.renewed(),
        Some(work) => decision.looked_at_again(facts, work),
        None => decision,
    }
}

/// A claimed Machine that cannot begin: whoever waits on it waits on, since to leave would be a restart for nothing.
pub(super) fn held(decision: Decision, occupancy: Option<&Occupancy>, facts: &Facts<'_>) -> Decision {
    let waits = occupancy.is_none() && seen(facts, Purpose::Inspect).is_some();
    if waits { waiting(decision, facts) } else { decision }
}

/// A claimed Machine whose Deployment is an image.
pub(super) fn provision(machine: &Machine, owner: &str, facts: &Facts<'_>) -> Decision {
    let occupancy = machine.spec.occupancy.as_ref();
    if occupancy.is_some_and(|occupancy| occupancy.state == OccupancyState::Provisioned) {
        return written(owner, occupancy, facts).ready().leaving_to_disk();
    }
    if !has_ramdisk(facts) {
        return Decision::wait(MachineState::Claimed, reasons::NO_AGENT, NO_RAMDISK);
    }
    let Some(occupancy) = occupancy else {
        // An agent that waits has its next work at once: without any it would leave.
        let decision = Decision::wait(MachineState::Claimed, reasons::CLAIMED, format!("claimed by {owner}"));
        return decision.work(Purpose::Provision).act(Act::Issue(1));
    };
    let number = machine.status.as_ref().and_then(|status| status.attempt.as_ref()).map_or(1, |attempt| attempt.number);
    let work = seen(facts, Purpose::Provision);
    let started = occupancy.state == OccupancyState::Started;
    match work {
        Some(work) if work.done() => {
            let message = format!("{owner} was written to its disk and read back; it restarts");
            let decision = Decision::wait(MachineState::Provisioned, reasons::WRITTEN, message).ready().leaving_to_disk();
            decision.act(Act::Advance(OccupancyState::Provisioned))
        }
        Some(work) if work.failed().is_some() => failed(owner, number, work.failed().unwrap_or_default(), facts, work.told_at),
        Some(work) if started && was_restarted(facts, work) => {
            failed(owner, number, "the machine was restarted before it was done", facts, None)
        }
        Some(work) if started && silent(facts, work) => {
            failed(owner, number, "the machine-agent said nothing for five minutes", facts, None)
        }
        Some(work) if started || work.asks => {
            let message = format!("writes {owner}, attempt {number} of {MAX_ATTEMPTS}{}", work.progress());
            let mut decision = Decision::wait(MachineState::Provisioning, reasons::PROVISIONING, message).work(Purpose::Provision);
            decision.again = Some(if may_have_been_restarted(facts, work) { LAST_NEWS } else { SILENCE });
            if started { decision } else { decision.act(Act::Advance(OccupancyState::Started)) }
        }
        _ if started => failed(owner, number, "the order was lost before it was taken", facts, None),
        _ => {
            let message = format!("claimed by {owner}; switch it on, or restart it, so that it boots from the network");
            Decision::wait(MachineState::Claimed, reasons::WAITING_FOR_BOOT, message).work(Purpose::Provision).waking()
        }
    }
}

/// An image was written and read back. That it runs is for it to say, and it does so once: cloud-init phones home at an instance's first boot.
fn written(owner: &str, occupancy: Option<&Occupancy>, facts: &Facts<'_>) -> Decision {
    let report = facts.attempt.as_ref().filter(|report| occupancy.is_some_and(|occupancy| occupancy.attempt == report.id));
    let (reason, message) = match report.filter(|report| report.guest.is_some() || report.hook) {
        Some(_) => (reasons::PROVISIONED, format!("runs {owner} from its disk, by its own report")),
        None => (reasons::WRITTEN, format!("{owner} was written to its disk and read back; it has not said that it runs")),
    };
    Decision::wait(MachineState::Provisioned, reason, message)
}

impl Decision {
    /// It is looked at again when its agent could have fallen silent, or turned out to be gone.
    fn looked_at_again(mut self, facts: &Facts<'_>, work: &WorkSeen) -> Self {
        let busy = work.bound.is_some() && !work.done();
        self.again = if may_have_been_restarted(facts, work) { Some(LAST_NEWS) } else { busy.then_some(SILENCE) };
        self
    }

    /// It waits for a restart. When one may have come it is looked at again, for nothing else may happen by then.
    fn restart_awaited(mut self, facts: &Facts<'_>, work: &WorkSeen) -> Self {
        self.again = may_have_been_restarted(facts, work).then_some(LAST_NEWS);
        self
    }
}

fn silent(facts: &Facts<'_>, work: &WorkSeen) -> bool {
    let limit = i64::try_from(SILENCE.as_micros()).unwrap_or(i64::MAX);
    work.bound.max(work.told_at).is_some_and(|last| facts.now.saturating_sub(last) > limit)
}

/// An attempt failed, at `since` where somebody told so. The next one waits a little; after the last somebody has to look, and the work stays as
/// it is, so that its agent waits and what it told is not lost.
fn failed(owner: &str, number: u32, why: &str, facts: &Facts<'_>, since: Option<i64>) -> Decision {
    let message = format!("attempt {number} of {MAX_ATTEMPTS} to write {owner} failed: {why}");
    let pause = PAUSES.get(number.saturating_sub(1) as usize).copied();
    let Some(pause) = pause.filter(|_| number < MAX_ATTEMPTS) else {
        let message = format!("{message}. Correct what it says, then delete the Deployment and create it again");
        let mut decision = Decision::wait(MachineState::Claimed, reasons::WRITE_FAILED, message).work(Purpose::Provision);
        decision.failure = Some(decision.message.clone());
        return decision;
    };
    let mut decision = Decision::wait(MachineState::Provisioning, reasons::WRITE_FAILED, message).work(Purpose::Provision);
    decision.failure = Some(decision.message.clone());
    let due = since.map(|since| since.saturating_add(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)));
    match due.map(|due| due.saturating_sub(facts.now)).and_then(|left| u64::try_from(left).ok()).filter(|left| *left > 0) {
        Some(left) => {
            decision.again = Some(Duration::from_micros(left));
            decision.next_try = due;
            decision
        }
        None => decision.act(Act::Issue(number + 1)),
    }
}

const NO_RAMDISK: &str =
    "no server of its Subnet has the machine-agent's ramdisk; build it with `make ramdisk` and name its folder as ramdiskDir";

/// Whether a Machine that is released has to be wiped.
pub(super) fn needs_wipe(machine: &Machine, occupancy: &Occupancy) -> bool {
    let written = occupancy.wipe.is_some_and(|policy| policy != WipePolicy::None);
    written || machine.spec.wipe.evidence == WipeEvidence::Required
}

/// A Machine whose Deployment was deleted on purpose after something was put on its disk.
pub(super) fn clean(occupancy: &Occupancy, facts: &Facts<'_>) -> Decision {
    if !has_ramdisk(facts) {
        return Decision::wait(MachineState::Releasing, reasons::NO_AGENT, format!("it has to be wiped, but {NO_RAMDISK}"));
    }
    let cleaning = |reason, message: String| Decision::wait(MachineState::Cleaning, reason, message).work(Purpose::Clean);
    match seen(facts, Purpose::Clean) {
        Some(work) if work.done() => cleaning(reasons::CLEANING, "its disks were wiped".to_owned()).act(Act::Free(Left::Wiped)),
        Some(work) if was_restarted(facts, work) => {
            cleaning(reasons::CLEANING, "it was restarted; its disks are wiped from the beginning".to_owned()).renewed()
        }
        Some(work) if work.failed().is_some() => {
            let why = work.failed().unwrap_or_default();
            let mut decision = cleaning(reasons::WIPE_FAILED, format!("its disks could not be wiped: {why}. Restart it to try again"));
            decision.failure = Some(decision.message.clone());
            decision.restart_awaited(facts, work)
        }
        Some(work) if silent(facts, work) => cleaning(
            reasons::WIPE_FAILED,
            "the machine-agent that wiped its disks said nothing for five minutes. Restart it, so that they are wiped from the beginning"
                .to_owned(),
        )
        .restart_awaited(facts, work),
        Some(work) if work.bound.is_some() || work.asks => {
            cleaning(reasons::CLEANING, format!("its disks are wiped{}", work.progress())).looked_at_again(facts, work)
        }
        _ => super::restart_wanted(occupancy, "its disks are wiped", facts).work(Purpose::Clean),
    }
}
