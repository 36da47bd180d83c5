//! What an operating system reads at its first boot: a small FAT file system with a label that cloud-init looks for.

use std::io::{self, Cursor, Write as _};

use athanor_wire::work::Documents;
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use crate::marker::{CONFIG_SIZE, MARKER_SIZE};

/// A file system with the documents in it. The last block of its partition is the marker's.
///
/// # Errors
/// They do not fit, or a path is none.
pub fn file_system(documents: &Documents) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (CONFIG_SIZE - MARKER_SIZE) as usize];
    let mut label = [b' '; 11];
    for (place, byte) in label.iter_mut().zip(documents.label.bytes()) {
        *place = byte;
    }
    fatfs::format_volume(Cursor::new(&mut bytes), FormatVolumeOptions::new().volume_label(label))?;
    {
        let system = FileSystem::new(Cursor::new(&mut bytes), FsOptions::new())?;
        let root = system.root_dir();
        for (path, text) in &documents.all_files() {
            let mut folder = root.clone();
            let (folders, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(folders, name)| (folders, name));
            for part in folders.split('/').filter(|part| !part.is_empty()) {
                folder = folder.create_dir(part)?;
            }
            let mut file = folder.create_file(name)?;
            file.truncate()?;
            file.write_all(text.as_bytes())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_documents_are_there_under_their_label() {
        let files = [("openstack/latest/meta_data.json", "{}"), ("openstack/latest/user_data", "#cloud-config\n")];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        let mut bytes = file_system(&Documents { label: "config-2".into(), files, metadata: None }).unwrap();
        let system = FileSystem::new(Cursor::new(&mut bytes), FsOptions::new()).unwrap();
        assert_eq!(system.volume_label(), "config-2");
        let mut text = String::new();
        system.root_dir().open_file("openstack/latest/user_data").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "#cloud-config\n");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let files = [("user-data".to_owned(), "x".repeat(9 << 20))].into();
        assert!(file_system(&Documents { label: "cidata".into(), files, metadata: None }).is_err());
    }
}
