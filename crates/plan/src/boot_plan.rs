//! The boot plan: everything an agent needs to answer for one Machine, compiled ahead of time.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use athanor_crds::{MachineState, bootprofile::Success, machine::LocalBoot};
use athanor_wire::{MacAddr, work::Work};
use serde::{Deserialize, Serialize};

use crate::metadata::Metadata;

/// The format this version writes. Agents serve this one and the one before.
pub const FORMAT: u32 = 1;

/// A Machine by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an agent needs to answer for one Machine.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootPlan {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose plan it is.
    pub machine: MachineKey,
    /// Where the Machine is in its life, for `explain`.
    pub state: MachineState,
    /// Names the script and public files in URLs. It is in the DHCP answer, so it protects nothing more.
    pub token: String,
    /// The token before this one: a machine that polls with it is led to the new one, and gets nothing else for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_token: Option<String>,
    /// Its interfaces and their addresses.
    pub interfaces: Vec<PlanInterface>,
    /// The host name DHCP tells (option 12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// How it is sent to its own disk.
    #[serde(default)]
    pub local_boot: LocalBoot,
    /// The loader chain somebody chose for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<String>,
    /// What it does when nothing, or nothing fresh, orders otherwise.
    pub safe: Safe,
    /// What it is ordered to boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// What its machine-agent has to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<AgentWork>,
    /// What its operating system may ask for while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// Whether it is to be woken by magic packets: it waits for a boot, and may be off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wake: bool,
}

/// What a machine-agent has to do, and who may ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentWork {
    /// What it is for.
    pub purpose: Purpose,
    /// Its id and its steps.
    pub work: Work,
    /// The key of the agent that may do it: the first that showed up. Until then it is nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When that key was bound, in microseconds since the epoch. Firmware that asks later ended that agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<i64>,
    /// When firmware had last asked, as far as was known then. Clocks differ: what was known is no news, whatever its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<i64>,
}

/// What a machine-agent's work is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Its hardware is looked at; then it waits.
    Inspect,
    /// A Deployment is put on its disk.
    Provision,
    /// What was on its disks is destroyed.
    Clean,
}

/// Ids of work that is no attempt begin so: a machine-agent that looks, waits or cleans is nobody's occupant.
pub const WORK_PREFIX: &str = "w-";

/// Tokens stay out of logs.
impl fmt::Debug for BootPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootPlan")
            .field("machine", &self.machine)
            .field("state", &self.state)
            .field("interfaces", &self.interfaces)
            .field("safe", &self.safe)
            .field("order", &self.order.as_ref().map(|order| &order.attempt))
            .finish_non_exhaustive()
    }
}

/// An interface and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanInterface {
    /// Its hardware address.
    pub mac: MacAddr,
    /// Whether the machine boots from it.
    pub boot: bool,
    /// Its addresses, at most one for each subnet.
    pub addresses: Vec<PlanAddress>,
}

/// An address in a Subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAddress {
    /// The Subnet.
    pub subnet: String,
    /// The address.
    pub ip: IpAddr,
}

/// What a machine does when nothing orders otherwise. Nothing here writes to a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum Safe {
    /// It waits in the parking script and asks again every few seconds.
    Wait {
        /// Why, as a reason.
        reason: String,
        /// Why, for the person in front of the screen.
        message: String,
    },
    /// It waits as above for half a minute and then boots its own disk.
    LocalDiskThenWait {
        /// Why, as a reason.
        reason: String,
        /// Why, for the person in front of the screen.
        message: String,
    },
    /// It boots its own disk at once.
    LocalDisk {
        /// Why, as a reason.
        reason: String,
    },
}

impl Safe {
    /// Why, as a reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::Wait { reason, .. } | Self::LocalDiskThenWait { reason, .. } | Self::LocalDisk { reason } => reason,
        }
    }
}

/// What a machine is ordered to boot, bound to one attempt.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The attempt.
    pub attempt: String,
    /// For people: the Deployment's name.
    pub deployment: String,
    /// The token with which the guest reports; it ends with the attempt.
    pub report_token: String,
    /// The iPXE script, without its first lines: the agent puts its own address before it as `${base}`.
    pub script: String,
    /// The same for loaders that read no iPXE; none where the profile is itself an iPXE script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
    /// Files by the name that the script gives them.
    pub files: BTreeMap<String, Source>,
    /// Whole trees by the folder they are served under.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trees: BTreeMap<String, Source>,
    /// What counts as success.
    pub success: Success,
}

/// A Linux to boot, for any loader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linux {
    /// The kernel: a name in the order's `files`, or a URL.
    pub kernel: String,
    /// The initrds, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub initrds: Vec<String>,
    /// The profile's arguments; they passed [`crate::ipxe::words`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arguments: String,
    /// Whether it is told where our servers are: the machine-agent asks them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks_servers: bool,
    /// The token of its metadata, where cloud-init is told to look for it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
}

impl Order {
    /// Whether its guest is told where to report.
    pub fn reports(&self) -> bool {
        self.success == Success::Reported && !self.linux.as_ref().is_some_and(|linux| linux.asks_servers)
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("attempt", &self.attempt).field("deployment", &self.deployment).finish_non_exhaustive()
    }
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "from")]
pub enum Source {
    /// A file inside an ISO; an empty member is the whole tree.
    Iso {
        /// The ISO, as the profile names it.
        path: String,
        /// The path inside it.
        member: String,
    },
    /// A file of the machine-agent's ramdisk.
    Ramdisk {
        /// Its name: `vmlinuz` or `initramfs`.
        file: String,
    },
}

impl BootPlan {
    /// The interface that has a MAC address.
    pub fn interface(&self, mac: MacAddr) -> Option<&PlanInterface> {
        self.interfaces.iter().find(|interface| interface.mac == mac)
    }

    /// The interface that it boots from.
    pub fn boot_interface(&self) -> Option<&PlanInterface> {
        self.interfaces.iter().find(|interface| interface.boot).or(self.interfaces.first())
    }

    /// Whether it may boot from the interface of a MAC address.
    pub fn boots_from(&self, mac: MacAddr) -> bool {
        self.interface(mac).is_some_and(|interface| interface.boot) || self.boot_interface().is_some_and(|interface| interface.mac == mac)
    }

    /// The address of an interface in a Subnet.
    pub fn address(&self, mac: MacAddr, subnet: &str) -> Option<IpAddr> {
        self.interface(mac)?.addresses.iter().find(|address| address.subnet == subnet).map(|address| address.ip)
    }

    /// Whether it is sent to its own disk and nothing else.
    pub fn leaves_to_disk(&self) -> bool {
        self.order.is_none() && matches!(self.safe, Safe::LocalDisk { .. })
    }
}
