//! Images made by xorriso, whole and cut.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use athanor_media::{Iso, IsoFile, Library, MediaError};
use tempfile::TempDir;

fn image(folder: &Path, flags: &[&str]) -> PathBuf {
    let tree = folder.join("tree");
    let _ = fs::remove_dir_all(&tree);
    let _ = fs::remove_file(folder.join("debian.iso"));
    fs::create_dir_all(tree.join("install.amd/gtk")).unwrap();
    fs::create_dir_all(tree.join("many")).unwrap();
    fs::write(tree.join("install.amd/vmlinuz"), vec![7; 3_000_001]).unwrap();
    fs::write(tree.join("install.amd/gtk/initrd.gz"), b"initrd").unwrap();
    fs::write(tree.join("install.amd/base_installable"), b"").unwrap();
    fs::write(tree.join("größe-日本語.txt"), b"utf8").unwrap();
    for i in 0..300 {
        fs::write(tree.join(format!("many/file-number-{i:04}.udeb")), format!("n{i}")).unwrap();
    }
    symlink("install.amd/vmlinuz", tree.join("kernel")).unwrap();
    symlink("../../../../etc/passwd", tree.join("escape")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    let iso = folder.join("debian.iso");
    let output = Command::new("xorriso")
        .env("LC_ALL", "C.UTF-8")
        .args(["-as", "mkisofs", "-V", "DEBIAN"])
        .args(flags)
        .arg("-o")
        .args([&iso, &tree])
        .output()
        .expect("xorriso is needed to make test images; install the package xorriso");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    iso
}

fn bytes(file: &IsoFile) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(file.size()).unwrap()];
    assert_eq!(file.read_at(0, &mut all).unwrap(), all.len());
    all
}

#[test]
fn rock_ridge_and_joliet_names_are_found_and_links_stay_inside() {
    let folder = TempDir::new().unwrap();
    for flags in [&["-R"][..], &["-J", "--norock"]] {
        let iso = Iso::open(&image(folder.path(), flags)).unwrap();
        assert_eq!(iso.label(), Some("DEBIAN"));
        let kernel = iso.file("install.amd/vmlinuz").unwrap();
        assert_eq!(bytes(&kernel), vec![7; 3_000_001]);
        assert_eq!(iso.file("/INSTALL.AMD/VmLinuz").unwrap().size(), 3_000_001);
        assert_eq!(bytes(&iso.file("größe-日本語.txt").unwrap()), b"utf8");
        assert_eq!(iso.list("many").unwrap().len(), 300);
        let mut piece = [0; 10];
        assert_eq!(kernel.read_at(2_999_999, &mut piece).unwrap(), 2);
        assert_eq!(kernel.read_at(4_000_000, &mut piece).unwrap(), 0);
    }
    let iso = Iso::open(&image(folder.path(), &["-R"])).unwrap();
    assert_eq!(iso.file("kernel").unwrap().size(), 3_000_001);
    assert!(matches!(iso.file("escape"), Err(MediaError::NotFound { .. })));
    assert!(matches!(iso.file("loop"), Err(MediaError::LinkLoop { .. })));
}

#[test]
fn what_is_not_there_says_what_is() {
    let folder = TempDir::new().unwrap();
    let iso = Iso::open(&image(folder.path(), &["-R"])).unwrap();
    let message = |path: &str| iso.file(path).unwrap_err().to_string();
    assert_eq!(message("install/vmlinuz"), "debian.iso has no install/vmlinuz; it has install.amd/vmlinuz");
    assert_eq!(message("install.amd/vmlinux"), "debian.iso has no install.amd/vmlinux; did you mean \"install.amd/vmlinuz\"?");
    assert_eq!(message("nothing/like/this"), "debian.iso has no nothing/like/this");
    assert_eq!(message("install.amd"), "install.amd in debian.iso is a folder, not a file");
}

#[test]
fn an_empty_file_is_a_file_but_none_to_boot() {
    let folder = TempDir::new().unwrap();
    let iso = Iso::open(&image(folder.path(), &["-R"])).unwrap();
    assert_eq!(iso.file("install.amd/base_installable").unwrap().size(), 0);
    assert_eq!(
        iso.boot_file("/install.amd/base_installable").err().unwrap().to_string(),
        "install.amd/base_installable in debian.iso is empty: nothing boots with it; name another file, or make the image anew"
    );
    assert_eq!(iso.boot_file("install.amd/gtk/initrd.gz").unwrap().size(), 6);
}

#[test]
fn missing_cut_and_wrong_files_say_so() {
    let folder = TempDir::new().unwrap();
    let whole = image(folder.path(), &["-R"]);
    let content = fs::read(&whole).unwrap();
    let cut = folder.path().join("cut.iso");
    let message = |length: usize| {
        fs::write(&cut, &content[..length]).unwrap();
        match Iso::open(&cut) {
            Ok(iso) => iso.file("install.amd/vmlinuz").unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    for length in [33_000, 40_960, 100 * 2048, content.len() / 2] {
        assert!(message(length).starts_with(&format!("{} is cut off: it has {length} bytes", cut.display())), "{}", message(length));
    }
    assert_eq!(message(1000), format!("{} is not an ISO 9660 image; check that the download is the .iso itself", cut.display()));
    for odd in [folder.path(), Path::new("/dev/null")] {
        assert_eq!(Iso::open(odd).unwrap_err().to_string(), format!("{} is no file; name the .iso itself", odd.display()));
    }
    let gone = folder.path().join("gone.iso");
    assert_eq!(
        Iso::open(&gone).unwrap_err().to_string(),
        format!("{} does not exist; put the ISO there, or correct spec.media.path", gone.display())
    );
}

#[test]
fn only_images_below_the_media_folders_are_opened_and_a_changed_one_is_opened_again() {
    let (inside, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let iso = image(outside.path(), &["-R"]);
    symlink(&iso, inside.path().join("link.iso")).unwrap();
    let library = Library::new(vec![inside.path().to_owned()]);
    for path in [iso.as_path(), Path::new("link.iso")] {
        let error = library.iso(path).unwrap_err();
        assert!(matches!(error, MediaError::Outside { .. }), "{error}");
    }
    fs::copy(&iso, inside.path().join("debian.iso")).unwrap();
    let first = library.iso(Path::new("debian.iso")).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &library.iso(&inside.path().join("debian.iso")).unwrap()));
    fs::write(inside.path().join("debian.iso"), b"no longer").unwrap();
    assert!(matches!(library.iso(Path::new("debian.iso")), Err(MediaError::NotIso(_))));
}

#[test]
fn a_folder_that_lies_in_itself_is_searched_once() {
    let folder = TempDir::new().unwrap();
    let path = image(folder.path(), &["--norock"]);
    let mut bytes = fs::read(&path).unwrap();
    // The root's record in the primary volume descriptor (ECMA-119 section 8.4.18): where it is, and how long.
    let root = 16 * 2048 + 156;
    let place: Vec<u8> = bytes[root + 2..root + 18].to_vec();
    let start = usize::try_from(u32::from_le_bytes(place[..4].try_into().unwrap())).unwrap() * 2048;
    let many = (start..).find(|at| bytes[*at..].starts_with(b"MANY")).unwrap() - 33;
    bytes[many + 2..many + 18].copy_from_slice(&place);
    fs::write(&path, bytes).unwrap();
    let error = Iso::open(&path).unwrap().file("many/vmlinuz").unwrap_err().to_string();
    assert_eq!(error, "debian.iso has no many/vmlinuz; it has INSTALL.AMD/VMLINUZ");
}
