//! QEMU's qcow2, versions 2 and 3 (docs/interop/qcow2.txt). The tables are read first, by ranges; then the file once, from its beginning to its
//! end, since its checksum is of all of it. Whatever lies where, only a few clusters are in memory.

use std::io::Read;

use athanor_sys::PageBuffer;

use super::{
    PIECE,
    fetch::Fetcher,
    sink::Sink,
    unpack::{Packing, Pieces, Stream},
};
use crate::{AgentError, device::Device};

pub(super) const MAGIC: &[u8] = b"QFI\xFB";
/// Bytes of the header of version 3, as far as it is read.
const HEADER: usize = 112;
/// The most clusters with data: their list takes 16 bytes each, 32 MiB in all.
const MAX_CLUSTERS: usize = 2 << 20;
/// The largest first-level table, as QEMU has it.
const MAX_L1: u64 = 32 << 20;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;

/// Where the file has a cluster of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cluster {
    /// The first byte in the file.
    host: u64,
    /// Which cluster of the disk.
    guest: u32,
    /// Bytes in the file, where it is compressed; else zero.
    packed: u32,
}

/// What the tables say.
#[derive(Debug)]
pub(super) struct Map {
    size: u64,
    cluster: u64,
    zstd: bool,
    /// In the file's order.
    clusters: Vec<Cluster>,
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes.get(at..at + size).unwrap_or_default().iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn refused(why: impl Into<String>) -> AgentError {
    AgentError::Image(format!("qcow2: {}", why.into()))
}

/// How large the disk is that an image's header speaks of, where so much of it is there.
pub(super) fn size(first: &[u8]) -> Result<Option<u64>, AgentError> {
    if first.len() < HEADER { Ok(None) } else { Header::parse(first).map(|header| Some(header.size)) }
}

/// The header, as far as it matters here.
struct Header {
    size: u64,
    cluster_bits: u32,
    l1: (u64, u64),
    zstd: bool,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, AgentError> {
        let (version, bits) = (number(bytes, 4, 4), number(bytes, 20, 4));
        if bytes.len() < 72 || !bytes.starts_with(MAGIC) || !(2..=3).contains(&version) {
            return Err(refused("it has no header of version 2 or 3"));
        }
        if number(bytes, 8, 8) != 0 {
            return Err(refused("it has a backing file, which is never opened; flatten it: qemu-img convert -O qcow2"));
        }
        if number(bytes, 32, 4) != 0 {
            return Err(refused("it is encrypted; decrypt it: qemu-img convert"));
        }
        let features = if version == 3 { number(bytes, 72, 8) } else { 0 };
        for (bit, what) in [
            (1, "it is marked as corrupt; repair it: qemu-img check -r all"),
            (2, "its data is in another file, which is never opened"),
            (4, "it has subclusters (extended_l2), which are not read; convert it without"),
        ] {
            if features >> bit & 1 == 1 {
                return Err(refused(what));
            }
        }
        if features >> 5 != 0 {
            return Err(refused("it uses features that are not known here"));
        }
        let zstd = match (features >> 3 & 1, number(bytes, 104, 1)) {
            (0, _) | (1, 0) => false,
            (1, 1) => true,
            _ => return Err(refused("it is compressed in a way that is not known here")),
        };
        let size = number(bytes, 24, 8);
        let cluster_bits = u32::try_from(bits)
            .ok()
            .filter(|bits| (9..=21).contains(bits))
            .ok_or_else(|| refused("its clusters have an impossible size"))?;
        let l1 = (number(bytes, 40, 8), number(bytes, 36, 4));
        // One entry of the first table speaks of a cluster full of entries of the second.
        let needed = size.div_ceil(1 << (2 * cluster_bits - 3));
        if l1.1 < needed || l1.1 * 8 > MAX_L1 || size.div_ceil(1 << cluster_bits) > u64::from(u32::MAX) {
            return Err(refused("its first table has an impossible size"));
        }
        Ok(Self { size, cluster_bits, l1: (l1.0, needed), zstd })
    }
}

/// Reads ranges of the image's file, which come in order.
struct Ranges<'a> {
    url: &'a str,
    packing: Packing,
    fetcher: &'a dyn Fetcher,
    etag: Option<String>,
}

impl Ranges<'_> {
    fn each(&self, ranges: &[(u64, usize)], mut take: impl FnMut(usize, &[u8]) -> Result<(), AgentError>) -> Result<(), AgentError> {
        let failed = |error: std::io::Error| refused(format!("its tables cannot be read: {error}"));
        let mut bytes = Vec::new();
        if self.packing == Packing::None {
            for (index, (offset, length)) in ranges.iter().enumerate() {
                let source = self.fetcher.open(self.url, *offset, self.etag.as_deref())?;
                bytes.clear();
                source.take(*length as u64).read_to_end(&mut bytes).map_err(failed)?;
                if bytes.len() < *length {
                    return Err(refused("it ends within its tables"));
                }
                take(index, &bytes)?;
            }
            return Ok(());
        }
        // A compressed file has no ranges: it is read from its beginning.
        let source = self.fetcher.open(self.url, 0, self.etag.as_deref())?;
        let mut reader = self.packing.reader(source).map_err(failed)?;
        let mut at = 0;
        for (index, (offset, length)) in ranges.iter().enumerate() {
            let skip = offset.checked_sub(at).ok_or_else(|| refused("its tables overlap"))?;
            let skipped = std::io::copy(&mut (&mut reader).take(skip), &mut std::io::sink()).map_err(failed)?;
            bytes.resize(*length, 0);
            if skipped < skip {
                return Err(refused("it ends within its tables"));
            }
            reader.read_exact(&mut bytes).map_err(failed)?;
            at = offset + *length as u64;
            take(index, &bytes)?;
        }
        Ok(())
    }

    fn one(&self, offset: u64, length: usize) -> Result<Vec<u8>, AgentError> {
        let mut all = Vec::new();
        self.each(&[(offset, length)], |_, bytes| {
            all = bytes.to_vec();
            Ok(())
        })?;
        Ok(all)
    }
}

impl Map {
    /// Reads the tables of an image for a disk of so many bytes.
    pub(super) fn read(
        url: &str,
        packing: Packing,
        fetcher: &dyn Fetcher,
        etag: Option<String>,
        disk: &dyn Device,
    ) -> Result<Self, AgentError> {
        let (disk, block) = (disk.size(), disk.block());
        let ranges = Ranges { url, packing, fetcher, etag };
        let header = Header::parse(&ranges.one(0, 112)?)?;
        if header.size > disk {
            return Err(refused(format!("it is a disk of {} bytes, and this one has only {disk}; choose a larger disk", header.size)));
        }
        if 1 << header.cluster_bits < block {
            return Err(refused(format!("its clusters are smaller than the disk's blocks of {block} bytes; convert it with larger ones")));
        }
        let l1 = ranges.one(header.l1.0, usize::try_from(header.l1.1 * 8).unwrap_or_default())?;
        let cluster = 1_u64 << header.cluster_bits;
        let mut tables: Vec<(u64, u64)> = l1
            .chunks_exact(8)
            .enumerate()
            .map(|(index, entry)| (number(entry, 0, 8) & OFFSET, index as u64))
            .filter(|(offset, _)| *offset != 0)
            .collect();
        tables.sort_unstable();
        let size = usize::try_from(cluster).unwrap_or_default();
        let places: Vec<(u64, usize)> = tables.iter().map(|(offset, _)| (*offset, size)).collect();
        let mut map = Self { size: header.size, cluster, zstd: header.zstd, clusters: Vec::new() };
        ranges.each(&places, |index, bytes| map.add(tables[index].1 * (cluster / 8), bytes, header.cluster_bits))?;
        map.clusters.sort_unstable();
        Ok(map)
    }

    /// Takes a table of the second level, whose first entry speaks of a cluster of the disk.
    fn add(&mut self, first: u64, table: &[u8], cluster_bits: u32) -> Result<(), AgentError> {
        for (index, entry) in table.chunks_exact(8).enumerate() {
            let entry = number(entry, 0, 8);
            let guest = first + index as u64;
            if guest.saturating_mul(self.cluster) >= self.size {
                break;
            }
            let guest = u32::try_from(guest).map_err(|_| refused("it has too many clusters"))?;
            let found = if entry & COMPRESSED != 0 {
                let bits = 62 - (cluster_bits - 8);
                let host = entry & ((1 << bits) - 1);
                let sectors = (entry & (COMPRESSED - 1)) >> bits;
                let packed = (sectors + 1) * 512 - (host & 511);
                Cluster { host, guest, packed: u32::try_from(packed).map_err(|_| refused("a cluster is impossibly large"))? }
            } else if entry & 1 == 1 || entry & OFFSET == 0 {
                continue;
            } else {
                Cluster { host: entry & OFFSET, guest, packed: 0 }
            };
            if self.clusters.len() == MAX_CLUSTERS {
                return Err(refused("it has more than two million clusters with data; convert it with larger ones: -o cluster_size=2M"));
            }
            self.clusters.push(found);
        }
        Ok(())
    }

    /// Copies one cluster.
    fn put(&self, cluster: Cluster, window: &mut Window<'_>, sink: &mut Sink<'_>) -> Result<(), AgentError> {
        let (size, is_packed) = (usize::try_from(self.cluster).unwrap_or_default(), cluster.packed > 0);
        let length = if is_packed { cluster.packed as usize } else { size };
        let bytes = window.at(cluster.host, length, is_packed)?;
        let unpacked = if is_packed { unpack(bytes, size, self.zstd)? } else { Vec::new() };
        let plain = if is_packed { &unpacked } else { bytes };
        let place = u64::from(cluster.guest) * self.cluster;
        // The last cluster may reach beyond the disk's end.
        let counts = usize::try_from(self.size - place).unwrap_or(usize::MAX).min(size);
        for (index, piece) in plain[..counts].chunks(PIECE).enumerate() {
            sink.put(place + (index * PIECE) as u64, buffer(piece), piece.len())?;
        }
        Ok(())
    }

    /// What the image does not have: zeros.
    fn holes(&self, mut take: impl FnMut(u64, u64) -> Result<(), AgentError>) -> Result<(), AgentError> {
        let mut guests: Vec<u32> = self.clusters.iter().map(|cluster| cluster.guest).collect();
        guests.sort_unstable();
        let mut at = 0;
        for guest in guests {
            let start = u64::from(guest) * self.cluster;
            if start > at {
                take(at, start - at)?;
            }
            at = start + self.cluster;
        }
        if at < self.size { take(at, self.size - at) } else { Ok(()) }
    }
}

/// Copies an image whose tables were read, as its file comes; returns the checksum of the file.
pub(super) fn copy(map: &Map, stream: Stream<'_>, sink: &mut Sink<'_>, report: &(dyn Fn(u64) + Sync)) -> Result<String, AgentError> {
    std::thread::scope(|scope| {
        let mut window = Window { pieces: stream.begin(scope, report), bytes: Vec::new(), base: 0 };
        sink.fill(scope, |sink| {
            map.holes(|offset, length| sink.skip(offset, length))?;
            map.clusters.iter().try_for_each(|cluster| map.put(*cluster, &mut window, sink))
        })?;
        // To the end, for the checksum.
        let pieces = window.pieces;
        for piece in &pieces.receiver {
            piece?;
        }
        pieces.digest()
    })
}

fn buffer(bytes: &[u8]) -> PageBuffer {
    let mut buffer = PageBuffer::zeroed(bytes.len());
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer
}

/// What of the file is in memory.
struct Window<'scope> {
    pieces: Pieces<'scope>,
    bytes: Vec<u8>,
    base: u64,
}

impl Window<'_> {
    /// Bytes at a place, which is never before the last one asked for. The last compressed cluster may end before its last sector does.
    fn at(&mut self, offset: u64, length: usize, may_end: bool) -> Result<&[u8], AgentError> {
        loop {
            let passed = usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.bytes.len());
            self.bytes.drain(..passed);
            self.base += passed as u64;
            if self.base == offset && self.bytes.len() >= length {
                return Ok(&self.bytes[..length]);
            }
            match self.pieces.receiver.recv() {
                Ok(piece) => {
                    let (buffer, read) = piece?;
                    self.bytes.extend_from_slice(&buffer[..read]);
                }
                Err(_) if may_end && self.base == offset && !self.bytes.is_empty() => return Ok(&self.bytes),
                Err(_) => {
                    return Err(refused(format!(
                        "it ends before byte {}, where its tables say that there is data",
                        offset + length as u64
                    )));
                }
            }
        }
    }
}

fn unpack(bytes: &[u8], cluster: usize, zstd: bool) -> Result<Vec<u8>, AgentError> {
    let mut plain = vec![0; cluster];
    // A cluster is followed by whatever comes next in the file: it is the cluster's size that tells where it ends.
    let read = if zstd {
        zstd::stream::read::Decoder::new(bytes)
            .map(zstd::stream::read::Decoder::single_frame)
            .and_then(|mut reader| reader.read_exact(&mut plain))
    } else {
        flate2::read::DeflateDecoder::new(bytes).read_exact(&mut plain)
    };
    read.map_err(|error| refused(format!("a compressed cluster cannot be unpacked: {error}")))?;
    Ok(plain)
}
