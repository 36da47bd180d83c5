//! What goes wrong on a machine.

use std::io;

/// What went wrong, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A disk could not be read or written.
    #[error("{disk}: {what}: {source}")]
    Disk {
        /// The disk.
        disk: String,
        /// What was done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// No disk will do.
    #[error("{0}")]
    NoDisk(String),
    /// The image cannot be written as it is.
    #[error("image: {0}")]
    Image(String),
    /// The image could not be fetched.
    #[error("image: {url}: {why}")]
    Fetch {
        /// Where from.
        url: String,
        /// Why not.
        why: String,
    },
    /// What was read back is not what was written.
    #[error("{disk}: read back at byte {offset}, it is not what was written; the disk is not to be trusted: replace it")]
    ReadBack {
        /// The disk.
        disk: String,
        /// Where.
        offset: u64,
    },
    /// The disk belongs to somebody else.
    #[error("{0}")]
    NotOurs(String),
    /// The kernel would not.
    #[error("{what}: {source}")]
    System {
        /// What was done.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

impl AgentError {
    /// One word for what kind of thing went wrong.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Disk { .. } => "Disk",
            Self::NoDisk(_) => "NoDisk",
            Self::Image(_) => "Image",
            Self::Fetch { .. } => "Fetch",
            Self::ReadBack { .. } => "ReadBack",
            Self::NotOurs(_) => "NotOurs",
            Self::System { .. } => "System",
        }
    }

    /// A disk could not be read or written.
    pub(crate) fn disk(disk: &str, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let disk = disk.to_owned();
        move |source| Self::Disk { disk, what, source }
    }
}
