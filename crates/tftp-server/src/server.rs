//! All transfers of a server, on a few lanes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    Content, ErrorCode, Packet, ReadRequest, codec,
    transfer::{Standing, Transfer},
};

/// How many transfers run at once. Each costs a few hundred bytes here and a window on the wire.
pub const MAX_TRANSFERS: usize = 10_000;

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// From which lane.
    pub lane: usize,
    /// To whom.
    pub to: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client has everything.
    Complete,
    /// The client ended it, with its words; a size probe ends with ERROR 8 on purpose.
    Aborted(ErrorCode, String),
    /// The client was silent.
    TimedOut,
    /// The content could not be read.
    Failed(String),
    /// The client asked for something else from the same port.
    Replaced,
}

/// Something to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The client.
    pub peer: SocketAddr,
    /// The file.
    pub file: String,
    /// The bytes it acknowledged.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Block and window size.
    pub shape: (u16, u16),
    /// How it ended.
    pub end: End,
}

struct Entry<C> {
    transfer: Transfer<C>,
    lane: usize,
    file: String,
    began: Instant,
}

/// All transfers.
pub struct Server<C> {
    lanes: usize,
    transfers: HashMap<SocketAddr, Entry<C>>,
}

impl<C: Content> Server<C> {
    /// A server on so many lanes.
    pub fn new(lanes: usize) -> Self {
        Self { lanes: lanes.max(1), transfers: HashMap::new() }
    }

    /// How many transfers run.
    pub fn len(&self) -> usize {
        self.transfers.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.transfers.is_empty()
    }

    /// The lane of a client: the same for the same port, so that a repeated request meets its transfer.
    pub fn lane_of(&self, peer: SocketAddr) -> usize {
        usize::from(peer.port()) % self.lanes
    }

    /// A request came and its content was found.
    pub fn begin(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        request: &ReadRequest,
        content: C,
        out: &mut Vec<Datagram>,
        events: &mut Vec<Event>,
    ) {
        let lane = self.lane_of(peer);
        if let Some(old) = self.transfers.remove(&peer) {
            // The client did not hear our first packet and asks again: nothing to report.
            if !(old.file == request.file && old.transfer.is_fresh()) {
                events.push(old.event(now, peer, End::Replaced));
            }
        }
        if self.transfers.len() >= MAX_TRANSFERS {
            out.push(Datagram { lane, to: peer, bytes: codec::error(ErrorCode::NotDefined, "too many transfers, try again") });
            return;
        }
        let mut packets = Vec::new();
        match Transfer::begin(now, request, content, &mut packets) {
            Ok(transfer) => {
                self.transfers.insert(peer, Entry { transfer, lane, file: request.file.clone(), began: now });
                out.extend(packets.into_iter().map(|bytes| Datagram { lane, to: peer, bytes }));
            }
            Err(error) => {
                out.push(Datagram { lane, to: peer, bytes: codec::error(ErrorCode::NotDefined, &error.to_string()) });
                let end = End::Failed(error.to_string());
                events.push(Event { peer, file: request.file.clone(), bytes: 0, took: Duration::ZERO, shape: (0, 0), end });
            }
        }
    }

    /// A packet came in on a lane.
    pub fn receive(&mut self, now: Instant, lane: usize, peer: SocketAddr, bytes: &[u8], out: &mut Vec<Datagram>, events: &mut Vec<Event>) {
        let packet = Packet::parse(bytes);
        let Some(entry) = self.transfers.get_mut(&peer) else {
            // RFC 1350 section 4: a packet of nobody's transfer is answered and disturbs nothing; an ERROR is never answered.
            if matches!(packet, Some(Packet::Ack(_))) {
                out.push(Datagram { lane, to: peer, bytes: codec::error(ErrorCode::UnknownTransferId, "no such transfer") });
            }
            return;
        };
        let end = match packet {
            Some(Packet::Ack(block)) => {
                let mut packets = Vec::new();
                let standing = entry.transfer.acknowledge(now, block, &mut packets);
                out.extend(packets.into_iter().map(|bytes| Datagram { lane: entry.lane, to: peer, bytes }));
                match standing {
                    Ok(Standing::Open) => None,
                    Ok(Standing::Complete) => Some(End::Complete),
                    Err(error) => {
                        out.push(Datagram { lane, to: peer, bytes: codec::error(ErrorCode::NotDefined, &error.to_string()) });
                        Some(End::Failed(error.to_string()))
                    }
                }
            }
            Some(Packet::Error(code, message)) => Some(End::Aborted(code, message)),
            _ => None,
        };
        if let Some(end) = end
            && let Some(entry) = self.transfers.remove(&peer)
        {
            events.push(entry.event(now, peer, end));
        }
    }

    /// Time passed: sends again what was not acknowledged, and gives up whom it must.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Datagram>, events: &mut Vec<Event>) {
        let late: Vec<SocketAddr> =
            self.transfers.iter().filter(|(_, entry)| entry.transfer.deadline() <= now).map(|(peer, _)| *peer).collect();
        for peer in late {
            let Some(entry) = self.transfers.get_mut(&peer) else { continue };
            let mut packets = Vec::new();
            let end = match entry.transfer.retransmit(now, &mut packets) {
                Ok(true) => None,
                Ok(false) => Some(End::TimedOut),
                Err(error) => Some(End::Failed(error.to_string())),
            };
            out.extend(packets.into_iter().map(|bytes| Datagram { lane: entry.lane, to: peer, bytes }));
            if let Some(end) = end
                && let Some(entry) = self.transfers.remove(&peer)
            {
                events.push(entry.event(now, peer, end));
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.transfers.values().map(|entry| entry.transfer.deadline()).min()
    }
}

impl<C: Content> Entry<C> {
    fn event(&self, now: Instant, peer: SocketAddr, end: End) -> Event {
        let agreed = self.transfer.agreed();
        Event {
            peer,
            file: self.file.clone(),
            bytes: self.transfer.acknowledged_bytes(),
            took: now.duration_since(self.began),
            shape: (agreed.block_size, agreed.window),
            end,
        }
    }
}
