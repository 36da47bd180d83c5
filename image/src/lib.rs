//! Builds the container image, without a container engine: an OCI image layout in one tar archive.
//!
//! ```text
//!   static binary ─────────────┐
//!   loaders, as their packages │──► layer: a tar whose bytes depend on the files alone ──► oci: blobs by digest, one archive
//!   have them, with licences   │
//!   bill of materials ─────────┘
//! ```
//!
//! The same input gives the same digest: no clock, no owner, no order of a folder gets in.
//!
//! Never here: compiling. What goes in is built before.

mod layer;
mod oci;

pub mod materials;

pub use layer::Layer;
pub use oci::Image;
