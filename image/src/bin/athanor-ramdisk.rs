//! `athanor-ramdisk`: a kernel package and the static machine-agent become the ramdisk that machines boot.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use athanor_image::ramdisk::{self, Input};
use clap::Parser;

/// Builds the ramdisk: `vmlinuz`, `initramfs` and a manifest.
#[derive(Debug, Parser)]
struct Args {
    /// A kernel package, unpacked: the folder with `boot` and `lib/modules`
    #[arg(long)]
    kernel: PathBuf,
    /// The static machine-agent
    #[arg(long)]
    agent: PathBuf,
    /// Firmware files for `/lib/firmware`
    #[arg(long)]
    firmware: Option<PathBuf>,
    /// The folder that the ramdisk goes to
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    athanor_image::end(build(Args::parse()))
}

fn build(args: Args) -> anyhow::Result<()> {
    let made = ramdisk::build(&Input { kernel: args.kernel, agent: args.agent, firmware: args.firmware })?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let size = made.kernel.len() + made.initramfs.len();
    for (name, bytes) in [("vmlinuz", made.kernel), ("initramfs", made.initramfs), ("manifest.json", made.manifest.into_bytes())] {
        // Whoever serves the old ones has them open, and is not given half of the new.
        let (place, aside) = (args.out.join(name), args.out.join(format!("{name}.new")));
        fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, &place)).with_context(|| place.display().to_string())?;
    }
    println!("{} {:.1} MB", args.out.display(), size as f64 / 1e6);
    Ok(())
}
