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
    /// What that asks for next.
    pub then: &'static [&'static str],
}

/// The loaders that an agent has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaders {
    chains: Vec<Loader>,
    files: BTreeMap<String, String>,
}

/// What starts the disk of UEFI that would ask on for minutes if it were given nothing.
pub const LOCAL_DISK: &str = "local-disk.efi";
/// The same for 64-bit ARM.
pub const LOCAL_DISK_ARM64: &str = "local-disk-arm64.efi";
/// A file that is no loader, for processors that have no such program: firmware cannot start it, and goes on.
pub const NO_LOADER: &str = "no-loader.efi";
/// What is in it.
pub const NO_LOADER_TEXT: &str = "This starts nothing. The machine boots its own disk.\n";

/// What UEFI is named where it is to boot its own disk.
pub fn local_disk(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => LOCAL_DISK,
        Architecture::Arm64 => LOCAL_DISK_ARM64,
        _ => NO_LOADER,
    }
}

/// A chain that may be there: its name, its first file, what that needs beside it, and for whom it is.
type Known = (&'static str, &'static str, &'static [&'static str], Architecture, Firmware);

/// The chains, best first for each machine. Files are called as Debian's packages call them; users fill the folder with the same names. Where
/// shim is there, it comes first: firmware with Secure Boot starts nothing else, and without it GRUB boots as well.
const KNOWN: &[Known] = &[
    ("ipxe", "undionly.kpxe", &[], Architecture::Amd64, Firmware::Bios),
    ("ipxe-native", "ipxe.pxe", &[], Architecture::Amd64, Firmware::Bios),
    ("pxelinux", "lpxelinux.0", &["ldlinux.c32"], Architecture::Amd64, Firmware::Bios),
    ("shim", "shimx64.efi", &["grubx64.efi"], Architecture::Amd64, Firmware::Uefi),
    ("ipxe", "snponly.efi", &[], Architecture::Amd64, Firmware::Uefi),
    ("ipxe-native", "ipxe.efi", &[], Architecture::Amd64, Firmware::Uefi),
    ("grub", "grubx64.efi", &[], Architecture::Amd64, Firmware::Uefi),
    ("shim", "shimaa64.efi", &["grubaa64.efi"], Architecture::Arm64, Firmware::Uefi),
    ("ipxe", "snponly-arm64.efi", &[], Architecture::Arm64, Firmware::Uefi),
    ("grub", "grubaa64.efi", &[], Architecture::Arm64, Firmware::Uefi),
    ("ipxe", "snponly-i386.efi", &[], Architecture::I386, Firmware::Uefi),
    ("grub", "grubia32.efi", &[], Architecture::I386, Firmware::Uefi),
    ("ipxe", "snponly-arm32.efi", &[], Architecture::Arm, Firmware::Uefi),
    ("grub", "grubarm.efi", &[], Architecture::Arm, Firmware::Uefi),
    ("ipxe", "snponly-riscv64.efi", &[], Architecture::Riscv64, Firmware::Uefi),
    ("grub", "grubriscv64.efi", &[], Architecture::Riscv64, Firmware::Uefi),
];

/// Files that packages call otherwise than the loader before them asks for.
const ALIASES: [(&str, &str); 4] = [
    ("shimx64.efi.signed", "shimx64.efi"),
    ("grubnetx64.efi.signed", "grubx64.efi"),
    ("shimaa64.efi.signed", "shimaa64.efi"),
    ("grubnetaa64.efi.signed", "grubaa64.efi"),
];

impl Loaders {
    /// An inventory from files that exist: name as clients ask for it → where it is. The first mention of a name wins.
    pub fn from_files(found: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut files = BTreeMap::new();
        for (name, place) in found {
            files.entry(name).or_insert(place);
        }
        for (packaged, asked) in ALIASES {
            if let Some(place) = files.get(packaged).cloned() {
                files.entry(asked.to_owned()).or_insert(place);
            }
        }
        let whole = |(_, first, then, ..): &&Known| std::iter::once(first).chain(*then).all(|file| files.contains_key(*file));
        let chains = KNOWN
            .iter()
            .filter(whole)
            .map(|&(name, first, then, architecture, firmware)| Loader {
                name: name.to_owned(),
                architecture,
                firmware,
                first: first.to_owned(),
                then,
            })
            .collect();
        Self { chains, files }
    }

    /// Chains that begin and do not go on, in words.
    pub fn incomplete(&self) -> Vec<String> {
        let begun = KNOWN.iter().filter(|(_, first, ..)| self.files.contains_key(*first));
        begun
            .filter_map(|(name, first, then, ..)| {
                let lacking: Vec<&str> = then.iter().copied().filter(|file| !self.files.contains_key(*file)).collect();
                (!lacking.is_empty()).then(|| format!("loader {name}: {first} is there, but not {}", lacking.join(", ")))
            })
            .collect()
    }

    /// The loader for a client: the named chain where one was chosen and has this architecture, else the architecture's first.
    pub fn select(&self, arch: ClientArch, chosen: Option<&str>) -> Option<&Loader> {
        let (architecture, firmware) = arch.machine()?;
        let fits = |loader: &&Loader| loader.architecture == architecture && loader.firmware == firmware;
        chosen.and_then(|name| self.chains.iter().filter(fits).find(|loader| loader.name == name)).or_else(|| self.chains.iter().find(fits))
    }

    /// Whether a chain begins with a file.
    pub fn begins_with(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain.first == name) && !self.chains.iter().any(|chain| chain.then.contains(&name))
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
    fn every_chain_can_be_chosen_by_name_and_nothing_else() {
        let known: std::collections::BTreeSet<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
        assert!(known.into_iter().eq(athanor_crds::LOADERS));
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
    fn shim_comes_first_where_its_chain_is_whole() {
        let with = |more: &[&str]| {
            let files = ["snponly.efi", "shimx64.efi.signed"].iter().chain(more).map(|name| ((*name).to_owned(), format!("/x/{name}")));
            Loaders::from_files(files)
        };
        let first = |loaders: &Loaders, chosen| loaders.select(ClientArch::X64_UEFI, chosen).map(|loader| loader.first.clone());
        let (half, whole) = (with(&[]), with(&["grubnetx64.efi.signed"]));
        assert_eq!(first(&half, None).as_deref(), Some("snponly.efi"));
        assert_eq!(half.incomplete(), ["loader shim: shimx64.efi is there, but not grubx64.efi"]);
        assert_eq!(first(&whole, None).as_deref(), Some("shimx64.efi"));
        assert_eq!(first(&whole, Some("ipxe")).as_deref(), Some("snponly.efi"));
        assert_eq!(whole.file("grubx64.efi"), Some("/x/grubnetx64.efi.signed"));
        assert!(whole.incomplete().is_empty());
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(debian().missing().is_empty());
        assert_eq!(Loaders::default().missing().iter().map(ToString::to_string).collect::<Vec<_>>(), ["BIOS amd64", "UEFI amd64"]);
    }
}
