//! How the C library keeps freed memory.

/// Lets all threads share two heaps. glibc gives every thread one of its own, up to eight per core, and what was freed in one is of no use to
/// another: a server whose threads take turns with large lists would keep the largest for each of them. Elsewhere this does nothing.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "mallopt(3) has no safe wrapper; it is called before any thread starts, with constants that it knows")]
    // SAFETY: mallopt takes two integers and touches no memory of ours.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
