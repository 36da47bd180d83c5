//! IPv4 and UDP headers for packets that the kernel cannot address: to a client that has no address yet.

use std::net::Ipv4Addr;

/// IPv4 header without options.
const IP_HEADER: usize = 20;
/// UDP header.
const UDP_HEADER: usize = 8;
/// How many routers such a packet may pass: none, but 64 is what everybody sends.
const TTL: u8 = 64;
/// UDP's protocol number.
const UDP: u8 = 17;

/// An address and port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) ip: Ipv4Addr,
    pub(crate) port: u16,
}

/// An IPv4 packet with one UDP datagram. `None` when the payload is too long for one.
pub(crate) fn udp(from: End, to: End, payload: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let total = udp_length.checked_add(u16::try_from(IP_HEADER).ok()?)?;
    let mut out = Vec::with_capacity(usize::from(total));
    out.extend([0x45, 0]);
    out.extend(total.to_be_bytes());
    out.extend([0, 0, 0, 0, TTL, UDP, 0, 0]);
    out.extend(from.ip.octets());
    out.extend(to.ip.octets());
    let header = checksum(&out, 0);
    out[10..12].copy_from_slice(&header.to_be_bytes());
    out.extend(from.port.to_be_bytes());
    out.extend(to.port.to_be_bytes());
    out.extend(udp_length.to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    // RFC 768: the pseudo-header is both addresses, the protocol and the length.
    let pseudo = sum(&out[12..20]) + u32::from(UDP) + u32::from(udp_length);
    let checksum = match checksum(&out[IP_HEADER..], pseudo) {
        // Zero would mean that there is none.
        0 => 0xffff,
        other => other,
    };
    out[IP_HEADER + 6..IP_HEADER + 8].copy_from_slice(&checksum.to_be_bytes());
    Some(out)
}

/// The payload of an IPv4 packet that carries UDP to a port.
pub(crate) fn udp_payload(packet: &[u8], port: u16) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet.first()? >> 4 != 4 || *packet.get(9)? != UDP {
        return None;
    }
    let udp = packet.get(header..)?;
    let to = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    if to != port {
        return None;
    }
    udp.get(UDP_HEADER..length.min(udp.len()))
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut total = sum(bytes) + start;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn checksums_hold_and_the_payload_comes_back(payload in proptest::collection::vec(any::<u8>(), 0..600), a: u32, b: u32) {
            let (from, to) = (End { ip: a.into(), port: 67 }, End { ip: b.into(), port: 68 });
            let packet = udp(from, to, &payload).unwrap();
            prop_assert_eq!(checksum(&packet[..20], 0), 0);
            let pseudo = sum(&packet[12..20]) + 17 + u32::try_from(payload.len() + 8).unwrap();
            prop_assert_eq!(checksum(&packet[20..], pseudo), 0);
            prop_assert_eq!(udp_payload(&packet, 68), Some(payload.as_slice()));
            prop_assert_eq!(udp_payload(&packet, 69), None);
        }

        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = udp_payload(&packet, 68);
        }
    }
}
