//! Which disk is the root disk: Metal3's root-device hints, key for key.

use serde::{Deserialize, Serialize};

/// Criteria for the disk an operating system is installed on; every one that is given must match.
/// Keys and meaning are those of Metal3's `BareMetalHost.spec.rootDeviceHints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RootDeviceHints {
    /// A Linux device name like `/dev/vda`, or a by-path link to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256)))]
    pub device_name: Option<String>,
    /// A SCSI bus address like `0:0:0:0`; exact.
    #[serde(rename = "hctl", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 64)))]
    pub hctl: Option<String>,
    /// A vendor-specific model; a part of it matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub model: Option<String>,
    /// The vendor's name; a part of it matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub vendor: Option<String>,
    /// The serial number; exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub serial_number: Option<String>,
    /// The smallest size in GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 1_048_576)))]
    pub min_size_gigabytes: Option<u32>,
    /// The World Wide Name; exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub wwn: Option<String>,
    /// The World Wide Name with the vendor's extension; exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub wwn_with_extension: Option<String>,
    /// The vendor's extension of the World Wide Name; exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub wwn_vendor_extension: Option<String>,
    /// Whether the disk rotates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}
