//! Raspberry Pi: its firmware reads settings and arguments, and has no way to wait but to begin anew.

use std::fmt::Write as _;

use super::Boot;

/// `config.txt`: the order's files by the names that they have in it.
pub fn config(boot: &Boot) -> String {
    let name = |place: &String| place.rsplit('/').next().unwrap_or_default().to_owned();
    let mut out = format!("# Athanor: {}\nenable_uart=1\narm_64bit=1\nkernel={}\n", boot.message, name(&boot.kernel));
    if !boot.initrds.is_empty() {
        let _ = writeln!(out, "initramfs {} followkernel", boot.initrds.iter().map(name).collect::<Vec<_>>().join(","));
    }
    out
}

/// `cmdline.txt`: one line.
pub fn command_line(boot: &Boot) -> String {
    format!("{}\n", boot.arguments)
}
