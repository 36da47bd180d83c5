//! A guest operating system: Debian's kernel, a one-file initramfs, and an ISO that holds both. Made at test time, kept in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use athanor_image::newc::Archive;

use crate::tools;

/// The modules that a virtio network card needs, in the order they are loaded.
const MODULES: &[&str] =
    &["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover", "virtio_net"];

/// How every guest begins.
const BEGINS: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
exec >/dev/console 2>&1 </dev/console
export PATH=/bin
busybox --install -s /bin
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
"#;

/// What the guest runs: it takes its address by DHCP, reports to the URL on its command line, and says so on the console.
const INIT: &str = r#"ip link set lo up
for card in /sys/class/net/e*; do card=${card##*/}; done
ip link set "$card" up
udhcpc -i "$card" -n -q -t 20 -T 1 -s /udhcpc.sh
report=$(sed -n 's/.*athanor.report=\([^ ]*\).*/\1/p' /proc/cmdline)
fail=$(sed -n 's/.*guest.fail=\([^ ]*\).*/\1/p' /proc/cmdline)
outcome=Success; [ -n "$fail" ] && outcome=Failure
seed=$(sed -n 's/.*ds=nocloud;s=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$seed" ]; then
  # What cloud-init does: it reads its data, and phones home when it is done.
  echo "ATHANOR-SEED $(wget -q -O - "${seed}meta-data" | tr '\n' ' ') $(wget -q -O - "${seed}user-data" | tr '\n' ' ')"
  home=$(wget -q -O - "${seed}vendor-data" | sed -n 's/.*"phone_home".*"url":"\([^"]*\)".*/\1/p')
  name=$(wget -q -O - "${seed}latest/meta-data/local-hostname")
  wget -q -O /dev/null --post-data "hostname=$name&pub_key_ed25519=ssh-ed25519+AAAAC3Nz+root" "$home" && report=
fi
message="Linux $(uname -r) on $(cat /sys/class/dmi/id/product_name) $fail"
if [ -n "$report" ]; then
  # Whoever takes the report may be away for a while.
  (while true; do
    wget -q -O /dev/null --header 'Content-Type: application/json' --post-data "{\"outcome\":\"$outcome\",\"message\":\"$message\"}" "$report" && break
    sleep 3
  done
  echo "ATHANOR-REPORTED $outcome") &
fi
echo "ATHANOR-GUEST $(uname -r) mac $(cat /sys/class/net/$card/address) address $(ip -4 -o addr show dev $card | awk '{print $4}') cmdline $(cat /proc/cmdline)"
while true; do sleep 3600; done
"#;

/// What udhcpc does with a lease.
const UDHCPC: &str = r#"#!/bin/busybox sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/$mask" dev "$interface"
[ -n "$router" ] && ip route add default via "$router"
exit 0
"#;

/// A guest's files.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The ISO with `live/vmlinuz` and `live/initrd.img`.
    pub iso: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
}

impl Guest {
    /// Makes the guest, or finds it in the cache.
    ///
    /// # Errors
    /// A tool or a package cannot be had.
    pub fn make() -> anyhow::Result<Self> {
        tools::ensure()?;
        let cache = cache()?;
        // Tests of several processes make it once.
        let lock = fs::File::create(cache.join("lock"))?;
        lock.lock()?;
        let kernel = kernel(&cache)?;
        let initrd = cache.join("initrd.img");
        fs::write(&initrd, initramfs()?)?;
        let iso = cache.join("guest.iso");
        let tree = cache.join("tree");
        fs::create_dir_all(tree.join("live"))?;
        fs::copy(&kernel, tree.join("live/vmlinuz"))?;
        fs::copy(&initrd, tree.join("live/initrd.img"))?;
        let aside = cache.join("guest.iso.new");
        let _ = fs::remove_file(&aside);
        tools::run(
            Command::new("xorriso").args(["-as", "mkisofs", "-quiet", "-R", "-J", "-V", "ATHANOR_GUEST", "-o"]).arg(&aside).arg(&tree),
        )?;
        fs::rename(&aside, &iso)?;
        Ok(Self { iso, kernel, initrd })
    }
}

/// A folder outside of the repository's files, kept between runs.
///
/// # Errors
/// It cannot be made.
pub fn cache() -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).unwrap_or_else(std::env::temp_dir);
    let folder = base.join("athanor-tests");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Debian's cloud kernel: the smallest that boots everywhere.
fn kernel(cache: &Path) -> anyhow::Result<PathBuf> {
    if let Some(found) = find(&cache.join("kernel/boot"), "vmlinuz-") {
        return Ok(found);
    }
    let unpacked = unpack(cache, &package("linux-image-cloud-amd64")?, "kernel")?;
    find(&unpacked.join("boot"), "vmlinuz-").context("the package holds no kernel")
}

/// Debian's kernel with drivers for real disks, which is the ramdisk's, too: its package's folder, and the kernel in it.
///
/// # Errors
/// The package cannot be had.
pub(crate) fn full_kernel() -> anyhow::Result<(PathBuf, PathBuf)> {
    let package = package("linux-image-amd64")?;
    let version = package.trim_start_matches("linux-image-");
    Ok((cache()?.join(&package), packaged(&package, &format!("boot/vmlinuz-{version}"))?))
}

/// The package that is the newest of a kind of kernel.
fn package(newest: &str) -> anyhow::Result<String> {
    let depends = tools::run(Command::new("apt-cache").args(["depends", newest]))
        .context("kernels come from Debian packages; run `apt-get update` first, as `make setup` does")?;
    let named = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| name.starts_with("linux-image-"));
    Ok(named.with_context(|| format!("no Debian package is known for {newest}; run `apt-get update`"))?.to_owned())
}

/// A file out of a Debian package that is not installed here, unpacked into the cache.
///
/// # Errors
/// The package cannot be had, or has no such file.
pub fn packaged(package: &str, file: &str) -> anyhow::Result<PathBuf> {
    let cache = cache()?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock()?;
    let found = cache.join(package).join(file);
    if !found.exists() {
        unpack(&cache, package, package)?;
    }
    anyhow::ensure!(found.exists(), "Debian's package {package} has no {file}");
    Ok(found)
}

/// Downloads a package and unpacks it below the cache; returns where.
fn unpack(cache: &Path, package: &str, folder: &str) -> anyhow::Result<PathBuf> {
    let (downloads, unpacked) = (cache.join("downloads"), cache.join(folder));
    fs::create_dir_all(&downloads)?;
    tools::run(Command::new("apt-get").args(["download", "-qq", package]).current_dir(&downloads))?;
    let archive = find(&downloads, &format!("{package}_")).context("apt-get download left no package")?;
    tools::run(Command::new("dpkg").arg("-x").args([&archive, &unpacked]))?;
    Ok(unpacked)
}

fn find(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    names.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
}

/// A module of an unpacked kernel package.
fn module(package: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let place = tools::run(Command::new("find").arg(package.join("lib/modules")).args(["-name", &format!("{name}.ko")]))?;
    let place = place.lines().next().with_context(|| format!("the kernel package has no module {name}"))?;
    Ok(fs::read(place)?)
}

fn initramfs() -> anyhow::Result<Vec<u8>> {
    archive(INIT, &cache()?.join("kernel"), MODULES).map(Archive::finish)
}

/// An initramfs of busybox and some modules of a kernel package, which runs a script once they are loaded.
///
/// # Errors
/// The kernel has no such module.
pub(crate) fn archive(script: &str, package: &Path, modules: &[&str]) -> anyhow::Result<Archive> {
    let mut archive = Archive::default();
    for folder in ["bin", "modules"] {
        archive.folder(folder);
    }
    archive.file("bin/busybox", &fs::read("/bin/busybox")?);
    archive.link("bin/sh", "busybox");
    archive.file("init", format!("{BEGINS}{script}").as_bytes());
    archive.file("udhcpc.sh", UDHCPC.as_bytes());
    archive.file("modules/order", modules.join("\n").as_bytes());
    for module in modules {
        archive.file(&format!("modules/{module}.ko"), &self::module(package, module)?);
    }
    Ok(archive)
}
