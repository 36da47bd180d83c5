//! An address by DHCP (RFC 2131), asked for without one: questions and answers are broadcast, so that an ordinary socket will do.
//!
//! Our own servers give a known machine the same address for ever; a lease is not renewed, for the agent outlives none: a machine that waits for
//! days asks anew when its servers do not answer.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use athanor_wire::MacAddr;
use socket2::{Domain, Protocol, Socket, Type};

use super::Lease;

const CLIENT: u16 = 68;
const SERVER: u16 = 67;
/// The first pause between two questions, doubled up to four times as much.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const COOKIE: [u8; 4] = [99, 130, 83, 99];

const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const REQUESTED: u8 = 50;
const OVERLOAD: u8 = 52;
const MESSAGE_TYPE: u8 = 53;
const SERVER_ID: u8 = 54;
const PARAMETERS: u8 = 55;
const VENDOR_CLASS: u8 = 60;
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Asks for an address on an interface.
pub(super) fn ask(interface: &str, mac: MacAddr, patience: Duration) -> io::Result<Lease> {
    let socket = socket(interface)?;
    let xid = transaction(mac);
    let began = Instant::now();
    let mut offer: Option<Answer> = None;
    let mut pause = FIRST_PAUSE;
    while began.elapsed() < patience {
        let question = match &offer {
            None => question(mac, xid, 1, &[]),
            Some(offer) => request(mac, xid, offer),
        };
        socket.send_to(&question, SocketAddr::from((Ipv4Addr::BROADCAST, SERVER)))?;
        let wanted = if offer.is_some() { ACK } else { OFFER };
        match wait(&socket, mac, xid, wanted, pause)? {
            Some(answer) if answer.kind == ACK => return Ok(answer.lease(interface)),
            Some(answer) if answer.kind == NAK => offer = None,
            Some(answer) => {
                offer = Some(answer);
                continue;
            }
            // Whoever offered may be gone: anybody may offer.
            None if offer.is_some() && pause > FIRST_PAUSE => offer = None,
            None => {}
        }
        pause = (pause * 2).min(FIRST_PAUSE * 4);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", patience.as_secs())))
}

fn socket(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLIENT)).into())?;
    Ok(socket.into())
}

/// A number that differs between machines and between two boots of one.
fn transaction(mac: MacAddr) -> u32 {
    let since = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    crc32fast::hash(&[mac.0.as_slice(), since.as_bytes()].concat())
}

fn question(mac: MacAddr, xid: u32, kind: u8, more: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(xid.to_be_bytes());
    // The broadcast flag: we cannot hear anything else yet.
    bytes.extend([0, 0, 0x80, 0]);
    bytes.extend([0; 16]);
    bytes.extend(mac.0);
    bytes.resize(236, 0);
    bytes.extend(COOKIE);
    let standard = [(MESSAGE_TYPE, vec![kind]), (PARAMETERS, vec![SUBNET_MASK, ROUTER, DNS]), (VENDOR_CLASS, b"athanor-agent".to_vec())];
    for (code, value) in standard.iter().chain(more) {
        bytes.extend([*code, u8::try_from(value.len()).unwrap_or(0)]);
        bytes.extend(value);
    }
    bytes.push(255);
    // The least that BOOTP knows; some relays drop what is shorter.
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

fn request(mac: MacAddr, xid: u32, offer: &Answer) -> Vec<u8> {
    question(mac, xid, 3, &[(REQUESTED, offer.address.octets().to_vec()), (SERVER_ID, offer.server.octets().to_vec())])
}

fn wait(socket: &UdpSocket, mac: MacAddr, xid: u32, wanted: u8, patience: Duration) -> io::Result<Option<Answer>> {
    let began = Instant::now();
    let mut bytes = [0; 1500];
    loop {
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut bytes) {
            Ok(read) => {
                if let Some(answer) = Answer::parse(&bytes[..read], mac, xid).filter(|answer| answer.kind == wanted || answer.kind == NAK) {
                    return Ok(Some(answer));
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    kind: u8,
    address: Ipv4Addr,
    server: Ipv4Addr,
    netmask: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
    dns: Vec<Ipv4Addr>,
}

impl Answer {
    fn parse(bytes: &[u8], mac: MacAddr, xid: u32) -> Option<Self> {
        let ours = bytes.first() == Some(&2) && bytes.get(4..8)? == xid.to_be_bytes() && bytes.get(28..34)? == mac.0;
        if !ours || bytes.get(236..240)? != COOKIE {
            return None;
        }
        let mut answer = Self {
            kind: 0,
            address: four(bytes.get(16..20)?)?,
            server: Ipv4Addr::UNSPECIFIED,
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            gateway: None,
            dns: Vec::new(),
        };
        // The file's field holds options, too, where option 52 says so.
        let mut overload = 0;
        options(bytes.get(240..)?, |code, value| match code {
            OVERLOAD => overload = value.first().copied().unwrap_or(0),
            _ => answer.take(code, value),
        });
        let file = bytes.get(108..236).filter(|_| overload & 1 == 1).unwrap_or_default();
        options(file, |code, value| answer.take(code, value));
        (answer.kind != 0).then_some(answer)
    }

    fn take(&mut self, code: u8, value: &[u8]) {
        match code {
            MESSAGE_TYPE => self.kind = value.first().copied().unwrap_or(0),
            SUBNET_MASK => self.netmask = four(value).unwrap_or(self.netmask),
            SERVER_ID => self.server = four(value).unwrap_or(self.server),
            ROUTER => self.gateway = value.get(..4).and_then(four),
            DNS => self.dns.extend(value.chunks_exact(4).take(3).filter_map(four)),
            _ => {}
        }
    }

    fn lease(self, interface: &str) -> Lease {
        Lease { interface: interface.to_owned(), address: self.address, netmask: self.netmask, gateway: self.gateway, dns: self.dns }
    }
}

fn four(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn options(mut bytes: &[u8], mut take: impl FnMut(u8, &[u8])) {
    loop {
        match bytes {
            [0, rest @ ..] => bytes = rest,
            [255, ..] | [] | [_] => return,
            [code, length, rest @ ..] => {
                let Some(value) = rest.get(..usize::from(*length)) else { return };
                take(*code, value);
                bytes = &rest[usize::from(*length)..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(options: &[u8]) -> Vec<u8> {
        let mut bytes = question(MacAddr([2, 0, 0, 0, 0, 1]), 7, 1, &[]);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 0, 0, 9]);
        bytes.truncate(240);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn an_answer_is_read() {
        let bytes = answer(&[53, 1, 5, 54, 4, 10, 0, 0, 1, 1, 4, 255, 255, 0, 0, 3, 4, 10, 0, 0, 2, 6, 8, 1, 1, 1, 1, 8, 8, 8, 8, 255]);
        let read = Answer::parse(&bytes, MacAddr([2, 0, 0, 0, 0, 1]), 7).unwrap();
        assert_eq!((read.kind, read.address, read.server), (ACK, [10, 0, 0, 9].into(), [10, 0, 0, 1].into()));
        assert_eq!((read.netmask, read.gateway, read.dns.len()), ([255, 255, 0, 0].into(), Some([10, 0, 0, 2].into()), 2));
        assert_eq!(Answer::parse(&bytes, MacAddr([2, 0, 0, 0, 0, 2]), 7), None, "another's");
        assert_eq!(Answer::parse(&bytes, MacAddr([2, 0, 0, 0, 0, 1]), 8), None, "an old one");
        assert_eq!(Answer::parse(&answer(&[54, 4, 1]), MacAddr([2, 0, 0, 0, 0, 1]), 7), None, "cut");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Answer::parse(&noise, MacAddr([2, 0, 0, 0, 0, 1]), 7);
            let _ = Answer::parse(&answer(&noise), MacAddr([2, 0, 0, 0, 0, 1]), 7);
        }
    }
}
