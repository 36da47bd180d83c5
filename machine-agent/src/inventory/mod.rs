//! What the machine is made of, as Linux tells it below `/sys` and `/proc`. No program is run, nothing is written.

mod contents;
mod disks;
mod nics;

use std::{collections::BTreeSet, fs, path::Path};

use athanor_wire::Inventory;

pub use self::contents::describe;
use self::{disks::disks, nics::nics};

/// The most display controllers that are told.
const MAX_GPUS: usize = 64;
/// The most processor flags.
const MAX_FLAGS: usize = 512;

/// Looks at everything below a root folder: `/`, or a test's.
pub fn take(root: &Path) -> Inventory {
    let dmi = |name: &str| word(&root.join("sys/class/dmi/id").join(name));
    let cpus = Processors::read(&fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default());
    let bios = [dmi("bios_vendor"), dmi("bios_version"), dmi("bios_date")].into_iter().flatten().collect::<Vec<_>>().join(" ");
    Inventory {
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        serial: dmi("product_serial"),
        uuid: dmi("product_uuid").map(|uuid| uuid.to_lowercase().chars().take(36).collect()),
        bios: Some(bios).filter(|bios| !bios.is_empty()),
        firmware: Some(if root.join("sys/firmware/efi").exists() { "UEFI" } else { "BIOS" }.to_owned()),
        cpu_model: cpus.model,
        sockets: cpus.sockets,
        cores: cpus.cores,
        cpu_flags: cpus.flags,
        cpus: cpus.threads,
        memory_mib: memory(root),
        tpm: tpm(root),
        gpus: gpus(root),
        disks: disks(root),
        nics: nics(root),
    }
}

/// The text of a small file, if there is any.
fn word(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let plain: String = text.chars().filter(|c| !c.is_control()).take(128).collect();
    Some(plain.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(path: &Path) -> Option<u64> {
    word(path)?.parse().ok()
}

/// The name of what a link points to.
fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// Names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[derive(Default)]
struct Processors {
    model: Option<String>,
    sockets: Option<u32>,
    cores: Option<u32>,
    threads: Option<u32>,
    flags: Vec<String>,
}

impl Processors {
    fn read(text: &str) -> Self {
        let (mut all, mut sockets, mut cores, mut threads) = (Self::default(), BTreeSet::new(), BTreeSet::new(), 0);
        for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
            let field = |name: &str| {
                let line = block.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
                line.split_once(':').map(|(_, value)| value.trim().to_owned())
            };
            if field("processor").is_none() {
                continue;
            }
            threads += 1;
            let socket = field("physical id").unwrap_or_default();
            cores.insert((socket.clone(), field("core id").unwrap_or_else(|| threads.to_string())));
            sockets.insert(socket);
            if all.model.is_none() {
                all.model = field("model name").map(|model| model.chars().take(128).collect());
                all.flags = field("flags")
                    .unwrap_or_default()
                    .split_ascii_whitespace()
                    .filter(|flag| flag.len() <= 32)
                    .take(MAX_FLAGS)
                    .map(str::to_owned)
                    .collect();
            }
        }
        let count = |many: usize| u32::try_from(many).ok().filter(|many| *many > 0);
        all.sockets = count(sockets.len());
        all.cores = count(cores.len());
        all.threads = Some(threads).filter(|threads| *threads > 0);
        all
    }
}

/// What is plugged in, as far as Linux may use it: firmware keeps a little.
fn memory(root: &Path) -> Option<u32> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().trim_end_matches("kB").trim().parse().ok()?;
    u32::try_from(kib / 1024).ok()
}

fn tpm(root: &Path) -> Option<String> {
    let folder = root.join("sys/class/tpm");
    let first = names(&folder).into_iter().next()?;
    let major = word(&folder.join(first).join("tpm_version_major"))?;
    Some(if major == "2" { "2.0".to_owned() } else { "1.2".to_owned() })
}

/// PCI class 03: what shows pictures, and what calculates (12).
fn gpus(root: &Path) -> Vec<String> {
    let folder = root.join("sys/bus/pci/devices");
    let device = |address: String| {
        let place = folder.join(&address);
        let class = word(&place.join("class"))?;
        if !class.starts_with("0x03") && !class.starts_with("0x12") {
            return None;
        }
        let (vendor, device) = (word(&place.join("vendor"))?, word(&place.join("device"))?);
        let driver = link_name(&place.join("driver")).map(|driver| format!(" ({driver})")).unwrap_or_default();
        Some(format!("{address} {}:{}{driver}", vendor.trim_start_matches("0x"), device.trim_start_matches("0x")))
    };
    names(&folder).into_iter().filter_map(device).take(MAX_GPUS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files below a folder, by path.
    pub(super) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_server_with_two_sockets() {
        let cpu = |index: u32, socket: u32, core: u32| {
            format!("processor\t: {index}\nmodel name\t: Xeon\nphysical id\t: {socket}\ncore id\t\t: {core}\nflags\t\t: fpu sha_ni\n\n")
        };
        let cpus = [cpu(0, 0, 0), cpu(1, 0, 0), cpu(2, 1, 0), cpu(3, 1, 0)].concat();
        let root = tree(&[
            ("proc/cpuinfo", &cpus),
            ("proc/meminfo", "MemTotal:       16314592 kB\nMemFree: 1 kB\n"),
            ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n"),
            ("sys/class/dmi/id/product_uuid", "4C4C4544-0042-3510-8052-B4C04F564433\n"),
            ("sys/class/dmi/id/bios_version", "2.1\n"),
            ("sys/class/tpm/tpm0/tpm_version_major", "2\n"),
            ("sys/firmware/efi/fw_platform_size", "64"),
            ("sys/bus/pci/devices/0000:01:00.0/class", "0x030000"),
            ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de"),
            ("sys/bus/pci/devices/0000:01:00.0/device", "0x20b5"),
            ("sys/bus/pci/devices/0000:02:00.0/class", "0x020000"),
        ]);
        let all = take(root.path());
        assert_eq!((all.sockets, all.cores, all.cpus, all.memory_mib), (Some(2), Some(2), Some(4), Some(15932)));
        assert_eq!((all.vendor.as_deref(), all.bios.as_deref(), all.firmware.as_deref()), (Some("Dell Inc."), Some("2.1"), Some("UEFI")));
        assert_eq!(all.uuid.as_deref(), Some("4c4c4544-0042-3510-8052-b4c04f564433"));
        assert_eq!((all.tpm.as_deref(), all.gpus), (Some("2.0"), vec!["0000:01:00.0 10de:20b5".to_owned()]));
        assert_eq!(all.cpu_flags, ["fpu", "sha_ni"]);
    }

    #[test]
    fn an_empty_root_is_an_empty_inventory() {
        let root = tree(&[]);
        assert_eq!(take(root.path()), Inventory { firmware: Some("BIOS".into()), ..Inventory::default() });
    }
}
