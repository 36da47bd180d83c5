//! The rows of the decision table, by name.

use std::fmt;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Row {
    /// Not parseable.
    Malformed,
    /// A probe for other servers: our own, or that of another installation.
    Sibling,
    /// Not in a served subnet, mode off, or meant for another server.
    NotOurs,
    /// It wants an address that it cannot have here.
    Nak,
    /// It asks for options only.
    Inform,
    /// It gives its address back.
    Release,
    /// Somebody else uses its address.
    Decline,
    /// Known, and its plan is to run from disk.
    LocalDisk,
    /// A Raspberry Pi.
    RaspberryPi,
    /// iPXE.
    Ipxe,
    /// UEFI HTTP Boot.
    HttpBoot,
    /// BIOS PXE.
    PxeBios,
    /// UEFI PXE.
    PxeUefi,
    /// U-Boot.
    UBoot,
    /// An architecture without a loader.
    NoLoader,
    /// Known, and no network boot.
    Address,
    /// Anybody else.
    Other,
    /// Nobody accepted it, and another server boots it.
    Theirs,
    /// A newcomer that waits for its plan.
    Held,
    /// A newcomer beyond the limits.
    Limited,
}

impl Row {
    /// Every row.
    pub const ALL: [Self; 20] = [
        Self::Malformed,
        Self::Sibling,
        Self::NotOurs,
        Self::Nak,
        Self::Inform,
        Self::Release,
        Self::Decline,
        Self::LocalDisk,
        Self::RaspberryPi,
        Self::Ipxe,
        Self::HttpBoot,
        Self::PxeBios,
        Self::PxeUefi,
        Self::UBoot,
        Self::NoLoader,
        Self::Address,
        Self::Other,
        Self::Theirs,
        Self::Held,
        Self::Limited,
    ];

    /// Its name, as `explain` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Sibling => "sibling",
            Self::NotOurs => "not-ours",
            Self::Nak => "nak",
            Self::Inform => "inform",
            Self::Release => "release",
            Self::Decline => "decline",
            Self::LocalDisk => "local-disk",
            Self::RaspberryPi => "raspberry-pi",
            Self::Ipxe => "ipxe",
            Self::HttpBoot => "http-boot",
            Self::PxeBios => "pxe-bios",
            Self::PxeUefi => "pxe-uefi",
            Self::UBoot => "u-boot",
            Self::NoLoader => "no-loader",
            Self::Address => "address",
            Self::Other => "other",
            Self::Theirs => "theirs",
            Self::Held => "held",
            Self::Limited => "limited",
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
