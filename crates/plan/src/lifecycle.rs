//! Where a Machine is in its life, and what is to be done next. One pure function, a row for each case.
//!
//! ```text
//! Discovered → Accepted → Inspecting → Available → Claimed → Provisioning → Provisioned → Releasing → Cleaning → Available
//! ```
//!
//! Where no server has the machine-agent's ramdisk there is nothing to inspect and nothing to wipe with: inspection passes with reason `NoAgent`,
//! and only what runs from memory is ever put on a machine, so no disk is touched.

mod by_agent;

use std::time::Duration;

use athanor_crds::{
    Deployment, Machine, MachineState,
    bootprofile::Success,
    bootreport::AttemptReport,
    conditions::reasons,
    machine::{Occupancy, OccupancyState},
    subnet::WhileUnaccepted,
};
use athanor_wire::{GuestOutcome, work::Marker};

pub use self::by_agent::{WorkSeen, may_overwrite, overwrites};
use crate::boot_plan::{Purpose, Safe};

/// How many attempts a Deployment gets before it waits for a person.
pub const MAX_ATTEMPTS: u32 = 3;

/// How long after a release news of a start may still come: an agent tells within a second.
const NEWS: Duration = Duration::from_secs(5);

/// How long a machine may take to come back when its release hook restarts it: servers count their memory for minutes.
const HOOK_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// What is known about a Machine, besides itself.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// The Deployment that its claim names, if that exists and is the same instance.
    pub deployment: Option<&'a Deployment>,
    /// Whether that Deployment can be run here: its success criterion, or the reason and message why not.
    pub runnable: Option<Result<Success, Obstacle>>,
    /// The Machine that owns one of its MACs instead of it.
    pub mac_owner: Option<String>,
    /// The Machine that it may be again.
    pub possible_duplicate: Option<String>,
    /// Why it has no address, or not the one it asked for.
    pub no_address: Option<Obstacle>,
    /// What agents saw of the attempt under way.
    pub attempt: Option<AttemptReport>,
    /// An attempt that was started on it, is none of its own, and may run still: its firmware has not asked since.
    pub unknown_occupant: Option<String>,
    /// When its firmware last asked for a script, in microseconds since the epoch.
    pub last_boot: Option<i64>,
    /// What its Subnet wants newcomers to do.
    pub while_unaccepted: WhileUnaccepted,
    /// It registered itself where newcomers are accepted without a person's word.
    pub accepted_by_subnet: bool,
    /// Whether a server of its Subnet has the machine-agent's ramdisk.
    pub ramdisk: bool,
    /// Whether its Deployment is put on its disk by the machine-agent.
    pub by_agent: bool,
    /// Whether its Deployment runs from memory, and so at each boot anew.
    pub live: bool,
    /// The disks on which the machine-agent found data, if one has looked.
    pub inspected: Option<Vec<Found>>,
    /// The installation's id, as far as anybody asked for it.
    pub installation: Option<String>,
    /// What is known of the machine-agent's work.
    pub work: Option<WorkSeen>,
    /// Now, in microseconds since the epoch.
    pub now: i64,
}

/// What the machine-agent found on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The disk's name and what is on it, in words.
    pub what: String,
    /// Whose it is, where Athanor put it there.
    pub marker: Option<Marker>,
}

/// Why something does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// A reason from the list of reasons.
    pub reason: &'static str,
    /// What, and what to do.
    pub message: String,
}

/// What is to be written into the Machine's spec next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Issue an attempt, with its number.
    Issue(u32),
    /// Accept it: its Subnet says that nobody has to.
    Accept,
    /// Its occupancy goes on.
    Advance(OccupancyState),
    /// Its claim ends.
    Free(Left),
}

impl Act {
    /// Whether it rests on what is over, or on nothing having happened: it is done on the newest that anybody knows, or not at all.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Issue(number) => *number > 1,
            Self::Accept => false,
            Self::Advance(state) => *state == OccupancyState::Provisioned,
            Self::Free(_) => true,
        }
    }
}

/// What a claim that ends leaves on the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// What was there before: nothing ran.
    Nothing,
    /// Nothing: they were wiped.
    Wiped,
    /// What ran may have written, and nobody wiped it: what is known of the disks counts no more.
    Unknown,
    /// What somebody wanted to keep: the Machine is cordoned.
    Kept,
}

/// What [`decide`] decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Where the Machine is.
    pub state: MachineState,
    /// The status of its Ready condition.
    pub ready: bool,
    /// Why, as a reason.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
    /// What it does when nothing orders otherwise.
    pub safe: Safe,
    /// Whether its plan carries the order of its attempt.
    pub order: bool,
    /// What the machine-agent has to do.
    pub work: Option<Purpose>,
    /// That work begins anew, with whatever agent shows up.
    pub renew: bool,
    /// Whether it only waits to be switched on.
    pub wake: bool,
    /// Whether what runs on it is to restart it by itself, if it can.
    pub restart: bool,
    /// What to write.
    pub act: Option<Act>,
    /// What its guest said went wrong.
    pub failure: Option<String>,
    /// When it is tried again, in microseconds since the epoch.
    pub next_try: Option<i64>,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
}

impl Decision {
    fn wait(state: MachineState, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let safe = Safe::Wait { reason: reason.to_owned(), message: message.clone() };
        Self {
            state,
            ready: false,
            reason,
            message,
            safe,
            order: false,
            work: None,
            renew: false,
            wake: false,
            restart: false,
            act: None,
            failure: None,
            next_try: None,
            again: None,
        }
    }
    fn ready(mut self) -> Self {
        self.ready = true;
        self
    }
    fn with_order(mut self) -> Self {
        self.order = true;
        self
    }
    fn work(mut self, purpose: Purpose) -> Self {
        self.work = Some(purpose);
        self
    }
    fn renewed(mut self) -> Self {
        self.renew = true;
        self
    }
    fn waking(mut self) -> Self {
        self.wake = true;
        self
    }
    fn act(mut self, act: Act) -> Self {
        self.act = Some(act);
        self
    }
    /// Whether the Machine's claim ends.
    pub fn frees(&self) -> bool {
        matches!(self.act, Some(Act::Free(_)))
    }
    fn leaving_to_disk(mut self) -> Self {
        self.safe = Safe::LocalDisk { reason: self.reason.to_owned() };
        self
    }
    fn disk_then_wait(mut self) -> Self {
        self.safe = Safe::LocalDiskThenWait { reason: self.reason.to_owned(), message: self.message.clone() };
        self
    }
}

/// Decides. The rows are tried in order; the first that fits speaks.
pub fn decide(machine: &Machine, facts: &Facts<'_>) -> Decision {
    let name = machine.metadata.name.as_deref().unwrap_or_default();
    let spec = &machine.spec;
    if let Some(owner) = &facts.mac_owner {
        let state = if spec.accepted { MachineState::Accepted } else { MachineState::Discovered };
        let message = format!("Machine {owner} owns one of its MAC addresses; remove the interface from one of the two");
        return Decision::wait(state, reasons::DUPLICATE_MAC, message);
    }
    if spec.externally_provisioned {
        return Decision::wait(MachineState::Provisioned, reasons::PROVISIONED, "installed by somebody else; it is never written")
            .ready()
            .leaving_to_disk();
    }
    if !spec.accepted {
        return newcomer(name, facts);
    }
    if spec.parked {
        return Decision::wait(resting_state(machine), reasons::PARKED, "hands off: spec.parked is set; unset it to go on")
            .disk_then_wait();
    }
    match &spec.claim_ref {
        None => unclaimed(machine, facts),
        Some(claim) => claimed(machine, &claim.name, facts),
    }
}

fn newcomer(name: &str, facts: &Facts<'_>) -> Decision {
    let mut what_to_do = format!("accept it: athanorctl accept {name}");
    if let Some(obstacle) = &facts.no_address {
        what_to_do.push_str(&format!("; it does not have the address that it should: {}", obstacle.message));
    }
    let decision = Decision::wait(MachineState::Discovered, reasons::NOT_ACCEPTED, what_to_do);
    if facts.accepted_by_subnet {
        return decision.act(Act::Accept);
    }
    match facts.while_unaccepted {
        WhileUnaccepted::Wait => decision,
        WhileUnaccepted::LocalDisk => decision.leaving_to_disk(),
        WhileUnaccepted::LocalDiskThenWait => decision.disk_then_wait(),
    }
}

fn unclaimed(machine: &Machine, facts: &Facts<'_>) -> Decision {
    if let Some(other) = &facts.possible_duplicate {
        let message = format!("its UUID or serial number is that of Machine {other}; delete the one that is wrong");
        return Decision::wait(MachineState::Accepted, reasons::POSSIBLE_DUPLICATE, message);
    }
    if let Some(obstacle) = &facts.no_address {
        return Decision::wait(MachineState::Accepted, obstacle.reason, obstacle.message.clone());
    }
    if let Some(attempt) = facts.unknown_occupant.as_ref().filter(|attempt| !machine.spec.overwrites.contains(attempt)) {
        let message = format!(
            "attempt {attempt} was started on it, but no Deployment owns it: was the API's data restored? Nothing is started or wiped. \
             Power-cycle it and boot it from the network if nothing runs on it, or set {} to lose it",
            by_agent::naming(machine, [attempt])
        );
        return Decision::wait(MachineState::Accepted, reasons::UNKNOWN_OCCUPANT, message).disk_then_wait();
    }
    if let Some(decision) = by_agent::inspect(machine, facts) {
        return decision;
    }
    let free = if machine.spec.cordoned {
        Decision::wait(MachineState::Available, reasons::CORDONED, "not claimable: spec.cordoned is set")
    } else {
        Decision::wait(MachineState::Available, reasons::AVAILABLE, "free: a Deployment may claim it").ready()
    };
    by_agent::waiting(free, facts)
}

fn claimed(machine: &Machine, owner: &str, facts: &Facts<'_>) -> Decision {
    let occupancy = machine.spec.occupancy.as_ref();
    if let Some(occupancy) = occupancy.filter(|occupancy| occupancy.state == OccupancyState::ReleaseRequested) {
        return match may_have_started(occupancy, facts) {
            true if !occupancy.retain && by_agent::needs_wipe(machine, occupancy) => by_agent::clean(occupancy, facts),
            true => releasing(occupancy, facts),
            false => revoking(occupancy, facts),
        };
    }
    let Some(deployment) = facts.deployment else {
        let message = format!(
            "its claim names Deployment {owner}, which is gone and was not deleted on purpose; nothing is wiped. \
             Apply the Deployment again with its instanceID, or remove spec.claimRef"
        );
        let decision = Decision::wait(resting_state(machine), reasons::CLAIM_LOST, message);
        return if resting_state(machine) == MachineState::Provisioned { decision.disk_then_wait() } else { decision };
    };
    let host = deployment.metadata.name.as_deref().unwrap_or(owner);
    // What is on its disk runs from there, whatever became of its profile meanwhile.
    let provisioned = occupancy.filter(|occupancy| occupancy.state == OccupancyState::Provisioned);
    if provisioned.is_some_and(|occupancy| occupancy.wipe.is_some()) {
        return by_agent::provision(machine, host, facts);
    }
    if let Some(obstacle) = &facts.no_address {
        let decision = Decision::wait(MachineState::Claimed, obstacle.reason, obstacle.message.clone());
        return by_agent::held(decision, occupancy, facts);
    }
    let success = match &facts.runnable {
        Some(Ok(success)) => *success,
        Some(Err(obstacle)) => {
            let decision = Decision::wait(resting_state(machine), obstacle.reason, obstacle.message.clone());
            return by_agent::held(decision, occupancy, facts);
        }
        None => return Decision::wait(resting_state(machine), reasons::UNKNOWN_PROFILE, "its profile was not read yet"),
    };
    if facts.by_agent && provisioned.is_none() {
        return by_agent::provision(machine, host, facts);
    }
    let Some(occupancy) = occupancy else {
        return Decision::wait(MachineState::Claimed, reasons::CLAIMED, format!("claimed by {owner}")).act(Act::Issue(1));
    };
    attempt(machine, occupancy, host, success, facts)
}

fn attempt(machine: &Machine, occupancy: &Occupancy, owner: &str, success: Success, facts: &Facts<'_>) -> Decision {
    let report = facts.attempt.as_ref().filter(|report| report.id == occupancy.attempt);
    let number = machine.status.as_ref().and_then(|status| status.attempt.as_ref()).map_or(1, |attempt| attempt.number);
    if occupancy.state == OccupancyState::Provisioned {
        // What runs from memory is served again whenever the machine boots.
        return match report.filter(|_| facts.live && success == Success::Reported) {
            Some(report) => booted_again(owner, report, facts.last_boot),
            None => running(owner, success),
        }
        .with_order();
    }
    if let Some(guest) = report.and_then(|report| report.guest.as_ref()) {
        return match guest.outcome {
            GuestOutcome::Success => running(owner, Success::Reported).with_order().act(Act::Advance(OccupancyState::Provisioned)),
            GuestOutcome::Failure => failed(owner, number, &guest.message),
        };
    }
    let started = report.is_some_and(|report| report.started);
    if success == Success::Served && report.is_some_and(|report| report.served) {
        return running(owner, success).with_order().act(Act::Advance(OccupancyState::Provisioned));
    }
    match occupancy.state {
        OccupancyState::Issued if started => {
            let message = format!("boots {owner}, attempt {number} of {MAX_ATTEMPTS}");
            Decision::wait(MachineState::Provisioning, reasons::PROVISIONING, message)
                .with_order()
                .act(Act::Advance(OccupancyState::Started))
        }
        OccupancyState::Issued => {
            let message = format!("claimed by {owner}; switch it on, or restart it, so that it boots from the network");
            Decision::wait(MachineState::Claimed, reasons::WAITING_FOR_BOOT, message).with_order().waking()
        }
        _ => {
            let message = format!("boots {owner}, attempt {number} of {MAX_ATTEMPTS}; waiting for its own report");
            Decision::wait(MachineState::Provisioning, reasons::PROVISIONING, message).with_order()
        }
    }
}

fn running(owner: &str, success: Success) -> Decision {
    match success {
        Success::Reported => Decision::wait(MachineState::Provisioned, reasons::PROVISIONED, format!("runs {owner}, by its own report")),
        Success::Served => {
            let message = format!("was served {owner}; that is not proof that it runs (spec.success: Served)");
            Decision::wait(MachineState::Provisioned, reasons::SERVED, message)
        }
    }
    .ready()
}

/// Each boot is proved by what its guest says in it.
fn booted_again(owner: &str, report: &AttemptReport, last_boot: Option<i64>) -> Decision {
    match report.guest_since(last_boot).map(|guest| (guest.outcome, &guest.message)) {
        None if report.guest.is_some() => {
            let message = format!("boots {owner} again; waiting for its own report");
            Decision::wait(MachineState::Provisioned, reasons::PROVISIONING, message)
        }
        Some((GuestOutcome::Failure, why)) => {
            let message =
                format!("the guest of {owner} reported a failure when it booted again: {}. Restart the machine to try again", given(why));
            let decision = Decision::wait(MachineState::Provisioned, reasons::GUEST_FAILED, message.clone());
            Decision { failure: Some(message), ..decision }
        }
        None | Some((GuestOutcome::Success, _)) => running(owner, Success::Reported),
    }
}

fn given(why: &str) -> &str {
    if why.is_empty() { "no reason given" } else { why }
}

fn failed(owner: &str, number: u32, why: &str) -> Decision {
    let message = format!("the guest of {owner} reported a failure in attempt {number} of {MAX_ATTEMPTS}: {}", given(why));
    let mut decision = if number < MAX_ATTEMPTS {
        let message = format!("{message}. Restart the machine to try again");
        Decision::wait(MachineState::Claimed, reasons::GUEST_FAILED, message).with_order().act(Act::Issue(number + 1))
    } else {
        Decision::wait(
            MachineState::Claimed,
            reasons::GUEST_FAILED,
            format!("{message}. Correct the profile, then delete the Deployment and create it again"),
        )
    };
    decision.failure = Some(decision.message.clone());
    decision
}

fn may_have_started(occupancy: &Occupancy, facts: &Facts<'_>) -> bool {
    occupancy.ever_started || facts.attempt.as_ref().is_some_and(|report| report.id == occupancy.attempt && report.started)
}

/// As far as anybody has told, nothing was started. An agent tells of a start within a second; when its order was gone for longer than that
/// and no news came, there was none.
fn revoking(occupancy: &Occupancy, facts: &Facts<'_>) -> Decision {
    let message = "its Deployment was deleted before anything was started; the order is revoked";
    // An agent that waits for its next work has nothing to leave for.
    let decision = by_agent::waiting(Decision::wait(MachineState::Releasing, reasons::RELEASING, message), facts);
    let since = occupancy.since.as_ref().map_or(0, |since| since.0.as_microsecond());
    let left = since.saturating_add(i64::try_from(NEWS.as_micros()).unwrap_or(i64::MAX)).saturating_sub(facts.now);
    match u64::try_from(left) {
        Ok(left) if left > 0 => Decision { again: Some(Duration::from_micros(left)), ..decision },
        _ => decision.act(Act::Free(Left::Nothing)),
    }
}

fn releasing(occupancy: &Occupancy, facts: &Facts<'_>) -> Decision {
    // The release is stored to the second, what the machine asked to the microsecond.
    let asked = |since: i64| facts.last_boot.is_some_and(|boot| boot >= since.saturating_add(1_000_000));
    let asked_since = occupancy.since.as_ref().is_none_or(|since| asked(since.0.as_microsecond()));
    if !asked_since {
        return restart_wanted(occupancy, "it is known to run nothing", facts);
    }
    let (message, left) = if occupancy.retain {
        ("it asked the network again, so nothing of the released Deployment runs on it; its disks are kept", Left::Kept)
    } else {
        let message =
            "it asked the network again, so nothing of the released Deployment runs on it; nothing was written, so nothing is wiped";
        (message, Left::Unknown)
    };
    Decision::wait(MachineState::Releasing, reasons::RELEASING, message).act(Act::Free(left))
}

/// What runs on it has to end. Its own release hook restarts it; where there is none, or it does not come back, somebody has to.
fn restart_wanted(occupancy: &Occupancy, so_that: &str, facts: &Facts<'_>) -> Decision {
    let since = occupancy.since.as_ref().map_or(0, |since| since.0.as_microsecond());
    let back = facts.last_boot.filter(|boot| *boot >= since.saturating_add(1_000_000));
    let hooked = !occupancy.retain && facts.attempt.as_ref().is_some_and(|report| report.id == occupancy.attempt && report.hook);
    let patience = i64::try_from(HOOK_PATIENCE.as_micros()).unwrap_or(i64::MAX);
    let left = back.unwrap_or(since).saturating_add(patience).saturating_sub(facts.now);
    let left = u64::try_from(left).ok().filter(|left| *left > 0 && (hooked || back.is_some()));
    let how = match (left, back) {
        (Some(_), Some(_)) => "it restarted, and its machine-agent is awaited",
        (Some(_), None) => "its release hook restarts it",
        (None, _) => "power-cycle it and boot it from the network",
    };
    let message = format!("its Deployment was deleted; {how}, so that {so_that}");
    let decision = Decision::wait(MachineState::Releasing, reasons::RELEASING, message);
    Decision { again: left.map(Duration::from_micros), restart: !occupancy.retain && back.is_none(), ..decision }
}

/// The state of a claimed Machine that does not go on.
fn resting_state(machine: &Machine) -> MachineState {
    match (&machine.spec.claim_ref, machine.spec.occupancy.as_ref().map(|occupancy| occupancy.state)) {
        (None, _) => MachineState::Available,
        (Some(_), Some(OccupancyState::Provisioned)) => MachineState::Provisioned,
        (Some(_), Some(OccupancyState::Started)) => MachineState::Provisioning,
        (Some(_), _) => MachineState::Claimed,
    }
}

/// What a release of a claim does to the Machine, in one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The claim goes.
    Free,
    /// The claim goes and the Machine is cordoned: its disks hold what its owner wanted to keep.
    Retain,
    /// `ReleaseRequested` is written; [`decide`] frees it, and its disks are wiped or kept.
    Request {
        /// They are kept.
        retain: bool,
    },
}

/// How a claim is released. `on_purpose` is false for a namespace or CRD that is being deleted: then, too, nothing is
/// wiped.
pub fn release(occupancy: Option<&Occupancy>, retain: bool, on_purpose: bool) -> Release {
    let retain = retain || !on_purpose;
    match occupancy {
        // Nothing was ever ordered.
        None => Release::Free,
        Some(occupancy) if retain && occupancy.state == OccupancyState::Provisioned => Release::Retain,
        // What is under way may still write: the claim holds until it does not.
        Some(_) => Release::Request { retain },
    }
}
