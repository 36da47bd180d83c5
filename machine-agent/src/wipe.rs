//! What is on disks is destroyed, and looked for afterwards.

use std::time::Duration;

use athanor_wire::{WipeMethod, WipePolicy, WipedDisk};

use athanor_sys::PageBuffer;

use crate::{
    AgentError,
    device::Device,
    gpt::{self, Gpt},
    image::{PIECE, Progress, is_zero},
    marker::MIB,
};

/// How much of each end has no signature afterwards: the tables of every RAID and file system that people use.
const EDGE: u64 = 16 * MIB;
/// How much of a partition's beginning.
const PARTITION_EDGE: u64 = MIB;
/// How many places are read back, spread over the disk.
const SAMPLES: u64 = 1024;
/// Bytes that are looked at in each.
const SAMPLE: usize = 4096;
/// How often it is told that a drive erases itself.
const WORKS: Duration = Duration::from_millis(500);
/// Letters of what a drive said; the record's own limit.
const MOST_TOLD: usize = 256;
/// What is zeroed between two words of progress.
const STRIDE: u64 = 256 * MIB;

/// Wipes one disk as a policy says; what was done is what the record says.
///
/// # Errors
/// The disk would not: then it is not wiped.
pub fn wipe(
    disk: &dyn Device,
    policy: WipePolicy,
    serial: Option<String>,
    wwn: Option<String>,
    progress: &dyn Progress,
) -> Result<WipedDisk, AgentError> {
    let failed = |what| AgentError::disk(disk.name(), what);
    let zeros = || everything(disk, progress).map_err(failed("writing zeros"));
    let (mut method, mut bytes, mut sanitize) = match policy {
        WipePolicy::None => return Err(AgentError::NotOurs("its policy is to wipe nothing".to_owned())),
        WipePolicy::Metadata => (WipeMethod::Metadata, metadata(disk).map_err(failed("destroying its tables"))?, None),
        WipePolicy::Overwrite => (WipeMethod::Overwrite, zeros()?, None),
        // Zeros over everything are asked for by a stricter policy.
        WipePolicy::Secure => match erase(disk, progress) {
            Ok(how) => (WipeMethod::Secure, disk.size(), Some(how.to_owned())),
            Err(why) => (WipeMethod::Overwrite, zeros()?, Some(told(&format!("{why}; zeros were written instead")))),
        },
        WipePolicy::Discard => {
            // What is read after a discard is the device's own affair; so zeros follow, which it may write by discarding.
            let discarded = disk.discard(0, disk.size()).is_ok();
            (if discarded { WipeMethod::Discard } else { WipeMethod::Overwrite }, zeros()?, None)
        }
    };
    let look = |method| {
        disk.settle().map_err(failed("flushing it"))?;
        sample(disk, method).map_err(failed("reading it back"))
    };
    let mut looked = look(method);
    if method == WipeMethod::Secure && !matches!(looked, Ok((_, 0))) {
        // A drive may return what it likes afterwards, or nothing for a moment; who reads the record may not be left to guess.
        sanitize = sanitize.map(|how| told(&format!("{how}; it did not read as zeros, so zeros were written")));
        (method, bytes) = (WipeMethod::Overwrite, zeros()?);
        looked = look(method);
    }
    let (sampled, mismatched) = looked?;
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    Ok(WipedDisk { serial, wwn, method, sanitize, bytes, sampled, mismatched })
}

/// As much as a record takes.
fn told(text: &str) -> String {
    text.chars().take(MOST_TOLD).collect()
}

/// The drive's own erase. It tells nothing while it works; that it works is told for it.
fn erase(disk: &dyn Device, progress: &dyn Progress) -> std::io::Result<&'static str> {
    std::thread::scope(|scope| {
        let work = scope.spawn(|| disk.erase());
        while !work.is_finished() {
            progress.at("erase", 0, None);
            std::thread::sleep(WORKS);
        }
        work.join().unwrap_or_else(|_| Err(std::io::Error::other("its thread ended")))
    })
}

/// Both ends, and the beginning of each partition that the table tells of.
fn metadata(disk: &dyn Device) -> std::io::Result<u64> {
    let size = disk.size();
    let mut head = vec![0; usize::try_from(MIB.min(size)).unwrap_or_default()];
    disk.read_at(0, &mut head)?;
    let partitions = Gpt::parse(&head, disk.block()).map(|table| table.partitions()).or_else(|| gpt::mbr(&head)).unwrap_or_default();
    let mut bytes = 0;
    for partition in partitions {
        let length = partition.end.min(size).saturating_sub(partition.start).min(PARTITION_EDGE);
        if length > 0 {
            disk.zero(partition.start, length)?;
            bytes += length;
        }
    }
    let edge = EDGE.min(size / 2);
    // Whole blocks: the device's own way to write zeros takes nothing else.
    let edge = edge / u64::from(disk.block().max(512)) * u64::from(disk.block().max(512));
    disk.zero(0, edge)?;
    disk.zero(size - edge, edge)?;
    Ok(bytes + 2 * edge)
}

fn everything(disk: &dyn Device, progress: &dyn Progress) -> std::io::Result<u64> {
    let size = disk.size();
    let mut at = 0;
    while at < size {
        let length = STRIDE.min(size - at);
        disk.zero(at, length)?;
        at += length;
        progress.at("wipe", at, Some(size));
    }
    Ok(size)
}

/// Looks at places spread over what was wiped: how many, and how many are not zero.
fn sample(disk: &dyn Device, method: WipeMethod) -> std::io::Result<(u32, u32)> {
    let (size, length) = (disk.size(), (SAMPLE as u64).min(disk.size()));
    let edge = EDGE.min(size / 2);
    let last = size - length;
    let mut buffer = PageBuffer::zeroed(PIECE);
    let (mut sampled, mut mismatched) = (0, 0);
    for index in 0..SAMPLES {
        // The first and the last block are always among them.
        let place = match method {
            WipeMethod::Metadata if index % 2 == 0 => edge.saturating_sub(length) * index / SAMPLES,
            WipeMethod::Metadata => last - edge.saturating_sub(length) * (SAMPLES - 1 - index) / SAMPLES,
            _ => u64::try_from(u128::from(last) * u128::from(index) / u128::from(SAMPLES - 1)).unwrap_or(last),
        };
        let place = place / 4096 * 4096;
        let bytes = &mut buffer[..SAMPLE.min(usize::try_from(size - place).unwrap_or(SAMPLE))];
        disk.read_at(place, bytes)?;
        sampled += 1;
        mismatched += u32::from(!is_zero(bytes));
    }
    Ok((sampled, mismatched))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::disk_of;

    #[test]
    fn metadata_leaves_the_middle_and_says_so() {
        let (file, disk) = disk_of(64 << 20);
        let record = wipe(&disk, WipePolicy::Metadata, Some("S1".into()), None, &()).unwrap();
        assert_eq!((record.method, record.bytes, record.sampled, record.mismatched), (WipeMethod::Metadata, 32 << 20, 1024, 0));
        let all = std::fs::read(file.path()).unwrap();
        assert!(is_zero(&all[..16 << 20]) && is_zero(&all[48 << 20..]) && all[16 << 20..48 << 20].iter().all(|byte| *byte == 0xAA));
    }

    #[test]
    fn overwrite_leaves_nothing() {
        let (file, disk) = disk_of((8 << 20) + 512);
        let record = wipe(&disk, WipePolicy::Overwrite, None, None, &()).unwrap();
        assert_eq!((record.bytes, record.mismatched), ((8 << 20) + 512, 0));
        assert!(is_zero(&std::fs::read(file.path()).unwrap()));
    }

    #[test]
    fn what_has_no_erase_of_its_own_is_overwritten_and_the_record_says_why() {
        let (file, disk) = disk_of(8 << 20);
        let record = wipe(&disk, WipePolicy::Secure, None, None, &()).unwrap();
        let why = "only NVMe drives are asked for an erase of their own; zeros were written instead";
        assert_eq!((record.method, record.sanitize.as_deref(), record.mismatched), (WipeMethod::Overwrite, Some(why), 0));
        assert!(is_zero(&std::fs::read(file.path()).unwrap()));
    }

    #[test]
    fn what_is_still_there_is_found() {
        let (_file, disk) = disk_of(1 << 20);
        assert_eq!(sample(&disk, WipeMethod::Overwrite).unwrap(), (1024, 1024));
    }
}
