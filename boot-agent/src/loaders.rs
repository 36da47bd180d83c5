//! The inventory of loaders: files in the configured folders, by name.

use std::{fs, path::PathBuf};

use athanor_plan::Loaders;

/// The largest file that can be a loader; larger ones in the folder are something else.
const MAX_LOADER: u64 = 64 << 20;

/// Looks through the folders; the first that has a name wins.
pub(crate) fn scan(folders: &[PathBuf]) -> Loaders {
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flat_map(|entries| {
        let mut found: Vec<(String, String)> = entries
            .flatten()
            .filter(|entry| fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_LOADER))
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().display().to_string()))
            .collect();
        found.sort();
        found
    });
    Loaders::from_files(files)
}
