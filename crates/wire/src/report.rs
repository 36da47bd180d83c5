//! What a running guest says about itself, with the token of its attempt.

use serde::{Deserialize, Serialize};

/// How the guest fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum GuestOutcome {
    /// It runs what it was asked to run.
    Success,
    /// It gave up; the message says why.
    Failure,
}

/// The body of `POST /v1/report/<token>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct GuestReport {
    /// How it went.
    pub outcome: GuestOutcome,
    /// A line for people: the kernel's version, or what went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 512)))]
    pub message: String,
}
