//! Whatever is asked of the tree of files, and whatever stands in an image.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a target fails by panicking")]

#[path = "../../tests/fuzz/engine.rs"]
mod engine;

use std::{fs, process::Command};

use athanor_media::Library;
use athanor_plan::config::{Asked, Who};
use proptest::prelude::*;

#[test]
fn names_lead_to_nobody_by_accident() {
    let seeds = [
        "grub/grub.cfg",
        "/l/grub.cfg-01-52-54-00-aa-00-01",
        "grub/next-52:54:00:aa:00:01",
        "pxelinux.cfg/01-52-54-00-aa-00-01",
        "pxelinux.cfg/C0A80A64",
        "pxelinux.cfg/b8945908-d6a6-41a9-611d-74a6ab80b83d",
        "pxelinux.cfg/default",
        "boot.scr.uimg",
        "uboot/next-52:54:00:aa:00:01",
        "9ffefdef/cmdline.txt",
        "../../etc/passwd",
    ]
    .map(|name| name.as_bytes().to_vec());
    engine::fuzz(&seeds, |bytes| {
        let name = String::from_utf8_lossy(bytes);
        if let Some(Asked { who: Who::Mac(mac), .. }) = Asked::of(&name) {
            let digits: String = name.to_lowercase().chars().filter(char::is_ascii_hexdigit).collect();
            prop_assert!(digits.ends_with(&mac.to_hex()), "{name} is taken for {mac}");
        }
        prop_assert!(!name.contains("..") || Asked::of(&name).is_none(), "{name}");
        Ok(())
    });
}

#[test]
fn nothing_in_an_image_panics_or_reads_beyond_it() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("pool/a/deep/folder")).unwrap();
    for number in 0..40 {
        fs::write(tree.join(format!("pool/a/file-with-a-long-name-{number}.deb")), vec![7; 3000]).unwrap();
    }
    fs::write(tree.join("pool/a/deep/folder/vmlinuz"), vec![9; 5000]).unwrap();
    std::os::unix::fs::symlink("pool/a/deep/folder/vmlinuz", tree.join("vmlinuz")).unwrap();
    let image = folder.path().join("seed.iso");
    let made = Command::new("xorriso").args(["-as", "mkisofs", "-quiet", "-R", "-J", "-o"]).arg(&image).arg(&tree).status();
    assert!(made.is_ok_and(|status| status.success()), "xorriso is missing; `make setup` installs it");
    // What is in front are the descriptors and folders; the files' bytes mean nothing to us.
    let seed: Vec<u8> = fs::read(&image).unwrap();
    let mutated = folder.path().join("fuzz.iso");
    let library = Library::new(vec![folder.path().to_owned()]);
    engine::fuzz(&[seed[32_768..].to_vec()], |bytes| {
        fs::write(&mutated, [&seed[..32_768], bytes].concat()).unwrap();
        let Ok(iso) = library.iso(&mutated) else { return Ok(()) };
        for member in ["vmlinuz", "pool/a/deep/folder/vmlinuz", "pool/a/file-with-a-long-name-7.deb", "pool/a/missing", ""] {
            let Ok(file) = iso.file(member) else { continue };
            let mut buffer = vec![0; 4096];
            let _ = file.read_at(0, &mut buffer);
            let _ = file.read_at(file.size().saturating_sub(1), &mut buffer);
            let _ = file.place(u64::MAX);
        }
        let _ = iso.list("pool/a");
        Ok(())
    });
}
