//! Address: one address in use. Its name is the address, so the API's uniqueness is the lock.

use std::net::IpAddr;

use athanor_wire::MacAddr;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, NAME};

/// One address in use. Whoever creates it owns the address.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metal.athanor.dev",
    version = "v1alpha1",
    kind = "Address",
    plural = "addresses",
    category = "athanor-system",
    derive = "PartialEq",
    printcolumn(name = "IP", type_ = "string", json_path = ".spec.ip"),
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "MAC", type_ = "string", json_path = ".spec.mac"),
    printcolumn(name = "Owner", type_ = "string", json_path = ".spec.owner.name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AddressSpec {
    /// The address.
    #[schemars(schema_with = "schema::ip")]
    pub ip: IpAddr,
    /// Its Subnet.
    #[schemars(length(max = NAME))]
    pub subnet: String,
    /// The interface that has it.
    pub mac: MacAddr,
    /// A person wants this very address, on the Machine or through its Deployment; it goes when the wish does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed: bool,
    /// The Machine that owns it; a client that is no Machine has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<AddressOwner>,
}

/// The Machine that owns an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressOwner {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = NAME))]
    pub name: String,
}
