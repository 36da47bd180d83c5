//! Answers, and where they go.
//!
//! Options follow the client's parameter request list; the whole stays within what it can take (option 57, else 576 bytes of IP datagram)
//! and is never shorter than the 300 bytes that old BOOTP relays and clients insist on.

use std::net::Ipv4Addr;

use athanor_wire::MacAddr;

use crate::{
    CLIENT_PORT, SERVER_PORT,
    packet::{COOKIE, FIXED, MessageType, Request, option},
};

/// The shortest BOOTP message (RFC 1542 section 2.1).
const MIN_MESSAGE: usize = 300;
/// What every client must take: a 576 byte datagram less IP and UDP headers (RFC 2131 section 2).
const MIN_MAX_MESSAGE: usize = 576 - 28;
/// The most we send whatever a client allows: one Ethernet frame.
const MAX_MESSAGE: usize = 1500 - 28;

/// An answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// OFFER, ACK or NAK.
    pub message: MessageType,
    /// The client's address; unspecified in proxy answers, NAKs and answers to INFORM.
    pub yiaddr: Ipv4Addr,
    /// The server that holds the boot file.
    pub siaddr: Ipv4Addr,
    /// The boot file, or empty.
    pub file: String,
    /// Options, most important first; 53 is added in front.
    pub options: Vec<(u8, Vec<u8>)>,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To a relay, on the server port.
    Relay(Ipv4Addr),
    /// To a client that has its address.
    Unicast(Ipv4Addr),
    /// To a client without an address: by its MAC, without asking ARP.
    Link(MacAddr, Ipv4Addr),
    /// To everybody on the link.
    Broadcast,
}

impl Destination {
    /// The UDP port at the other end.
    pub fn port(self) -> u16 {
        match self {
            Self::Relay(_) => SERVER_PORT,
            _ => CLIENT_PORT,
        }
    }
}

/// Where an answer to a request goes (RFC 2131 section 4.1).
pub fn destination(request: &Request, reply: &Reply) -> Destination {
    if !request.giaddr.is_unspecified() {
        return Destination::Relay(request.giaddr);
    }
    if reply.message == MessageType::Nak {
        return Destination::Broadcast;
    }
    if !request.ciaddr.is_unspecified() {
        return Destination::Unicast(request.ciaddr);
    }
    if request.broadcast || reply.yiaddr.is_unspecified() { Destination::Broadcast } else { Destination::Link(request.mac, reply.yiaddr) }
}

/// The bytes of an answer.
pub fn encode(request: &Request, reply: &Reply) -> Vec<u8> {
    let mut out = vec![0; FIXED];
    out[..4].copy_from_slice(&[2, 1, 6, 0]);
    out[4..8].copy_from_slice(&request.xid.to_be_bytes());
    // RFC 2131 section 4.3.2: a NAK through a relay must be broadcast there.
    let flags = if reply.message == MessageType::Nak && !request.giaddr.is_unspecified() { request.flags | 0x8000 } else { request.flags };
    out[10..12].copy_from_slice(&flags.to_be_bytes());
    if reply.message != MessageType::Nak {
        out[12..16].copy_from_slice(&request.ciaddr.octets());
    }
    out[16..20].copy_from_slice(&reply.yiaddr.octets());
    out[20..24].copy_from_slice(&reply.siaddr.octets());
    out[24..28].copy_from_slice(&request.giaddr.octets());
    out[28..34].copy_from_slice(&request.mac.0);
    // Some U-Boots read only this field; the last byte stays zero.
    let file = reply.file.as_bytes();
    if file.len() < 128 {
        out[108..108 + file.len()].copy_from_slice(file);
    }
    out.extend(COOKIE);
    out.extend([option::MESSAGE_TYPE, 1, reply.message.code()]);
    let room = max_message(request).saturating_sub(1);
    for (code, value) in in_requested_order(request, &reply.options) {
        let needed = value.len() + 2 * value.len().div_ceil(255).max(1);
        if out.len() + needed > room {
            continue;
        }
        // RFC 3396: a long value goes out in pieces.
        for piece in value.chunks(255) {
            out.extend([*code, u8::try_from(piece.len()).unwrap_or(u8::MAX)]);
            out.extend(piece);
        }
        if value.is_empty() {
            out.extend([*code, 0]);
        }
    }
    out.push(255);
    out.resize(out.len().max(MIN_MESSAGE), 0);
    out
}

fn max_message(request: &Request) -> usize {
    let said = match request.options.get(option::MAX_MESSAGE_SIZE) {
        Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(28),
        _ => MIN_MAX_MESSAGE,
    };
    said.clamp(MIN_MAX_MESSAGE, MAX_MESSAGE)
}

/// What the server must say first, then what the client asked for in its order, then the rest; the relay's option last (RFC 3046 section 2.2).
fn in_requested_order<'a>(request: &Request, options: &'a [(u8, Vec<u8>)]) -> Vec<&'a (u8, Vec<u8>)> {
    let wishes = request.options.get(option::PARAMETER_REQUEST_LIST).unwrap_or_default();
    let rank = |code: u8| match code {
        option::SERVER_ID => 0,
        option::LEASE_TIME => 1,
        option::RELAY_AGENT => usize::MAX,
        _ => 2 + wishes.iter().position(|&wish| wish == code).unwrap_or(usize::from(u8::MAX)),
    };
    let mut ordered: Vec<_> = options.iter().collect();
    ordered.sort_by_key(|(code, _)| rank(*code));
    ordered
}
