//! The end of a write: tables fitted to the disk, documents, the marker; and at the very last the first MiB, with which it boots.

use athanor_wire::work::{Marker, Write};
use sha2::{Digest as _, Sha256};

use super::{Extent, PIECE};
use crate::{
    AgentError,
    device::Device,
    documents,
    gpt::{self, Gpt, TableError},
    marker::{self, MARKER_SIZE, MIB},
};

/// Finishes a disk that holds an image of `size` bytes, whose first MiB is `head`. That it is whole says its marker, with a digest of all `content`,
/// when everything was read back.
pub(crate) fn finish(order: &Write, disk: &dyn Device, mut head: Vec<u8>, size: u64, content: String) -> Result<(), AgentError> {
    let place = marker::config_place(disk.size()).filter(|(start, _)| *start >= size);
    let mut last: Vec<(u64, Vec<u8>)> = Vec::new();
    match (place, &order.documents) {
        (Some((start, end)), _) => {
            if let Some(documents) = &order.documents {
                let bytes = documents::file_system(documents).map_err(|error| {
                    AgentError::Image(format!("its documents do not fit on the {} file system: {error}", documents.label))
                })?;
                last.push((start, bytes));
            }
            last.push((end - MARKER_SIZE, marker::encode(&order.marker)));
        }
        (None, Some(_)) => {
            return Err(AgentError::Image(format!(
                "it has {size} bytes, and the disk {} with {} has no room behind it for documents; choose a larger disk",
                disk.name(),
                disk.size()
            )));
        }
        (None, None) => {}
    }
    if let Some(backup) = tables(order, disk, &mut head, place)? {
        last.push(backup);
    }
    let failed = |what| AgentError::disk(disk.name(), what);
    for (offset, bytes) in &last {
        disk.write_at(*offset, bytes).map_err(failed("writing its end"))?;
    }
    disk.settle().map_err(failed("flushing it"))?;
    // Power that fails before here leaves a disk that does not boot; after here, one that does.
    disk.write_at(0, &head).map_err(failed("writing its beginning"))?;
    disk.settle().map_err(failed("flushing it"))?;
    last.push((0, head));
    check(disk, &last)?;
    let Some((_, end)) = place else { return Ok(()) };
    let whole = (end - MARKER_SIZE, marker::encode(&Marker { content, ..order.marker.clone() }));
    disk.write_at(whole.0, &whole.1).map_err(failed("writing its end"))?;
    disk.settle().map_err(failed("flushing it"))?;
    check(disk, &[whole])
}

/// Reads back what was written.
fn check(disk: &dyn Device, written: &[(u64, Vec<u8>)]) -> Result<(), AgentError> {
    let mut buffer = athanor_sys::PageBuffer::zeroed(PIECE);
    for (start, bytes) in written {
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            let offset = start + (index * PIECE) as u64;
            Extent::Data { offset, length: piece.len(), sum: crc32fast::hash(piece) }.check(disk, &mut buffer)?;
        }
    }
    Ok(())
}

/// Fits the partition table to this disk. Returns the backup's place and bytes, for a GPT. An image without a table stays as it is.
fn tables(order: &Write, disk: &dyn Device, head: &mut [u8], place: Option<(u64, u64)>) -> Result<Option<(u64, Vec<u8>)>, AgentError> {
    let refused = |error: TableError| AgentError::Image(format!("the disk {}: {error}", disk.name()));
    let config = place.map(|(start, end)| gpt::Extent { start, end }).filter(|_| order.documents.is_some());
    // Behind the last partition are the documents, or at least the marker.
    let limit = place.map_or(disk.size() / MIB * MIB - MIB, |(start, end)| if config.is_some() { start } else { end - MIB });
    if let Some(mut table) = Gpt::parse(head, disk.block()) {
        table.fit(disk.size());
        if order.grow {
            table.grow_last(limit).map_err(refused)?;
        }
        if let (Some(config), Some(documents)) = (config, &order.documents) {
            table.add(config, &documents.label, id(order)).map_err(refused)?;
        }
        table.put_primary(head);
        return Ok(Some(table.backup()));
    }
    if Gpt::parse(head, if disk.block() == 512 { 4096 } else { 512 }).is_some() {
        return Err(AgentError::Image(format!(
            "its partition table counts in other blocks than the disk {} has ({} bytes): firmware would not find it. Choose an image for such disks",
            disk.name(),
            disk.block()
        )));
    }
    if gpt::mbr(head).is_some_and(|partitions| !partitions.is_empty()) {
        if disk.block() != 512 {
            return Err(AgentError::Image(format!(
                "its partition table counts in blocks of 512 bytes, and the disk {} has blocks of {}; choose an image for such disks",
                disk.name(),
                disk.block()
            )));
        }
        if order.grow {
            gpt::grow_last_of_mbr(head, limit).map_err(refused)?;
        }
        if let Some(config) = config {
            gpt::add_to_mbr(head, config).map_err(refused)?;
        }
    }
    Ok(None)
}

/// The documents' partition gets an id that follows from the attempt: drawn, but not here.
fn id(order: &Write) -> [u8; 16] {
    let digest = Sha256::digest(order.marker.attempt.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    // RFC 9562: version 8, made by oneself.
    id[7] = id[7] & 0x0F | 0x80;
    id[8] = id[8] & 0x3F | 0x80;
    id
}
