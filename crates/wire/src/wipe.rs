//! Evidence that a disk was wiped.

use serde::{Deserialize, Serialize};

/// What a wipe does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum WipePolicy {
    /// Nothing.
    None,
    /// Signatures and partition tables, both ends.
    #[default]
    Metadata,
    /// Every block is discarded.
    Discard,
    /// The drive's own erase, or zeros over everything where it has none.
    Secure,
    /// Zeros over everything.
    Overwrite,
}

/// How a disk's data was destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum WipeMethod {
    /// Signatures and partition tables at both ends.
    Metadata,
    /// Discard of every block.
    Discard,
    /// The drive's own erase; `sanitize` says which.
    Secure,
    /// Zeros over every block.
    Overwrite,
}

/// What was done to one disk and what reading it back showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WipedDisk {
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub serial: Option<String>,
    /// World Wide Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub wwn: Option<String>,
    /// How.
    pub method: WipeMethod,
    /// What the drive said of its own erase: what it calls that, or why zeros were written instead. Missing where nobody asked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256)))]
    pub sanitize: Option<String>,
    /// Bytes covered.
    #[cfg_attr(feature = "schemars", schemars(range(min = 0)))]
    pub bytes: i64,
    /// Places read back.
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 1_000_000)))]
    pub sampled: u32,
    /// Places that did not hold what the method promises.
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 1_000_000)))]
    pub mismatched: u32,
}
