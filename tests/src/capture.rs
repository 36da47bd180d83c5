//! What went over the bridge, read back as DHCP messages by an independent decoder.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use athanor_wire::MacAddr;
use dhcproto::{
    Decodable as _, Decoder,
    v4::{DhcpOption, Message, MessageType, OptionCode},
};

use crate::{Rack, rack::Process, tools, wait_for};

/// A running capture.
pub struct Capture {
    file: PathBuf,
    _process: Process,
}

/// A DHCP message that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whose.
    pub mac: MacAddr,
    /// Which type.
    pub type_: MessageType,
    /// The address that was offered.
    pub yiaddr: Ipv4Addr,
    /// The server that speaks, from option 54.
    pub server: Option<Ipv4Addr>,
    /// The boot file, from option 67.
    pub file: Option<String>,
}

impl Capture {
    /// Captures DHCP, and TFTP but for the files' bytes, on the bridge until dropped.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn start(rack: &Rack) -> anyhow::Result<Self> {
        let file = rack.file("dhcp.pcap");
        let mut command = rack.command("tcpdump");
        command.args(["-i", "br0", "-U", "-Z", "root", "-w"]).arg(&file).arg(FILTER);
        let process = Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        wait_for("capture", Duration::from_secs(10), || {
            fs::metadata(&file).ok().filter(|meta| meta.len() >= HEADER as u64).map(|_| ()).ok_or_else(|| "no file yet".to_owned())
        })?;
        Ok(Self { file, _process: process })
    }

    /// The DHCP messages so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn dhcp(&self) -> anyhow::Result<Vec<Seen>> {
        Ok(packets(&fs::read(&self.file)?).iter().filter_map(|packet| message(packet)).collect())
    }

    /// How many magic packets came by for a card.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn magic(&self, mac: MacAddr) -> anyhow::Result<usize> {
        let pattern = [[0xff; 6].as_slice(), &mac.0.repeat(16)].concat();
        let wakes = |packet: &&&[u8]| packet.windows(pattern.len()).any(|bytes| bytes == pattern);
        Ok(packets(&fs::read(&self.file)?).iter().filter(wakes).count())
    }

    /// What Wireshark finds wrong with any packet; it knows protocols that we do not.
    ///
    /// # Errors
    /// tshark cannot be run.
    pub fn malformed(&self) -> anyhow::Result<String> {
        let wrong = "_ws.malformed || _ws.expert.group == \"Malformed\"";
        tools::run(Command::new("tshark").args(["-n", "-r"]).arg(&self.file).args(["-Y", wrong]))
    }

    /// The capture as text, for failures.
    pub fn text(&self) -> String {
        let output = Command::new("tcpdump").args(["-nvr"]).arg(&self.file).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }
}

/// Magic packets, DHCP, proxyDHCP, and TFTP without DATA (opcode 3).
const FILTER: &str =
    "udp port 9 or udp port 67 or udp port 68 or udp port 4011 or udp port 69 or (udp portrange 7490-7497 and udp[8:2] != 3)";

/// The header of a capture file.
const HEADER: usize = 24;

/// The packets of a little-endian capture file; one that is still being written ends at the last whole packet.
fn packets(bytes: &[u8]) -> Vec<&[u8]> {
    let mut packets = Vec::new();
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    while let Some((header, body)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((packet, after)) = body.split_at_checked(length) else { break };
        packets.push(packet);
        rest = after;
    }
    packets
}

/// The DHCP message of an Ethernet frame.
fn message(frame: &[u8]) -> Option<Seen> {
    let ip = frame.get(14..)?;
    let header = usize::from(ip.first()? & 0x0f) * 4;
    let message = Message::decode(&mut Decoder::new(ip.get(header + 8..)?)).ok()?;
    let mac: [u8; 6] = message.chaddr().try_into().ok()?;
    let file = match message.opts().get(OptionCode::BootfileName) {
        Some(DhcpOption::BootfileName(name)) => Some(String::from_utf8_lossy(name).into_owned()),
        _ => None,
    };
    let server = match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(ip)) => Some(*ip),
        _ => None,
    };
    Some(Seen { mac: MacAddr(mac), type_: message.opts().msg_type()?, yiaddr: message.yiaddr(), server, file })
}
