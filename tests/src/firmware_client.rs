//! What firmware says to DHCP, for programs that stand for it.

use std::net::{Ipv4Addr, UdpSocket};

use athanor_wire::MacAddr;
use dhcproto::{
    Encodable as _,
    v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption},
};

/// The broadcast address of the rack's network: the other one, 255.255.255.255, needs a default route.
const NETWORK: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 255);

/// A client that asks again and again with one DISCOVER.
pub struct FirmwareClient {
    /// Where answers come.
    pub socket: UdpSocket,
    packet: Vec<u8>,
}

impl FirmwareClient {
    /// A BIOS PXE client with this MAC address, on the host that this runs on.
    ///
    /// # Errors
    /// Port 68 cannot be had.
    pub fn new(mac: MacAddr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
        socket.set_broadcast(true)?;
        Ok(Self { socket, packet: discover(mac, false)? })
    }

    /// Asks once, and waits as long as the socket does; whether anything came.
    pub fn ask(&self) -> bool {
        // Nobody may listen yet; the next one will be heard.
        let _ = self.socket.send_to(&self.packet, (NETWORK, 67));
        self.socket.recv(&mut [0; 1500]).is_ok()
    }
}

/// The DISCOVER of a BIOS PXE client, or of iPXE on it.
///
/// # Errors
/// Never for such a message; the encoder's signature says it may.
pub fn discover(mac: MacAddr, ipxe: bool) -> anyhow::Result<Vec<u8>> {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new(nobody, nobody, nobody, nobody, &mac.0);
    message.set_opcode(Opcode::BootRequest).set_flags(Flags::default().set_broadcast());
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    message.opts_mut().insert(DhcpOption::ClassIdentifier(b"PXEClient:Arch:00000:UNDI:002001".to_vec()));
    if ipxe {
        message.opts_mut().insert(DhcpOption::Unknown(UnknownOption::new(OptionCode::from(77), b"iPXE".to_vec())));
    }
    Ok(message.to_vec()?)
}
