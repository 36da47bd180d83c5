//! AF_PACKET sockets (packet(7)): the kernel writes the Ethernet header, we write from the IP header on.

use std::{
    io::{self, Read as _},
    mem,
    time::Duration,
};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// IPv4 or ARP packets on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    index: u32,
    protocol: u16,
}

/// What is sent and received (`linux/if_ether.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtherType {
    /// IPv4.
    Ip = 0x0800,
    /// ARP (RFC 826).
    Arp = 0x0806,
}

impl PacketSocket {
    /// A socket that only sends: nothing is queued for it.
    ///
    /// # Errors
    /// No such interface, or no right (CAP_NET_RAW).
    pub fn sender(interface: &str) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        Ok(Self { socket, index, protocol: EtherType::Ip.on_the_wire() })
    }

    /// A socket that also receives every packet of a kind that comes in on the interface.
    ///
    /// # Errors
    /// No such interface, or no right (CAP_NET_RAW).
    pub fn open(interface: &str, kind: EtherType) -> io::Result<Self> {
        let (index, protocol) = (if_nametoindex(interface)?, kind.on_the_wire());
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(protocol))))?;
        socket.bind(&link_address(index, protocol, [0; 6]))?;
        Ok(Self { socket, index, protocol })
    }

    /// Sends one packet to a MAC address.
    ///
    /// # Errors
    /// The interface is down, or the packet too long.
    pub fn send(&self, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, &link_address(self.index, self.protocol, to)).map(|_| ())
    }

    /// Waits so long for one packet.
    ///
    /// # Errors
    /// `WouldBlock` when none came in time.
    pub fn receive(&self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        // Zero would mean for ever.
        self.socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        (&self.socket).read(buffer)
    }
}

impl EtherType {
    /// In network byte order, as the kernel wants it.
    fn on_the_wire(self) -> u16 {
        (self as u16).to_be()
    }
}

fn link_address(index: u32, protocol: u16, mac: [u8; 6]) -> SockAddr {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&mac);
    let link = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `SockAddrStorage` is as large and as aligned as every socket address, and its first field is the family that says which one
    // it holds. `sockaddr_ll` is one of them, plain data without padding that anybody reads.
    unsafe {
        *storage.view_as::<libc::sockaddr_ll>() = link;
        SockAddr::new(storage, mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }
}
