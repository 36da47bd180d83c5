//! The images of an agent: opened once, shared, opened again when the file changes, and only below the configured folders.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::{Iso, MediaError};

/// How many images stay open; each holds one file descriptor and a few hundred KiB of directory cache.
const MAX_OPEN: usize = 64;

/// The identity of a file's content, as far as the file system tells: length, time of change, and which file it is.
pub type Stamp = (u64, Option<SystemTime>, u64);

/// An image that is open, or about to be. Each has a lock of its own: one on a share that hangs holds up nobody else.
type Slot = Arc<Mutex<Option<(Stamp, Arc<Iso>)>>>;

/// Images below the media folders.
#[derive(Debug, Default)]
pub struct Library {
    folders: Vec<PathBuf>,
    slots: Mutex<HashMap<PathBuf, Slot>>,
}

/// The canonical path of a file, if it lies below one of the folders once every link is resolved. A relative path is looked up in each.
///
/// # Errors
/// It does not exist, or lies elsewhere.
pub fn contained(path: &Path, folders: &[PathBuf]) -> Result<PathBuf, MediaError> {
    let is_inside = |real: &Path| folders.iter().filter_map(|folder| folder.canonicalize().ok()).any(|folder| real.starts_with(folder));
    let is_named = |folder: &PathBuf| path.starts_with(folder) || folder.canonicalize().is_ok_and(|folder| path.starts_with(folder));
    if path.is_absolute() && !folders.iter().any(is_named) {
        // Whoever writes a profile shall not learn what there is elsewhere: what is missing there and what is not look alike.
        let real = path.canonicalize().ok().filter(|real| is_inside(real));
        return real.ok_or_else(|| outside(path.to_owned(), folders));
    }
    let canonical = |candidate: &Path| candidate.canonicalize();
    let found = if path.is_absolute() {
        canonical(path)
    } else {
        folders
            .iter()
            .map(|folder| canonical(&folder.join(path)))
            .find(Result::is_ok)
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
    };
    let real = found.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => MediaError::Missing(path.to_owned()),
        _ => MediaError::Io { path: path.to_owned(), source },
    })?;
    if is_inside(&real) { Ok(real) } else { Err(outside(real, folders)) }
}

fn outside(path: PathBuf, folders: &[PathBuf]) -> MediaError {
    let dirs: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    MediaError::Outside { path, dirs: dirs.join(", ") }
}

impl Library {
    /// A library over folders.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, slots: Mutex::default() }
    }

    /// An image by its path, opened at the first use and again after it changed.
    ///
    /// # Errors
    /// It is missing, lies elsewhere, or is no sound ISO image.
    pub fn iso(&self, path: &Path) -> Result<Arc<Iso>, MediaError> {
        let (real, stamp) = self.look(path)?;
        let slot = self.slot(&real);
        let mut open = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, iso)) = open.as_ref().filter(|(known, _)| *known == stamp) {
            return Ok(iso.clone());
        }
        let iso = Arc::new(Iso::open(&real)?);
        *open = Some((stamp, iso.clone()));
        Ok(iso)
    }

    /// The identity of an image's content, without opening it.
    ///
    /// # Errors
    /// It is missing, or lies elsewhere.
    pub fn stamp(&self, path: &Path) -> Result<Stamp, MediaError> {
        self.look(path).map(|(_, stamp)| stamp)
    }

    fn look(&self, path: &Path) -> Result<(PathBuf, Stamp), MediaError> {
        let real = contained(path, &self.folders)?;
        let meta = fs::metadata(&real).map_err(|source| MediaError::Io { path: real.clone(), source })?;
        let stamp = (meta.len(), meta.modified().ok(), meta.ino());
        Ok((real, stamp))
    }

    fn slot(&self, path: &Path) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_OPEN && !slots.contains_key(path) {
            slots.clear();
        }
        slots.entry(path.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_told_of_what_lies_outside() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("media")).unwrap();
        for file in ["media/in.iso", "secret"] {
            fs::write(at(file), "").unwrap();
        }
        symlink(at("media"), at("alias")).unwrap();
        symlink(at("secret"), at("media/link.iso")).unwrap();
        let look = |path: &Path, media: &str| match contained(path, &[at(media)]) {
            Ok(_) => "found",
            Err(MediaError::Missing(_)) => "missing",
            Err(MediaError::Outside { .. }) => "outside",
            Err(_) => "other",
        };
        for (path, said) in [
            (at("media/in.iso"), "found"),
            (at("alias/in.iso"), "found"),
            (PathBuf::from("in.iso"), "found"),
            (at("media/gone.iso"), "missing"),
            (PathBuf::from("gone.iso"), "missing"),
            (at("secret"), "outside"),
            (at("no-secret"), "outside"),
            (at("media/link.iso"), "outside"),
        ] {
            assert_eq!((look(&path, "media"), look(&path, "alias")), (said, said), "{}", path.display());
        }
    }
}
