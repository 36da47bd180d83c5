//! Deployment: a claim on one Machine, and what that Machine must run.

use std::collections::BTreeMap;

use athanor_wire::MacAddr;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelectorRequirement};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bootprofile::ProfileRef,
    machine::{AddressClaim, Wipe},
    schema::{self, NAME, rules},
};

/// The state of a Deployment that has no Machine yet; the others are its Machine's.
pub const PENDING: &str = "Pending";

/// A claim on one Machine plus what it must run. Deleting it releases the Machine.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metal.athanor.dev",
    version = "v1alpha1",
    kind = "Deployment",
    plural = "deployments",
    shortname = "ad",
    category = "athanor",
    namespaced,
    status = "DeploymentStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Machine", type_ = "string", json_path = ".status.machine"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profile.name"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!has(oldSelf.instanceID) || has(self.instanceID) && self.instanceID == oldSelf.instanceID", "is minted once and never changes", ".instanceID"),
])))]
pub struct DeploymentSpec {
    /// Which Machine.
    pub machine: MachineClaim,
    /// What it runs.
    pub profile: ProfileRef,
    /// Its host name; the Deployment's name without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hostname")]
    pub hostname: Option<String>,
    /// Addresses of its boot interface that a person fixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub addresses: Vec<AddressClaim>,
    /// Users to create.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub users: Vec<User>,
    /// Packages to install.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9@][A-Za-z0-9@+._:/=~^-]*$")))]
    pub packages: Vec<String>,
    /// Free parameters for the profile's templates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub parameters: BTreeMap<String, String>,
    /// cloud-init user-data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<SecretSource>,
    /// cloud-init network-data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data: Option<SecretSource>,
    /// cloud-init meta-data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<SecretSource>,
    /// What happens to the Machine's disks when the Deployment is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// How they are wiped; the stricter of this and the Machine's wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<Wipe>,
    /// Names this instance for good. Written by the operator; a uid would change in an export, a move or a restore.
    #[serde(rename = "instanceID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub instance_id: Option<String>,
}

/// Which Machine: by name, by MAC, or any free one that fits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("[has(self.name), has(self.mac), has(self.selector) || has(self.minimum)].filter(x, x).size() <= 1",
     "give one of name, mac, or selector with minimum; nothing means any free machine", ""),
])))]
pub struct MachineClaim {
    /// A Machine in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = NAME))]
    pub name: Option<String>,
    /// The Machine that owns this MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Any free Machine with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<MachineSelector>,
    /// Any free Machine with at least this hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<MinimumHardware>,
}

/// Labels a Machine must have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineSelector {
    /// Labels and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub match_labels: BTreeMap<String, String>,
    /// Expressions over labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "match_expressions")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

fn match_expressions(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array", "maxItems": 16,
        "items": {
            "type": "object", "required": ["key", "operator"],
            "x-kubernetes-validations": rules(&[
                ("self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0",
                 "In and NotIn need values; Exists and DoesNotExist take none", ".values"),
            ]),
            "properties": {
                "key": { "type": "string", "maxLength": 316 },
                "operator": { "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"] },
                "values": { "type": "array", "maxItems": 64, "items": { "type": "string", "maxLength": 63 } }
            }
        }
    })
}

/// The least hardware a Machine must have. What is not known is not enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MinimumHardware {
    /// Processor threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub cpus: Option<u32>,
    /// Memory, like `32Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::schema")]
    pub memory: Option<String>,
    /// The largest disk, like `200G`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::schema")]
    pub disk: Option<String>,
}

/// A user of the installed system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Login name.
    #[schemars(length(max = 32), regex(pattern = "^[a-z_][a-z0-9_-]*$"))]
    pub name: String,
    /// SSH public keys, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 4096)))]
    pub ssh_keys: Vec<String>,
    /// Whether it may become root.
    #[serde(default)]
    pub sudo: bool,
}

/// A document from a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// Which Secret, and which key of it.
    pub secret_ref: SecretKey,
}

/// A key of a Secret in the same namespace. There is no namespace field on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKey {
    /// The Secret, of type `metal.athanor.dev/user-data` or labelled so.
    #[schemars(length(min = 1, max = NAME))]
    pub name: String,
    /// The key.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// What happens to the Machine's disks when its Deployment is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They are wiped as the Machine's policy says.
    #[default]
    Wipe,
    /// They stay; the Machine is cordoned.
    Retain,
}

/// What the operator knows about a Deployment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Claimed, Provisioning, Provisioned, Releasing. An open set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub state: Option<String>,
    /// The Machine it chose and is about to claim; written before the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = NAME))]
    pub candidate: Option<String>,
    /// The Machine it owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = NAME))]
    pub machine: Option<String>,
    /// The first address of its Machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub address: Option<String>,
    /// What happens now, or on what it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub progress: Option<String>,
    /// Conditions: Ready, Claimed, Written, Booted, Failing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
