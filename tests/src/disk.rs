//! Disks with an operating system on them: small enough to be made in a test, real enough for firmware to boot.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Firmware, Rack, guest, tools};

/// What a disk's operating system says on the serial console.
pub const SAYS: &str = "LOCAL-DISK-BOOTED";

/// A bootable disk for a firmware.
///
/// # Errors
/// A tool is missing.
pub fn bootable(rack: &Rack, firmware: Firmware) -> anyhow::Result<PathBuf> {
    let image = rack.file(&format!("disk-{firmware:?}.img"));
    match firmware {
        Firmware::Bios => fs::write(&image, boot_sector())?,
        Firmware::Uefi => esp(&image, &[])?,
        Firmware::SecureUefi => {
            let shim = guest::packaged("shim-signed", "usr/lib/shim/shimx64.efi.signed")?;
            let grub = guest::packaged("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")?;
            esp(&image, &[(&shim, "::/EFI/BOOT/BOOTX64.EFI"), (&grub, "::/EFI/BOOT/grubx64.efi")])?;
        }
    }
    Ok(image)
}

/// A master boot record that writes [`SAYS`] to the first serial port and stops; padded to a MiB.
fn boot_sector() -> Vec<u8> {
    let code: [u8; 21] = [
        0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
        0xbe, 0x15, 0x7c, // mov si, 0x7c15
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xac, // lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz stop
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
        0xf4, 0xeb, 0xfd, // stop: hlt; jmp stop
    ];
    let mut sector = vec![0; 1 << 20];
    sector[..code.len()].copy_from_slice(&code);
    let text = format!("\r\n{SAYS}\r\n\0");
    sector[code.len()..code.len() + text.len()].copy_from_slice(text.as_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn esp(image: &Path, more: &[(&Path, &str)]) -> anyhow::Result<()> {
    grub(image, 64 << 20, "32", &format!("echo {SAYS}\nwhile true; do sleep 60; done\n"), more)
}

/// A FAT file system with GRUB at the path that firmware looks for, what it does after it speaks on the serial port, and more files by the name
/// that they have there, which come in GRUB's place where they have its name.
pub(crate) fn grub(image: &Path, size: u64, fat: &str, does: &str, more: &[(&Path, &str)]) -> anyhow::Result<()> {
    fs::File::create(image)?.set_len(size)?;
    tools::run(Command::new("mkfs.vfat").args(["-F", fat]).arg(image))?;
    let folder = tempfile::TempDir::new()?;
    let config = folder.path().join("grub.cfg");
    fs::write(&config, format!("serial --unit=0 --speed=115200\nterminal_output serial\n{does}"))?;
    for path in ["::/EFI", "::/EFI/BOOT", "::/EFI/debian"] {
        tools::run(Command::new("mmd").arg("-i").arg(image).arg(path))?;
    }
    let copies = [
        (Path::new("/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi"), "::/EFI/BOOT/BOOTX64.EFI"),
        (config.as_path(), "::/EFI/debian/grub.cfg"),
        (config.as_path(), "::/EFI/BOOT/grub.cfg"),
    ];
    for (from, to) in copies.iter().chain(more) {
        tools::run(Command::new("mcopy").args(["-o", "-i"]).arg(image).arg(from).arg(to))?;
    }
    Ok(())
}
