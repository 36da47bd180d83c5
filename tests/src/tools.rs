//! Programs of the operating system that the rack needs, and the packages they are in.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

/// Program or file, and Debian's package for it.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("/usr/lib/ipxe/snponly.efi", "ipxe"),
    ("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
    ("xorriso", "xorriso"),
    ("/bin/busybox", "busybox-static"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mcopy", "mtools"),
    ("curl", "curl"),
    ("mkfs.vfat", "dosfstools"),
    ("/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi", "grub-efi-amd64-bin"),
    ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    ("grub-mkimage", "grub-common"),
];

/// Makes sure that everything is there. A missing tool is a failure, never a skipped test.
///
/// # Errors
/// Something is missing; the message is the command that installs it.
pub fn ensure() -> anyhow::Result<()> {
    let missing: Vec<&str> = NEEDED.iter().filter(|(tool, _)| !exists(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("the virtual rack needs more packages; install them with `make setup`, or: apt-get install {}", missing.join(" "))
}

/// The kubectl that `make setup` put into the cache, unless `KUBECTL` names another one.
///
/// # Errors
/// There is none.
pub fn kubectl() -> anyhow::Result<PathBuf> {
    let cached = crate::guest::cache()?.join("kubectl");
    let found = std::env::var_os("KUBECTL").map(Into::into).or_else(|| cached.exists().then_some(cached));
    found.context("kubectl is missing; `make setup` provides one")
}

/// A file that was built beside this program, by its path below the folder of what is built.
///
/// # Errors
/// It is not built; `how` says how it is.
pub fn built(path: &str, how: &str) -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    let found = me.ancestors().skip(1).take(4).map(|folder| folder.join(path)).find(|path| path.is_file());
    found.with_context(|| format!("{path} is not built; {how}"))
}

/// A file of the tree that the tests run in: cargo says where that is, `make` starts programs in it. The compiler's word would be that of
/// whichever clone built last into a shared folder.
pub fn source(path: &str) -> PathBuf {
    let tests = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("tests"), PathBuf::from);
    let path = tests.join("..").join(path);
    std::path::absolute(&path).unwrap_or(path)
}

fn exists(tool: &str) -> bool {
    if tool.starts_with('/') {
        return Path::new(tool).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(tool).exists())
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// It could not be started or failed; the message has its standard error.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?} could not be started"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
