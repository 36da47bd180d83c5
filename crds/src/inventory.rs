//! MachineInventory: the facts about a Machine, apart from it so that facts and wishes never rewrite each other.

use athanor_wire::Inventory;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The facts about the Machine of the same name.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metal.athanor.dev",
    version = "v1alpha1",
    kind = "MachineInventory",
    plural = "machineinventories",
    category = "athanor-system",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Vendor", type_ = "string", json_path = ".spec.facts.vendor"),
    printcolumn(name = "Product", type_ = "string", json_path = ".spec.facts.product"),
    printcolumn(name = "Serial", type_ = "string", json_path = ".spec.facts.serial"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MachineInventorySpec {
    /// Who read the facts: `firmware` (iPXE) or `agent`.
    #[schemars(length(max = 63))]
    pub source: String,
    /// The facts.
    pub facts: Inventory,
}
