//! The inventory of loaders: files in the configured folders, by name.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use athanor_media::contained;
use athanor_plan::Loaders;

use crate::shared::Shared;

/// How often the folders are looked at: somebody who put a loader there waits for it, and one that was taken away is named no longer.
const LOOK: Duration = Duration::from_secs(5);

/// The largest file that can be a loader; larger ones in the folder are something else.
const MAX_LOADER: u64 = 64 << 20;

/// What files that firmware loads are called. Loaders are served to anybody, and a folder such as /boot holds other things, too.
const SUFFIXES: [&str; 12] = [".efi", ".efi.signed", ".pxe", ".kpxe", ".kkpxe", ".lkrn", ".0", ".c32", ".uimg", ".elf", ".dat", ".dtb"];

/// Looks through the folders; the first that has a name wins. Links that lead out of the folders are not followed.
pub(crate) fn scan(folders: &[PathBuf]) -> Loaders {
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flat_map(|entries| {
        let mut found: Vec<(String, String)> = entries.flatten().filter_map(|entry| loader(&entry, folders)).collect();
        found.sort();
        found
    });
    Loaders::from_files(files)
}

/// Says what is missing.
pub(crate) fn tell(loaders: &Loaders, folders: &[PathBuf]) {
    for arch in loaders.missing() {
        tracing::warn!(%arch, ?folders, "no loader for this architecture; install the package ipxe or put one into the folder");
    }
    for lacking in loaders.incomplete() {
        tracing::warn!(lacking, ?folders, "a chain of loaders begins and does not go on, so it is offered to nobody");
    }
}

/// Looks through the folders again and again, for ever.
pub(crate) async fn watch(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let folders = shared.options.loader_dirs.clone();
        // A share that hangs has what it had.
        let Some(found) = shared.on_disk(move || scan(&folders)).await else { continue };
        if *shared.loaders() != found {
            tracing::info!("the loaders have changed");
            tell(&found, &shared.options.loader_dirs);
            shared.found_loaders(found);
        }
    }
}

/// The name of a loader and its file.
fn loader(entry: &fs::DirEntry, folders: &[PathBuf]) -> Option<(String, String)> {
    let name = entry.file_name().to_str()?.to_owned();
    if !SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        return None;
    }
    let real = contained(&entry.path(), folders).ok()?;
    let meta = fs::metadata(&real).ok()?;
    (meta.is_file() && meta.len() <= MAX_LOADER).then(|| (name, real.display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_loaders_are_served_and_only_from_the_folders() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for name in ["snponly.efi", "ipxe.lkrn", "initrd.img-6.1", "config"] {
            fs::write(file(name), "x").unwrap();
        }
        fs::write(elsewhere.path().join("passwd"), "x").unwrap();
        symlink(elsewhere.path().join("passwd"), file("evil.efi")).unwrap();
        symlink(file("snponly.efi"), file("bootx64.efi")).unwrap();
        let loaders = scan(&[folder.path().to_owned()]);
        for (name, there) in [
            ("snponly.efi", true),
            ("bootx64.efi", true),
            ("ipxe.lkrn", true),
            ("initrd.img-6.1", false),
            ("config", false),
            ("evil.efi", false),
        ] {
            assert_eq!(loaders.file(name).is_some(), there, "{name}");
        }
    }
}
