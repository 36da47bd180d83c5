//! Memory that begins at a page: what O_DIRECT asks for.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

/// The alignment that satisfies every block device.
const PAGE: usize = 4096;

/// Bytes that begin at a page.
#[derive(Debug)]
pub struct PageBuffer {
    start: NonNull<u8>,
    size: usize,
}

impl PageBuffer {
    /// So many zeros.
    pub fn zeroed(size: usize) -> Self {
        let layout = layout(size);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Self { start, size },
            None => handle_alloc_error(layout),
        }
    }
}

/// Whole pages, and at least one.
fn layout(size: usize) -> Layout {
    match Layout::from_size_align(size.max(1).next_multiple_of(PAGE), PAGE) {
        Ok(layout) => layout,
        // As for every collection: nobody has half the address space.
        Err(_) => handle_alloc_error(Layout::new::<u8>()),
    }
}

impl Deref for PageBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to at least `size` bytes that were allocated and set.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and whoever holds us mutably is the only one.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), layout(self.size)) }
    }
}

// SAFETY: the bytes belong to the buffer alone.
unsafe impl Send for PageBuffer {}
// SAFETY: nobody changes them through a shared reference.
unsafe impl Sync for PageBuffer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page() {
        assert_eq!(PageBuffer::zeroed(0).len(), 0);
        let mut buffer = PageBuffer::zeroed(10_000);
        assert_eq!(buffer.as_ptr() as usize % PAGE, 0);
        assert_eq!((buffer.len(), buffer.iter().all(|byte| *byte == 0)), (10_000, true));
        buffer[9_999] = 7;
        assert_eq!(buffer[9_999], 7);
    }
}
