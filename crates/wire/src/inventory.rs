//! What a machine is made of. Firmware facts come first, from iPXE; the machine-agent adds the rest.

use serde::{Deserialize, Serialize};

use crate::{MacAddr, work::Marker};

/// The facts about a machine. Every one may be missing: firmware lies, and a newcomer has only what iPXE could read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Inventory {
    /// SMBIOS system manufacturer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub vendor: Option<String>,
    /// SMBIOS product name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub product: Option<String>,
    /// SMBIOS system serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub serial: Option<String>,
    /// SMBIOS system UUID, lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 36)))]
    pub uuid: Option<String>,
    /// Firmware vendor and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256)))]
    pub bios: Option<String>,
    /// How it was booted: `BIOS` or `UEFI`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 16)))]
    pub firmware: Option<String>,
    /// The processors' model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub cpu_model: Option<String>,
    /// Processor sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 4096)))]
    pub sockets: Option<u32>,
    /// Processor cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 65_536)))]
    pub cores: Option<u32>,
    /// The processors' flags, as Linux names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 512), inner(length(max = 32))))]
    pub cpu_flags: Vec<String>,
    /// The version of its TPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 16)))]
    pub tpm: Option<String>,
    /// Display controllers and accelerators, `vendor:device (driver)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 64), inner(length(max = 128))))]
    pub gpus: Vec<String>,
    /// Processor threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 65_536)))]
    pub cpus: Option<u32>,
    /// Memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 1_073_741_824)))]
    pub memory_mib: Option<u32>,
    /// Block devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256)))]
    pub disks: Vec<Disk>,
    /// Network interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 64)))]
    pub nics: Vec<Nic>,
}

/// A block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Disk {
    /// Kernel name, without `/dev/`.
    #[cfg_attr(feature = "schemars", schemars(length(max = 64)))]
    pub name: String,
    /// Size in bytes.
    #[cfg_attr(feature = "schemars", schemars(range(min = 0)))]
    pub size_bytes: i64,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub serial: Option<String>,
    /// World Wide Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub wwn: Option<String>,
    /// Where it is plugged in, as udev names it below `/dev/disk/by-path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256)))]
    pub path: Option<String>,
    /// SCSI address, `host:channel:target:lun`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 64)))]
    pub hctl: Option<String>,
    /// Vendor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub vendor: Option<String>,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 128)))]
    pub model: Option<String>,
    /// `nvme`, `sata`, `sas`, `virtio`, `usb`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 32)))]
    pub bus: Option<String>,
    /// Bytes in a logical block, where that is not 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 65_536)))]
    pub block_bytes: Option<u32>,
    /// It can be taken out; it is never written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removable: bool,
    /// It cannot be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Whether it rotates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// What was found on it, in a person's words: `GPT with ext4 "root"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256)))]
    pub contents: Option<String>,
    /// Whose that is, where Athanor put it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<Marker>,
}

impl Disk {
    /// Whether somebody may take it out and put another one in: no place for an operating system, and not ours to wipe.
    pub fn can_be_taken_out(&self) -> bool {
        self.removable || self.bus.as_deref() == Some("usb")
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// Its hardware address.
    pub mac: MacAddr,
    /// Kernel name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 64)))]
    pub name: Option<String>,
    /// Kernel driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 64)))]
    pub driver: Option<String>,
    /// PCI address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 32)))]
    pub pci: Option<String>,
    /// Whether it has a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
    /// The switch and port at its other end, by LLDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(max = 256)))]
    pub neighbour: Option<String>,
    /// Link speed in Mbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(range(min = 0, max = 10_000_000)))]
    pub speed_mbps: Option<u32>,
}

/// SMBIOS UUIDs that many boards share because nobody filled them in; they identify nothing.
const WORTHLESS_UUIDS: [&str; 4] = [
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
];

/// Serial numbers that say only that nobody filled them in.
const WORTHLESS_SERIALS: [&str; 9] =
    ["", "0", "none", "not specified", "default string", "system serial number", "to be filled by o.e.m.", "0123456789", "123456789"];

/// Whether a UUID can tell two machines apart. Case does not matter.
pub fn identifies_by_uuid(uuid: &str) -> bool {
    !uuid.is_empty() && !WORTHLESS_UUIDS.contains(&uuid.to_ascii_lowercase().as_str())
}

/// Whether a serial number can tell two machines apart. Case and surrounding blanks do not matter.
pub fn identifies_by_serial(serial: &str) -> bool {
    !WORTHLESS_SERIALS.contains(&serial.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_filled_in_identifies_nothing() {
        assert!(!identifies_by_uuid("00000000-0000-0000-0000-000000000000"));
        assert!(!identifies_by_uuid("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"));
        assert!(identifies_by_uuid("4c4c4544-0042-3510-8052-b4c04f564433"));
        assert!(!identifies_by_serial(" To Be Filled By O.E.M. "));
        assert!(identifies_by_serial("S3Z8NB0K"));
    }
}
