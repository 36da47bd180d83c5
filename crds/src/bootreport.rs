//! BootReport: what a client asked and was answered, by node. `explain` reads nothing else.

use std::net::IpAddr;

use athanor_wire::{GuestReport, Inventory, MacAddr, StepReport};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// The most events a node keeps for a client: about three boots of the most talkative firmware.
pub const MAX_EVENTS: usize = 64;

/// What a client asked and was answered. Each agent writes only its own node's part.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metal.athanor.dev",
    version = "v1alpha1",
    kind = "BootReport",
    plural = "bootreports",
    category = "athanor-system",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "MAC", type_ = "string", json_path = ".spec.mac"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BootReportSpec {
    /// The client's hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// What each node saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub nodes: Vec<NodeReport>,
}

/// What one node saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Since when the process of this node runs that writes this. What one before it saw last may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// The newest events, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub events: Vec<BootEvent>,
    /// The Subnet it last asked in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub subnet: Option<String>,
    /// When its firmware last asked there, or anything on it for the first time: of several nodes' words about where it is, the newest holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_at: Option<MicroTime>,
    /// When its firmware last asked for a boot script: proof that whatever ran on it before does not run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_boot: Option<MicroTime>,
    /// What firmware told about the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Inventory>,
    /// What became of the attempt under way, as far as this node saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptReport>,
    /// What its machine-agent told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentReport>,
    /// The address that it last declined: somebody else on the segment uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<Declined>,
    /// When it last fetched its loader again and again without a script in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_loop: Option<MicroTime>,
    /// Files of the plan that this node cannot serve, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 512)))]
    pub problems: Vec<String>,
}

/// What a machine-agent told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentReport {
    /// The work that it asks for.
    #[schemars(length(max = 63))]
    pub work: String,
    /// The key with which it asks, in hexadecimal.
    #[schemars(length(max = 128))]
    pub key: String,
    /// The newest that it told of each step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<StepReport>,
    /// When it last told something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<MicroTime>,
    /// When another agent, with another key, last asked for the same work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stranger: Option<MicroTime>,
}

impl AgentReport {
    /// An agent asks, with its key, for work that is bound to one already or not. `agent` is what was known; returns whether that is news.
    pub fn asked(agent: &mut Option<Self>, work: &str, is_bound: bool, key: &str, now: MicroTime) -> bool {
        let known = agent.as_ref().is_some_and(|agent| agent.work == work);
        if !known || !is_bound {
            let same = known && agent.as_ref().is_some_and(|agent| agent.key == key);
            if !same {
                *agent = Some(Self { work: work.to_owned(), key: key.to_owned(), ..Self::default() });
            }
            return !same;
        }
        match agent.as_mut().filter(|agent| agent.key != key && agent.stranger.is_none()) {
            Some(agent) => {
                agent.stranger = Some(now);
                true
            }
            None => false,
        }
    }

    /// The agent with a key tells how a step goes; returns whether that is news. The end of a step stands.
    pub fn told(&mut self, key: &str, report: StepReport, now: MicroTime) -> bool {
        if self.work != report.work || self.key != key {
            *self = Self { work: report.work.clone(), key: key.to_owned(), ..Self::default() };
        }
        match self.steps.iter_mut().find(|step| step.index == report.index) {
            Some(known) if known.outcome.is_some() => return false,
            Some(known) => *known = report,
            None => self.steps.push(report),
        }
        self.told = Some(now);
        true
    }
}

/// An address that a client would not have (DHCPDECLINE).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Declined {
    /// The address.
    #[schemars(schema_with = "schema::ip")]
    pub ip: IpAddr,
    /// When.
    pub time: MicroTime,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootEvent {
    /// When.
    pub time: MicroTime,
    /// `DHCP`, `TFTP`, `HTTP`, `GUEST`.
    #[schemars(length(max = 16))]
    pub protocol: String,
    /// What was asked.
    #[schemars(length(max = 256))]
    pub asked: String,
    /// What was answered.
    #[schemars(length(max = 512))]
    pub answer: String,
    /// The boot that it is part of: the same word in the logs, from the firmware's first question on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub boot: Option<String>,
    /// The row of the decision table, or the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub row: Option<String>,
    /// How often the same was asked and answered after that with nothing in between, as far as it is known: that alone is not news enough to
    /// be written at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub again: Option<u32>,
}

/// What became of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptReport {
    /// Its id.
    #[schemars(length(max = 63))]
    pub id: String,
    /// Its script was fetched.
    #[serde(default)]
    pub started: bool,
    /// When its script was first fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// Its kernel and every initrd were fetched whole.
    #[serde(default)]
    pub served: bool,
    /// The release hook of its operating system asked: it restarts when it is released.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hook: bool,
    /// What the guest said, with the attempt's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestReport>,
    /// When it said so. It counts for the boot in which it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_at: Option<MicroTime>,
}

impl AttemptReport {
    /// What two nodes, or one node before and after its restart, saw of one attempt.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        let newer = if self.guest.is_none() || (other.guest.is_some() && other.guest_at > self.guest_at) { other } else { &self };
        let (guest, guest_at) = (newer.guest.clone(), newer.guest_at.clone());
        Self {
            started: self.started || other.started,
            started_at: self.started_at.or_else(|| other.started_at.clone()),
            served: self.served || other.served,
            hook: self.hook || other.hook,
            guest,
            guest_at,
            id: self.id,
        }
    }

    /// What the guest said in the boot that began then, in microseconds since 1970, if it has said anything in that.
    pub fn guest_since(&self, boot: Option<i64>) -> Option<&GuestReport> {
        // What an older agent wrote has no time.
        self.guest.as_ref().filter(|_| self.guest_at.as_ref().is_none_or(|at| Some(at.0.as_microsecond()) >= boot))
    }
}
