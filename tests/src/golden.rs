//! A golden image: a small Linux with its own boot loader, for BIOS and UEFI alike, that reads what it was given beside the image.
//!
//! ```text
//!   | boot.img, core.img (GRUB for BIOS) | FAT: EFI/BOOT/BOOTX64.EFI, grub.cfg, vmlinuz, initrd |
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use athanor_image::newc::Archive;

use crate::{disk, guest, tools};

/// What it says on the serial console, before what its user-data says.
pub const SAYS: &str = "GOLDEN-BOOTED";

/// Where the file system begins: behind GRUB.
const START: u64 = 1 << 20;
/// The size of the file system.
const SIZE: u64 = 44 << 20;
/// Room for GRUB's own core between the first sector and the file system.
const MAX_CORE: usize = (START - 512) as usize;

/// Linux's drivers for the disks that machines of the rack have.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "crct10dif_common",
    "crc-t10dif",
    "crc64",
    "crc64-rocksoft",
    "t10-pi",
    "nvme-core",
    "nvme",
    "scsi_common",
    "scsi_mod",
    "libata",
    "libahci",
    "ahci",
    "sd_mod",
    "failover",
    "net_failover",
    "virtio_net",
];

/// What GRUB does.
const DOES: &str = "linux /vmlinuz console=ttyS0 quiet\ninitrd /initrd\nboot\n";

/// What it runs: it looks for user-data on every disk, and says what it found; and it phones home, as cloud-init does.
const INIT: &str = r#"found=none
for part in /dev/vda2 /dev/sda2 /dev/nvme0n1p2; do
  for try in 1 2 3 4 5 6 7 8 9 10; do [ -b "$part" ] && break; sleep 0.1; done
  [ -b "$part" ] || continue
  used=$part
  found=$(strings -n 6 "$part" | grep '"hostname"' | head -n 1)
  home=$(strings -n 6 "$part" | sed -n 's/.*"phone_home".*"url":"\([^"]*\)".*/\1/p' | head -n 1)
done
echo "GOLDEN-BOOTED $(uname -r) $found"
for card in /sys/class/net/e*; do card=${card##*/}; done
ip link set "$card" up
udhcpc -i "$card" -n -q -t 20 -T 1 -s /udhcpc.sh
# What cloud-init does with the second part of vendor-data, and as much of a systemd as that asks for.
mkdir -p /tmp /etc
printf '#!/bin/sh\ncase "$*" in\n  restart*) $(sed -n s/^ExecStart=//p /etc/systemd/system/athanor-release.service) & ;;\n  reboot) reboot -f ;;\nesac\n' >/bin/systemctl
chmod +x /bin/systemctl
strings -n 1 "$used" | sed -n '/^#!\/bin\/sh/,/^--=-athanor/p' | grep -v '^--' >/tmp/hook
sh /tmp/hook
while [ -n "$home" ]; do
  wget -q -O /dev/null --post-data "hostname=golden&pub_key_ed25519=ssh-ed25519+AAAAC3Nz+root" "$home" && break
  sleep 3
done
while true; do sleep 3600; done
"#;

/// Makes the image, or finds it in the cache.
///
/// # Errors
/// A tool or a package cannot be had.
pub fn image() -> anyhow::Result<PathBuf> {
    tools::ensure()?;
    let (package, kernel) = guest::full_kernel()?;
    let folder = guest::cache()?.join("golden");
    fs::create_dir_all(&folder)?;
    // Tests of several processes make it one after the other, each whole.
    let lock = fs::File::create(folder.join("lock"))?;
    lock.lock()?;
    let (image, stamp) = (folder.join("golden.raw"), folder.join("stamp"));
    // A file system has a serial number: an image is made once, or it would not be what another test has promised.
    let version = format!("{INIT}{DOES}{}", kernel.display());
    if image.exists() && fs::read_to_string(&stamp).is_ok_and(|made| made == version) {
        return Ok(image);
    }
    let (initrd, system) = (folder.join("initrd"), folder.join("system.fat"));
    fs::write(&initrd, initramfs(&package)?)?;
    let more = [(kernel.as_path(), "::/vmlinuz"), (initrd.as_path(), "::/initrd")];
    disk::grub(&system, SIZE, "16", DOES, &more)?;
    let mut bytes = fs::read("/usr/lib/grub/i386-pc/boot.img")?;
    bytes.resize(512, 0);
    partition_table(&mut bytes);
    let core = core(&folder)?;
    anyhow::ensure!(core.len() <= MAX_CORE, "GRUB's core has {} bytes", core.len());
    bytes.extend(core);
    bytes.resize(START as usize, 0);
    bytes.extend(fs::read(&system)?);
    fs::write(folder.join("golden.new"), bytes)?;
    fs::rename(folder.join("golden.new"), &image)?;
    fs::write(stamp, version)?;
    Ok(image)
}

/// One partition, of the type that UEFI looks for.
fn partition_table(sector: &mut [u8]) {
    // GRUB has code for floppies there.
    sector[446..510].fill(0);
    sector[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0xEF, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0]);
    sector[454..458].copy_from_slice(&((START / 512) as u32).to_le_bytes());
    sector[458..462].copy_from_slice(&((SIZE / 512) as u32).to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xAA]);
}

/// GRUB for BIOS, which finds its configuration on the first partition.
fn core(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let out = folder.join("core.img");
    let modules = ["biosdisk", "part_msdos", "fat", "normal", "linux", "serial", "terminal", "echo"];
    tools::run(Command::new("grub-mkimage").args(["-O", "i386-pc", "-p", "(hd0,msdos1)/EFI/debian", "-o"]).arg(&out).args(modules))?;
    Ok(fs::read(out)?)
}

fn initramfs(package: &Path) -> anyhow::Result<Vec<u8>> {
    guest::archive(INIT, package, MODULES).map(Archive::finish)
}
