//! Network interfaces: up, an address, a default route (netdevice(7)).

use std::{
    io, mem,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_read_bad!(flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_address, libc::SIOCSIFADDR, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_netmask, libc::SIOCSIFNETMASK, libc::ifreq);
    nix::ioctl_write_ptr_bad!(add_route, libc::SIOCADDRT, libc::rtentry);
}

fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interface's name is too long"));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = byte.cast_signed();
    }
    Ok(request)
}

fn address(ip: Ipv4Addr) -> libc::sockaddr {
    let octets = ip.octets().map(u8::cast_signed);
    let mut data = [0; 14];
    data[2..6].copy_from_slice(&octets);
    libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: data }
}

/// Any socket will do to speak about interfaces.
fn any_socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
}

/// Brings an interface up.
///
/// # Errors
/// No such interface, or no right (CAP_NET_ADMIN).
pub fn up(interface: &str) -> io::Result<()> {
    let (socket, mut request) = (any_socket()?, request(interface)?);
    // SAFETY: the socket is open for the calls, and both take one `ifreq`; the flags are the member that SIOCGIFFLAGS wrote.
    unsafe {
        ioctl::flags(socket.as_raw_fd(), &raw mut request)?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        ioctl::set_flags(socket.as_raw_fd(), &raw const request)?;
    }
    Ok(())
}

/// Gives an interface its only address, and the network around that.
///
/// # Errors
/// No such interface, or no right (CAP_NET_ADMIN).
pub fn set_address(interface: &str, ip: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
    let (socket, mut request) = (any_socket()?, request(interface)?);
    // SAFETY: the socket is open for the calls, and both read one `ifreq` with an address in it.
    unsafe {
        request.ifr_ifru.ifru_addr = address(ip);
        ioctl::set_address(socket.as_raw_fd(), &raw const request)?;
        request.ifr_ifru.ifru_netmask = address(netmask);
        ioctl::set_netmask(socket.as_raw_fd(), &raw const request)?;
    }
    Ok(())
}

/// Adds the default route through a gateway.
///
/// # Errors
/// The gateway is on no network of ours, or there is such a route.
pub fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = any_socket()?;
    // SAFETY: `rtentry` is plain data, for which zeros are a value; the socket is open for the call, which reads one of them.
    unsafe {
        let mut route: libc::rtentry = mem::zeroed();
        route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = address(gateway);
        route.rt_flags = (libc::RTF_UP | libc::RTF_GATEWAY) as libc::c_ushort;
        ioctl::add_route(socket.as_raw_fd(), &raw const route)?;
    }
    Ok(())
}
