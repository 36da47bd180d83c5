//! What can be wrong with an image, in words that say what to do.

use std::{io, path::PathBuf};

use hadris_fs::ErrorKind;
use hadris_iso::Detail;

/// What is wrong with an image, or with a path inside it.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// There is no such file.
    #[error("{path} does not exist; put the ISO there, or correct spec.media.path", path = .0.display())]
    Missing(PathBuf),
    /// It is outside of every media folder.
    #[error("{path} is not below a mediaDir ({dirs}); move it there, or add its folder to mediaDirs", path = .path.display())]
    Outside {
        /// The file, with links resolved.
        path: PathBuf,
        /// The folders.
        dirs: String,
    },
    /// It is no ISO image.
    #[error("{path} is not an ISO 9660 image; check that the download is the .iso itself", path = .0.display())]
    NotIso(PathBuf),
    /// It is a folder, a pipe or a device.
    #[error("{path} is no file; name the .iso itself", path = .0.display())]
    NoFile(PathBuf),
    /// It ends too early.
    #[error("{path} is cut off: it has {have} bytes{}; download it again", .needed.map(|needed| format!(" of at least {needed}")).unwrap_or_default(), path = .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes it should have, where that is known.
        needed: Option<u64>,
        /// Bytes it has.
        have: u64,
    },
    /// It contradicts itself.
    #[error("{path} is damaged ({what}); download it again and compare its checksum", path = .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// The path is not in the image.
    #[error("{iso} has no {wanted}{hint}")]
    NotFound {
        /// The image's file name.
        iso: String,
        /// The path.
        wanted: String,
        /// `; it has …`, or nothing.
        hint: String,
    },
    /// The path is a folder.
    #[error("{wanted} in {iso} is a folder, not a file")]
    IsFolder {
        /// The image's file name.
        iso: String,
        /// The path.
        wanted: String,
    },
    /// The file that a machine is to boot has no bytes.
    #[error("{wanted} in {iso} is empty: nothing boots with it; name another file, or make the image anew")]
    Empty {
        /// The image's file name.
        iso: String,
        /// The path.
        wanted: String,
    },
    /// Links point at each other.
    #[error("{wanted} in {iso} is a link that leads nowhere")]
    LinkLoop {
        /// The image's file name.
        iso: String,
        /// The path.
        wanted: String,
    },
    /// The operating system says no.
    #[error("{path} cannot be read: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl MediaError {
    /// A word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Outside { .. } => "outside",
            Self::NotIso(_) | Self::NoFile(_) => "not-iso",
            Self::Truncated { .. } => "truncated",
            Self::Empty { .. } => "empty",
            Self::Corrupt { .. } => "corrupt",
            Self::NotFound { .. } | Self::IsFolder { .. } | Self::LinkLoop { .. } => "not-found",
            Self::Io { .. } => "io",
        }
    }
}

/// What a lookup inside an image failed with, before the image's name is known.
#[derive(Debug)]
pub(crate) enum Fault {
    NotIso,
    Truncated(Option<u64>),
    NotFound,
    IsFolder,
    LinkLoop,
    Corrupt(String),
    Io(io::Error),
}

/// Translates hadris' errors. `declared` is the size that the image says it has; `None` when even that was not readable.
pub(crate) fn fault(error: hadris_fs::Error<io::Error>, declared: Option<u64>, have: u64) -> Fault {
    let short = declared.is_none_or(|declared| declared > have);
    match error.kind() {
        ErrorKind::NotRecognized => Fault::NotIso,
        ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::NameTooLong | ErrorKind::NotADirectory => Fault::NotFound,
        ErrorKind::IsADirectory => Fault::IsFolder,
        ErrorKind::Symlink => Fault::LinkLoop,
        ErrorKind::Io => match error.into_device_error() {
            Some(io) if io.kind() == io::ErrorKind::UnexpectedEof => Fault::Truncated(None),
            Some(io) => Fault::Io(io),
            None => Fault::Io(io::ErrorKind::Other.into()),
        },
        // A pointer past the end of a short file: metadata, or a Rock Ridge continuation.
        _ if short && matches!(Detail::of(&error), Some(Detail::OutsideImage | Detail::SystemUse)) => Fault::Truncated(declared),
        _ => Fault::Corrupt(error.to_string()),
    }
}
