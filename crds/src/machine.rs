//! Machine: a physical server, or a VM that stands for one.

use std::fmt;

pub use athanor_wire::WipePolicy;
use athanor_wire::{MacAddr, RootDeviceHints};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bootprofile::Architecture,
    schema::{self, NAME, rules},
};

/// The label with the Subnet that a Machine registered itself in.
pub const SUBNET_LABEL: &str = "metal.athanor.dev/subnet";
/// The label on a Machine that registered itself.
pub const SELF_REGISTERED_LABEL: &str = "metal.athanor.dev/self-registered";

/// A physical server: its network interfaces, how to reach its BMC, and what may be done to it. Usually nobody writes one: it registers itself.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metal.athanor.dev",
    version = "v1alpha1",
    kind = "Machine",
    plural = "machines",
    shortname = "am",
    category = "athanor",
    namespaced,
    status = "MachineStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "MAC", type_ = "string", json_path = ".spec.interfaces[0].mac"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Hardware", type_ = "string", json_path = ".status.hardware.summary"),
    printcolumn(name = "Deployment", type_ = "string", json_path = ".spec.claimRef.name"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!has(self.interfaces) || self.interfaces.filter(i, has(i.boot) && i.boot).size() <= 4", "at most four interfaces can boot from the network", ".interfaces"),
    ("has(self.interfaces) && self.interfaces.size() > 0 || has(self.bmc)", "give at least one interface with its MAC, or a BMC to find them", ""),
])))]
pub struct MachineSpec {
    /// Whether Athanor may manage this machine. Nothing is written to a machine that nobody accepted.
    #[serde(default)]
    pub accepted: bool,
    /// Network interfaces, by MAC address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["mac"]))]
    pub interfaces: Vec<Interface>,
    /// The processor's architecture; what the firmware asked with, unless somebody wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// How it boots; what the firmware asked with, unless somebody wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Its baseboard management controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<Bmc>,
    /// Whether a magic packet wakes it.
    #[serde(default)]
    pub wake_on_lan: bool,
    /// Which disk is the root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_device_hints: Option<RootDeviceHints>,
    /// What happens to data that was there before Athanor.
    #[serde(default)]
    pub existing_data: ExistingData,
    /// What Athanor put on its disks, nobody deleted, and may be lost all the same: ids of Deployments' instances or of attempts, as conditions
    /// name them. `existingData` does not mean these: the word may be older than they are, in a restored API above all. Emptied when its disks
    /// were wiped, or are retained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub overwrites: Vec<String>,
    /// Somebody else installed it; it is never written or wiped, and leaves to its own disk.
    #[serde(default)]
    pub externally_provisioned: bool,
    /// How its disks are wiped when it is released.
    #[serde(default)]
    pub wipe: Wipe,
    /// Not claimable; what runs on it goes on.
    #[serde(default)]
    pub cordoned: bool,
    /// Hands off: no power action, no provisioning, no release.
    #[serde(default)]
    pub parked: bool,
    /// The wish for its power.
    #[serde(default)]
    pub power: PowerWish,
    /// Ask for one restart by writing a new id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How it is sent to its own disk when it asks the network.
    #[serde(default)]
    pub local_boot: LocalBoot,
    /// The name of the loader chain to use instead of the architecture's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::loader")]
    pub loader: Option<String>,
    /// Its owner. Written by the operator, by compare-and-set; the one truth about who owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_ref: Option<ClaimRef>,
    /// What runs on it. Written by the operator, here and not in status, because status does not survive a move between clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occupancy: Option<Occupancy>,
}

impl MachineSpec {
    /// The interface that it boots from.
    pub fn boot_interface(&self) -> Option<&Interface> {
        self.boot_interfaces().next()
    }

    /// All that it may boot from: those that say so, else the first.
    pub fn boot_interfaces(&self) -> impl Iterator<Item = &Interface> {
        let said = self.interfaces.iter().any(|interface| interface.boot);
        self.interfaces
            .iter()
            .enumerate()
            .filter(move |(index, interface)| if said { interface.boot } else { *index == 0 })
            .map(|(_, interface)| interface)
    }
}

/// A network interface of a Machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its hardware address, lower case with colons.
    pub mac: MacAddr,
    /// Whether the machine boots from it.
    #[serde(default)]
    pub boot: bool,
    /// Addresses that a person fixes. What was allocated is in status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub addresses: Vec<AddressClaim>,
}

/// An address in a Subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressClaim {
    /// The Subnet's name; without it, the Subnet whose CIDR holds the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = NAME))]
    pub subnet: Option<String>,
    /// The address.
    #[schemars(schema_with = "schema::ip")]
    pub ip: std::net::IpAddr,
}

/// How the machine's firmware boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Firmware {
    /// PC BIOS.
    #[serde(rename = "BIOS")]
    Bios,
    /// UEFI.
    #[serde(rename = "UEFI")]
    Uefi,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS",
            Self::Uefi => "UEFI",
        })
    }
}

/// A baseboard management controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bmc {
    /// Where it is, in Metal3's spelling: `redfish+https://10.0.0.5/redfish/v1/Systems/1`, `ipmi://10.0.0.5`.
    #[schemars(length(min = 1, max = 512))]
    pub address: String,
    /// The Secret in this namespace with `username` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretName>,
    /// Whether a TLS certificate that nothing vouches for is accepted.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// A Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = NAME))]
    pub name: String,
}

/// What happens to data that was on the disks before Athanor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExistingData {
    /// A machine whose disks hold data stops after inspection and says what was found.
    #[default]
    Keep,
    /// It may be overwritten, and so may what a Deployment left that was deleted and wiped nothing. Any other Deployment's is kept unless
    /// `overwrites` names it. Ends when a Deployment that retains its disks is deleted.
    Overwrite,
}

/// How disks are wiped on release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!(has(self.evidence) && self.evidence == 'required' && has(self.policy) && self.policy == 'none')",
     "evidence of a wipe is required, but the policy is to wipe nothing; choose another of the two", ".policy"),
])))]
pub struct Wipe {
    /// What is done.
    #[serde(default)]
    pub policy: WipePolicy,
    /// Whether the machine stays unavailable until a WipeRecord proves it.
    #[serde(default)]
    pub evidence: WipeEvidence,
}

/// Whether a wipe must be proved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WipeEvidence {
    /// A record is kept where one can be made.
    #[default]
    Optional,
    /// No record, not available.
    Required,
}

/// The wish for a machine's power. `On` and `Off` alone are booleans to whoever reads YAML as version 1.1, which kubectl and Helm do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PowerWish {
    /// As its lifecycle needs.
    #[default]
    Auto,
    /// On.
    #[serde(alias = "On")]
    PoweredOn,
    /// Off. Without a BMC: off while it is free, where a claim wakes it if `wakeOnLan` says that it can.
    #[serde(alias = "Off")]
    PoweredOff,
}

/// One restart; a new id asks for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// Any text that was not used before.
    #[schemars(length(min = 1, max = 63))]
    pub id: String,
    /// How.
    #[serde(default)]
    pub mode: RestartMode,
}

/// How a machine is restarted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartMode {
    /// Its operating system is asked.
    #[default]
    Soft,
    /// Its power is cut.
    Hard,
}

/// How a machine that should run from its disk is sent there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LocalBoot {
    /// Its address, and nothing to boot: firmware goes on to the next device. UEFI is given a program that starts its disk, for it would
    /// try its other networks for minutes.
    #[default]
    NoOffer,
    /// iPXE leaves: `sanboot` of the first disk on BIOS, `exit 1` on UEFI.
    Exit,
    /// iPXE boots the first disk.
    Sanboot,
}

/// Who owns a Machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// API group of the owner.
    #[schemars(length(max = NAME))]
    pub api_group: String,
    /// Kind of the owner.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its namespace: the Machine's own, for now.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = NAME))]
    pub name: String,
    /// The `spec.instanceID` of the owner, which survives exports and moves; a uid does not.
    #[serde(rename = "instanceID")]
    #[schemars(length(max = 63))]
    pub instance_id: String,
}

/// What runs on a Machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Occupancy {
    /// The instance of the owner.
    #[serde(rename = "instanceID")]
    #[schemars(length(max = 63))]
    pub instance_id: String,
    /// The attempt that put it there.
    #[schemars(length(max = 63))]
    pub attempt: String,
    /// How far that attempt came.
    pub state: OccupancyState,
    /// Whether anything of this claim was ever started: an earlier attempt may still run while the next is only issued.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ever_started: bool,
    /// How its disks are wiped when it is released: the stricter of what the Machine and the Deployment said when something was about to be
    /// written. Missing where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<WipePolicy>,
    /// Its disks are kept when it is released, whatever they hold, and the Machine is cordoned then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
    /// Since when. A machine that is to be released is free once it asked the network after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// How far an attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OccupancyState {
    /// It may be started.
    Issued,
    /// The machine took it.
    Started,
    /// It succeeded.
    Provisioned,
    /// The owner was deleted on purpose, and the machine is to be given back.
    ReleaseRequested,
}

/// What the operator knows about a Machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "state_schema")]
    pub state: Option<MachineState>,
    /// The address people reach it at: the first of its boot interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub address: Option<String>,
    /// Addresses that were allocated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["mac"]))]
    pub interfaces: Vec<InterfaceStatus>,
    /// A summary of its inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<HardwareSummary>,
    /// The attempt under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// The generation of its Deployment that it is served: its boot plan is made of it, and nothing stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_generation: Option<i64>,
    /// Instances whose Deployments were deleted, and whose disks nobody wiped: the last ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 63)))]
    pub released: Vec<String>,
    /// What goes wrong, and when it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Conditions: Ready, Accepted, Inspected, Wiped, Powered, Failing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

fn state_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "maxLength": 63, "description": "Where the Machine is in its life. An open set: expect more." })
}

/// Where a Machine is in its life. An open set: what a newer operator wrote is kept as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MachineState {
    /// It asked; nobody accepted it.
    Discovered,
    /// Somebody accepted it.
    Accepted,
    /// Its hardware is looked at.
    Inspecting,
    /// Free.
    Available,
    /// It has an owner.
    Claimed,
    /// Its owner's profile is put on it.
    Provisioning,
    /// It runs it.
    Provisioned,
    /// Its owner was deleted.
    Releasing,
    /// Its disks are wiped.
    Cleaning,
    /// A state of a newer version.
    #[serde(untagged)]
    Other(String),
}

impl MachineState {
    /// Those of this version, in the order of a Machine's life.
    pub const KNOWN: [Self; 9] = [
        Self::Discovered,
        Self::Accepted,
        Self::Inspecting,
        Self::Available,
        Self::Claimed,
        Self::Provisioning,
        Self::Provisioned,
        Self::Releasing,
        Self::Cleaning,
    ];
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(name) => f.pad(name),
            known => fmt::Debug::fmt(known, f),
        }
    }
}

/// Addresses of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// The interface.
    pub mac: MacAddr,
    /// Its addresses.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub addresses: Vec<AddressClaim>,
}

/// The few facts people choose machines by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HardwareSummary {
    /// One line for tables: `8 cpu, 32 GiB, 480 GB`, or what the firmware told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub summary: String,
    /// Manufacturer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub vendor: Option<String>,
    /// Product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub product: Option<String>,
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub serial: Option<String>,
    /// SMBIOS UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub uuid: Option<String>,
    /// Processor threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65_536))]
    pub cpus: Option<u32>,
    /// Memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_073_741_824))]
    pub memory_mib: Option<u32>,
    /// The largest disk in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub disk_bytes: Option<i64>,
}

/// One try at provisioning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Its id; nothing else may claim its success.
    #[schemars(length(max = 63))]
    pub id: String,
    /// Which try this is, from 1.
    #[schemars(range(min = 1, max = 1000))]
    pub number: u32,
    /// When it was issued.
    pub issued: Time,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The state it failed in.
    #[schemars(length(max = 63))]
    pub phase: String,
    /// The attempt that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub attempt: Option<String>,
    /// A reason from the list of reasons.
    #[schemars(length(max = 63))]
    pub category: String,
    /// What, and what to do.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// When it is tried again; never, where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Time>,
}
