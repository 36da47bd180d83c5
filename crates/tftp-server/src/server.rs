//! All transfers of a server, on a few lanes.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    Content, DEFAULT_BLOCK_SIZE, ErrorCode, MAX_BLOCK_SIZE, Packet, ReadRequest, Run, codec,
    due::Due,
    transfer::{Standing, Transfer},
};

/// The headers of IPv4, UDP and TFTP that an MTU also holds.
const HEADERS: usize = 20 + 8 + 4;

/// How many transfers run at once. Each costs a few hundred bytes here and a window on the wire.
pub const MAX_TRANSFERS: usize = 10_000;
/// How many transfers that never acknowledged anything one address may have: firmware has one, a careful administrator with a script a few.
pub const MAX_UNCONFIRMED: usize = 8;

/// How many transfers one address may have when there is no place for another's: beyond what a whole room behind one address needs.
pub const MAX_OF_ONE: usize = 256;
/// A request that comes again so soon is no client's: it waits a second for an answer. It would only make us send more to a forged address.
const AGAIN: Duration = Duration::from_millis(500);
/// How many transfers are sent something again in one [`Server::tick`]: each may want a window of 94 KB.
const TICK: usize = 32;
/// How many are looked at: most have gone on since, and cost nothing.
const LOOKS: usize = 1024;

/// Who asks, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address and port.
    pub peer: SocketAddr,
    /// The MTU of the path to it, in bytes.
    pub mtu: usize,
}

/// Packets to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// From which lane.
    pub lane: usize,
    /// To whom.
    pub to: SocketAddr,
    /// What.
    pub run: Run,
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
    /// It never began: too many transfers of its address were never acknowledged. The client is sent nothing.
    Limited,
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
    /// It counts among those of its source that were never acknowledged.
    counted: bool,
}

/// All transfers.
pub struct Server<C> {
    lanes: usize,
    transfers: HashMap<SocketAddr, Entry<C>>,
    due: Due,
    /// Those that may be forged, oldest first; entries of transfers that proved themselves or ended are left overs.
    unconfirmed: VecDeque<(Instant, SocketAddr)>,
    by_source: HashMap<IpAddr, usize>,
}

impl<C: Content> Server<C> {
    /// A server on so many lanes.
    pub fn new(lanes: usize) -> Self {
        let (unconfirmed, by_source) = (VecDeque::new(), HashMap::new());
        Self { lanes: lanes.max(1), transfers: HashMap::new(), due: Due::default(), unconfirmed, by_source }
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

    /// A request came and its content was found. `mtu` is that of the path to the client; no block is longer.
    pub fn begin(
        &mut self,
        now: Instant,
        Client { peer, mtu }: Client,
        request: &ReadRequest,
        content: C,
        out: &mut Vec<Datagram>,
        events: &mut Vec<Event>,
    ) {
        let lane = self.lane_of(peer);
        let hasty = |old: &Entry<C>| old.transfer.is_unconfirmed() && old.file == request.file && now < old.began + AGAIN;
        if self.transfers.get(&peer).is_some_and(hasty) {
            return;
        }
        if let Some(old) = self.remove(peer) {
            // The client did not hear our first packet and asks again: nothing to report.
            if !(old.file == request.file && old.transfer.is_fresh()) {
                events.push(old.event(now, peer, End::Replaced));
            }
        }
        let refuse = |message: &str| Datagram { lane, to: peer, run: Run::one(codec::error(ErrorCode::NotDefined, message)) };
        if self.by_source.get(&peer.ip()).is_some_and(|count| *count >= MAX_UNCONFIRMED) {
            // Silence: a real client asks again, and by then has acknowledged something; a forged one is not sent even an ERROR.
            let (file, took) = (request.file.clone(), Duration::ZERO);
            events.push(Event { peer, file, bytes: 0, took, shape: (0, 0), end: End::Limited });
            return;
        }
        if self.transfers.len() >= MAX_TRANSFERS && !self.make_room(now, events) {
            out.push(refuse("too many transfers, try again"));
            return;
        }
        let mut runs = Vec::new();
        match Transfer::begin(now, request, content, max_block(mtu), &mut runs) {
            Ok(transfer) => {
                self.due.at(peer, transfer.deadline());
                let entry = Entry { transfer, lane, file: request.file.clone(), began: now, counted: true };
                self.transfers.insert(peer, entry);
                *self.by_source.entry(peer.ip()).or_default() += 1;
                self.trim();
                self.unconfirmed.push_back((now, peer));
                out.extend(runs.into_iter().map(|run| Datagram { lane, to: peer, run }));
            }
            Err(error) => {
                out.push(refuse(&error.to_string()));
                let end = End::Failed(error.to_string());
                events.push(Event { peer, file: request.file.clone(), bytes: 0, took: Duration::ZERO, shape: (0, 0), end });
            }
        }
    }

    /// A packet came in on a lane.
    pub fn receive(&mut self, now: Instant, lane: usize, peer: SocketAddr, bytes: &[u8], out: &mut Vec<Datagram>, events: &mut Vec<Event>) {
        let packet = Packet::parse(bytes);
        let entry = self.transfers.get_mut(&peer).filter(|entry| entry.lane == lane);
        let Some(entry) = entry else {
            // RFC 1350 section 4: a packet of nobody's transfer is answered and disturbs nothing; an ERROR is never answered.
            if matches!(packet, Some(Packet::Ack(_))) {
                out.push(Datagram { lane, to: peer, run: Run::one(codec::error(ErrorCode::UnknownTransferId, "no such transfer")) });
            }
            return;
        };
        let end = match packet {
            Some(Packet::Ack(block)) => {
                let mut runs = Vec::new();
                let standing = entry.transfer.acknowledge(now, block, &mut runs);
                self.due.at(peer, entry.transfer.deadline());
                out.extend(runs.into_iter().map(|run| Datagram { lane, to: peer, run }));
                if entry.counted && !entry.transfer.is_unconfirmed() {
                    entry.counted = false;
                    discount(&mut self.by_source, peer.ip());
                }
                match standing {
                    Ok(Standing::Open) => None,
                    Ok(Standing::Complete) => Some(End::Complete),
                    Err(error) => {
                        out.push(Datagram { lane, to: peer, run: Run::one(codec::error(ErrorCode::NotDefined, &error.to_string())) });
                        Some(End::Failed(error.to_string()))
                    }
                }
            }
            Some(Packet::Error(code, message)) => Some(End::Aborted(code, message)),
            _ => None,
        };
        if let Some(end) = end {
            self.end(now, peer, end, events);
        }
    }

    /// Time passed: sends again what was not acknowledged, and gives up whom it must; so many at the most, and the others with the next call.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Datagram>, events: &mut Vec<Event>) {
        let mut again = 0;
        for _ in 0..LOOKS {
            let Some(peer) = self.due.pop(now).filter(|_| again < TICK) else { return };
            let Some(entry) = self.transfers.get_mut(&peer) else { continue };
            if entry.transfer.deadline() > now {
                self.due.at(peer, entry.transfer.deadline());
                continue;
            }
            again += 1;
            let mut runs = Vec::new();
            let lane = entry.lane;
            let end = match entry.transfer.retransmit(now, &mut runs) {
                Ok(true) => None,
                Ok(false) => Some(End::TimedOut),
                Err(error) => {
                    out.push(Datagram { lane, to: peer, run: Run::one(codec::error(ErrorCode::NotDefined, &error.to_string())) });
                    Some(End::Failed(error.to_string()))
                }
            };
            self.due.at(peer, entry.transfer.deadline());
            out.extend(runs.into_iter().map(|run| Datagram { lane, to: peer, run }));
            if let Some(end) = end {
                self.end(now, peer, end, events);
            }
        }
    }

    /// When [`Self::tick`] may have something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.next()
    }

    fn end(&mut self, now: Instant, peer: SocketAddr, end: End, events: &mut Vec<Event>) {
        if let Some(entry) = self.remove(peer) {
            events.push(entry.event(now, peer, end));
        }
    }

    fn remove(&mut self, peer: SocketAddr) -> Option<Entry<C>> {
        let entry = self.transfers.remove(&peer)?;
        self.due.forget(peer);
        if entry.counted {
            discount(&mut self.by_source, peer.ip());
        }
        Some(entry)
    }

    /// Gives up the oldest transfer that was never acknowledged: whoever floods us with forged requests pushes out its own. Where there is none,
    /// the oldest of the address that has most of all, if that is more than anybody needs.
    fn make_room(&mut self, now: Instant, events: &mut Vec<Event>) -> bool {
        self.trim();
        let Some(peer) = self.unconfirmed.pop_front().map(|(_, peer)| peer).or_else(|| self.oldest_of_the_greediest()) else {
            return false;
        };
        self.end(now, peer, End::TimedOut, events);
        true
    }

    fn oldest_of_the_greediest(&self) -> Option<SocketAddr> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for peer in self.transfers.keys() {
            *counts.entry(peer.ip()).or_default() += 1;
        }
        let (greediest, _) = counts.into_iter().filter(|(_, count)| *count > MAX_OF_ONE).max_by_key(|(ip, count)| (*count, *ip))?;
        let own = self.transfers.iter().filter(|(peer, _)| peer.ip() == greediest);
        own.min_by_key(|(_, entry)| entry.began).map(|(peer, _)| *peer)
    }

    /// Drops what is left over at the front.
    fn trim(&mut self) {
        if self.unconfirmed.len() > 2 * MAX_TRANSFERS {
            // One that still waits at the front keeps what is left over behind it.
            let transfers = &self.transfers;
            self.unconfirmed.retain(|(began, peer)| transfers.get(peer).is_some_and(|entry| entry.began == *began && entry.counted));
        }
        while let Some((began, peer)) = self.unconfirmed.front() {
            if self.transfers.get(peer).is_some_and(|entry| entry.began == *began && entry.counted) {
                return;
            }
            self.unconfirmed.pop_front();
        }
    }
}

/// The longest block that a path takes in one piece.
fn max_block(mtu: usize) -> u16 {
    let fits = u16::try_from(mtu.saturating_sub(HEADERS)).unwrap_or(u16::MAX);
    fits.clamp(DEFAULT_BLOCK_SIZE, MAX_BLOCK_SIZE)
}

fn discount(by_source: &mut HashMap<IpAddr, usize>, source: IpAddr) {
    if let Some(count) = by_source.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            by_source.remove(&source);
        }
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
