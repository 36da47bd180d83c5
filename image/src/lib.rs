//! Builds what is shipped: the container image, without a container engine, and the machine-agent's ramdisk.
//!
//! ```text
//!   static binary ─────────────┐
//!   loaders, as their packages │──► layer: a tar whose bytes depend on the files alone ──► oci: blobs by digest, one archive
//!   have them, with licences   │
//!   bill of materials ─────────┘
//!
//!   kernel package, static agent ──► ramdisk: vmlinuz, initramfs, manifest
//! ```
//!
//! The same input gives the same digest: no clock, no owner, no order of a folder gets in.
//!
//! Never here: compiling. What goes in is built before.

use std::process::ExitCode;

use sha2::{Digest as _, Sha256};

mod layer;
mod oci;

pub mod materials;
pub mod newc;
pub mod ramdisk;

pub use layer::Layer;
pub use oci::Image;

/// Whether a 64-bit ELF file asks for no interpreter (PT_INTERP, type 3, in its program headers).
pub fn is_static(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at + size)?;
        bytes.iter().rev().try_fold(0_usize, |sum, byte| Some(sum << 8 | usize::from(*byte)))
    };
    let interpreter = || -> Option<bool> {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        Some((0..count).any(|index| number(start + index * size, 4) == Some(3)))
    };
    elf.starts_with(b"\x7fELF\x02") && interpreter() == Some(false)
}

/// The digest of bytes, in hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a program of this room ends: what went wrong is one line.
pub fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
