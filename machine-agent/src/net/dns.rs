//! Names to addresses (RFC 1035), asked of the servers that DHCP named: a static program's own resolver needs files that an initramfs lacks.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use ureq::{
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often each is asked.
const TRIES: usize = 2;

/// Looks names up.
#[derive(Clone, Default)]
pub struct Names {
    servers: Vec<Ipv4Addr>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.servers).finish()
    }
}

impl Names {
    /// With these servers.
    pub fn new(servers: Vec<Ipv4Addr>) -> Self {
        Self { servers }
    }

    fn look_up(&self, name: &str) -> io::Result<Vec<Ipv4Addr>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no name server knows {name}"));
        let question = question(name).ok_or_else(missing)?;
        for server in self.servers.iter().cycle().take(self.servers.len() * TRIES) {
            let found = ask(*server, &question).unwrap_or_default();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(missing())
    }
}

/// A question's number: one question is open at a time, on a socket that is connected to one server.
const ID: u16 = 0x4154;

fn question(name: &str) -> Option<Vec<u8>> {
    let mut bytes = [ID.to_be_bytes(), [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]].concat();
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        bytes.push(length);
        bytes.extend(label.bytes());
    }
    // The root, type A, class IN.
    bytes.extend([0, 0, 1, 0, 1]);
    (name.len() <= 253).then_some(bytes)
}

fn ask(server: Ipv4Addr, question: &[u8]) -> io::Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, 53))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(question)?;
    let mut bytes = [0; 1500];
    let read = socket.recv(&mut bytes)?;
    Ok(addresses(&bytes[..read]).unwrap_or_default())
}

/// The addresses in an answer. An alias stands before what it leads to, in one answer.
fn addresses(bytes: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let number = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if number(0)? != ID {
        return None;
    }
    let (questions, answers) = (number(4)?, number(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = behind_name(bytes, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = behind_name(bytes, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let value = bytes.get(at + 10..at + 10 + length)?;
        if let (1, Ok(octets)) = (kind, <[u8; 4]>::try_from(value)) {
            found.push(Ipv4Addr::from(octets));
        }
        at += 10 + length;
    }
    Some(found)
}

fn behind_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends a name.
            length if length >= 0xC0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let found = match literal {
            Some(ip) => vec![ip],
            None => self.look_up(host).map_err(|_| ureq::Error::HostNotFound)?.into_iter().map(IpAddr::V4).collect(),
        };
        let mut all = self.empty();
        for ip in found.into_iter().take(16) {
            all.push(SocketAddr::new(ip, port));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_alias_and_its_address() {
        let mut answer = question("a.example").unwrap();
        answer[7] = 2;
        answer.extend([0xC0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'b', 0xC0, 14]);
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 7]);
        assert_eq!(addresses(&answer), Some(vec![[10, 0, 0, 7].into()]));
        assert_eq!(question(&"x".repeat(64)), None);
        assert_eq!(question("a..b"), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = addresses(&[ID.to_be_bytes().as_slice(), &noise].concat());
        }
    }
}
