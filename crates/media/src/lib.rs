//! Files inside ISO images, as byte ranges of the image.
//!
//! ```text
//!   "install.amd/vmlinuz" ──► Iso::file ──► IsoFile { extents } ──► read_at(offset)
//!                               │
//!                        hadris-iso: ISO 9660, Rock Ridge, Joliet
//! ```
//!
//! The image is opened once and shared; a file is found once and then read without a lock. Links stay inside the image.
//!
//! Never here: mounting, unpacking, copying, writing. An image that is not what it says is an error that says so.

mod device;
mod error;
mod iso;
mod library;

pub use error::MediaError;
pub use iso::{Entry, Extent, Iso, IsoFile};
pub use library::{Library, Stamp, contained};
