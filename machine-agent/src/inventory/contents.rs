//! What is on a disk, by the signatures of tables and file systems: enough to know that there is something, and to say what.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::gpt::{self, Gpt};

/// Where what lies, and what it is called. Offsets from the beginning of a disk or partition.
const SIGNATURES: [(u64, &[u8], &str); 14] = [
    (0x438, b"\x53\xEF", "ext4"),
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (3, b"NTFS    ", "ntfs"),
    (0x52, b"FAT32   ", "fat"),
    (0x36, b"FAT1", "fat"),
    (0x8001, b"CD001", "iso9660"),
    (0, b"LUKS\xBA\xBE", "LUKS"),
    (0x218, b"LVM2 001", "LVM"),
    (0x1000, b"\xFC\x4E\x2B\xA9", "RAID"),
    (0, b"\xFC\x4E\x2B\xA9", "RAID"),
    (4086, b"SWAPSPACE2", "swap"),
    (0, b"hsqs", "squashfs"),
    (0x20000, b"\x0C\xB1\xBA\x00\x00\x00\x00\x00", "zfs"),
];
/// How much of a beginning is looked at.
const HEAD: usize = 256 << 10;
/// The most partitions that are told.
const MAX_TOLD: usize = 8;

/// What is said of a disk that nobody can look at: it may hold anything.
const UNREADABLE: &str = "data that cannot be read";

/// What is on a disk, in words; `None` where there is nothing that anybody knows.
pub(super) fn of(path: &Path, size: u64) -> Option<String> {
    let disk = match File::open(path) {
        Ok(disk) => disk,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => return Some(UNREADABLE.to_owned()),
    };
    let read = |offset: u64| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; HEAD];
        let mut got = 0;
        while got < HEAD {
            match disk.read_at(&mut bytes[got..], offset + got as u64)? {
                0 => break,
                more => got += more,
            }
        }
        bytes.truncate(got);
        Ok(bytes)
    };
    if read(0).is_err() {
        return Some(UNREADABLE.to_owned());
    }
    describe(size, &|offset| read(offset).unwrap_or_default())
}

/// Describes what a reader of beginnings shows.
pub fn describe(size: u64, read: &dyn Fn(u64) -> Vec<u8>) -> Option<String> {
    let head = read(0);
    let table = [512, 4096].iter().find_map(|block| Some(("GPT", Gpt::parse(&head, *block)?.partitions())));
    let table = table.or_else(|| Some(("MBR", gpt::mbr(&head)?)).filter(|(_, partitions)| !partitions.is_empty()));
    if let Some((kind, partitions)) = table {
        let inside: Vec<&str> = partitions
            .iter()
            .filter(|partition| partition.start < size)
            .take(MAX_TOLD)
            .map(|partition| file_system(&read(partition.start)).unwrap_or("unknown"))
            .collect();
        let many = partitions.len();
        let inside = if inside.is_empty() { String::new() } else { format!(": {}", inside.join(", ")) };
        return Some(format!("{kind} with {many} partition{}{inside}", if many == 1 { "" } else { "s" }));
    }
    if let Some(found) = file_system(&head) {
        return Some(found.to_owned());
    }
    // Something that boots, or something unknown: nobody has zeros by accident.
    let first = head.get(..4096.min(head.len()))?;
    first.iter().any(|byte| *byte != 0).then(|| "unknown data".to_owned())
}

fn file_system(head: &[u8]) -> Option<&'static str> {
    SIGNATURES.iter().find_map(|(offset, magic, name)| {
        let offset = usize::try_from(*offset).ok()?;
        (head.get(offset..offset + magic.len())? == *magic).then_some(*name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_empty_or_says_what_it_holds() {
        let zeros = |_| vec![0; HEAD];
        assert_eq!(describe(1 << 30, &zeros), None);
        let ext4 = |_| {
            let mut bytes = vec![0; HEAD];
            bytes[0x438..0x43A].copy_from_slice(b"\x53\xEF");
            bytes
        };
        assert_eq!(describe(1 << 30, &ext4).as_deref(), Some("ext4"));
        assert_eq!(describe(1 << 30, &|_| vec![7; HEAD]).as_deref(), Some("unknown data"));
        let mbr = |offset| {
            let mut bytes = vec![0; HEAD];
            if offset == 0 {
                (bytes[510], bytes[511], bytes[450]) = (0x55, 0xAA, 0x83);
                (bytes[455], bytes[459]) = (8, 8);
            } else {
                bytes[..4].copy_from_slice(b"XFSB");
            }
            bytes
        };
        assert_eq!(describe(1 << 30, &mbr).as_deref(), Some("MBR with 1 partition: xfs"));
        assert_eq!(describe(0, &|_| Vec::new()), None);
    }
}
