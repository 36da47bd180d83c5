//! The program: asks the firmware, starts what the library found.
#![cfg_attr(target_os = "uefi", no_main, no_std)]

#[cfg(target_os = "uefi")]
mod firmware;

#[cfg(not(target_os = "uefi"))]
fn main() {
    eprintln!("this is a program for UEFI: build it for x86_64-unknown-uefi or aarch64-unknown-uefi");
    std::process::exit(1);
}
