//! BootProfile: how an operating system gets onto, or under, a machine.

use std::{collections::BTreeMap, fmt};

pub use athanor_wire::ImageFormat;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    machine::SecretName,
    schema::{self, NAME, ONE_LINE, rules},
};

/// How an operating system gets onto, or under, a machine: exactly one of live, installer, image, nfsRoot, iscsiRoot, script.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metal.athanor.dev",
    version = "v1alpha1",
    kind = "BootProfile",
    plural = "bootprofiles",
    shortname = "abp",
    category = "athanor",
    namespaced,
    status = "BootProfileStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Type", type_ = "string", json_path = ".status.type"),
    printcolumn(name = "Arch", type_ = "string", json_path = ".spec.architecture"),
    printcolumn(name = "Supported", type_ = "string", json_path = ".status.conditions[?(@.type=='Supported')].status"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Kernel", type_ = "string", json_path = ".spec.kernel", priority = 1),
    printcolumn(name = "Media", type_ = "string", json_path = ".spec.media.path", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("[has(self.live), has(self.installer), has(self.image), has(self.nfsRoot), has(self.iscsiRoot), has(self.script)].filter(x, x).size() == 1",
     "give exactly one of live, installer, image, nfsRoot, iscsiRoot, script", ""),
    ("has(self.kernel) || has(self.image) || has(self.script)", "live, installer, nfsRoot and iscsiRoot profiles need a kernel", ".kernel"),
    ("!has(self.initrds) || has(self.kernel)", "an initrd needs a kernel beside it", ".initrds"),
])))]
pub struct BootProfileSpec {
    /// The architecture its files are for.
    #[serde(default)]
    pub architecture: Architecture,
    /// Where its files come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// The kernel: a path in the media, or an http(s) URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = ONE_LINE))]
    pub kernel: Option<String>,
    /// Initial ramdisks, in order: paths in the media, or http(s) URLs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 1024), regex(pattern = ONE_LINE)))]
    pub initrds: Vec<String>,
    /// The kernel's arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub cmdline: Option<String>,
    /// Runs from memory; nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// A distribution's installer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installer: Option<Installer>,
    /// A disk image, written by the machine-agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// A root file system over NFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs_root: Option<NfsRoot>,
    /// A root disk over iSCSI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iscsi_root: Option<IscsiRoot>,
    /// An iPXE script of one's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
    /// What counts as success.
    #[serde(default)]
    pub success: Success,
    /// Whether the running system learns to reboot into the network when it is released.
    #[serde(default)]
    pub release_hook: ReleaseHook,
    /// Defaults for a Deployment's free parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub parameters: BTreeMap<String, String>,
}

/// A processor architecture, as Debian and Kubernetes name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    #[default]
    Amd64,
    /// AArch64.
    Arm64,
    /// 32-bit x86.
    I386,
    /// 32-bit ARM.
    Arm,
    /// 64-bit RISC-V.
    Riscv64,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::I386 => "i386",
            Self::Arm => "arm",
            Self::Riscv64 => "riscv64",
        })
    }
}

/// Where a profile's files come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("has(self.path) != has(self.url)", "give exactly one of path and url", ""),
    ("!has(self.url) || has(self.checksum)", "media from a url needs a checksum", ".checksum"),
    ("!has(self.path) || !self.path.contains('://')", "is a path on the server; for an address to fetch from give url and checksum", ".path"),
    ("!has(self.path) || self.path.split('/').all(s, s != '.' && s != '..')", "has a step . or .. in it; write the path as it is without them", ".path"),
    ("!has(self.prefix) || !(self.prefix.split('/')[0] in ['b', 'l', 'v1', 'healthz']) && self.prefix.split('/').all(s, s != '.' && s != '..')",
     "is a folder of the server's own (b, l, v1, healthz), or leads out of its folder; choose another name", ".prefix"),
])))]
pub struct Media {
    /// An ISO file below the configured `mediaDirs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = ONE_LINE))]
    pub path: Option<String>,
    /// An ISO file to fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub url: Option<String>,
    /// `sha256:` or `sha512:` and the digest in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 135), regex(pattern = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"))]
    pub checksum: Option<String>,
    /// The folder under which the media's tree is served; the profile's name without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$"))]
    pub prefix: Option<String>,
}

/// A system that runs from memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Live {}

/// A distribution's installer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Installer {
    /// Which kind of answer file it reads.
    #[serde(rename = "type")]
    pub type_: InstallerType,
    /// A template of that file instead of the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub template: Option<String>,
}

/// Which kind of answer file an installer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstallerType {
    /// Debian's preseed.
    Preseed,
    /// Red Hat's kickstart.
    Kickstart,
    /// Ubuntu's autoinstall.
    Autoinstall,
    /// SUSE's AutoYaST.
    Autoyast,
}

impl fmt::Display for InstallerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preseed => "preseed",
            Self::Kickstart => "kickstart",
            Self::Autoinstall => "autoinstall",
            Self::Autoyast => "autoyast",
        })
    }
}

/// A disk image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!has(self.ca) || self.url.startsWith('https://')", "is for https, and the url is http; leave it out, or fetch over https", ".ca"),
])))]
pub struct Image {
    /// Where it is.
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub url: String,
    /// `sha256:` or `sha512:` and the digest, or the URL of a checksum file.
    #[schemars(length(max = 2048), regex(pattern = r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|https?://[^\s]+)$"))]
    pub checksum: String,
    /// Certificates, in PEM, of the authorities that its https server is checked with; the public ones without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536), regex(pattern = r"^\s*-----BEGIN CERTIFICATE-----[\s\S]*-----END CERTIFICATE-----\s*$"))]
    pub ca: Option<String>,
    /// Headers that its server wants to see with each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeadersSource>,
    /// Its format; found by content where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Whether the last partition grows to the disk's end.
    #[serde(default)]
    pub grow: bool,
    /// How the operating system finds its documents, in cloud-init's words.
    #[serde(default)]
    pub datasource: Datasource,
}

/// A Secret whose keys are names of HTTP headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeadersSource {
    /// Which Secret, of type `metal.athanor.dev/http-headers` or labelled so.
    pub secret_ref: SecretName,
}

/// How documents for the first boot are laid out beside an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Datasource {
    /// A file system `cidata` with `meta-data`, `user-data` and `network-config`.
    #[default]
    NoCloud,
    /// OpenStack's: a file system `config-2` with `openstack/latest/meta_data.json`, `user_data` and `network_data.json`.
    ConfigDrive,
}

/// A root file system over NFS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NfsRoot {
    /// The server.
    #[schemars(schema_with = "schema::hostname")]
    pub server: String,
    /// The exported path.
    #[schemars(length(max = 1024), regex(pattern = r"^/[^\s]*$"))]
    pub path: String,
    /// Mount options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub options: Option<String>,
}

/// A root disk over iSCSI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IscsiRoot {
    /// The portal, `host` or `host:port`.
    #[schemars(length(min = 1, max = 253))]
    pub portal: String,
    /// The target's name.
    #[schemars(length(max = 223), regex(pattern = r"^(iqn|eui|naa)\.[^\s]+$"))]
    pub target: String,
    /// The logical unit.
    #[serde(default)]
    #[schemars(range(min = 0, max = 16383))]
    pub lun: u32,
}

/// An iPXE script of one's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Script {
    /// Its text.
    #[schemars(length(min = 1, max = 65536))]
    pub ipxe: String,
}

/// What counts as success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Success {
    /// The guest's own report, with its token.
    #[default]
    Reported,
    /// Its files were fetched. That is not proof, and status says so.
    Served,
}

/// Whether the running system learns to reboot when it is released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReleaseHook {
    /// Where the profile can install it.
    #[default]
    Auto,
    /// Never.
    None,
}

/// What the operator knows about a profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootProfileStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Its kind, for tables: `live`, `preseed`, `image`, …
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub type_: Option<String>,
    /// Conditions: Ready, Supported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

impl BootProfileSpec {
    /// The kind of the profile in one word, as tables and `--type` name it.
    pub fn type_name(&self) -> String {
        match (&self.live, &self.installer, &self.image, &self.nfs_root, &self.iscsi_root, &self.script) {
            (Some(_), ..) => "live".to_owned(),
            (_, Some(installer), ..) => installer.type_.to_string(),
            (_, _, Some(_), ..) => "image".to_owned(),
            (_, _, _, Some(_), ..) => "nfsRoot".to_owned(),
            (_, _, _, _, Some(_), _) => "iscsiRoot".to_owned(),
            (.., Some(_)) => "script".to_owned(),
            _ => "none".to_owned(),
        }
    }
}

/// A profile by its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("has(self.name) != has(self.inline)", "give exactly one of name and inline", ""),
])))]
pub struct ProfileRef {
    /// A BootProfile in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = NAME))]
    pub name: Option<String>,
    /// A profile written in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Box<BootProfileSpec>>,
}
