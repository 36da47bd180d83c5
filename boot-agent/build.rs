//! Builds what UEFI is given to start its disk, for the processors that have a target, so that the program carries it.

use std::{env, ffi::OsString, path::PathBuf, process::Command};

/// Target and what the program is called when it is served.
const PROGRAMS: [(&str, &str); 2] = [("x86_64-unknown-uefi", "local-disk.efi"), ("aarch64-unknown-uefi", "local-disk-arm64.efi")];

fn main() {
    for source in ["../local-disk/src", "../local-disk/Cargo.toml", "../Cargo.toml", "../Cargo.lock", "../rust-toolchain.toml", "build.rs"]
    {
        println!("cargo::rerun-if-changed={source}");
    }
    let out = PathBuf::from(variable("OUT_DIR"));
    let folder = out.join("firmware");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.args(["build", "--quiet", "--profile", "agent", "--package", "athanor-local-disk", "--bin", "local-disk", "--locked"]);
    cargo.arg("--target-dir").arg(&folder).args(PROGRAMS.iter().flat_map(|(target, _)| ["--target", target]));
    // What the outer build was told about its own target, and who looks over its shoulder, are not for this one.
    for theirs in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(theirs);
    }
    // Where libraries lie on this machine, and when it was built, are nobody's business on another: the same sources give the same bytes.
    let home =
        env::var_os("CARGO_HOME").map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from);
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        format!("--remap-path-prefix={}=/cargo\x1f-Clink-arg=/Brepro\x1f-Clink-arg=/DEBUG:NONE", home.display()),
    );
    let built = cargo.status().is_ok_and(|status| status.success());
    assert!(
        built,
        "the program for UEFI cannot be built; with a toolchain that rustup has not installed, its targets must be there: {PROGRAMS:?}"
    );
    for (target, name) in PROGRAMS {
        let program = folder.join(target).join("agent/local-disk.efi");
        assert!(std::fs::copy(&program, out.join(name)).is_ok(), "{} cannot be copied", program.display());
    }
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_default()
}
