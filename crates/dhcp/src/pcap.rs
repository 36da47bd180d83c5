//! DHCP questions out of a packet capture (the classic pcap format, as `tcpdump -w` writes it).

use crate::{PROXY_PORT, SERVER_PORT};

/// The most packets that are looked at.
const MAX_PACKETS: usize = 1_000_000;
/// A record's header.
const RECORD: usize = 16;
/// The file's header.
const HEADER: usize = 24;

/// A question as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The DHCP message.
    pub bytes: Vec<u8>,
    /// It went to port 4011.
    pub proxy_port: bool,
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PcapError {
    /// It begins otherwise.
    #[error("this is no pcap file; write one with `tcpdump -w FILE port 67 or port 4011`, or convert it: editcap -F pcap IN OUT")]
    NotPcap,
    /// Not Ethernet, Linux' "any" interface, or plain IP.
    #[error("link type {0} is not understood; capture on one Ethernet interface")]
    LinkType(u32),
}

/// The questions in a capture, in their order. A record that is cut ends the file; what is no DHCP question is passed over.
///
/// # Errors
/// It is no capture, or one of another kind of link.
pub fn questions(file: &[u8]) -> Result<Vec<Question>, PcapError> {
    let magic: [u8; 4] = file.first_chunk().copied().ok_or(PcapError::NotPcap)?;
    // Microseconds or nanoseconds, written on a machine of either byte order.
    let little = match magic {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => true,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => false,
        _ => return Err(PcapError::NotPcap),
    };
    let word = |at: usize| -> Option<u32> {
        let bytes: [u8; 4] = file.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    // The upper bits may say how long a frame check sequence is.
    let link = word(20).ok_or(PcapError::NotPcap)? & 0x0fff_ffff;
    let ip_of: fn(&[u8]) -> Option<&[u8]> = match link {
        1 => ethernet,
        101 | 228 => |frame| Some(frame),
        113 => |frame| frame.get(16..),
        276 => |frame| frame.get(20..),
        other => return Err(PcapError::LinkType(other)),
    };
    let (mut all, mut at) = (Vec::new(), HEADER);
    for _ in 0..MAX_PACKETS {
        let Some(length) = word(at.saturating_add(8)).and_then(|length| usize::try_from(length).ok()) else { break };
        let Some(frame) = file.get(at + RECORD..).and_then(|rest| rest.get(..length)) else { break };
        all.extend(ip_of(frame).and_then(question));
        at += RECORD + length;
    }
    Ok(all)
}

/// The IPv4 packet in an Ethernet frame, behind any VLAN tags.
fn ethernet(frame: &[u8]) -> Option<&[u8]> {
    let mut rest = frame.get(12..)?;
    while let [0x81 | 0x88, 0x00 | 0xa8, _, _, more @ ..] = rest {
        rest = more;
    }
    let [8, 0, packet @ ..] = rest else { return None };
    Some(packet)
}

/// The DHCP message in an IPv4 packet, if it is whole and goes to a server.
fn question(packet: &[u8]) -> Option<Question> {
    let first = *packet.first()?;
    let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x3fff;
    if first >> 4 != 4 || *packet.get(9)? != 17 || fragment != 0 {
        return None;
    }
    let udp = packet.get(usize::from(first & 15) * 4..)?;
    let port = u16::from_be_bytes(*udp.get(2..)?.first_chunk()?);
    let length = usize::from(u16::from_be_bytes(*udp.get(4..)?.first_chunk()?));
    let bytes = udp.get(8..length.min(udp.len()))?;
    // Answers between servers and relays go to port 67, too.
    let asked = matches!(port, SERVER_PORT | PROXY_PORT) && bytes.first() == Some(&1);
    asked.then(|| Question { bytes: bytes.to_vec(), proxy_port: port == PROXY_PORT })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(port: u16, message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68];
        packet.extend(port.to_be_bytes());
        packet.extend(u16::try_from(message.len() + 8).unwrap().to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(message);
        packet
    }

    fn capture(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0];
        file.extend(link.to_le_bytes());
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            file.extend([0; 8]);
            file.extend(length);
            file.extend(length);
            file.extend(frame);
        }
        file
    }

    #[test]
    fn questions_are_found_whatever_they_are_wrapped_in() {
        let (plain, tagged): (&[u8], &[u8]) = (&[8, 0], &[0x81, 0, 0, 7, 8, 0]);
        let ether = |kind: &[u8], packet: Vec<u8>| [&[0xff; 12][..], kind, &packet].concat();
        let frames = [
            ether(plain, ip(67, &[1, 2, 3])),
            ether(tagged, ip(4011, &[1, 9])),
            ether(plain, ip(67, &[2, 2, 3])),
            ether(plain, ip(53, &[1])),
            ether(&[0x86, 0xdd], ip(67, &[1])),
        ];
        let asked = |bytes: &[u8], proxy_port| Question { bytes: bytes.to_vec(), proxy_port };
        assert_eq!(questions(&capture(1, &frames)), Ok(vec![asked(&[1, 2, 3], false), asked(&[1, 9], true)]));
        let any = [[&[0; 16][..], &ip(67, &[1, 5])].concat()];
        assert_eq!(questions(&capture(113, &any)), Ok(vec![asked(&[1, 5], false)]));
        assert_eq!(questions(&capture(105, &[])), Err(PcapError::LinkType(105)));
        assert_eq!(questions(b"\x0a\x0d\x0d\x0a"), Err(PcapError::NotPcap));
        let mut cut = capture(1, &frames[..2]);
        cut.truncate(cut.len() - 1);
        assert_eq!(questions(&cut).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_in_a_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), link in 0u32..300) {
            let mut file = capture(link, &[]);
            file.extend(bytes);
            let _ = questions(&file);
        }
    }
}
