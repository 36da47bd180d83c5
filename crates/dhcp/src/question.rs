//! A client's packet from a description: `mac=52:54:00:aa:00:01,arch=uefi`.

use std::net::Ipv4Addr;

use athanor_wire::MacAddr;

use crate::{
    packet::{COOKIE, FIXED, option},
    pcap::Question,
};

/// A description that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// A word without a key.
    #[error("{0:?} is no KEY=VALUE; keys are {KEYS}")]
    NoKey(String),
    /// An unknown key.
    #[error("{0:?} is no key; keys are {KEYS}")]
    UnknownKey(String),
    /// A value that its key cannot have.
    #[error("{key}: {value:?} {hint}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        hint: &'static str,
    },
    /// Nobody asks.
    #[error("mac is missing: who asks?")]
    NoMac,
}

const KEYS: &str = "mac, client, arch, type, relay, ip, uuid";
const ARCHITECTURES: &str = "is no architecture; use bios, uefi, uefi32, arm64, arm, riscv64, or the number of option 93";
const CLIENTS: &str = "is no kind of client; use pxe, ipxe, http, u-boot, raspberry or plain";
const TYPES: &str = "is no question; use discover, request, inform, decline or release";

/// Builds the packet of a description.
///
/// # Errors
/// A key or value that means nothing.
pub fn describe(text: &str) -> Result<Question, DescriptionError> {
    let (mut mac, mut client, mut arch) = (None, None, None);
    let (mut message, mut relay, mut ip, mut uuid) = (1, None, None, None);
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').ok_or_else(|| DescriptionError::NoKey(word.to_owned()))?;
        let bad = |key, hint| DescriptionError::BadValue { key, value: value.to_owned(), hint };
        match key.trim() {
            "mac" => mac = Some(value.parse::<MacAddr>().map_err(|_| bad("mac", "is no MAC address"))?),
            "client" => client = Some(kind(value).ok_or_else(|| bad("client", CLIENTS))?),
            "arch" => arch = Some(architecture(value).ok_or_else(|| bad("arch", ARCHITECTURES))?),
            "type" => message = message_type(value).ok_or_else(|| bad("type", TYPES))?,
            "relay" => relay = Some(value.parse::<Ipv4Addr>().map_err(|_| bad("relay", "is no IPv4 address"))?),
            "ip" => ip = Some(value.parse::<Ipv4Addr>().map_err(|_| bad("ip", "is no IPv4 address"))?),
            "uuid" => uuid = Some(machine_id(value).ok_or_else(|| bad("uuid", "is no UUID"))?),
            other => return Err(DescriptionError::UnknownKey(other.to_owned())),
        }
    }
    let mac = mac.ok_or(DescriptionError::NoMac)?;
    let kind = client.unwrap_or(if arch.is_some() { Kind::Pxe } else { Kind::Plain });
    let mut options = vec![(option::MESSAGE_TYPE, vec![message])];
    kind.options(arch.unwrap_or(0), &mut options);
    options.extend(ip.map(|ip| (option::REQUESTED_ADDRESS, ip.octets().to_vec())));
    options.extend(uuid.map(|uuid| (option::CLIENT_MACHINE_ID, uuid)));
    Ok(Question { bytes: packet(mac, relay.unwrap_or(Ipv4Addr::UNSPECIFIED), &options), proxy_port: false })
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Pxe,
    Ipxe,
    Http,
    UBoot,
    RaspberryPi,
    Plain,
}

impl Kind {
    fn options(self, arch: u16, options: &mut Vec<(u8, Vec<u8>)>) {
        let class = |name: &str| (option::VENDOR_CLASS, format!("{name}:Arch:{arch:05}:UNDI:003000").into_bytes());
        let number = (option::CLIENT_ARCH, arch.to_be_bytes().to_vec());
        match self {
            Self::Pxe => options.extend([class("PXEClient"), number]),
            Self::Ipxe => {
                // Feature 19: HTTP.
                let features = (option::IPXE, vec![19, 1, 1]);
                options.extend([class("PXEClient"), number, (option::USER_CLASS, b"iPXE".to_vec()), features]);
            }
            Self::Http => options.extend([class("HTTPClient"), number]),
            Self::UBoot => options.push((option::VENDOR_CLASS, b"U-Boot.armv8".to_vec())),
            Self::RaspberryPi => options.extend([class("PXEClient"), number, (option::CLIENT_MACHINE_ID, b"\0RPi4simulated000".to_vec())]),
            Self::Plain => {}
        }
    }
}

fn kind(value: &str) -> Option<Kind> {
    Some(match value {
        "pxe" => Kind::Pxe,
        "ipxe" => Kind::Ipxe,
        "http" => Kind::Http,
        "u-boot" => Kind::UBoot,
        "raspberry" => Kind::RaspberryPi,
        "plain" => Kind::Plain,
        _ => return None,
    })
}

/// The numbers of the IANA registry of processor architecture types.
fn architecture(value: &str) -> Option<u16> {
    Some(match value {
        "bios" => 0,
        "uefi" => 7,
        "uefi32" => 6,
        "arm" => 10,
        "arm64" => 11,
        "riscv64" => 27,
        number => number.parse().ok()?,
    })
}

fn message_type(value: &str) -> Option<u8> {
    Some(match value {
        "discover" => 1,
        "request" => 3,
        "decline" => 4,
        "release" => 7,
        "inform" => 8,
        _ => return None,
    })
}

/// Option 97: type 0, then the UUID, of which SMBIOS has the first three fields in little-endian order.
fn machine_id(value: &str) -> Option<Vec<u8>> {
    let digits: String = value.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    let mut bytes = number.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(std::iter::once(0).chain(bytes).collect())
}

fn packet(mac: MacAddr, relay: Ipv4Addr, options: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0; FIXED];
    out[..3].copy_from_slice(&[1, 1, 6]);
    out[24..28].copy_from_slice(&relay.octets());
    out[28..34].copy_from_slice(&mac.0);
    out.extend(COOKIE);
    for (code, value) in options {
        out.extend([*code, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
        out.extend(value);
    }
    out.push(255);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Request};

    #[test]
    fn a_description_is_the_client_that_it_says() {
        let what = |text: &str| Client::of(&Request::parse(&describe(text).unwrap().bytes).unwrap()).describe();
        assert_eq!(what("mac=52:54:00:aa:00:01,arch=bios"), "BIOS amd64 (PXEClient, arch 0)");
        assert_eq!(what("mac=52-54-00-AA-00-01, arch=uefi"), "UEFI amd64 (PXEClient, arch 7)");
        assert_eq!(what("mac=52:54:00:aa:00:01,client=ipxe,arch=7"), "UEFI amd64 (iPXE, arch 7)");
        assert_eq!(what("mac=52:54:00:aa:00:01,client=http,arch=16"), "UEFI amd64 (HTTPClient, arch 16)");
        assert_eq!(what("mac=52:54:00:aa:00:01,client=u-boot"), "U-Boot");
        let asked = describe("mac=52:54:00:aa:00:01,type=request,ip=10.0.0.7,relay=10.0.0.1").unwrap();
        let request = Request::parse(&asked.bytes).unwrap();
        assert_eq!((request.wanted(), request.giaddr), (Some([10, 0, 0, 7].into()), [10, 0, 0, 1].into()));
        let uuid = describe("mac=52:54:00:aa:00:01,arch=7,uuid=b8945908-d6a6-41a9-611d-74a6ab80b83d").unwrap();
        let uuid = crate::client::uuid(&Request::parse(&uuid.bytes).unwrap());
        assert_eq!(uuid.as_deref(), Some("b8945908-d6a6-41a9-611d-74a6ab80b83d"));
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_would() {
        for (text, says) in [
            ("arch=7", "mac is missing: who asks?"),
            ("52:54:00:aa:00:01", "\"52:54:00:aa:00:01\" is no KEY=VALUE; keys are mac, client, arch, type, relay, ip, uuid"),
            ("mac=x", "mac: \"x\" is no MAC address"),
            (
                "mac=52:54:00:aa:00:01,arch=vax",
                "arch: \"vax\" is no architecture; use bios, uefi, uefi32, arm64, arm, riscv64, or the number of option 93",
            ),
            ("mac=52:54:00:aa:00:01,firmware=x", "\"firmware\" is no key; keys are mac, client, arch, type, relay, ip, uuid"),
        ] {
            assert_eq!(describe(text).unwrap_err().to_string(), says);
        }
    }
}
