//! Administration of an NVMe drive through one of its namespaces (`linux/nvme_ioctl.h`). What the commands mean is the caller's affair.

use std::{fs::File, io, os::fd::AsRawFd as _, time::Duration};

use crate::PageBuffer;

/// Bytes of every structure that Identify returns (NVM Express Base 2.0, 5.17).
pub const IDENTIFY: usize = 4096;
/// The command that returns them.
const IDENTIFY_OPCODE: u8 = 0x06;

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

mod ioctl {
    nix::ioctl_none!(namespace, b'N', 0x40);
    nix::ioctl_readwrite!(admin, b'N', 0x41, super::AdminCommand);
}

/// The number of the namespace that a block device is.
///
/// # Errors
/// It is no NVMe namespace.
pub fn namespace(device: &File) -> io::Result<u32> {
    // SAFETY: the file is open for the call; NVME_IOCTL_ID takes nothing.
    let number = unsafe { ioctl::namespace(device.as_raw_fd()) }?;
    u32::try_from(number).map_err(io::Error::other)
}

/// What Identify returns: `cns` says of what.
///
/// # Errors
/// No right (CAP_SYS_ADMIN), or the drive would not; the message has its status.
pub fn identify(device: &File, nsid: u32, cns: u32) -> io::Result<PageBuffer> {
    let mut page = PageBuffer::zeroed(IDENTIFY);
    let command = AdminCommand {
        opcode: IDENTIFY_OPCODE,
        nsid,
        addr: page.as_mut_ptr() as u64,
        data_len: u32::try_from(IDENTIFY).map_err(io::Error::other)?,
        cdw10: cns,
        ..AdminCommand::default()
    };
    submit(device, command)?;
    Ok(page)
}

/// A command without data, by its opcode and its tenth word.
///
/// # Errors
/// As [`identify`].
pub fn admin(device: &File, opcode: u8, nsid: u32, cdw10: u32, timeout: Duration) -> io::Result<()> {
    let timeout_ms = u32::try_from(timeout.as_millis()).map_err(io::Error::other)?;
    submit(device, AdminCommand { opcode, nsid, cdw10, timeout_ms, ..AdminCommand::default() })
}

fn submit(device: &File, mut command: AdminCommand) -> io::Result<()> {
    // SAFETY: the file is open for the call, the structure is the kernel's, and `addr` is null or a buffer of `data_len` bytes that outlives it.
    match unsafe { ioctl::admin(device.as_raw_fd(), &raw mut command) }? {
        0 => Ok(()),
        status => Err(io::Error::other(format!("the drive answers with status {status:#06x}"))),
    }
}
