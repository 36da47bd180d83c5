//! One layer: a tar archive whose bytes depend on names, modes and contents alone.

use std::{collections::BTreeMap, io};

use tar::{Builder, EntryType, Header};

enum Entry {
    Folder(u32),
    File(Vec<u8>, u32),
    Link(String),
}

/// Files by absolute path, in the order of their names.
#[derive(Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// A file with its bytes and mode; the folders above it come with it.
    pub fn file(&mut self, path: &str, bytes: Vec<u8>, mode: u32) {
        self.add(path, Entry::File(bytes, mode));
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link(target.to_owned()));
    }

    /// A folder with its mode.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::Folder(mode));
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Folder(0o755));
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive.
    ///
    /// # Errors
    /// A name is too long for a tar archive.
    pub fn tar(&self) -> io::Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = Header::new_ustar();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match entry {
                Entry::Folder(mode) => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::File(bytes, mode) => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, path, bytes.as_slice())?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        archive.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_in_which_files_are_added_is_not_seen() {
        let (mut one, mut other) = (Layer::default(), Layer::default());
        one.file("/usr/bin/a", b"a".to_vec(), 0o755);
        one.link("/usr/bin/b", "a");
        other.link("/usr/bin/b", "a");
        other.file("/usr/bin/a", b"a".to_vec(), 0o755);
        let bytes = one.tar().unwrap();
        assert_eq!(bytes, other.tar().unwrap());
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["usr/", "usr/bin/", "usr/bin/a", "usr/bin/b"]);
    }
}
