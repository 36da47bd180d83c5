//! Reading what the kernel has in memory, and nothing else: preadv2(2) with RWF_NOWAIT.

use std::{fs::File, io, os::fd::AsRawFd as _};

/// Reads from `offset` on what the page cache has of it, at most as much as `buffer` holds. `None` where the caller would have to wait for a
/// disk, or where the file system cannot tell.
///
/// # Errors
/// The file cannot be read.
pub fn read_cached(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the one piece is `buffer`, which is ours and writable for the whole call, and the kernel writes no more than its length.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const piece, 1, offset, libc::RWF_NOWAIT) };
    match usize::try_from(read) {
        Ok(read) => Ok(Some(read)),
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS)) => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_just_written_is_there_or_nothing_is_claimed() {
        let path = std::env::temp_dir().join(format!("athanor-cached-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut buffer = [0; 4];
        match read_cached(&file, 3, &mut buffer).unwrap() {
            Some(read) => assert_eq!(&buffer[..read], &b"3456"[..read]),
            None => assert_eq!(buffer, [0; 4]),
        }
        assert_eq!(read_cached(&file, 10, &mut buffer).unwrap().unwrap_or(0), 0, "past the end there is nothing");
    }
}
