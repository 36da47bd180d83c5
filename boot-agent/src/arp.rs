//! Whether somebody uses an address, by asking on the wire (RFC 5227 probes).

use std::{
    io,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use athanor_sys::{EtherType, PacketSocket};
use athanor_wire::MacAddr;

use crate::interface::interfaces;

/// How long an answer is waited for: half a second is what RFC 5227 leaves for hosts that sleep, and a client's patience is four.
const WAIT: Duration = Duration::from_millis(500);
/// How often it is asked: a switch may lose the first.
const PROBES: u32 = 2;
/// An ARP packet for Ethernet and IPv4.
const LENGTH: usize = 28;
/// Hardware type, protocol type, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Who else uses an address on the wire of an interface; waits for up to half a second. The client that asks for it is nobody else.
///
/// # Errors
/// No such interface, or no right.
pub(crate) fn user_of(interface: &str, ip: Ipv4Addr, client: MacAddr) -> io::Result<Option<MacAddr>> {
    // As it is now: a bridge takes the lowest of its ports'.
    let own = interfaces().into_iter().find(|found| found.name == interface).and_then(|found| found.mac).ok_or(io::ErrorKind::NotFound)?;
    let socket = PacketSocket::open(interface, EtherType::Arp)?;
    let mut buffer = [0; 64];
    for _ in 0..PROBES {
        socket.send([0xff; 6], &probe(own, ip))?;
        let until = Instant::now() + WAIT / PROBES;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            match socket.receive(&mut buffer, rest) {
                Ok(length) => match sender(&buffer[..length], ip) {
                    Some(user) if user != client && user != own => return Ok(Some(user)),
                    _ => {}
                },
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

/// "Who has this address?", from nobody's address: it changes no cache.
fn probe(own: MacAddr, ip: Ipv4Addr) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[..6].copy_from_slice(&ETHERNET_IPV4);
    packet[7] = 1;
    packet[8..14].copy_from_slice(&own.0);
    packet[24..].copy_from_slice(&ip.octets());
    packet
}

/// Who speaks as the owner of an address.
fn sender(packet: &[u8], ip: Ipv4Addr) -> Option<MacAddr> {
    let packet: &[u8; LENGTH] = packet.first_chunk()?;
    let speaks = packet[..6] == ETHERNET_IPV4 && packet[14..18] == ip.octets();
    let mac: [u8; 6] = packet[8..14].try_into().ok()?;
    speaks.then_some(MacAddr(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_speaks_as_the_owner_uses_an_address() {
        let (own, other, ip) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(10, 0, 0, 9));
        let asks = probe(own, ip);
        assert_eq!(sender(&asks, ip), None, "a probe is no claim");
        let mut answer = probe(other, Ipv4Addr::new(10, 0, 0, 1));
        answer[7] = 2;
        answer[14..18].copy_from_slice(&ip.octets());
        assert_eq!(sender(&answer, ip), Some(other));
        assert_eq!(sender(&answer[..20], ip), None);
    }
}
