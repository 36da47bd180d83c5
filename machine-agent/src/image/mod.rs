//! An image onto a disk: fetched, unpacked, written, read back; the partition table last.
//!
//! ```text
//!   fetch ─► checksum ─► unpack ─► layout (raw | qcow2) ─► writers ─► disk ─► read back ─► tables, documents, marker
//!   thread                thread                            threads
//! ```
//!
//! Whatever the image is, only so many buffers of a MiB are under way, and no more memory is used than they and the decompressor's window take.

mod fetch;
mod finish;
mod qcow2;
mod sink;
mod unpack;

use std::sync::Mutex;

use athanor_sys::PageBuffer;
use athanor_wire::{ImageFormat, work::Write};

pub use self::fetch::{Fetcher, Http};
use self::{fetch::Expected, sink::Sink, unpack::Packing};
use crate::{
    AgentError,
    device::Device,
    guard,
    marker::{self, MIB},
};

/// One piece of what is under way.
pub(crate) const PIECE: usize = 1 << 20;

/// An image's file is at most so many times as large as its disk, and a GiB: qcow2 may hold snapshots that nobody reads.
const MOST_FETCHED: u64 = 4;

/// Who wants to know how it goes.
pub trait Progress: Sync {
    /// So many bytes of so many, where that is known.
    fn at(&self, phase: &'static str, done: u64, of: Option<u64>);
}

/// Nobody does.
impl Progress for () {
    fn at(&self, _: &'static str, _: u64, _: Option<u64>) {}
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the image on the disk, with its holes.
    pub size: u64,
    /// Bytes that were written and read back.
    pub data: u64,
    /// The checksum of what was fetched.
    pub checksum: String,
}

/// An image whose beginning was read.
pub struct Image<'a> {
    order: &'a Write,
    fetcher: &'a dyn Fetcher,
    expected: Expected,
    source: Box<dyn fetch::Source + 'a>,
    first: Vec<u8>,
    packing: Packing,
    format: ImageFormat,
    size: Option<u64>,
}

impl<'a> Image<'a> {
    /// Reads how an image begins, and what its checksum is to be.
    ///
    /// # Errors
    /// It cannot be fetched, or is none.
    pub fn open(order: &'a Write, fetcher: &'a dyn Fetcher) -> Result<Self, AgentError> {
        let expected = fetch::expected(&order.checksum, &order.url, fetcher)?;
        let mut source = fetcher.open(&order.url, 0, None)?;
        let first = fetch::sniff(&mut *source)?;
        let packing = Packing::of(&first);
        let unpacked = if packing == Packing::None { first.clone() } else { unpack::first_bytes(packing, &first)? };
        let format = order.format.unwrap_or_else(|| layout(&unpacked));
        let size = match (format, packing) {
            // One that is refused is refused before anything is cleared.
            (ImageFormat::Qcow2, _) => qcow2::size(&unpacked)?,
            (ImageFormat::Raw, Packing::None) => source.length(),
            (ImageFormat::Raw, _) => None,
        };
        let size = size.map(|size| if order.documents.is_some() { marker::with_config(size) } else { size });
        Ok(Self { order, fetcher, expected, source, first, packing, format, size })
    }

    /// How large a disk it needs, with its documents, where its beginning tells.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// A digest of what comes of it on a disk.
    pub fn content(&self) -> String {
        guard::content(&self.expected.digest, self.order)
    }

    /// Writes it to a disk. Nothing boots from that disk before all of it was read back.
    ///
    /// # Errors
    /// As [`AgentError`] says; the disk then has no partition table.
    pub fn write(self, disk: &dyn Device, progress: &dyn Progress) -> Result<Written, AgentError> {
        if self.size.is_some_and(|size| size > disk.size()) {
            return Err(too_large(disk, self.size));
        }
        let content = self.content();
        let Self { order, fetcher, expected, source, first, packing, format, .. } = self;
        let length = source.length();
        // Whatever was there before does not boot from now on.
        let edge = MIB.min(disk.size() / 2);
        let failed = |what| AgentError::disk(disk.name(), what);
        disk.zero(0, edge).map_err(failed("clearing its beginning"))?;
        disk.zero(disk.size() - edge, edge).map_err(failed("clearing its end"))?;
        let map = match format {
            ImageFormat::Raw => None,
            ImageFormat::Qcow2 => Some(qcow2::Map::read(&order.url, packing, fetcher, source.etag(), disk)?),
        };
        let mut sink = Sink::new(disk);
        let most = disk.size().saturating_mul(MOST_FETCHED).saturating_add(1 << 30);
        let stream = unpack::Stream { source, first, packing, algorithm: expected.algorithm, most };
        let report = |done| progress.at("fetch and write", done, length);
        let found = match &map {
            None => raw(stream, &mut sink, &report)?,
            Some(map) => qcow2::copy(map, stream, &mut sink, &report)?,
        };
        expected.compare(&found, &order.url)?;
        let (head, extents, size) = sink.finish()?;
        disk.settle().map_err(failed("flushing it"))?;
        let data = read_back(disk, &extents, progress)?;
        finish::finish(order, disk, head, size, content)?;
        Ok(Written { size, data, checksum: found })
    }
}

fn layout(first: &[u8]) -> ImageFormat {
    if first.starts_with(qcow2::MAGIC) { ImageFormat::Qcow2 } else { ImageFormat::Raw }
}

fn too_large(disk: &dyn Device, size: Option<u64>) -> AgentError {
    let size = size.map_or_else(|| "it goes on".to_owned(), |size| format!("it needs {size} bytes"));
    AgentError::Image(format!("{size}, and the disk {} has only {}; choose a larger disk or a smaller image", disk.name(), disk.size()))
}

/// Byte by byte.
fn raw(stream: unpack::Stream, sink: &mut Sink<'_>, report: &(dyn Fn(u64) + Sync)) -> Result<String, AgentError> {
    std::thread::scope(|scope| {
        let pieces = stream.begin(scope, report);
        sink.fill(scope, |sink| {
            let mut offset = 0;
            for piece in &pieces.receiver {
                let (buffer, length) = piece?;
                sink.put(offset, buffer, length)?;
                offset += length as u64;
            }
            Ok(())
        })?;
        pieces.digest()
    })
}

/// What was written to one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Bytes with this checksum.
    Data {
        /// Where.
        offset: u64,
        /// How many.
        length: usize,
        /// CRC-32: a disk is no attacker.
        sum: u32,
    },
    /// Zeros.
    Zeros {
        /// Where.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// Two threads: one disk's queue holds more than one question.
const READERS: usize = 2;

/// Reads back what was written; returns how many bytes of data that were.
fn read_back(disk: &dyn Device, extents: &[Extent], progress: &dyn Progress) -> Result<u64, AgentError> {
    let total: u64 = extents.iter().map(Extent::bytes).sum();
    let (next, done, failure) = (Mutex::new(extents.iter()), Mutex::new(0_u64), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut buffer = PageBuffer::zeroed(PIECE);
                loop {
                    let extent = lock(&next).next().filter(|_| lock(&failure).is_none());
                    let Some(extent) = extent else { return };
                    if let Err(error) = extent.check(disk, &mut buffer) {
                        lock(&failure).get_or_insert(error);
                        return;
                    }
                    let mut done = lock(&done);
                    *done += extent.bytes();
                    progress.at("read back", *done, Some(total));
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_default() {
        Some(error) => Err(error),
        None => Ok(extents.iter().filter(|extent| matches!(extent, Extent::Data { .. })).map(Extent::bytes).sum()),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Extent {
    fn bytes(&self) -> u64 {
        match self {
            Self::Data { length, .. } => *length as u64,
            Self::Zeros { length, .. } => *length,
        }
    }

    fn check(&self, disk: &dyn Device, buffer: &mut PageBuffer) -> Result<(), AgentError> {
        let failed = || AgentError::disk(disk.name(), "reading it back");
        let differs = |offset| AgentError::ReadBack { disk: disk.name().to_owned(), offset };
        match *self {
            Self::Data { offset, length, sum } => {
                disk.read_at(offset, &mut buffer[..length]).map_err(failed())?;
                if crc32fast::hash(&buffer[..length]) != sum {
                    return Err(differs(offset));
                }
            }
            Self::Zeros { offset, length } => {
                let (mut at, end) = (offset, offset + length);
                while at < end {
                    let piece = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                    disk.read_at(at, &mut buffer[..piece]).map_err(failed())?;
                    if !is_zero(&buffer[..piece]) {
                        return Err(differs(at));
                    }
                    at += piece as u64;
                }
            }
        }
        Ok(())
    }
}

/// Whether there is nothing but zeros.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}
