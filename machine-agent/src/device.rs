//! A disk, or a file that stands for one.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use athanor_sys::{PageBuffer, block, nvme};

use crate::erase;

/// What can be done with a disk.
pub trait Device: Sync {
    /// Its name, as people read it.
    fn name(&self) -> &str;
    /// Bytes.
    fn size(&self) -> u64;
    /// Bytes in a logical block.
    fn block(&self) -> u32;
    /// Fills a buffer.
    ///
    /// # Errors
    /// The device would not, or it ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of it.
    ///
    /// # Errors
    /// The device would not, or it ends before.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a range zero, by the device's own means where it has some.
    ///
    /// # Errors
    /// The device would not.
    fn zero(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Says that nobody needs a range.
    ///
    /// # Errors
    /// The device cannot.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Lets the drive erase all of itself, however long that takes: nothing stops it. Returns what it calls that.
    ///
    /// # Errors
    /// It has no erase of its own, or would not.
    fn erase(&self) -> io::Result<&'static str>;
    /// Everything is on the medium, and what is read from now on comes from there.
    ///
    /// # Errors
    /// The device would not.
    fn settle(&self) -> io::Result<()>;
}

/// A device that nobody touches any more once its work is over: a Deployment that is deleted in the middle of a write ends that write.
pub struct Watched<'a> {
    device: &'a dyn Device,
    over: &'a AtomicBool,
}

impl<'a> Watched<'a> {
    /// A device that is used until `over` is set.
    pub fn new(device: &'a dyn Device, over: &'a AtomicBool) -> Self {
        Self { device, over }
    }

    fn wanted(&self) -> io::Result<&dyn Device> {
        if self.over.load(Ordering::Relaxed) { Err(io::Error::other("the work is over")) } else { Ok(self.device) }
    }
}

impl Device for Watched<'_> {
    fn name(&self) -> &str {
        self.device.name()
    }
    fn size(&self) -> u64 {
        self.device.size()
    }
    fn block(&self) -> u32 {
        self.device.block()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.wanted()?.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.wanted()?.write_at(offset, bytes)
    }
    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.wanted()?.zero(offset, length)
    }
    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.wanted()?.discard(offset, length)
    }
    fn erase(&self) -> io::Result<&'static str> {
        self.wanted()?.erase()
    }
    fn settle(&self) -> io::Result<()> {
        self.wanted()?.settle()
    }
}

/// A block device, opened past the kernel's cache; or a file.
#[derive(Debug)]
pub struct Disk {
    name: String,
    file: File,
    size: u64,
    block: u32,
    is_block: bool,
}

/// How long a drive may take to erase itself: drives that write every cell need as long as it takes to fill them.
const ERASE: Duration = Duration::from_secs(4 * 3600);
/// The most zeros that are written at once to what has no means of its own.
const ZEROS: usize = 1 << 20;

impl Disk {
    /// Opens a disk to write it. Nobody else may have it open for themselves (a mounted file system has).
    ///
    /// # Errors
    /// It cannot be opened, or is in use.
    pub fn open(path: &Path) -> io::Result<Self> {
        let is_block = std::fs::metadata(path)?.file_type().is_block_device();
        let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let exclusive = if is_block { libc::O_EXCL } else { 0 };
        // Some file systems have no O_DIRECT.
        let file = open(libc::O_DIRECT | exclusive).or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => open(exclusive),
            _ => Err(error),
        })?;
        let (size, block) = if is_block { (block::size(&file)?, block::logical_block(&file)?) } else { (file.metadata()?.len(), 512) };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, file, size, block, is_block })
    }

    /// Lets the kernel see the partitions that are there now.
    ///
    /// # Errors
    /// One of them is in use.
    pub fn reread_partitions(&self) -> io::Result<()> {
        if self.is_block { block::reread_partitions(&self.file) } else { Ok(()) }
    }

    /// O_DIRECT takes whole pages of memory and whole blocks of the device.
    fn is_aligned(&self, offset: u64, bytes: &[u8]) -> bool {
        let block = u64::from(self.block.max(512));
        offset.is_multiple_of(block) && (bytes.len() as u64).is_multiple_of(block) && (bytes.as_ptr() as usize).is_multiple_of(512)
    }

    /// The whole blocks around a range, read.
    fn around(&self, offset: u64, length: usize) -> io::Result<(u64, PageBuffer)> {
        let block = u64::from(self.block.max(512));
        let start = offset - offset % block;
        let end = (offset + length as u64).next_multiple_of(block);
        let size = usize::try_from(end - start).map_err(io::Error::other)?;
        let mut buffer = PageBuffer::zeroed(size);
        if self.is_block || end <= self.size {
            self.file.read_exact_at(&mut buffer[..size], start)?;
        } else {
            // The end of a file that is no whole number of blocks.
            let there = usize::try_from(self.size.saturating_sub(start)).map_err(io::Error::other)?.min(size);
            self.file.read_exact_at(&mut buffer[..there], start)?;
        }
        Ok((start, buffer))
    }

    fn inside(&self, offset: u64, length: u64) -> io::Result<()> {
        if offset.checked_add(length).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("bytes {offset} to {} are beyond its end", offset.saturating_add(length))))
    }
}

impl Device for Disk {
    fn name(&self) -> &str {
        &self.name
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn block(&self) -> u32 {
        self.block
    }
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.inside(offset, bytes.len() as u64)?;
        if self.is_aligned(offset, bytes) {
            return self.file.read_exact_at(bytes, offset);
        }
        let (start, buffer) = self.around(offset, bytes.len())?;
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        bytes.copy_from_slice(&buffer[skip..skip + bytes.len()]);
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inside(offset, bytes.len() as u64)?;
        if self.is_aligned(offset, bytes) {
            return self.file.write_all_at(bytes, offset);
        }
        let (start, mut buffer) = self.around(offset, bytes.len())?;
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        buffer[skip..skip + bytes.len()].copy_from_slice(bytes);
        self.file.write_all_at(&buffer, start)
    }
    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inside(offset, length)?;
        let block = u64::from(self.block.max(512));
        if self.is_block && offset.is_multiple_of(block) && length.is_multiple_of(block) {
            return block::zero_out(&self.file, offset, length);
        }
        let zeros = PageBuffer::zeroed(ZEROS.min(usize::try_from(length).unwrap_or(ZEROS)));
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(ZEROS).min(ZEROS).min(zeros.len());
            self.write_at(at, &zeros[..piece])?;
            at += piece as u64;
        }
        Ok(())
    }
    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inside(offset, length)?;
        if self.is_block { block::discard(&self.file, offset, length) } else { Err(io::ErrorKind::Unsupported.into()) }
    }
    fn erase(&self) -> io::Result<&'static str> {
        if !self.is_block || !self.name.starts_with("nvme") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only NVMe drives are asked for an erase of their own"));
        }
        let nsid = nvme::namespace(&self.file)?;
        let about = |nsid, what| nvme::identify(&self.file, nsid, what);
        let (controller, namespaces) = (about(0, erase::CONTROLLER)?, about(0, erase::ACTIVE_NAMESPACES)?);
        let command = erase::format(&controller, &about(nsid, erase::NAMESPACE)?, &namespaces)
            .map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why))?;
        nvme::admin(&self.file, erase::FORMAT, nsid, command, ERASE)?;
        Ok("NVMe Format NVM with erase of user data")
    }
    fn settle(&self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.is_block { block::flush_buffers(&self.file) } else { Ok(()) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file full of somebody's data, as a disk.
    pub(crate) fn disk_of(size: usize) -> (tempfile::NamedTempFile, Disk) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0xAA; size]).unwrap();
        let disk = Disk::open(file.path()).unwrap();
        (file, disk)
    }

    #[test]
    fn what_is_no_whole_block_leaves_its_neighbours_alone() {
        let (file, disk) = disk_of(8192);
        disk.write_at(1000, b"athanor").unwrap();
        disk.zero(4100, 3).unwrap();
        let mut back = [0; 9];
        disk.read_at(999, &mut back).unwrap();
        assert_eq!(&back, b"\xAAathanor\xAA");
        let all = std::fs::read(file.path()).unwrap();
        assert_eq!(&all[4099..4104], [0xAA, 0, 0, 0, 0xAA]);
        assert_eq!(all.iter().filter(|byte| **byte == 0xAA).count(), 8192 - 10);
    }

    #[test]
    fn beyond_the_end_is_an_error() {
        let (_file, disk) = disk_of(4096);
        assert_eq!(disk.write_at(4090, &[1; 7]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(disk.read_at(u64::MAX, &mut [1; 7]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
