//! Newcomers: each asks DHCP as iPXE does until it is offered a script, and fetches that with its facts.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use athanor_tests::firmware_client;
use athanor_wire::MacAddr;
use dhcproto::{
    Decodable as _, Decoder,
    v4::{DhcpOption, Message, OptionCode},
};

use super::SERVER;

/// The fleet's network.
const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 65, 255, 255);
/// How many machines ask at once: a hall that was switched on. Each is left to another server until it asks again.
const AT_ONCE: usize = 512;
/// When firmware asks again.
const AGAIN: Duration = Duration::from_secs(4);
/// When all of them must have their script.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn run(count: usize) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let began = Instant::now();
    let mut waiting: HashMap<MacAddr, Instant> = HashMap::new();
    let (mut next, mut done) = (0, 0);
    while done < count {
        anyhow::ensure!(began.elapsed() < PATIENCE, "{done} of {count} newcomers have a script");
        while waiting.len() < AT_ONCE && next < count {
            waiting.insert(mac(next), began);
            next += 1;
        }
        for (mac, due) in waiting.iter_mut().filter(|(_, due)| **due <= Instant::now()) {
            socket.send_to(&firmware_client::discover(*mac, true)?, (NETWORK, 67))?;
            *due = Instant::now() + AGAIN;
        }
        let mut buffer = [0; 1500];
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let Ok(offer) = Message::decode(&mut Decoder::new(&buffer[..length])) else { continue };
        let Some(mac) = offer.chaddr().try_into().ok().map(MacAddr) else { continue };
        let Some(DhcpOption::BootfileName(url)) = offer.opts().get(OptionCode::BootfileName) else { continue };
        if waiting.remove(&mac).is_some() {
            fetch(&String::from_utf8_lossy(url), mac)?;
            done += 1;
        }
    }
    Ok(())
}

fn mac(number: usize) -> MacAddr {
    let bytes = number.to_be_bytes();
    let [.., high, low] = bytes;
    MacAddr([0x52, 0x54, 0x0b, 0, high, low])
}

/// Fetches a script, telling who asks.
fn fetch(url: &str, mac: MacAddr) -> anyhow::Result<()> {
    let path = url.splitn(4, '/').nth(3).with_context(|| format!("{url} is no URL"))?;
    let mut stream = TcpStream::connect((SERVER, 7481))?;
    let facts = format!("vendor=Example&product=Blade&serial=S{0}&uuid=00000000-0000-4000-8000-{0}", mac.to_hex());
    stream.write_all(format!("GET /{path}?{facts} HTTP/1.1\r\nhost: {SERVER}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    anyhow::ensure!(text.starts_with("HTTP/1.1 200"), "no script: {text}");
    Ok(())
}
