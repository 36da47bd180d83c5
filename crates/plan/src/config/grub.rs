//! GRUB 2, alone or behind shim.

use std::fmt::Write as _;

use super::{Boot, Step};
use crate::ipxe::POLL_SECONDS;

/// Loaders of installed systems, where their packages put them; the fallback comes last, for some of those rewrite the boot order and restart.
const INSTALLED: [&str; 10] = [
    "/EFI/debian/shimx64.efi",
    "/EFI/ubuntu/shimx64.efi",
    "/EFI/fedora/shimx64.efi",
    "/EFI/redhat/shimx64.efi",
    "/EFI/centos/shimx64.efi",
    "/EFI/rocky/shimx64.efi",
    "/EFI/almalinux/shimx64.efi",
    "/EFI/opensuse/shim.efi",
    "/EFI/Microsoft/Boot/bootmgfw.efi",
    "/EFI/BOOT/BOOTX64.EFI",
];

/// What GRUB reads first: the machine's next step, again and again until one boots.
pub fn first() -> String {
    format!(
        "# Athanor: what this machine does next, until it boots.\nwhile true; do\n  configfile /grub/next-$net_default_mac\n  \
         sleep {POLL_SECONDS}\ndone\n"
    )
}

/// One step.
pub fn step(step: &Step) -> String {
    let mut out = String::new();
    match step {
        Step::Wait { message } => {
            let _ = writeln!(out, "echo {}", said(message));
        }
        Step::Disk { message } => {
            let _ = writeln!(out, "echo {}", said(message));
            out.push_str("if [ \"$grub_platform\" = pc ]; then\n  set root=(hd0)\n  if chainloader +1; then boot; fi\nfi\n");
            let _ = writeln!(out, "for file in {}; do\n  unset disk\n  search --no-floppy --set=disk --file $file", INSTALLED.join(" "));
            out.push_str("  if [ -n \"$disk\" ]; then\n    set root=$disk\n    if chainloader $file; then boot; fi\n  fi\ndone\nexit 1\n");
        }
        Step::Chain { message } => {
            let _ = writeln!(out, "echo {}\nif [ \"$lockdown\" = y ]; then", said(message));
            let _ = writeln!(out, "  echo {}", said("Secure Boot starts no iPXE; use a profile with a kernel, or switch it off"));
            // GRUB keeps the network card to itself, so that an iPXE behind it finds none: it is offered iPXE when it asks DHCP again.
            out.push_str("else\n  reboot\nfi\n");
        }
        Step::Boot(boot) => linux(boot, &mut out),
    }
    out
}

fn linux(boot: &Boot, out: &mut String) {
    let _ = writeln!(out, "echo {}", said(&boot.message));
    let Some(kernel) = place(&boot.kernel) else { return https(&boot.kernel, out) };
    let mut initrds = String::new();
    for initrd in &boot.initrds {
        let Some(at) = place(initrd) else { return https(initrd, out) };
        let _ = write!(initrds, " {at}");
    }
    let arguments: String = words(&boot.arguments).iter().map(|word| format!(" {}", quoted(word))).collect();
    // GRUB's shell has no `&&`.
    let boot = if initrds.is_empty() { "boot".to_owned() } else { format!("if initrd{initrds}; then boot; fi") };
    let _ = writeln!(out, "if linux {kernel}{arguments}; then {boot}; fi\necho {}", said("it did not boot, trying again"));
}

fn https(url: &str, out: &mut String) {
    let _ = writeln!(out, "echo {}", said(&format!("GRUB fetches nothing over HTTPS: {url}")));
}

/// A path on the server that GRUB came from, or on another one.
fn place(place: &str) -> Option<String> {
    if place.starts_with("https://") {
        return None;
    }
    let Some(rest) = place.strip_prefix("http://") else { return Some(quoted(place)) };
    let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
    Some(quoted(&format!("(http,{server})/{path}")))
}

fn said(message: &str) -> String {
    quoted(&format!("Athanor: {message}"))
}

/// Between apostrophes GRUB takes everything literally but an apostrophe.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Arguments as the kernel splits them: blanks between quotation marks are part of one. GRUB puts the marks back where they are needed.
fn words(arguments: &str) -> Vec<String> {
    let (mut all, mut word, mut inside) = (Vec::new(), String::new(), false);
    for c in arguments.chars() {
        match c {
            '"' => inside = !inside,
            c if c.is_whitespace() && !inside => all.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    all.extend((!word.is_empty()).then_some(word));
    all
}
