//! Every condition type and reason there is, and how a condition changes.
//!
//! Reasons are constants so that `explain`, tests and alerts can name them; messages say what, then what to do.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types.
pub mod types {
    /// Machine, Deployment, BootProfile, Subnet: everything is as its author wants it.
    pub const READY: &str = "Ready";
    /// Machine: somebody said that Athanor may manage it.
    pub const ACCEPTED: &str = "Accepted";
    /// Machine: its hardware is known.
    pub const INSPECTED: &str = "Inspected";
    /// Machine: its disks were wiped, with a record.
    pub const WIPED: &str = "Wiped";
    /// Machine: it fetches its loader again and again and gets no further.
    pub const CHAIN_LOOP: &str = "ChainLoop";
    /// Machine: a second machine-agent asks for its work.
    pub const TOKEN_CONFLICT: &str = "TokenConflict";
    /// Machine: whether it has power, where that can be known.
    pub const POWERED: &str = "Powered";
    /// Machine, Deployment: something goes wrong again and again; `status.failure` has the next try.
    pub const FAILING: &str = "Failing";
    /// Deployment: it owns a Machine.
    pub const CLAIMED: &str = "Claimed";
    /// Deployment: its image was written and read back.
    pub const WRITTEN: &str = "Written";
    /// Deployment: its machine runs what it asked for.
    pub const BOOTED: &str = "Booted";
    /// BootProfile: something in this installation can act on it.
    pub const SUPPORTED: &str = "Supported";
    /// Subnet: we may answer with authority on it.
    pub const AUTHORITATIVE: &str = "Authoritative";
    /// Subnet: another DHCP server was seen on it.
    pub const FOREIGN_DHCP: &str = "ForeignDHCP";
    /// Subnet: newcomers are turned away.
    pub const NEWCOMERS_LIMITED: &str = "NewcomersLimited";
    /// Subnet: addresses are given to nobody, because somebody uses them unasked.
    pub const ADDRESSES_QUARANTINED: &str = "AddressesQuarantined";
    /// Subnet: firmware of some kind could not be given a loader.
    pub const LOADERS_MISSING: &str = "LoadersMissing";
    /// Subnet: whatever boots from the network there is accepted.
    pub const ACCEPTS_NEWCOMERS: &str = "AcceptsNewcomers";
}

/// Reasons, by what they speak of.
pub mod reasons {
    /// Machine: nobody accepted it yet.
    pub const NOT_ACCEPTED: &str = "NotAccepted";
    /// Machine: `spec.accepted` is true.
    pub const ACCEPTED_BY_PERSON: &str = "AcceptedByPerson";
    /// Machine: no machine-agent is installed that could look at its hardware.
    pub const NO_AGENT: &str = "NoAgent";
    /// Machine: the machine-agent looks at its hardware.
    pub const INSPECTING: &str = "Inspecting";
    /// Machine: the machine-agent could not look at its hardware.
    pub const INSPECTION_FAILED: &str = "InspectionFailed";
    /// Machine: the machine-agent looked at its hardware.
    pub const INSPECTED: &str = "Inspected";
    /// Machine: its disks hold data from before, which is kept.
    pub const DISKS_NOT_EMPTY: &str = "DisksNotEmpty";
    /// Machine, Deployment: an image could not be written.
    pub const WRITE_FAILED: &str = "WriteFailed";
    /// Machine: its disks are wiped.
    pub const CLEANING: &str = "Cleaning";
    /// Machine: its disks could not be wiped.
    pub const WIPE_FAILED: &str = "WipeFailed";
    /// Machine: another machine-agent asks for work that one is bound to.
    pub const TOKEN_CONFLICT: &str = "TokenConflict";
    /// Machine: accepted, inspected, clean as its policy demands, unclaimed.
    pub const AVAILABLE: &str = "Available";
    /// Machine: `spec.cordoned`.
    pub const CORDONED: &str = "Cordoned";
    /// Machine: `spec.parked`.
    pub const PARKED: &str = "Parked";
    /// Machine: it belongs to a Deployment and was not started yet.
    pub const CLAIMED: &str = "Claimed";
    /// Deployment: it owns a Machine, but its spec was changed to mean another one.
    pub const CLAIMED_ANOTHER: &str = "ClaimedAnother";
    /// Machine, Deployment: an attempt is under way.
    pub const PROVISIONING: &str = "Provisioning";
    /// Machine, Deployment: it runs what was asked for, and proved it.
    pub const PROVISIONED: &str = "Provisioned";
    /// Machine, Deployment: its image was written and read back; nothing proves yet that it runs.
    pub const WRITTEN: &str = "Written";
    /// Deployment: the boot files were fetched; nothing proves that they run.
    pub const SERVED: &str = "Served";
    /// Machine, Deployment: the Deployment was deleted and the machine is given back.
    pub const RELEASING: &str = "Releasing";
    /// Machine: its claim names a Deployment that is gone; it waits for a person's word and is never wiped.
    pub const CLAIM_LOST: &str = "ClaimLost";
    /// Machine: another Machine owns one of its MAC addresses.
    pub const DUPLICATE_MAC: &str = "DuplicateMAC";
    /// Machine: a UUID or serial number says that it may be another Machine.
    pub const POSSIBLE_DUPLICATE: &str = "PossibleDuplicate";
    /// Machine: no subnet has an address for it.
    pub const NO_ADDRESS: &str = "NoAddress";
    /// Machine, Deployment: an address that was asked for is in use or outside its subnet.
    pub const ADDRESS_CONFLICT: &str = "AddressConflict";
    /// Deployment: no free Machine fits.
    pub const NO_FREE_MACHINE: &str = "NoFreeMachine";
    /// Deployment: the Machine it names does not exist.
    pub const UNKNOWN_MACHINE: &str = "UnknownMachine";
    /// Deployment: the Machine it names belongs to another Deployment.
    pub const MACHINE_TAKEN: &str = "MachineTaken";
    /// Deployment: the Machine it names cannot be claimed now.
    pub const MACHINE_NOT_FREE: &str = "MachineNotFree";
    /// Deployment: the profile it names does not exist.
    pub const UNKNOWN_PROFILE: &str = "UnknownProfile";
    /// Deployment: its profile is for another architecture than its Machine.
    pub const WRONG_ARCHITECTURE: &str = "WrongArchitecture";
    /// Deployment: a Secret that it names is not there, or is none that a machine may be given.
    pub const SECRET_UNUSABLE: &str = "SecretUnusable";
    /// Machine: its disks were wiped, and that is on record.
    pub const WIPED: &str = "Wiped";
    /// Machine, Subnet: newcomers are accepted without a person's word.
    pub const ACCEPT_ALWAYS: &str = "AcceptAlways";
    /// BootProfile, Deployment: nothing in this installation acts on this kind of profile yet.
    pub const NOT_SUPPORTED: &str = "NotSupported";
    /// BootProfile: its kind is acted on.
    pub const SUPPORTED: &str = "Supported";
    /// BootProfile: it contradicts itself in a way that the schema cannot say.
    pub const INVALID: &str = "Invalid";
    /// Subnet: newcomers shall register in a namespace that does not exist.
    pub const NO_NAMESPACE: &str = "NoNamespace";
    /// Subnet: more newcomers came than its limits let in.
    pub const LIMIT_REACHED: &str = "LimitReached";
    /// Something was started on the Machine that no Deployment owns.
    pub const UNKNOWN_OCCUPANT: &str = "UnknownOccupant";
    /// The object cannot be read as its kind: another version stored it.
    pub const UNREADABLE: &str = "Unreadable";
    /// BootProfile: another one serves other media under its prefix.
    pub const PREFIX_TAKEN: &str = "PrefixTaken";
    /// Deployment, BootProfile: a file that the profile names cannot be served.
    pub const CONTENT_UNAVAILABLE: &str = "ContentUnavailable";
    /// BootProfile: no agent has looked for its files yet.
    pub const CONTENT_UNKNOWN: &str = "ContentUnknown";
    /// Machine: three loaders within a minute, and no script.
    pub const LOADER_AGAIN: &str = "LoaderAgain";
    /// Subnet: a machine declined an address.
    pub const DECLINED: &str = "Declined";
    /// Machine: no loader for it, or one that cannot do what its order asks for.
    pub const NO_LOADER: &str = "NoLoader";
    /// Deployment: the guest reported that it failed.
    pub const GUEST_FAILED: &str = "GuestFailed";
    /// Deployment: the machine was not switched on or did not ask yet.
    pub const WAITING_FOR_BOOT: &str = "WaitingForBoot";
    /// Subnet: it is served.
    pub const SERVING: &str = "Serving";
    /// Subnet: no agent has an interface in it.
    pub const NO_SERVER: &str = "NoServer";
    /// Subnet: its CIDR overlaps another Subnet's.
    pub const OVERLAP: &str = "Overlap";
    /// Subnet: the mode makes no claim to authority.
    pub const MODE_WITHOUT_AUTHORITY: &str = "ModeWithoutAuthority";
    /// Subnet: nobody else answered the probe.
    pub const PROBED: &str = "Probed";
    /// Subnet: the probe is not finished.
    pub const PROBING: &str = "Probing";
    /// Subnet: `authority: assumed`.
    pub const ASSUMED: &str = "Assumed";
    /// Subnet: another DHCP server answered.
    pub const FOREIGN_SERVER: &str = "ForeignServer";
    /// Subnet: no other DHCP server answered.
    pub const NO_FOREIGN_SERVER: &str = "NoForeignServer";
}

/// Sets one condition. The transition time moves only with the status, so that a condition that stays the same is not a write.
pub fn set(conditions: &mut Vec<Condition>, now: Timestamp, type_: &str, status: bool, reason: &str, message: impl Into<String>) {
    let status = if status { "True" } else { "False" };
    let mut new = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: None,
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// Says of which generation of the object the conditions speak.
pub fn observe(conditions: &mut [Condition], generation: Option<i64>) {
    for condition in conditions {
        condition.observed_generation = generation;
    }
}

/// Reasons that tell of something a person should look at, rather than of a step on the way.
const TROUBLE: [&str; 23] = [
    reasons::UNKNOWN_OCCUPANT,
    reasons::UNREADABLE,
    reasons::PREFIX_TAKEN,
    reasons::ADDRESS_CONFLICT,
    reasons::CLAIM_LOST,
    reasons::CONTENT_UNAVAILABLE,
    reasons::DUPLICATE_MAC,
    reasons::FOREIGN_SERVER,
    reasons::GUEST_FAILED,
    reasons::INVALID,
    reasons::MACHINE_NOT_FREE,
    reasons::MACHINE_TAKEN,
    reasons::NO_ADDRESS,
    reasons::NO_FREE_MACHINE,
    reasons::NO_NAMESPACE,
    reasons::NO_SERVER,
    reasons::NOT_SUPPORTED,
    reasons::OVERLAP,
    reasons::POSSIBLE_DUPLICATE,
    reasons::SECRET_UNUSABLE,
    reasons::UNKNOWN_MACHINE,
    reasons::UNKNOWN_PROFILE,
    reasons::WRONG_ARCHITECTURE,
];

/// Whether a reason tells of trouble: its Event is a warning.
pub fn is_trouble(reason: &str) -> bool {
    TROUBLE.contains(&reason)
}

/// Whether this is why something is ready or not, as far as was last said.
pub fn is_ready_for(conditions: &[Condition], reason: &str) -> bool {
    find(conditions, types::READY).is_some_and(|ready| ready.reason == reason)
}

/// The condition of a type, if it was ever set.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let (first, second) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).unwrap());
        let mut conditions = Vec::new();
        set(&mut conditions, first, types::READY, false, reasons::NOT_ACCEPTED, "accept it");
        set(&mut conditions, second, types::READY, false, reasons::NO_ADDRESS, "no address");
        assert_eq!(conditions[0].last_transition_time, Time(first));
        assert_eq!(conditions[0].reason, reasons::NO_ADDRESS);
        set(&mut conditions, second, types::READY, true, reasons::AVAILABLE, "free");
        assert_eq!(conditions[0].last_transition_time, Time(second));
        assert_eq!(conditions.len(), 1);
    }
}
