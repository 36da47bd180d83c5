//! Loaders: what firmware is given first, by the architecture it says it is.
//!
//! A loader is a chain: its first file, and the files that one asks for. The inventory comes from distribution packages and from a folder
//! that a user may fill; what is missing is said at the start and in the `no-loader` row.

use std::{collections::BTreeMap, fmt};

use athanor_crds::{Architecture, Firmware};

/// A client system architecture: DHCP option 93 (RFC 4578, and the IANA registry of processor architecture types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientArch(pub u16);

impl ClientArch {
    /// x86 BIOS, also what a client without option 93 is taken for.
    pub const X86_BIOS: Self = Self(0);
    /// x86-64 UEFI, as nearly all firmware says it ("EFI BC").
    pub const X64_UEFI: Self = Self(7);

    /// Processor and firmware, where the number is known.
    pub fn machine(self) -> Option<(Architecture, Firmware)> {
        use Architecture::{Amd64, Arm, Arm64, I386, Riscv64};
        Some(match self.0 {
            0 | 20 => (Amd64, Firmware::Bios),
            6 | 15 => (I386, Firmware::Uefi),
            7 | 9 | 16 => (Amd64, Firmware::Uefi),
            10 | 18 => (Arm, Firmware::Uefi),
            11 | 19 => (Arm64, Firmware::Uefi),
            27 | 28 => (Riscv64, Firmware::Uefi),
            _ => return None,
        })
    }
}

impl fmt::Display for ClientArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.machine() {
            Some((architecture, firmware)) => write!(f, "{firmware} {architecture}"),
            None => write!(f, "architecture {}", self.0),
        }
    }
}

/// One chain: what is offered first, and what else belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// Its name, as `spec.loader` chooses it.
    pub name: String,
    /// For which processors.
    pub architecture: Architecture,
    /// For which firmware.
    pub firmware: Firmware,
    /// The file that DHCP names.
    pub first: String,
}

/// The loaders that an agent has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaders {
    chains: Vec<Loader>,
    files: BTreeMap<String, String>,
}

/// File names that mean a loader, best first for each machine. Those of iPXE are Debian's; users fill the folder with the same names.
const KNOWN: &[(&str, &str, Architecture, Firmware)] = &[
    ("ipxe", "undionly.kpxe", Architecture::Amd64, Firmware::Bios),
    ("ipxe-native", "ipxe.pxe", Architecture::Amd64, Firmware::Bios),
    ("ipxe", "snponly.efi", Architecture::Amd64, Firmware::Uefi),
    ("ipxe-native", "ipxe.efi", Architecture::Amd64, Firmware::Uefi),
    ("ipxe", "snponly-arm64.efi", Architecture::Arm64, Firmware::Uefi),
    ("ipxe", "snponly-i386.efi", Architecture::I386, Firmware::Uefi),
];

impl Loaders {
    /// An inventory from files that exist: name as clients ask for it → where it is. The first mention of a name wins.
    pub fn from_files(found: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut files = BTreeMap::new();
        for (name, place) in found {
            files.entry(name).or_insert(place);
        }
        let chains = KNOWN
            .iter()
            .filter(|(_, file, ..)| files.contains_key(*file))
            .map(|&(name, file, architecture, firmware)| Loader { name: name.to_owned(), architecture, firmware, first: file.to_owned() })
            .collect();
        Self { chains, files }
    }

    /// The loader for a client: the named chain where one was chosen and has this architecture, else the architecture's first.
    pub fn select(&self, arch: ClientArch, chosen: Option<&str>) -> Option<&Loader> {
        let (architecture, firmware) = arch.machine()?;
        let fits = |loader: &&Loader| loader.architecture == architecture && loader.firmware == firmware;
        chosen.and_then(|name| self.chains.iter().filter(fits).find(|loader| loader.name == name)).or_else(|| self.chains.iter().find(fits))
    }

    /// Where a loader's file is, by the name clients ask for.
    pub fn file(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    /// What the two common kinds of machine would miss, for a line at the start.
    pub fn missing(&self) -> Vec<ClientArch> {
        [ClientArch::X86_BIOS, ClientArch::X64_UEFI].into_iter().filter(|arch| self.select(*arch, None).is_none()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Loaders {
        Loaders::from_files(
            ["undionly.kpxe", "snponly.efi", "ipxe.efi", "README"].map(|name| (name.to_owned(), format!("/usr/lib/ipxe/{name}"))),
        )
    }

    #[test]
    fn each_architecture_gets_its_loader() {
        let loaders = debian();
        let first = |arch, chosen| loaders.select(ClientArch(arch), chosen).map(|loader| loader.first.as_str());
        assert_eq!(first(0, None), Some("undionly.kpxe"));
        assert_eq!(first(7, None), Some("snponly.efi"));
        assert_eq!(first(9, Some("ipxe-native")), Some("ipxe.efi"));
        assert_eq!(first(7, Some("no-such-chain")), Some("snponly.efi"));
        assert_eq!(first(11, None), None);
        assert_eq!(first(4711, None), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(debian().missing().is_empty());
        assert_eq!(Loaders::default().missing().iter().map(ToString::to_string).collect::<Vec<_>>(), ["BIOS amd64", "UEFI amd64"]);
    }
}
