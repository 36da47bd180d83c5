//! PXELINUX, and what else reads its files: U-Boot's `pxe` command, Petitboot.

use std::fmt::Write as _;

use athanor_wire::MacAddr;

use super::Step;
use crate::ipxe::POLL_SECONDS;

/// The file of a machine that boots from `mac`. A machine that waits reads it again.
pub fn file(step: &Step, mac: MacAddr) -> String {
    let mut out = String::new();
    match step {
        Step::Chain { message } => {
            let _ = writeln!(out, "SAY Athanor: {message}\nDEFAULT ipxe\nPROMPT 0\nLABEL ipxe\n  KERNEL /ipxe.lkrn");
        }
        Step::Wait { message } => {
            // In tenths of a second.
            let _ = writeln!(out, "SAY Athanor: {message}\nDEFAULT again\nPROMPT 1\nTIMEOUT {}\nONTIMEOUT again", POLL_SECONDS * 10);
            let _ = writeln!(out, "LABEL again\n  CONFIG /pxelinux.cfg/01-{}", mac.to_string().replace(':', "-"));
        }
        Step::Disk { message } => {
            let _ = writeln!(out, "SAY Athanor: {message}\nDEFAULT disk\nPROMPT 0\nLABEL disk\n  LOCALBOOT 0");
        }
        Step::Boot(boot) => {
            let _ = writeln!(out, "SAY Athanor: {}\nDEFAULT athanor\nPROMPT 0\nLABEL athanor\n  KERNEL {}", boot.message, boot.kernel);
            if !boot.initrds.is_empty() {
                let _ = writeln!(out, "  INITRD {}", boot.initrds.join(","));
            }
            let _ = writeln!(out, "  APPEND {}", boot.arguments);
        }
    }
    out
}
