//! `athanor-image`: the static binary, the loaders and a bill of materials become an image.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use athanor_image::{Image, Layer, is_static, materials};
use clap::Parser;

/// The program in the image.
const PROGRAM: &str = "/usr/bin/athanor";
/// Where loaders are in the image: where their packages put them.
const LOADERS: &str = "/usr/lib/ipxe";
/// The package that the loaders come from.
const LOADER_PACKAGE: &str = "ipxe";
/// What firmware loads. The package holds disk images, too, which nobody boots from here.
const LOADER_SUFFIXES: [&str; 4] = [".efi", ".pxe", ".kpxe", ".kkpxe"];

/// Builds Athanor's container image.
#[derive(Debug, Parser)]
struct Args {
    /// The static binary
    #[arg(long)]
    binary: PathBuf,
    /// The image's name with its tag
    #[arg(long)]
    name: String,
    /// Where the archive goes; its bill of materials goes beside it
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    athanor_image::end(build(Args::parse()))
}

fn build(args: Args) -> anyhow::Result<()> {
    let sbom = materials::spdx(&args.name, &materials::crates()?, &[materials::debian(LOADER_PACKAGE)?]);
    let entrypoint = vec![PROGRAM.to_owned()];
    let image = Image { name: args.name, entrypoint, layers: vec![loaders()?, program(&args.binary, &sbom)?] };
    if let Some(folder) = args.out.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let digest = image.write(&args.out)?;
    let beside = args.out.with_extension("spdx.json");
    fs::write(&beside, &sbom).with_context(|| beside.display().to_string())?;
    let size = fs::metadata(&args.out)?.len();
    println!("{} {digest} {:.1} MB\nbill of materials {}", args.out.display(), size as f64 / 1e6, beside.display());
    Ok(())
}

/// The loaders and their licence: the layer that hardly ever changes comes first.
fn loaders() -> anyhow::Result<Layer> {
    let mut layer = Layer::default();
    let entries = fs::read_dir(LOADERS).with_context(|| format!("{LOADERS}: install the package {LOADER_PACKAGE}"))?;
    for entry in entries {
        let (name, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
        let name = name.to_string_lossy();
        if LOADER_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
            layer.file(&format!("{LOADERS}/{name}"), read(&path)?, 0o644);
        }
    }
    let licence = format!("/usr/share/doc/{LOADER_PACKAGE}/copyright");
    layer.file(&licence, read(Path::new(&licence))?, 0o644);
    Ok(layer)
}

fn program(binary: &Path, sbom: &str) -> anyhow::Result<Layer> {
    let bytes = read(binary)?;
    if !is_static(&bytes) {
        bail!("{} is not a static program: it needs libraries that the image does not have", binary.display());
    }
    let mut layer = Layer::default();
    layer.file(PROGRAM, bytes, 0o755);
    layer.link("/usr/bin/athanorctl", "athanor");
    layer.file("/usr/share/athanor/sbom.spdx.json", sbom.as_bytes().to_vec(), 0o644);
    // A pod may name its users by number only; programs that look themselves up find a line.
    layer.file("/etc/passwd", b"root:x:0:0:root:/:/\nathanor:x:65532:65532:athanor:/:/\n".to_vec(), 0o644);
    layer.folder("/tmp", 0o1777);
    layer.folder("/run", 0o755);
    Ok(layer)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_libraries_is_refused() {
        let shell = fs::read(fs::canonicalize("/bin/sh").unwrap()).unwrap();
        assert!(!is_static(&shell));
        assert!(!is_static(b"#!/bin/sh"));
        let busybox = fs::read("/bin/busybox").unwrap();
        assert!(is_static(&busybox), "busybox-static");
    }
}
