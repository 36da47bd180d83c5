//! WipeRecord: evidence that a Machine's disks were wiped. Immutable, and it outlives the Machine.

use athanor_wire::WipedDisk;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{NAME, rules};

/// Evidence that a Machine's disks were wiped.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metal.athanor.dev",
    version = "v1alpha1",
    kind = "WipeRecord",
    plural = "wiperecords",
    category = "athanor-system",
    namespaced,
    derive = "PartialEq",
    printcolumn(name = "Machine", type_ = "string", json_path = ".spec.machine"),
    printcolumn(name = "Finished", type_ = "date", json_path = ".spec.finished")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[("self == oldSelf", "a wipe record never changes", "")])))]
pub struct WipeRecordSpec {
    /// The Machine it speaks of.
    #[schemars(length(max = NAME))]
    pub machine: String,
    /// The attempt that did it.
    #[schemars(length(max = 63))]
    pub attempt: String,
    /// When it began.
    pub started: Time,
    /// When it was read back.
    pub finished: Time,
    /// Each disk that was wiped.
    #[schemars(length(max = 256))]
    pub disks: Vec<WipedDisk>,
    /// Serial numbers of disks that the last inventory had and this wipe did not find.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 128)))]
    pub missing: Vec<String>,
    /// The installation's Ed25519 signature over the rest, in base64.
    #[schemars(length(max = 128))]
    pub signature: String,
}

/// What the signature of a record is made over: everything else, in the order of the fields.
pub fn signed(namespace: &str, name: &str, spec: &WipeRecordSpec) -> Vec<u8> {
    let unsigned = WipeRecordSpec { signature: String::new(), ..spec.clone() };
    let text = serde_json::to_string(&unsigned).unwrap_or_default();
    format!("{namespace}/{name}\n{text}").into_bytes()
}
