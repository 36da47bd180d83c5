//! TFTP on one interface: sockets around `athanor_tftp_server`, in a thread of its own.

mod sockets;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use athanor_tftp_server::{Client, Datagram, End, ErrorCode, Event, MAX_UNCONFIRMED, Packet, ReadRequest, Run, Server, codec};
use tokio::task::JoinSet;

use sockets::{Sockets, Source};

use crate::{
    AgentError,
    content::{self, Content, Missing},
    handover::Transfer,
    interface::Duty,
    options::{TFTP_PORT, TRANSFER_PORTS},
    port,
    report::Seen,
    shared::Shared,
};

/// How many of the transfer ports an agent takes: half of them, so that its successor finds the other half.
const LANES: usize = 4;
/// Packets of one lane that are answered before the others have their turn.
const BATCH: usize = 64;
/// Requests that are answered before the lanes have their turn: each opens a file, and may wait for a disk.
const REQUEST_BATCH: usize = 4;
/// While acknowledgements still wait in a socket nobody is sent anything again; but no longer than this.
const BUSY: Duration = Duration::from_millis(100);
/// What a path takes where the kernel cannot tell.
const ETHERNET_MTU: usize = 1500;

/// Content that counts as under way while the engine has it.
struct Held {
    content: Content,
    _transfer: Transfer,
}

impl athanor_tftp_server::Content for Held {
    fn size(&self) -> u64 {
        self.content.size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read_at(offset, buffer)
    }
}

struct Shell {
    shared: Arc<Shared>,
    engine: Server<Held>,
    sockets: Sockets,
    /// The agent's HTTP as a client of this interface reaches it.
    agent: String,
}

/// Serves an interface, from every address that its DHCP answers name.
///
/// # Errors
/// A port is in use, or there is no right to it.
pub(crate) fn start(shared: &Arc<Shared>, duty: &Duty, tasks: &mut JoinSet<()>) -> Result<(), AgentError> {
    let snapshot = shared.snapshot();
    let subnets = snapshot.subnets().iter().filter(|subnet| duty.subnets.contains(&subnet.name));
    let addresses: BTreeSet<Ipv4Addr> = subnets.filter_map(|subnet| duty.link.address_in(&subnet.spec)).collect();
    addresses.into_iter().try_for_each(|address| start_at(shared, &duty.link.interface, address, tasks))
}

fn start_at(shared: &Arc<Shared>, interface: &str, address: Ipv4Addr, tasks: &mut JoinSet<()>) -> Result<(), AgentError> {
    let broken = |source| AgentError::Socket { service: "TFTP", place: interface.to_owned(), source };
    let requests = port::udp("TFTP", interface, address, TFTP_PORT, shared.options.in_cluster)?.into_std().map_err(broken)?;
    let lanes = lanes(interface, address)?.into_iter().map(tokio::net::UdpSocket::into_std).collect::<io::Result<_>>().map_err(broken)?;
    let (sockets, mut orders) = Sockets::new(requests, lanes).map_err(broken)?;
    let agent = format!("{address}:{}", shared.options.http_port);
    let shell = Shell { shared: shared.clone(), engine: Server::new(sockets.lanes()), sockets, agent };
    // The engine reads files while it answers. A share that hangs stops this interface's TFTP, and nothing else: the thread is its own.
    let thread = std::thread::Builder::new().name(format!("tftp-{interface}")).spawn(move || shell.run());
    thread.map_err(broken)?;
    let closing = shared.clone();
    tasks.spawn(async move {
        closing.closed().await;
        orders.take_no_more();
        // The thread ends when `orders` is dropped, with this task.
        std::future::pending().await
    });
    Ok(())
}

/// Opens the ports that transfers share. They are ours alone: a packet of a transfer must come to the process that knows it.
fn lanes(interface: &str, address: Ipv4Addr) -> Result<Vec<tokio::net::UdpSocket>, AgentError> {
    let (mut lanes, mut refused) = (Vec::new(), None);
    for number in TRANSFER_PORTS {
        match port::udp("TFTP", interface, address, number, false) {
            Ok(socket) => lanes.push(socket),
            Err(error @ AgentError::PortInUse { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
        if lanes.len() == LANES {
            break;
        }
    }
    match refused {
        Some(error) if lanes.is_empty() => Err(error),
        _ => Ok(lanes),
    }
}

impl Shell {
    fn run(mut self) {
        let (mut out, mut events) = (Vec::new(), Vec::new());
        let mut ticked = Instant::now();
        loop {
            let wait = self.engine.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let Some(ready) = self.sockets.wait(wait) else { return };
            let mut busy = false;
            for source in ready {
                let batch = if source == Source::Requests { REQUEST_BATCH } else { BATCH };
                let answered = (0..batch).take_while(|_| self.answer_one(source, &mut out, &mut events)).count();
                busy |= answered == batch && source != Source::Requests;
            }
            if !busy || ticked.elapsed() >= BUSY {
                ticked = Instant::now();
                self.engine.tick(ticked, &mut out, &mut events);
                self.flush(&mut out, &mut events);
            }
        }
    }

    /// Answers one packet, if one is there.
    fn answer_one(&mut self, source: Source, out: &mut Vec<Datagram>, events: &mut Vec<Event>) -> bool {
        let Some((peer, length)) = self.sockets.receive(source) else { return false };
        // Nobody can be answered at port 0.
        if peer.port() != 0 {
            let bytes = self.sockets.packet(length).to_vec();
            self.handle(source, peer, &bytes, out, events);
            self.flush(out, events);
        }
        true
    }

    fn flush(&mut self, out: &mut Vec<Datagram>, events: &mut Vec<Event>) {
        for datagram in out.drain(..) {
            self.sockets.send(&datagram);
        }
        for event in events.drain(..) {
            self.note(&event);
        }
    }

    fn handle(&mut self, source: Source, peer: SocketAddr, bytes: &[u8], out: &mut Vec<Datagram>, events: &mut Vec<Event>) {
        let now = Instant::now();
        if let Source::Lane(lane) = source {
            self.engine.receive(now, lane, peer, bytes, out, events);
            return;
        }
        let lane = self.engine.lane_of(peer);
        let mut refuse = |code, message: &str| out.push(Datagram { lane, to: peer, run: Run::one(codec::error(code, message)) });
        match Packet::parse(bytes) {
            Some(Packet::Read(request)) if request.mode == "octet" => match self.find(peer, &request) {
                Ok(content) => {
                    let client = Client { peer, mtu: sockets::path_mtu(peer).unwrap_or(ETHERNET_MTU) };
                    self.engine.begin(now, client, &request, content, out, events);
                }
                Err(error) => {
                    let code = if error.is_absent() { ErrorCode::FileNotFound } else { ErrorCode::NotDefined };
                    refuse(code, &error.to_client());
                    self.tell(peer, &request.file, format!("ERROR {}: {error}", code.code()));
                }
            },
            Some(Packet::Read(request)) => {
                let message = format!("mode {:?} is not served, use octet", request.mode.chars().take(16).collect::<String>());
                refuse(ErrorCode::NotDefined, &message);
                self.tell(peer, &request.file, message);
            }
            Some(Packet::Write) => refuse(ErrorCode::AccessViolation, "this server is read-only"),
            Some(Packet::Ack(_)) => refuse(ErrorCode::UnknownTransferId, "no such transfer"),
            Some(Packet::Error(..)) | None => {}
        }
    }

    fn find(&self, peer: SocketAddr, request: &ReadRequest) -> Result<Held, Missing> {
        let snapshot = self.shared.snapshot();
        let asker = content::Asker { mac: snapshot.mac_of(peer.ip()), agent: &self.agent };
        let found = match content::script(&self.shared, &snapshot, asker, &request.file) {
            Some(script) => script?,
            None => content::file(&self.shared, &snapshot, asker.mac, &request.file)?,
        };
        if found.script
            && let Some(plan) = &found.plan
        {
            self.shared.reporter.script(plan, found.acting, None);
        }
        Ok(Held { content: found.content, _transfer: self.shared.under_way.begin() })
    }

    fn note(&self, event: &Event) {
        let seconds = event.took.as_secs_f64();
        let (block, window) = event.shape;
        self.shared.metrics.tftp(match &event.end {
            End::Complete => "complete",
            End::Aborted(..) => "aborted",
            End::TimedOut => "timed-out",
            End::Failed(_) => "failed",
            End::Replaced => "replaced",
            End::Limited => "limited",
        });
        let answer = match &event.end {
            End::Complete => {
                let snapshot = self.shared.snapshot();
                if let Some((plan, name, _)) = content::order_file(&snapshot, &event.file) {
                    self.shared.reporter.served(plan, name);
                }
                if let Some(mac) = snapshot.mac_of(event.peer.ip()).filter(|_| self.shared.begins_chain(&event.file)) {
                    self.shared.reporter.loader_fetched(snapshot.told_as(mac));
                }
                format!("{} bytes in {seconds:.2} s ({block} B, window {window})", event.bytes)
            }
            // It wanted to know the size.
            End::Aborted(ErrorCode::OptionRefused, _) if event.bytes == 0 => "size told, the client asks again".to_owned(),
            End::Aborted(code, message) => format!("the client ended it with ERROR {}: {message}", code.code()),
            End::TimedOut => format!("the client fell silent after {} bytes", event.bytes),
            End::Failed(why) => why.clone(),
            End::Replaced => "the client asked for something else".to_owned(),
            End::Limited => format!("not answered yet: {MAX_UNCONFIRMED} transfers of this address were begun and never acknowledged"),
        };
        self.tell(event.peer, &event.file, answer);
    }

    fn tell(&self, peer: SocketAddr, file: &str, answer: String) {
        let asked: String = crate::text::redact(file).chars().take(200).collect();
        let snapshot = self.shared.snapshot();
        let mac = snapshot.mac_of(peer.ip()).map(|mac| snapshot.told_as(mac));
        let boot = mac.and_then(|mac| self.shared.reporter.boot(mac));
        tracing::debug!(%peer, boot, asked, answer, "TFTP");
        if let Some(mac) = mac {
            self.shared.reporter.saw(mac, Seen { protocol: "TFTP", asked, answer, row: None, subnet: None });
        }
    }
}
