//! Which kind of client asks, by what it says of itself (options 60, 77, 93, 97, 175) and, for one family of boards, by its MAC.

use athanor_plan::ClientArch;
use athanor_wire::MacAddr;

use crate::packet::{Request, option, walk};

/// MAC prefixes of Raspberry Pi boards, whose boot ROM says 93 = 0 like a PC.
const RASPBERRY_PI: [[u8; 3]; 6] =
    [[0xb8, 0x27, 0xeb], [0xdc, 0xa6, 0x32], [0xe4, 0x5f, 0x01], [0xd8, 0x3a, 0xdd], [0x28, 0xcd, 0xc1], [0x2c, 0xcf, 0x67]];

/// The iPXE feature "HTTP" in option 175.
const IPXE_HTTP: u8 = 19;

/// What kind of client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// iPXE, in a ROM or loaded; whether it can fetch over HTTP.
    Ipxe {
        /// It said so, or did not say what it can do.
        http: bool,
        /// What it runs on.
        arch: ClientArch,
    },
    /// UEFI HTTP Boot.
    HttpClient(ClientArch),
    /// PXE firmware.
    PxeClient(ClientArch),
    /// A Raspberry Pi's boot ROM.
    RaspberryPi,
    /// U-Boot, or something else that names an architecture without being PXE.
    UBoot(ClientArch),
    /// No network boot: an operating system, an installer, a laptop.
    Plain,
}

impl Client {
    /// Judges a request.
    pub fn of(request: &Request) -> Self {
        let options = &request.options;
        let class = options.text(option::VENDOR_CLASS).unwrap_or_default();
        let arch = first_arch(request).or_else(|| arch_in(&class));
        let user_class = options.get(option::USER_CLASS).unwrap_or_default();
        // Raw, or as RFC 3004 wants it, with a length before each class.
        let says_ipxe = user_class == b"iPXE" || user_class.windows(5).any(|window| window == b"\x04iPXE");
        let features = options.get(option::IPXE);
        if says_ipxe || features.is_some() {
            let http = features.is_none_or(|features| walk(features).any(|(code, _)| code == IPXE_HTTP));
            return Self::Ipxe { http, arch: arch.unwrap_or(ClientArch::X86_BIOS) };
        }
        if class.starts_with("HTTPClient") {
            return Self::HttpClient(arch.unwrap_or(ClientArch(16)));
        }
        if class.starts_with("PXEClient") {
            if is_raspberry_pi(request) {
                return Self::RaspberryPi;
            }
            return Self::PxeClient(arch.unwrap_or(ClientArch::X86_BIOS));
        }
        match arch {
            Some(arch) => Self::UBoot(arch),
            None if class.starts_with("U-Boot") => Self::UBoot(ClientArch(u16::MAX)),
            None => Self::Plain,
        }
    }

    /// Whether it boots from the network; only such clients register as Machines.
    pub fn boots_from_network(self) -> bool {
        self != Self::Plain
    }

    /// The architecture it says it has.
    pub fn arch(self) -> Option<ClientArch> {
        match self {
            Self::Ipxe { arch, .. } | Self::HttpClient(arch) | Self::PxeClient(arch) | Self::UBoot(arch) => Some(arch),
            Self::RaspberryPi => Some(ClientArch(11)),
            Self::Plain => None,
        }
    }

    /// For `explain`: `UEFI amd64 (PXEClient, arch 7)`.
    pub fn describe(self) -> String {
        let with = |name: &str, arch: ClientArch| format!("{arch} ({name}, arch {})", arch.0);
        match self {
            Self::Ipxe { arch, .. } => with("iPXE", arch),
            Self::HttpClient(arch) => with("HTTPClient", arch),
            Self::PxeClient(arch) => with("PXEClient", arch),
            Self::RaspberryPi => "Raspberry Pi".to_owned(),
            Self::UBoot(ClientArch(u16::MAX)) => "U-Boot".to_owned(),
            Self::UBoot(arch) => with("U-Boot", arch),
            Self::Plain => "no network boot".to_owned(),
        }
    }
}

/// Option 93 may list several; the first is what it boots as.
fn first_arch(request: &Request) -> Option<ClientArch> {
    match request.options.get(option::CLIENT_ARCH)? {
        [high, low, ..] => Some(ClientArch(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// `PXEClient:Arch:00007:UNDI:003000`
fn arch_in(class: &str) -> Option<ClientArch> {
    let (_, rest) = class.split_once(":Arch:")?;
    rest.split(':').next()?.parse().ok().map(ClientArch)
}

fn is_raspberry_pi(request: &Request) -> bool {
    let MacAddr([a, b, c, ..]) = request.mac;
    let id = request.options.get(option::CLIENT_MACHINE_ID).unwrap_or_default();
    RASPBERRY_PI.contains(&[a, b, c]) || id.get(1..4) == Some(b"RPi".as_slice()) || id.starts_with(b"RPi")
}

/// The SMBIOS UUID of option 97, as text. The first three groups are little-endian on the wire (RFC 4578, as firmware really sends it).
pub fn uuid(request: &Request) -> Option<String> {
    let [0, bytes @ ..] = request.options.get(option::CLIENT_MACHINE_ID)? else { return None };
    let b: &[u8; 16] = bytes.try_into().ok()?;
    Some(format!(
        "{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}",
        b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]
    ))
}
