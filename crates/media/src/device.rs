//! A file as the block device that hadris reads from.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use hadris_storage::{BlockIndex, BlockSize, sync::BlockDevice};

/// Blocks of one byte: the length is exact (no ragged tail is rounded away), and each read is one `pread`.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) file: Arc<File>,
    pub(crate) length: u64,
}

impl hadris_io::ErrorType for Device {
    type Error = io::Error;
}

impl BlockDevice for Device {
    fn block_size(&self) -> BlockSize {
        const {
            match BlockSize::new(1) {
                Some(size) => size,
                None => panic!("one is a block size"),
            }
        }
    }

    fn block_count(&self) -> u64 {
        self.length
    }

    fn read_blocks(&mut self, first: BlockIndex, buffer: &mut [u8]) -> Result<(), hadris_fs::Error<io::Error>> {
        self.file.read_exact_at(buffer, first.get()).map_err(|error| hadris_fs::Error::device(error, "reading the image failed"))
    }
}
