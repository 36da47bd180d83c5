//! U-Boot: scripts in a legacy image, as `source` takes them.

use std::fmt::Write as _;

use super::{Boot, Step};
use crate::ipxe::{POLL_SECONDS, is_url};

/// What U-Boot reads first: the machine's next step, again and again until one boots.
pub fn first() -> Vec<u8> {
    image(&format!(
        "echo Athanor: what this machine does next, until it boots\nwhile true; do\n  \
         if tftpboot ${{scriptaddr}} ${{serverip}}:uboot/next-${{ethaddr}}; then source ${{scriptaddr}}; fi\n  sleep {POLL_SECONDS}\ndone\n"
    ))
}

/// One step.
pub fn step(step: &Step) -> Vec<u8> {
    image(&match step {
        Step::Chain { message } => format!("echo {}\n", quoted(&format!("Athanor: {message}, which U-Boot does not read"))),
        Step::Wait { message } => format!("echo {}\n", quoted(&format!("Athanor: {message}"))),
        // It leaves by `exit` what `while` would go on with; the board's own order of devices comes next.
        Step::Disk { message } => format!(
            "echo {}\nrun bootcmd_mmc0 || run bootcmd_nvme0 || run bootcmd_scsi0 || run bootcmd_usb0\n",
            quoted(&format!("Athanor: {message}"))
        ),
        Step::Boot(boot) => linux(boot),
    })
}

fn linux(boot: &Boot) -> String {
    let mut out = format!("echo {}\n", quoted(&format!("Athanor: {}", boot.message)));
    if let Some(url) = std::iter::once(&boot.kernel).chain(&boot.initrds).find(|place| is_url(place)) {
        let _ = writeln!(out, "echo {}", quoted(&format!("Athanor: U-Boot fetches over TFTP alone, not {url}")));
        return out;
    }
    let fetch = |place: &str, to: &str| format!("tftpboot {to} ${{serverip}}:{}", quoted(place.trim_start_matches('/')));
    let _ = writeln!(out, "setenv bootargs {}\nsetenv athanor_ok 1\nsetenv athanor_at 0", quoted(&boot.arguments));
    for initrd in &boot.initrds {
        // One after another, each on a boundary of four bytes: the kernel takes them for one.
        let _ = writeln!(out, "setexpr athanor_to ${{ramdisk_addr_r}} + ${{athanor_at}}");
        let _ = writeln!(out, "if {}; then\n  setexpr athanor_at ${{athanor_at}} + ${{filesize}}", fetch(initrd, "${athanor_to}"));
        out.push_str(
            "  setexpr athanor_at ${athanor_at} + 3\n  setexpr athanor_at ${athanor_at} \\& fffffffc\nelse setenv athanor_ok 0; fi\n",
        );
    }
    let ramdisk = if boot.initrds.is_empty() { "-" } else { "${ramdisk_addr_r}:${athanor_at}" };
    let start = |how: &str| format!("{how} ${{kernel_addr_r}} {ramdisk} ${{fdtcontroladdr}}");
    let _ = writeln!(
        out,
        "if test ${{athanor_ok}} = 1 && {}; then\n  {} || {} || {}\nfi",
        fetch(&boot.kernel, "${kernel_addr_r}"),
        start("booti"),
        start("bootz"),
        start("bootm")
    );
    out
}

/// Between apostrophes U-Boot's shell takes everything literally but an apostrophe.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r#"'"'"'"#))
}

/// The size of a legacy image's header (U-Boot's `include/image.h`).
const HEADER: usize = 64;
/// What one begins with.
const MAGIC: u32 = 0x2705_1956;
/// Operating system Linux, processor ARM (a script is for any), type script, no compression.
const KIND: [u8; 4] = [5, 2, 6, 0];

fn image(script: &str) -> Vec<u8> {
    // A script is the first of a list of parts that ends with a length of zero.
    let mut body = u32::try_from(script.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    body.extend([0; 4]);
    body.extend(script.as_bytes());
    let mut header = Vec::with_capacity(HEADER + body.len());
    // Header checksum, time, length, load address, entry point, data checksum.
    for word in [MAGIC, 0, 0, u32::try_from(body.len()).unwrap_or(u32::MAX), 0, 0, crc32(&body)] {
        header.extend(word.to_be_bytes());
    }
    header.extend(KIND);
    let mut name = [0; 32];
    name[..7].copy_from_slice(b"athanor");
    header.extend(name);
    let sum = crc32(&header);
    header[4..8].copy_from_slice(&sum.to_be_bytes());
    header.extend(body);
    header
}

/// CRC-32 as zlib has it, over a kilobyte or two: no table is worth its size.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_zlibs() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn an_image_has_the_header_that_u_boot_checks() {
        let image = image("echo hello\n");
        let word = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
        let mut header = image[..HEADER].to_vec();
        header[4..8].fill(0);
        assert_eq!((word(0), word(4), usize::try_from(word(12)).unwrap()), (MAGIC, crc32(&header), image.len() - HEADER));
        assert_eq!(word(24), crc32(&image[HEADER..]));
        assert_eq!((word(HEADER), &image[HEADER + 8..]), (11, &b"echo hello\n"[..]));
    }
}
