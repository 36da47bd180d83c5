//! What a client sent, read leniently: a bad option costs itself, not the packet.
//!
//! Shapes are those of RFC 2131 section 2; options that occur twice are joined (RFC 3396), overloaded fields are read (option 52).

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use athanor_wire::MacAddr;

/// The fixed part of a packet, up to the options' magic cookie.
pub(crate) const FIXED: usize = 236;
/// The four bytes before the options (RFC 2131 section 3).
pub(crate) const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The largest packet that is looked at: the largest UDP payload that an Ethernet jumbo frame carries.
pub const MAX_PACKET: usize = 9000;

/// Option codes, by their names in the IANA registry.
pub mod option {
    #![allow(missing_docs, reason = "the names are those of the registry, and say all there is to say")]
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DOMAIN_NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const NTP_SERVERS: u8 = 42;
    pub const VENDOR_SPECIFIC: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER_NAME: u8 = 66;
    pub const BOOT_FILE_NAME: u8 = 67;
    pub const USER_CLASS: u8 = 77;
    pub const RELAY_AGENT: u8 = 82;
    pub const CLIENT_ARCH: u8 = 93;
    pub const CLIENT_MACHINE_ID: u8 = 97;
    pub const SUBNET_SELECTION: u8 = 118;
    pub const IPXE: u8 = 175;
}

/// Why a packet is no DHCP request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than the fixed part and the cookie.
    #[error("{0} bytes, shorter than a DHCP message")]
    TooShort(usize),
    /// An answer, not a question.
    #[error("op {0}, not a request")]
    NotRequest(u8),
    /// Not Ethernet.
    #[error("hardware type {htype} with {hlen} address bytes, not Ethernet")]
    NotEthernet {
        /// `htype`.
        htype: u8,
        /// `hlen`.
        hlen: u8,
    },
    /// The options do not begin with the magic cookie.
    #[error("no magic cookie before the options")]
    NoCookie,
    /// No message type (BOOTP).
    #[error("no DHCP message type (option 53)")]
    NoMessageType,
    /// The hardware address can belong to no station.
    #[error("hardware address {0} belongs to no station")]
    NotAStation(MacAddr),
}

/// DHCP message types of clients and servers (RFC 2132 section 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the RFC")]
pub enum MessageType {
    Discover,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
    Other(u8),
}

impl MessageType {
    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            other => Self::Other(other),
        }
    }

    /// The code of option 53.
    pub fn code(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Release => 7,
            Self::Inform => 8,
            Self::Other(code) => code,
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(code) => write!(f, "type {code}"),
            known => f.write_str(&format!("{known:?}").to_uppercase()),
        }
    }
}

/// The options of a packet, joined by code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// The value of an option.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    /// An option that is one IPv4 address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = self.get(code)?.try_into().ok()?;
        Some(bytes.into())
    }

    /// An option that is text; what is not UTF-8 is replaced.
    pub fn text(&self, code: u8) -> Option<String> {
        Some(String::from_utf8_lossy(self.get(code)?).trim_end_matches('\0').to_owned())
    }

    /// Reads one options field; codes that occur twice are joined.
    pub(crate) fn read(&mut self, field: &[u8]) {
        for (code, value) in walk(field) {
            self.0.entry(code).or_default().extend_from_slice(value);
        }
    }
}

/// The (code, value) pairs of an options field, or of the suboptions inside one; stops at END, and at one that is cut off.
pub(crate) fn walk(mut field: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        while let [0, rest @ ..] = field {
            field = rest;
        }
        let [code, length, rest @ ..] = field else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(*length)).filter(|_| *code != 255)?;
        field = rest;
        Some((*code, value))
    })
}

/// Who sent a packet that cannot be read otherwise: the client's Ethernet address, where there is one.
pub fn sender(bytes: &[u8]) -> Option<MacAddr> {
    let [1, 1, 6, ..] = *bytes else { return None };
    let mac: [u8; 6] = bytes.get(28..34)?.try_into().ok()?;
    Some(MacAddr(mac)).filter(|mac| mac.is_unicast())
}

/// A client's packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it asks.
    pub message: MessageType,
    /// Transaction.
    pub xid: u32,
    /// Relays it passed.
    pub hops: u8,
    /// Seconds since the client began.
    pub secs: u16,
    /// The client cannot receive unicast yet.
    pub broadcast: bool,
    /// The flags as they came, to be sent back.
    pub flags: u16,
    /// The address it has.
    pub ciaddr: Ipv4Addr,
    /// The relay that speaks for it.
    pub giaddr: Ipv4Addr,
    /// Who it is.
    pub mac: MacAddr,
    /// Everything else.
    pub options: Options,
}

impl Request {
    /// Reads a packet.
    ///
    /// # Errors
    /// It is no DHCP request of an Ethernet client. Cut or senseless options are no error: they are as if they were not there.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let too_short = || Malformed::TooShort(bytes.len());
        let fixed: &[u8; FIXED] = bytes.get(..FIXED).and_then(|fixed| fixed.try_into().ok()).ok_or_else(too_short)?;
        let [op, htype, hlen, hops, ..] = *fixed;
        if op != 1 {
            return Err(Malformed::NotRequest(op));
        }
        if (htype, hlen) != (1, 6) {
            return Err(Malformed::NotEthernet { htype, hlen });
        }
        let word = |at: usize| -> [u8; 4] { [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]] };
        let rest = &bytes[FIXED..];
        let Some(field) = rest.strip_prefix(&COOKIE) else {
            return Err(if rest.len() < COOKIE.len() { too_short() } else { Malformed::NoCookie });
        };
        let mut options = Options::default();
        options.read(field);
        // RFC 2131 section 4.1: the file field before the sname field.
        let overload = options.get(option::OVERLOAD).and_then(|value| value.first().copied()).unwrap_or(0);
        if overload & 1 != 0 {
            options.read(&fixed[108..236]);
        }
        if overload & 2 != 0 {
            options.read(&fixed[44..108]);
        }
        let code = options.get(option::MESSAGE_TYPE).and_then(|value| value.first().copied()).ok_or(Malformed::NoMessageType)?;
        let mac = MacAddr([fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33]]);
        if !mac.is_unicast() {
            return Err(Malformed::NotAStation(mac));
        }
        let flags = u16::from_be_bytes([fixed[10], fixed[11]]);
        Ok(Self {
            message: MessageType::from_code(code),
            xid: u32::from_be_bytes(word(4)),
            hops,
            secs: u16::from_be_bytes([fixed[8], fixed[9]]),
            broadcast: flags & 0x8000 != 0,
            flags,
            ciaddr: word(12).into(),
            giaddr: word(24).into(),
            mac,
            options,
        })
    }

    /// The address it wants: option 50, else the one it has.
    pub fn wanted(&self) -> Option<Ipv4Addr> {
        self.options.address(option::REQUESTED_ADDRESS).or(Some(self.ciaddr)).filter(|ip| !ip.is_unspecified())
    }

    /// The server it speaks to.
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.options.address(option::SERVER_ID)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[28..34].copy_from_slice(&[0x52, 0x54, 0, 0xaa, 0, 1]);
        bytes.extend(COOKIE);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn what_is_no_request_says_why() {
        let parse = |change: fn(&mut Vec<u8>)| {
            let mut bytes = packet(&[53, 1, 1, 255]);
            change(&mut bytes);
            Request::parse(&bytes).unwrap_err().to_string()
        };
        assert_eq!(parse(|b| b.truncate(200)), "200 bytes, shorter than a DHCP message");
        assert_eq!(parse(|b| b[0] = 2), "op 2, not a request");
        assert_eq!(parse(|b| b[2] = 200), "hardware type 1 with 200 address bytes, not Ethernet");
        assert_eq!(parse(|b| b[236] = 0), "no magic cookie before the options");
        assert_eq!(parse(|b| b[240] = 0), "no DHCP message type (option 53)");
        assert_eq!(parse(|b| b[28] = 0xff), "hardware address ff:54:00:aa:00:01 belongs to no station");
    }

    #[test]
    fn a_cut_option_costs_itself_only() {
        let request = Request::parse(&packet(&[53, 1, 1, 60, 200, b'P'])).unwrap();
        assert_eq!(request.message, MessageType::Discover);
        assert_eq!(request.options.get(option::VENDOR_CLASS), None);
    }

    #[test]
    fn long_and_overloaded_options_are_joined() {
        let mut bytes = packet(&[53, 1, 1, 77, 2, b'i', b'P', 52, 1, 1, 77, 1, b'X', 255]);
        bytes[108..112].copy_from_slice(&[77, 1, b'E', 255]);
        assert_eq!(Request::parse(&bytes).unwrap().options.text(option::USER_CLASS).unwrap(), "iPXE");
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn no_options_panic(options in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Request::parse(&packet(&options));
        }
    }
}
