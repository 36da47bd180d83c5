//! AF_PACKET sockets (packet(7)): the kernel writes the Ethernet header, we write from the IP header on.

use std::{
    io::{self, Read as _},
    mem,
    net::UdpSocket,
    os::fd::OwnedFd,
    time::Duration,
};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

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

    /// A socket that receives, from the IP header on, what is broadcast to a UDP port on the interface. The kernel wakes nobody for the rest.
    /// It does not wait, and has the type of a datagram socket, which runtimes know how to wait for; only `recv` is of use.
    ///
    /// # Errors
    /// No such interface, or no right (CAP_NET_RAW).
    pub fn listener(interface: &str, port: u16) -> io::Result<UdpSocket> {
        let index = if_nametoindex(interface)?;
        // Bound after the filter: nothing else is queued.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        socket.attach_filter(&broadcast_to(port, index))?;
        socket.set_nonblocking(true)?;
        socket.bind(&link_address(index, EtherType::Ip.on_the_wire(), [0; 6]))?;
        Ok(OwnedFd::from(socket).into())
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

/// Classic BPF (`linux/filter.h`): what is of this interface itself and not of a VLAN on it, to 255.255.255.255, UDP, a first fragment, and its
/// port. The two jumps of each test are so many instructions on; the last one of all drops the packet.
fn broadcast_to(port: u16, index: u32) -> [SockFilter; 15] {
    let (word, half, byte, header, half_at) = (0x20, 0x28, 0x30, 0xb1, 0x48);
    let (equals, any_of, answer) = (0x15, 0x45, 0x06);
    // SKF_AD_OFF with SKF_AD_IFINDEX and SKF_AD_PKTTYPE; PACKET_OTHERHOST is what a VLAN without an interface is.
    let (interface, packet_type, other_host) = (0xffff_f008, 0xffff_f004, 3);
    [
        SockFilter::new(word, 0, 0, interface),
        SockFilter::new(equals, 0, 12, index),
        SockFilter::new(word, 0, 0, packet_type),
        SockFilter::new(equals, 10, 0, other_host),
        SockFilter::new(word, 0, 0, 16),
        SockFilter::new(equals, 0, 8, u32::MAX),
        SockFilter::new(byte, 0, 0, 9),
        SockFilter::new(equals, 0, 6, 17),
        SockFilter::new(half, 0, 0, 6),
        SockFilter::new(any_of, 4, 0, 0x1fff),
        SockFilter::new(header, 0, 0, 0),
        SockFilter::new(half_at, 0, 0, 2),
        SockFilter::new(equals, 0, 1, u32::from(port)),
        SockFilter::new(answer, 0, 0, u32::MAX),
        SockFilter::new(answer, 0, 0, 0),
    ]
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
