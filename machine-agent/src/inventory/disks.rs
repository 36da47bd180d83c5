//! Block devices: what is a disk, and what it is called.

use std::{fs, path::Path};

use athanor_wire::Disk;

use super::{contents, link_name, names, number, word};
use crate::marker;

/// The most disks that are told.
const MAX_DISKS: usize = 256;
/// Devices that are no disks: made by software, or by the ramdisk itself.
const SOFTWARE: [&str; 7] = ["loop", "ram", "zram", "dm-", "md", "nbd", "sr"];

/// The machine's disks, by name.
pub(super) fn disks(root: &Path) -> Vec<Disk> {
    let folder = root.join("sys/block");
    let real = |name: &String| !SOFTWARE.iter().any(|prefix| name.starts_with(prefix)) && folder.join(name).join("device").exists();
    names(&folder).into_iter().filter(real).filter_map(|name| disk(root, &folder, name)).take(MAX_DISKS).collect()
}

fn disk(root: &Path, folder: &Path, name: String) -> Option<Disk> {
    let place = folder.join(&name);
    // Always counted in 512 bytes, whatever the blocks are.
    let size = number(&place.join("size"))?.checked_mul(512)?;
    // One of several ways to a disk, which has a name of its own.
    if number(&place.join("hidden")) == Some(1) {
        return None;
    }
    if size == 0 {
        return None;
    }
    let device = place.join("device");
    let flag = |file: &str| number(&place.join(file)).map(|flag| flag == 1);
    let serial = word(&place.join("serial")).or_else(|| word(&device.join("serial"))).or_else(|| serial_page(&device));
    let wwn = word(&place.join("wwid")).or_else(|| word(&device.join("wwid"))).filter(|wwn| !wwn.starts_with("t10.") && !wwn.contains(' '));
    let (path, hctl, bus) = where_it_is(&place, &device);
    let block = number(&place.join("queue/logical_block_size")).and_then(|size| u32::try_from(size).ok()).filter(|size| *size != 512);
    Some(Disk {
        size_bytes: i64::try_from(size).ok()?,
        serial,
        wwn,
        path,
        hctl,
        vendor: word(&device.join("vendor")).filter(|vendor| !vendor.starts_with("0x")),
        model: word(&device.join("model")),
        bus,
        block_bytes: block,
        removable: flag("removable").unwrap_or(false),
        read_only: flag("ro").unwrap_or(false),
        rotational: flag("queue/rotational"),
        contents: contents::of(&root.join("dev").join(&name), size),
        marker: marker::look(&root.join("dev").join(&name), size),
        name,
    })
}

/// SCSI's page 0x80 has the serial number behind four bytes.
fn serial_page(device: &Path) -> Option<String> {
    let page = fs::read(device.join("vpd_pg80")).ok()?;
    let text: String = String::from_utf8_lossy(page.get(4..)?).chars().filter(|c| !c.is_control()).take(128).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Its by-path name, its SCSI address and its bus, from its place in the tree of devices.
fn where_it_is(place: &Path, device: &Path) -> (Option<String>, Option<String>, Option<String>) {
    let hctl = link_name(device)
        .filter(|name| name.split(':').count() == 4 && name.split(':').all(|part| part.bytes().all(|b| b.is_ascii_digit())));
    let full = fs::canonicalize(place).unwrap_or_else(|_| place.to_owned());
    let parts: Vec<String> = full.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let pci = parts.iter().rev().find(|part| is_pci(part)).map(|address| format!("pci-{address}"));
    let has = |prefix: &str| {
        parts.iter().find(|part| part.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty()))
    };
    let (bus, rest) = if let Some(port) = has("ata") {
        // udev counts the ports of the controller, the kernel those of the machine; the controller's own number is in ata_port.
        let number = word(&full.join("../../../../ata_port").join(port).join("port_no"));
        ("sata", number.map(|port| format!("-ata-{port}")))
    } else if parts.iter().any(|part| part.starts_with("nvme")) {
        ("nvme", number(&place.join("nsid")).map(|id| format!("-nvme-{id}")))
    } else if parts.iter().any(|part| part.starts_with("usb")) {
        ("usb", None)
    } else if parts.iter().any(|part| part.starts_with("virtio")) {
        ("virtio", hctl.as_ref().map(|hctl| format!("-scsi-{hctl}")))
    } else if hctl.is_some() {
        ("scsi", hctl.as_ref().map(|hctl| format!("-scsi-{hctl}")))
    } else {
        return (pci, hctl, None);
    };
    (pci.map(|pci| format!("{pci}{}", rest.unwrap_or_default())), hctl, Some(bus.to_owned()))
}

fn is_pci(part: &str) -> bool {
    part.len() == 12 && part.as_bytes()[4] == b':' && part.as_bytes()[7] == b':' && part.as_bytes()[10] == b'.'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::tree;

    #[test]
    fn disks_are_told_and_what_is_none_is_not() {
        let root = tree(&[
            ("sys/block/vda/size", "20971520"),
            ("sys/block/vda/serial", "S1\n"),
            ("sys/block/vda/queue/rotational", "0"),
            ("sys/block/vda/queue/logical_block_size", "4096"),
            ("sys/block/vda/removable", "0"),
            ("sys/block/vda/ro", "1"),
            ("sys/block/vda/device/vendor", "0x1af4"),
            ("sys/block/sda/size", "2097152"),
            ("sys/block/sda/device/model", "QEMU HARDDISK   "),
            ("sys/block/sda/device/vendor", "ATA     "),
            ("sys/block/sda/device/wwid", "naa.5000c500a1b2c3d4"),
            ("sys/block/loop0/size", "8"),
            ("sys/block/loop0/device/x", ""),
            ("sys/block/sdb/size", "0"),
            ("sys/block/sdb/device/x", ""),
        ]);
        let all = disks(root.path());
        assert_eq!(all.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["sda", "vda"]);
        assert_eq!(
            (all[0].model.as_deref(), all[0].vendor.as_deref(), all[0].wwn.as_deref()),
            (Some("QEMU HARDDISK"), Some("ATA"), Some("naa.5000c500a1b2c3d4"))
        );
        assert_eq!((all[1].size_bytes, all[1].block_bytes, all[1].read_only, all[1].vendor.as_deref()), (10 << 30, Some(4096), true, None));
    }
}
