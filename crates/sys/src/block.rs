//! Block devices: their size, and what they can do besides reading and writing (`linux/fs.h`).

use std::{fs::File, io, os::fd::AsRawFd as _};

mod ioctl {
    nix::ioctl_read!(size, 0x12, 114, u64);
    nix::ioctl_read_bad!(logical_block, 0x1268, libc::c_int);
    nix::ioctl_write_ptr_bad!(discard, 0x1277, [u64; 2]);
    nix::ioctl_write_ptr_bad!(zero_out, 0x127f, [u64; 2]);
    nix::ioctl_none_bad!(reread_partitions, 0x125f);
    nix::ioctl_none_bad!(flush_buffers, 0x1261);
}

/// The size of a block device in bytes.
///
/// # Errors
/// It is none.
pub fn size(device: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the file is open for the call, and BLKGETSIZE64 writes one u64.
    unsafe { ioctl::size(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// Bytes in a logical block.
///
/// # Errors
/// It is no block device.
pub fn logical_block(device: &File) -> io::Result<u32> {
    let mut bytes = 0;
    // SAFETY: the file is open for the call, and BLKSSZGET writes one int.
    unsafe { ioctl::logical_block(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Tells the device that nobody needs these bytes (BLKDISCARD). What is read there afterwards is the device's own affair.
///
/// # Errors
/// The device cannot, or the range is not one of whole blocks.
pub fn discard(device: &File, start: u64, length: u64) -> io::Result<()> {
    // SAFETY: the file is open for the call, and BLKDISCARD reads two u64.
    unsafe { ioctl::discard(device.as_raw_fd(), &[start, length]) }?;
    Ok(())
}

/// Makes these bytes zero (BLKZEROOUT), by the device's own means where it has some.
///
/// # Errors
/// Writing failed, or the range is not one of whole blocks.
pub fn zero_out(device: &File, start: u64, length: u64) -> io::Result<()> {
    // SAFETY: the file is open for the call, and BLKZEROOUT reads two u64.
    unsafe { ioctl::zero_out(device.as_raw_fd(), &[start, length]) }?;
    Ok(())
}

/// Lets the kernel read the partition table anew.
///
/// # Errors
/// A partition is in use.
pub fn reread_partitions(device: &File) -> io::Result<()> {
    // SAFETY: the file is open for the call; BLKRRPART takes nothing.
    unsafe { ioctl::reread_partitions(device.as_raw_fd()) }?;
    Ok(())
}

/// Forgets what the kernel keeps of the device in memory, so that what is read next comes from the device.
///
/// # Errors
/// No right.
pub fn flush_buffers(device: &File) -> io::Result<()> {
    // SAFETY: the file is open for the call; BLKFLSBUF takes nothing.
    unsafe { ioctl::flush_buffers(device.as_raw_fd()) }?;
    Ok(())
}
