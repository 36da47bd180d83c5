//! What a boot-agent says about itself, in its Lease.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A Subnet that an agent serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// The Subnet.
    pub subnet: String,
    /// The interface.
    pub interface: String,
    /// The address it serves from.
    pub address: String,
    /// `Probing`, `Alone`, `Assumed`, `Foreign`, or `Unneeded` where no address is given.
    pub authority: String,
    /// The other DHCP server, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_server: Option<String>,
    /// Kinds of firmware that the agent has no loader for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// Newcomers that were turned away within the last minute, and by which limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited: Option<String>,
    /// The other addresses that the interface has: they are nobody else's, either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_addresses: Vec<String>,
    /// It has the machine-agent's ramdisk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ramdisk: bool,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What an agent found when it looked for the files of profiles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Media {
    /// By the profiles' `namespace/name`.
    pub profiles: BTreeMap<String, Looked>,
    /// There are more profiles than have room here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// Whether an agent can serve the files of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    /// Which files that are: a digest of their names.
    pub files: String,
    /// What is wrong with one of them, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The label on the Leases with which agents say that they are alive.
pub const LABEL: &str = "metal.athanor.dev/agent";
/// The annotation in which such a Lease lists what the agent serves, as a JSON list of [`Served`].
pub const SERVED_ANNOTATION: &str = "metal.athanor.dev/served";
/// The annotation with its [`Media`], as a JSON object.
pub const MEDIA_ANNOTATION: &str = "metal.athanor.dev/media";
