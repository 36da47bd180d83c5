//! Address: one address in use. Its name is the address, so the API's uniqueness is the lock.

use std::net::IpAddr;

use athanor_wire::MacAddr;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
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
    printcolumn(name = "Quarantine", type_ = "string", json_path = ".spec.quarantine", priority = 1),
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
    /// Nobody is given it: somebody else on the segment uses it, as `mac` found out. Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub quarantine: Option<String>,
    /// When it is free again by itself: a quarantine's end, or a lease's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

/// How long an address that somebody uses unasked is given to nobody: who does so seldom leaves sooner.
pub const QUARANTINE: SignedDuration = SignedDuration::from_hours(1);

/// The label on Addresses that agents keep: of clients that are no machines, and of those that nobody is given.
pub const DYNAMIC_LABEL: &str = "metal.athanor.dev/dynamic";

impl AddressSpec {
    /// An address that a client which is no Machine has until a time.
    pub fn lent(ip: IpAddr, subnet: &str, mac: MacAddr, until: Time) -> Self {
        Self { ip, subnet: subnet.to_owned(), mac, fixed: false, owner: None, quarantine: None, expires: Some(until) }
    }

    /// An address of a Machine's interface.
    pub fn owned(ip: IpAddr, subnet: &str, mac: MacAddr, owner: AddressOwner) -> Self {
        Self { ip, subnet: subnet.to_owned(), mac, fixed: false, owner: Some(owner), quarantine: None, expires: None }
    }

    /// An address that nobody is given until a time.
    pub fn quarantined(ip: IpAddr, subnet: &str, mac: MacAddr, why: String, until: Time) -> Self {
        Self { ip, subnet: subnet.to_owned(), mac, fixed: false, owner: None, quarantine: Some(why), expires: Some(until) }
    }
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
