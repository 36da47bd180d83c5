//! Whose a disk is: a block near its end, at a place that follows from its size alone.
//!
//! ```text
//!   … image … | config partition: FAT … [marker] | up to 2 MiB: backup partition table |
//! ```

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use athanor_wire::work::Marker;

use crate::device::Device;

/// Partitions begin at whole MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// The size of the partition for documents, with the marker in its last block.
pub(crate) const CONFIG_SIZE: u64 = 8 * MIB;
/// The size of the marker: a block of every disk.
pub(crate) const MARKER_SIZE: u64 = 4096;
/// The longest id that the API takes: who wrote a longer one is not us.
const MAX_ID: usize = 63;
const MAGIC: &[u8] = b"ATHANOR-MARKER-1\n";

/// Where the partition for documents begins and ends. Behind it is at least a MiB for the backup partition table.
pub fn config_place(disk: u64) -> Option<(u64, u64)> {
    let end = (disk / MIB).checked_sub(1)? * MIB;
    Some((end.checked_sub(CONFIG_SIZE).filter(|start| *start >= MIB)?, end))
}

/// How large a disk must be to have that place behind an image.
pub fn with_config(image: u64) -> u64 {
    image.div_ceil(MIB).saturating_mul(MIB).saturating_add(CONFIG_SIZE + MIB)
}

/// The bytes of a marker.
pub fn encode(marker: &Marker) -> Vec<u8> {
    let mut bytes = [MAGIC, serde_json::to_vec(marker).unwrap_or_default().as_slice()].concat();
    bytes.resize(MARKER_SIZE as usize, 0);
    bytes
}

/// The marker of a disk, if it has one.
///
/// # Errors
/// The disk cannot be read.
pub fn read(disk: &dyn Device) -> io::Result<Option<Marker>> {
    let Some((_, end)) = config_place(disk.size()) else { return Ok(None) };
    let mut bytes = vec![0; MARKER_SIZE as usize];
    disk.read_at(end - MARKER_SIZE, &mut bytes)?;
    Ok(decode(&bytes))
}

/// Likewise, of a disk that nobody wants to write to. What cannot be read has none.
pub(crate) fn look(path: &Path, size: u64) -> Option<Marker> {
    let (_, end) = config_place(size)?;
    let mut bytes = vec![0; MARKER_SIZE as usize];
    File::open(path).and_then(|disk| disk.read_exact_at(&mut bytes, end - MARKER_SIZE)).ok()?;
    decode(&bytes).filter(|marker| {
        [&marker.installation, &marker.instance, &marker.attempt].iter().all(|id| id.len() <= MAX_ID) && marker.content.len() <= 64
    })
}

fn decode(bytes: &[u8]) -> Option<Marker> {
    let text = bytes.strip_prefix(MAGIC)?;
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    serde_json::from_slice(&text[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_back_and_noise_is_none() {
        let marker = Marker { installation: "here".into(), instance: "i-1".into(), attempt: "a-1".into(), content: "00".into() };
        assert_eq!(decode(&encode(&marker)), Some(marker));
        assert_eq!(decode(&[0xFF; 4096]), None);
        assert_eq!(decode(MAGIC), None);
    }

    #[test]
    fn it_lies_before_the_backup_table_of_every_disk() {
        for disk in [16 * MIB, 16 * MIB + 512, 10_000_000_000, 4 << 40] {
            let (start, end) = config_place(disk).unwrap();
            assert_eq!((start % MIB, end - start), (0, CONFIG_SIZE));
            assert!(disk - end >= MIB, "{disk}");
            assert!(with_config(start) <= disk && with_config(start + 1) > disk, "{disk}");
        }
        assert_eq!(config_place(9 * MIB), None);
        assert_eq!(config_place(0), None);
    }
}
