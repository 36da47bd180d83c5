//! What the machine-agent is given to do, one step at a time, and what it says about it.
//!
//! ```text
//!   agent                                boot-agent
//!     POST /v1/agent/<token>/next  ──►   the next step, or 204 after a while: ask again
//!     POST /v1/agent/<token>/tell  ──►   204 once it is stored (a step's end) or noted (progress)
//! ```
//!
//! Every question is signed with a key that the agent made when it started: [`signed`] says over what. The first key that asks is bound to
//! the work; another is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Inventory, RootDeviceHints, WipePolicy, WipedDisk, metadata::Service};

/// The header with the agent's public key (Ed25519), in lower-case hexadecimal.
pub const KEY_HEADER: &str = "athanor-key";
/// The header with the signature over [`signed`], in lower-case hexadecimal.
pub const SIGNATURE_HEADER: &str = "athanor-signature";
/// How long a question waits for a step before it is answered with nothing, in seconds. Shorter than what any middlebox keeps open.
pub const PATIENCE_SECONDS: u64 = 20;
/// The word on the kernel's command line before the servers, separated by commas: `http://192.168.10.1:7481`.
pub const SERVERS_WORD: &str = "athanor.servers=";
/// The most servers that an agent listens to: the one that started it, and two that may take over. A command line is not endless.
pub const MAX_SERVERS: usize = 3;
/// The word on the kernel's command line before the token.
pub const TOKEN_WORD: &str = "athanor.token=";

/// What a signature is made over. The path names the token, so a question to one server holds for no other machine.
pub fn signed(path: &str, body: &[u8]) -> Vec<u8> {
    [path.as_bytes(), b"\n", body].concat()
}

/// Work for a machine: its steps in order. Another id is other work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    /// Whose it is: an attempt's id, or one drawn for an inspection or a wipe.
    pub id: String,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum Step {
    /// Look at the hardware. Writes nothing.
    Inventory,
    /// Put an image on the root disk.
    Write(Box<Write>),
    /// Destroy what is on the disks.
    Wipe(Wipe),
    /// Restart the machine.
    Reboot,
    /// Switch it off.
    PowerOff,
}

impl Step {
    /// Its name, as people read it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::Write(_) => "write",
            Self::Wipe(_) => "wipe",
            Self::Reboot => "reboot",
            Self::PowerOff => "power off",
        }
    }

    /// Whether the agent ends with it: nobody is told how it went.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Reboot | Self::PowerOff)
    }
}

/// An image for the root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// Where the image is: http or https.
    pub url: String,
    /// `sha256:…` or `sha512:…` of the file as it is fetched, or the URL of a checksum file.
    pub checksum: String,
    /// Certificates of the authorities that an https server is checked with, in PEM; the public ones without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// What its server wants to see with each request: secrets.
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers,
    /// Its format, where it was declared; else its first bytes tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Which disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<RootDeviceHints>,
    /// Whether the last partition grows to the disk's end.
    #[serde(default)]
    pub grow: bool,
    /// Documents for the operating system's first boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<Documents>,
    /// What is written beside the image, so that whoever meets the disk later knows whose it is.
    pub marker: Marker,
    /// Whether data that was there before may be overwritten.
    #[serde(default)]
    pub overwrite: bool,
    /// What this installation put there may be overwritten, too, of these instances or attempts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overwrites: Vec<String>,
}

/// HTTP headers whose values are nobody's to read but the server's.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(pub BTreeMap<String, String>);

impl Headers {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Byte by byte, possibly compressed.
    Raw,
    /// QEMU's.
    Qcow2,
}

/// Files for a file system that the operating system looks for by its label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Documents {
    /// `config-2` or `cidata`.
    pub label: String,
    /// Text by path.
    pub files: BTreeMap<String, String>,
    /// Where the operating system asks the metadata service, and says that it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Service>,
}

/// Whose a disk's contents are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Marker {
    /// The installation.
    #[cfg_attr(feature = "schemars", schemars(length(max = 63)))]
    pub installation: String,
    /// The Deployment's instance.
    #[cfg_attr(feature = "schemars", schemars(length(max = 63)))]
    pub instance: String,
    /// The attempt.
    #[cfg_attr(feature = "schemars", schemars(length(max = 63)))]
    pub attempt: String,
    /// What was written, as a digest that the machine-agent makes of its order once all of it was read back; empty before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 64)))]
    pub content: String,
}

impl Marker {
    /// Whether it is among instances and attempts.
    pub fn is_named(&self, ids: &[String]) -> bool {
        ids.contains(&self.instance) || ids.contains(&self.attempt)
    }
}

/// How disks are wiped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wipe {
    /// What is done.
    pub policy: WipePolicy,
    /// Serial numbers of disks that the last inventory had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<String>,
    /// The only installation whose disks may be wiped.
    pub installation: String,
    /// The Deployment whose disks may be wiped.
    #[serde(default)]
    pub instance: String,
    /// Disks that were empty before that Deployment, by serial number, or by name where they have none: whatever is there now is its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub were_empty: Vec<String>,
    /// Whether data that was there before may be lost.
    #[serde(default)]
    pub overwrite: bool,
    /// As in [`Write::overwrites`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overwrites: Vec<String>,
}

/// `POST …/next`: what the agent has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Next {
    /// The work it is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<String>,
    /// How many of its steps are done.
    #[serde(default)]
    pub done: usize,
    /// Whether one of them failed: nothing more is wanted of this work.
    #[serde(default)]
    pub failed: bool,
}

/// The answer to [`Next`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The work.
    pub work: String,
    /// Which of its steps, from 0.
    pub index: usize,
    /// The step.
    pub step: Step,
    /// The token to ask with from now on, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// `POST …/tell`: how a step goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// The work.
    #[cfg_attr(feature = "schemars", schemars(length(max = 63)))]
    pub work: String,
    /// Which of its steps, from 0.
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 64)))]
    pub index: u32,
    /// What it is at, in a word: `fetch and write`, `read back`.
    #[cfg_attr(feature = "schemars", schemars(length(max = 63)))]
    pub phase: String,
    /// How it went; none while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 100)))]
    pub percent: Option<u8>,
    /// How fast it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0)))]
    pub bytes_per_second: Option<i64>,
    /// For people: what was done, or what went wrong and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 1024)))]
    pub message: String,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// What was wiped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256)))]
    pub wiped: Vec<WipedDisk>,
    /// Serial numbers of disks that were expected and are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256), inner(length(max = 128))))]
    pub missing: Vec<String>,
}

impl StepReport {
    /// A step that has begun.
    pub fn begun(work: &str, index: usize, phase: &str) -> Self {
        Self {
            work: work.to_owned(),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            phase: phase.to_owned(),
            outcome: None,
            percent: None,
            bytes_per_second: None,
            message: String::new(),
            inventory: None,
            wiped: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Whether it ended as asked.
    pub fn is_done(&self) -> bool {
        self.outcome == Some(Outcome::Done)
    }
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum Outcome {
    /// As asked.
    Done,
    /// It did not.
    Failed,
}
