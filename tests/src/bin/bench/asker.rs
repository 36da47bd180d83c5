//! A client that asks DHCP every few milliseconds until somebody answers, and prints when that was.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use dhcproto::{
    Encodable as _,
    v4::{DhcpOption, Flags, Message, MessageType, Opcode},
};

/// The word with which the bench starts itself as this client.
pub(crate) const COMMAND: &str = "ask-dhcp";
/// The broadcast address of the rack's network: the other one, 255.255.255.255, needs a default route.
const NETWORK: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 255);
/// How often it asks: the measure cannot be finer.
const PAUSE: Duration = Duration::from_millis(5);
/// When it gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until answered; prints the time of the answer in seconds since the epoch.
pub(crate) fn run(mac: &str) -> anyhow::Result<()> {
    let mac: athanor_wire::MacAddr = mac.parse()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(PAUSE))?;
    let unspecified = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new(unspecified, unspecified, unspecified, unspecified, &mac.0);
    message.set_opcode(Opcode::BootRequest).set_flags(Flags::default().set_broadcast());
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    message.opts_mut().insert(DhcpOption::ClassIdentifier(b"PXEClient:Arch:00000:UNDI:002001".to_vec()));
    let packet = message.to_vec()?;
    let began = Instant::now();
    println!("asking");
    while began.elapsed() < PATIENCE {
        // Nobody may listen yet; the next one will be heard.
        let _ = socket.send_to(&packet, (NETWORK, 67));
        if socket.recv(&mut [0; 1500]).is_ok() {
            println!("{}", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock")?.as_secs_f64());
            return Ok(());
        }
    }
    bail!("no DHCP answer within {} s", PATIENCE.as_secs())
}
