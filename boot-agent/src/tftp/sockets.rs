//! The sockets of one TFTP server: waiting for all of them at once, and sending a whole window with one call.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::net::UnixStream,
    },
    sync::{Arc, Weak},
    time::Duration,
};

use athanor_tftp_server::Datagram;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
};

/// The longest request that is read; RFC 2347 allows 512 bytes.
const MAX_REQUEST: usize = 1024;
/// How many packets the kernel cuts out of one piece (`UDP_MAX_SEGMENTS` of older kernels).
const MAX_SEGMENTS: usize = 64;
/// How long such a piece may be: an IP packet's 65,535 bytes less its headers, and some room.
const MAX_PIECE: usize = 65_000;

/// How long a full socket is waited for, in milliseconds: a gigabit takes half a megabyte in that time.
const FULL: u8 = 5;

/// Where a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Port 69.
    Requests,
    /// A port that transfers share.
    Lane(usize),
}

/// All sockets of one server.
pub(super) struct Sockets {
    /// Port 69, which the task that started the thread has: when that ends it is free at once, even if the thread waits for a disk.
    requests: Weak<UdpSocket>,
    lanes: Vec<UdpSocket>,
    orders: UnixStream,
    /// The kernel cuts pieces into packets.
    cuts: bool,
    buffer: Box<[u8; MAX_REQUEST]>,
}

/// Tells the thread what to do; when it is dropped, the thread ends.
pub(super) struct Orders {
    stream: UnixStream,
    requests: Option<Arc<UdpSocket>>,
}

impl Orders {
    /// What is under way goes on; what comes anew is another agent's.
    pub(super) fn take_no_more(&mut self) {
        // Closed before anything else: what comes to it from now on is the other agent's.
        self.requests = None;
        // It fails where the thread has ended, and then takes nothing.
        let _ = (&self.stream).write(&[1]);
    }
}

impl Sockets {
    pub(super) fn new(requests: UdpSocket, lanes: Vec<UdpSocket>) -> io::Result<(Self, Orders)> {
        let (stream, ours) = UnixStream::pair()?;
        let requests = Arc::new(requests);
        let sockets = Self { requests: Arc::downgrade(&requests), lanes, orders: ours, cuts: true, buffer: Box::new([0; MAX_REQUEST]) };
        Ok((sockets, Orders { stream, requests: Some(requests) }))
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Waits until something comes in, or so long; `None` when it is time to end.
    pub(super) fn wait(&mut self, wait: Option<Duration>) -> Option<Vec<Source>> {
        let requests = self.requests.upgrade();
        let mut waiting = vec![PollFd::new(self.orders.as_fd(), PollFlags::POLLIN)];
        waiting.extend(self.lanes.iter().map(|lane| PollFd::new(lane.as_fd(), PollFlags::POLLIN)));
        waiting.extend(requests.iter().map(|requests| PollFd::new(requests.as_fd(), PollFlags::POLLIN)));
        // Rounded up: waking a moment early would mean waking again and again.
        let timeout =
            wait.map_or(PollTimeout::NONE, |wait| PollTimeout::try_from(wait + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX));
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "TFTP sockets cannot be waited for");
                return None;
            }
        }
        let ready: Vec<bool> = waiting.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready.first() == Some(&true) {
            // Either end of the stream: a byte, or nobody who could send one.
            if matches!(self.orders.read(&mut [0]), Ok(0) | Err(_)) {
                return None;
            }
            self.requests = Weak::new();
            return Some(Vec::new());
        }
        let lanes = (0..self.lanes.len()).filter(|lane| ready.get(lane + 1) == Some(&true)).map(Source::Lane);
        let requests = (ready.get(self.lanes.len() + 1) == Some(&true)).then_some(Source::Requests);
        Some(lanes.chain(requests).collect())
    }

    /// Takes one packet, if there is one; its bytes are in [`packet`](Self::packet).
    pub(super) fn receive(&mut self, source: Source) -> Option<(SocketAddr, usize)> {
        let requests = self.requests.upgrade();
        let socket = match source {
            Source::Requests => requests.as_deref()?,
            Source::Lane(lane) => self.lanes.get(lane)?,
        };
        match socket.recv_from(self.buffer.as_mut_slice()) {
            Ok((length, peer)) => Some((peer, length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // The interface went away, or an ICMP error came back.
            Err(error) => {
                tracing::debug!(%error, "TFTP receive failed");
                None
            }
        }
    }

    pub(super) fn packet(&self, length: usize) -> &[u8] {
        &self.buffer[..length]
    }

    /// Sends packets to one client. What cannot be sent is lost, as on the wire: the transfer repeats it.
    pub(super) fn send(&mut self, datagram: &Datagram) {
        let SocketAddr::V4(to) = datagram.to else { return };
        let Some(lane) = self.lanes.get(datagram.lane) else { return };
        let (run, to) = (&datagram.run, SockaddrIn::from(to));
        let stride = run.stride.max(1);
        let at_once = if self.cuts { MAX_SEGMENTS.min(MAX_PIECE / stride).max(1) } else { 1 };
        for piece in run.bytes.chunks(stride * at_once) {
            let sent = match send_piece(lane, piece, stride, &to) {
                Err(error) if piece.len() > stride && error != Errno::EAGAIN => {
                    if matches!(error, Errno::EIO | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT) {
                        tracing::info!("the kernel does not cut UDP pieces here; packets are sent one by one");
                        self.cuts = false;
                    }
                    // It may also be this path alone, whose packets have become too long for one piece.
                    piece.chunks(stride).try_for_each(|packet| send_piece(lane, packet, stride, &to))
                }
                sent => sent,
            };
            if let Err(error) = sent {
                tracing::debug!(peer = %datagram.to, %error, "TFTP send failed");
                return;
            }
        }
    }
}

/// Sends what is one packet, or what the kernel cuts into packets. A full socket is waited for once.
fn send_piece(lane: &UdpSocket, piece: &[u8], stride: usize, to: &SockaddrIn) -> Result<(), Errno> {
    let slices = [IoSlice::new(piece)];
    let segment = u16::try_from(stride).unwrap_or(u16::MAX);
    let cut = [ControlMessage::UdpGsoSegments(&segment)];
    let how: &[ControlMessage<'_>] = if piece.len() > stride { &cut } else { &[] };
    let send = || sendmsg(lane.as_raw_fd(), &slices, how, MsgFlags::empty(), Some(to)).map(|_| ());
    match send() {
        Err(Errno::EAGAIN) => {
            let _ = poll(&mut [PollFd::new(lane.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(FULL));
            send()
        }
        sent => sent,
    }
}

/// The MTU of the path to a client, as the kernel knows it.
pub(super) fn path_mtu(peer: SocketAddr) -> Option<usize> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(peer).ok()?;
    let mtu = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::IpMtu).ok()?;
    usize::try_from(mtu).ok()
}
