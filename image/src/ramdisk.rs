//! The ramdisk that the machine-agent runs in: a kernel as its package has it, and one initramfs with the drivers of real servers.
//!
//! Modules tell in their `.modinfo` section what they need and which devices they are for (Documentation/kbuild/modules.rst); the agent loads
//! them by that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use crate::{newc::Archive, sha256};

/// Drivers of network cards, disk controllers, and the buses they are behind. What a kernel does not have is told and left out.
const DRIVERS: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_scsi",
    "e1000",
    "e1000e",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "iavf",
    "ice",
    "mlx4_core",
    "mlx4_en",
    "mlx5_core",
    "bnxt_en",
    "bnx2x",
    "r8169",
    "tg3",
    "atlantic",
    "be2net",
    "enic",
    "sfc",
    "qede",
    "vmxnet3",
    "hv_netvsc",
    "hv_storvsc",
    "realtek",
    "broadcom",
    "nvme",
    "ahci",
    "ata_piix",
    "sd_mod",
    "megaraid_sas",
    "mpt3sas",
    "mptsas",
    "smartpqi",
    "aacraid",
    "hpsa",
    "vmw_pvscsi",
    "xhci_pci",
    "ehci_pci",
    "uhci_hcd",
    "ohci_pci",
    "r8152",
    "ax88179_178a",
    "asix",
    "cdc_ether",
    "cdc_ncm",
    "8021q",
    "efivarfs",
    "usb_storage",
    "uas",
];
/// Loaded whatever devices there are.
const FIRST: &[&str] = &["efivarfs"];
/// The most that kernel and initramfs may be together: what a slow link carries in half a minute.
pub const MAX_SIZE: usize = 48 << 20;
/// How hard the initramfs is compressed: it is made once and fetched often.
const LEVEL: i32 = 19;

/// What goes in.
#[derive(Debug, Clone)]
pub struct Input {
    /// A kernel package, unpacked: `boot/vmlinuz-…` and `lib/modules/…`.
    pub kernel: PathBuf,
    /// The static agent.
    pub agent: PathBuf,
    /// Firmware files for `/lib/firmware`, if there are any.
    pub firmware: Option<PathBuf>,
}

/// What comes out.
#[derive(Debug, Clone)]
pub struct Ramdisk {
    /// The kernel.
    pub kernel: Vec<u8>,
    /// The initramfs, compressed.
    pub initramfs: Vec<u8>,
    /// What is in it, as JSON.
    pub manifest: String,
}

/// Builds a ramdisk. The same files give the same bytes.
///
/// # Errors
/// A file is missing, the agent is not static, or it all becomes too large.
pub fn build(input: &Input) -> anyhow::Result<Ramdisk> {
    let kernel_file = newest(&input.kernel.join("boot"), "vmlinuz-")?;
    let version = kernel_file
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix("vmlinuz-"))
        .unwrap_or_default()
        .to_owned();
    let modules = Modules::read(&input.kernel.join("lib/modules").join(&version))?;
    let chosen = modules.closure(DRIVERS);
    let agent = fs::read(&input.agent).with_context(|| input.agent.display().to_string())?;
    ensure!(crate::is_static(&agent), "{} is not a static program: an initramfs has no libraries", input.agent.display());
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "modules"] {
        archive.folder(folder);
    }
    archive.file("init", &agent);
    for name in &chosen {
        archive.file(&format!("modules/{name}.ko"), &modules.all[name].bytes);
    }
    let index = modules.index(&chosen);
    for (name, text) in [("alias", &index.0), ("needs", &index.1), ("first", &FIRST.join("\n"))] {
        archive.file(&format!("modules/{name}"), text.as_bytes());
    }
    let firmware = input.firmware.as_deref().map(|folder| firmware(folder, &mut archive)).transpose()?.unwrap_or_default();
    let initramfs = zstd::bulk::compress(&archive.finish(), LEVEL)?;
    let kernel = fs::read(&kernel_file)?;
    let size = kernel.len() + initramfs.len();
    ensure!(size <= MAX_SIZE, "the ramdisk has {size} bytes, more than {MAX_SIZE}: leave firmware out");
    let missing: Vec<&&str> = DRIVERS.iter().filter(|name| !chosen.contains(**name)).collect();
    let manifest = json!({
        "kernel": { "version": version, "size": kernel.len(), "sha256": sha256(&kernel) },
        "initramfs": { "size": initramfs.len(), "sha256": sha256(&initramfs) },
        "agent": { "size": agent.len(), "sha256": sha256(&agent) },
        "modules": chosen, "missing": missing, "firmware": firmware,
    });
    Ok(Ramdisk { kernel, initramfs, manifest: serde_json::to_string_pretty(&manifest)? + "\n" })
}

fn newest(folder: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).with_context(|| folder.display().to_string())?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    found.sort();
    found.pop().with_context(|| format!("{} has no {prefix}…", folder.display()))
}

/// Puts a folder's files below `/lib/firmware`; returns their names.
fn firmware(folder: &Path, archive: &mut Archive) -> anyhow::Result<Vec<String>> {
    let (mut names, mut folders) = (Vec::new(), BTreeSet::new());
    for path in files(folder)? {
        let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
        let whole = format!("lib/firmware/{name}");
        let mut parents: Vec<&Path> = Path::new(&whole).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
        parents.reverse();
        for parent in parents {
            if folders.insert(parent.to_owned()) {
                archive.folder(&parent.to_string_lossy());
            }
        }
        archive.file(&whole, &fs::read(&path)?);
        names.push(name);
    }
    Ok(names)
}

/// All files below a folder, in order.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { all.extend(files(&path)?) } else { all.push(path) }
    }
    all.sort();
    Ok(all)
}

struct Module {
    bytes: Vec<u8>,
    depends: Vec<String>,
    aliases: Vec<String>,
}

struct Modules {
    all: BTreeMap<String, Module>,
}

/// The kernel takes `-` and `_` for the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

impl Modules {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut all = BTreeMap::new();
        for path in files(&folder.join("kernel"))? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some((stem, packing)) = name.split_once(".ko") else { continue };
            // All the file names are known before any file is read: of thousands of modules, some hundred are looked at.
            all.insert(plain(stem), (path, packing.to_owned()));
        }
        ensure!(!all.is_empty(), "{} has no modules", folder.display());
        let mut modules = Self { all: BTreeMap::new() };
        let mut todo: Vec<String> = DRIVERS.iter().map(|name| plain(name)).collect();
        while let Some(name) = todo.pop() {
            let Some((path, packing)) = all.get(&name).filter(|_| !modules.all.contains_key(&name)) else { continue };
            let module = Module::parse(unpacked(path, packing)?).with_context(|| path.display().to_string())?;
            todo.extend(module.depends.iter().cloned());
            modules.all.insert(name, module);
        }
        Ok(modules)
    }

    /// Drivers with all they need, as far as this kernel has them.
    fn closure(&self, drivers: &[&str]) -> BTreeSet<String> {
        let (mut chosen, mut todo) = (BTreeSet::new(), drivers.iter().map(|name| plain(name)).collect::<Vec<_>>());
        while let Some(name) = todo.pop() {
            if let Some(module) = self.all.get(&name).filter(|_| !chosen.contains(&name)) {
                todo.extend(module.depends.iter().cloned());
                chosen.insert(name);
            }
        }
        chosen
    }

    /// Which device asks for which module, and what each module needs, in the order they are loaded.
    fn index(&self, chosen: &BTreeSet<String>) -> (String, String) {
        let (mut aliases, mut needs) = (String::new(), String::new());
        for name in chosen {
            for alias in &self.all[name].aliases {
                aliases.push_str(&format!("{alias} {name}\n"));
            }
            let mut chain = Vec::new();
            self.before(name, &mut chain);
            if !chain.is_empty() {
                needs.push_str(&format!("{name} {}\n", chain.join(" ")));
            }
        }
        (aliases, needs)
    }

    fn before(&self, name: &str, chain: &mut Vec<String>) {
        for dependency in self.all.get(name).iter().flat_map(|module| &module.depends) {
            if self.all.contains_key(dependency) && !chain.contains(dependency) {
                self.before(dependency, chain);
                if !chain.contains(dependency) {
                    chain.push(dependency.clone());
                }
            }
        }
    }
}

/// A module as the kernel takes it: packages have them plain, or compressed by xz or zstd.
fn unpacked(path: &Path, packing: &str) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    match packing {
        "" => Ok(bytes),
        ".zst" => Ok(zstd::stream::decode_all(bytes.as_slice())?),
        _ => bail!("{}: modules compressed as {packing} are not read here; unpack them first", path.display()),
    }
}

impl Module {
    fn parse(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let info = section(&bytes, ".modinfo").context("it has no .modinfo")?;
        let fields: Vec<(String, String)> = info
            .split(|byte| *byte == 0)
            .filter_map(|field| String::from_utf8_lossy(field).split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
            .collect();
        let all = |key: &str| fields.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect::<Vec<_>>();
        let hard = all("depends").iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).map(plain).collect::<Vec<_>>();
        // `softdep=pre: realtek post: x`: what should be there before.
        let soft = all("softdep").into_iter().flat_map(|text| {
            let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
            let before = words.iter().skip_while(|word| *word != "pre:").skip(1).take_while(|word| !word.ends_with(':'));
            before.map(|name| plain(name)).collect::<Vec<_>>()
        });
        Ok(Self {
            depends: hard.iter().cloned().chain(soft).collect(),
            aliases: all("alias").into_iter().filter(|alias| !alias.contains(' ')).collect(),
            bytes,
        })
    }
}

/// A section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let number = |at: usize, size: usize| -> Option<usize> {
        elf.get(at..at + size)?.iter().rev().try_fold(0_usize, |sum, byte| Some(sum << 8 | usize::from(*byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (start, size, count, names) = (number(40, 8)?, number(58, 2)?, number(60, 2)?, number(62, 2)?);
    let header = |index: usize| {
        Some((number(start + index * size, 4)?, number(start + index * size + 24, 8)?, number(start + index * size + 32, 8)?))
    };
    let (_, strings, _) = header(names)?;
    (0..count).filter_map(header).find_map(|(at, offset, length)| {
        let text = elf.get(strings + at..)?;
        let found = text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0);
        found.then(|| elf.get(offset..offset + length)).flatten()
    })
}
