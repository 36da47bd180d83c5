//! Who holds a port, through /proc; and sockets that say so when they cannot be had.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::AgentError;

/// What to do about a port that somebody else has, where it is DHCP's.
const HINT_DHCP: &str = "Stop it, or set mode: off for the subnets of this interface";
/// The same, where it can be another one.
const HINT_PORT: &str = "Stop it, or choose another port";

/// The program that holds a port in this network namespace, as `name (pid n)`; never this very process.
pub fn holder(table: &str, port: u16) -> Option<String> {
    let wanted = sockets_on(table, port);
    if wanted.is_empty() {
        return None;
    }
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let files = files_of(&pid);
        if wanted.iter().any(|socket| files.contains(socket)) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// The sockets of this network namespace that have a port, as `/proc/PID/fd` names them.
fn sockets_on(table: &str, port: u16) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| inode_on(line, port)).map(|inode| format!("socket:[{inode}]")).collect()
}

/// What a process has open; nothing where we may not look.
fn files_of(pid: &str) -> Vec<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).map(|link| link.to_string_lossy().into_owned()).collect()
}

/// The inode of a line of /proc/net/udp whose local port is this one; for TCP only listeners.
fn inode_on(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let state = *fields.get(3)?;
    // 07 is an unconnected UDP socket, 0A a TCP listener.
    (u16::from_str_radix(local, 16) == Ok(port) && matches!(state, "07" | "0A")).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
}

/// What may wait in a socket, in bytes: the requests of ten thousand machines that are switched on by one breaker.
const RECEIVE_BUFFER: usize = 8 << 20;

/// What may wait to be sent, in bytes: windows of some dozen clients.
const SEND_BUFFER: usize = 4 << 20;

/// A UDP socket on one interface. One that shares its port lets a newer agent in.
pub(crate) fn udp(
    service: &'static str,
    interface: &str,
    ip: Ipv4Addr,
    port: u16,
    shares: bool,
) -> Result<tokio::net::UdpSocket, AgentError> {
    // The kernel knows who is in the way on this interface. SO_REUSEPORT, with which a newer agent takes over, would let anybody in.
    if let Some(holder) = holder("udp", port).filter(|holder| shares && !holder.starts_with("athanor")) {
        let hint = if service == "DHCP" { HINT_DHCP } else { "Stop it" };
        return Err(AgentError::PortInUse { service, place: interface.to_owned(), port, holder: Some(holder), hint });
    }
    let make = || -> io::Result<tokio::net::UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(shares)?;
        socket.set_broadcast(true)?;
        // Beyond what is the default's double the kernel wants CAP_NET_ADMIN, which an agent in a cluster does not have.
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        if setsockopt(&socket, SndBufForce, &SEND_BUFFER).is_err() {
            socket.set_send_buffer_size(SEND_BUFFER)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(ip, port).into())?;
        tokio::net::UdpSocket::from_std(socket.into())
    };
    make().map_err(|source| explain(service, interface, port, source))
}

/// Whether another process has a UDP port of this network namespace, too. Sockets of other pods are seen, their processes are not.
pub(crate) fn is_shared(port: u16) -> bool {
    let own = files_of("self");
    sockets_on("udp", port).iter().any(|socket| !own.contains(socket))
}

/// A TCP listener on every address. One that shares its port lets a newer agent in.
pub(crate) fn tcp(service: &'static str, port: u16, shares: bool) -> Result<tokio::net::TcpListener, AgentError> {
    if let Some(holder) = holder("tcp", port).filter(|holder| shares && !holder.starts_with("athanor")) {
        return Err(AgentError::PortInUse { service, place: "0.0.0.0".to_owned(), port, holder: Some(holder), hint: HINT_PORT });
    }
    listener((Ipv4Addr::UNSPECIFIED, port).into(), shares).map_err(|source| explain(service, "0.0.0.0", port, source))
}

/// A TCP listener whose port a newer process of ours may have, too.
///
/// # Errors
/// Another program has the port, or there is no right to it.
pub fn shared_listener(service: &'static str, address: SocketAddr) -> Result<tokio::net::TcpListener, AgentError> {
    listener(address, true).map_err(|source| explain(service, &address.ip().to_string(), address.port(), source))
}

fn listener(address: SocketAddr, shares: bool) -> io::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Machines of a whole rack connect in the same second.
    socket.listen(1024)?;
    tokio::net::TcpListener::from_std(socket.into())
}

fn explain(service: &'static str, place: &str, port: u16, source: io::Error) -> AgentError {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = holder(if matches!(service, "HTTP" | "health") { "tcp" } else { "udp" }, port);
            let hint = if service == "DHCP" { HINT_DHCP } else { HINT_PORT };
            AgentError::PortInUse { service, place: place.to_owned(), port, holder, hint }
        }
        io::ErrorKind::PermissionDenied => {
            let exe = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_else(|_| "athanor".to_owned());
            AgentError::NoRight { port, exe }
        }
        _ => AgentError::Socket { service, place: place.to_owned(), source },
    }
}
