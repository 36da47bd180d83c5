//! TFTP on one interface: sockets around `athanor_tftp_server`.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use athanor_tftp_server::{Datagram, End, ErrorCode, Event, Packet, ReadRequest, Server, codec};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

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
/// The longest request that is read; RFC 2347 allows 512 bytes.
const MAX_REQUEST: usize = 1024;
/// Packets that wait for the engine. More are dropped, and TFTP repeats them.
const QUEUE: usize = 4096;
/// How often the engine looks for late transfers when none is due sooner.
const IDLE: Duration = Duration::from_secs(3600);

struct Incoming {
    /// The lane it came in on; `None` for the request port.
    lane: Option<usize>,
    peer: SocketAddr,
    bytes: Vec<u8>,
}

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
    lanes: Vec<Arc<UdpSocket>>,
    base: String,
}

/// Opens the sockets of an interface and serves them, from the address that its answers name.
///
/// # Errors
/// A port is in use, or there is no right to it.
pub(crate) fn start(shared: &Arc<Shared>, duty: &Duty, tasks: &mut JoinSet<()>) -> Result<(), AgentError> {
    let interface = &duty.link.interface;
    let Some(address) = duty.link.addresses.first().copied() else { return Ok(()) };
    let (queue, incoming) = mpsc::channel(QUEUE);
    let requests = Arc::new(port::udp("TFTP", interface, address, TFTP_PORT, shared.options.in_cluster)?);
    let (closing, asked) = (shared.clone(), queue.clone());
    tasks.spawn(async move {
        tokio::select! {
            biased;
            () = receive(requests, None, asked) => {}
            () = closing.closed() => {}
        }
    });
    let lanes = lanes(interface, address)?;
    for (lane, socket) in lanes.iter().enumerate() {
        tasks.spawn(receive(socket.clone(), Some(lane), queue.clone()));
    }
    let base = format!("http://{address}:{}", shared.options.http_port);
    let shell = Shell { shared: shared.clone(), engine: Server::new(lanes.len()), lanes, base };
    // The engine reads files while it answers. A share that hangs stops this interface's TFTP, and nothing else: the thread is its own. It
    // ends when the receiving tasks do.
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new().name(format!("tftp-{interface}")).spawn(move || runtime.block_on(shell.run(incoming)));
    thread.map(drop).map_err(|source| AgentError::Socket { service: "TFTP", place: interface.clone(), source })
}

/// Opens the ports that transfers share. They are ours alone: a packet of a transfer must come to the process that knows it.
fn lanes(interface: &str, address: Ipv4Addr) -> Result<Vec<Arc<UdpSocket>>, AgentError> {
    let (mut lanes, mut refused) = (Vec::new(), None);
    for number in TRANSFER_PORTS {
        match port::udp("TFTP", interface, address, number, false) {
            Ok(socket) => lanes.push(Arc::new(socket)),
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

async fn receive(socket: Arc<UdpSocket>, lane: Option<usize>, queue: mpsc::Sender<Incoming>) {
    let mut buffer = [0; MAX_REQUEST];
    loop {
        match socket.recv_from(&mut buffer).await {
            // A full queue drops the packet: the client repeats it.
            Ok((length, peer)) => drop(queue.try_send(Incoming { lane, peer, bytes: buffer[..length].to_vec() })),
            Err(error) => {
                tracing::debug!(%error, "TFTP receive failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Shell {
    async fn run(mut self, mut incoming: mpsc::Receiver<Incoming>) {
        loop {
            let wait = self.engine.next_deadline().map_or(IDLE, |deadline| deadline.saturating_duration_since(Instant::now()));
            let (mut out, mut events) = (Vec::new(), Vec::new());
            match tokio::time::timeout(wait, incoming.recv()).await {
                Ok(Some(packet)) => self.handle(packet, &mut out, &mut events),
                Ok(None) => return,
                Err(_) => self.engine.tick(Instant::now(), &mut out, &mut events),
            }
            for datagram in out {
                if let Some(socket) = self.lanes.get(datagram.lane)
                    && let Err(error) = socket.send_to(&datagram.bytes, datagram.to).await
                {
                    tracing::debug!(peer = %datagram.to, %error, "TFTP send failed");
                }
            }
            for event in &events {
                self.note(event);
            }
        }
    }

    fn handle(&mut self, packet: Incoming, out: &mut Vec<Datagram>, events: &mut Vec<Event>) {
        let now = Instant::now();
        if let Some(lane) = packet.lane {
            self.engine.receive(now, lane, packet.peer, &packet.bytes, out, events);
            return;
        }
        let lane = self.engine.lane_of(packet.peer);
        let mut refuse = |code, message: &str| out.push(Datagram { lane, to: packet.peer, bytes: codec::error(code, message) });
        match Packet::parse(&packet.bytes) {
            Some(Packet::Read(request)) if request.mode == "octet" => match self.find(packet.peer, &request) {
                Ok(content) => self.engine.begin(now, packet.peer, &request, content, out, events),
                Err(error) => {
                    let code = if error.is_absent() { ErrorCode::FileNotFound } else { ErrorCode::NotDefined };
                    refuse(code, &error.to_client());
                    self.tell(packet.peer, &request.file, format!("ERROR {}: {error}", code.code()));
                }
            },
            Some(Packet::Read(request)) => {
                let message = format!("mode {:?} is not served, use octet", request.mode.chars().take(16).collect::<String>());
                refuse(ErrorCode::NotDefined, &message);
                self.tell(packet.peer, &request.file, message);
            }
            Some(Packet::Write) => refuse(ErrorCode::AccessViolation, "this server is read-only"),
            Some(Packet::Ack(_)) => refuse(ErrorCode::UnknownTransferId, "no such transfer"),
            Some(Packet::Error(..)) | None => {}
        }
    }

    fn find(&self, peer: SocketAddr, request: &ReadRequest) -> Result<Held, Missing> {
        let snapshot = self.shared.snapshot();
        let found = match content::script(&self.shared, &snapshot, &self.base, &request.file) {
            Some(script) => script?,
            None => content::file(&self.shared, &snapshot, snapshot.mac_of(peer.ip()), &request.file)?,
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
        });
        let answer = match &event.end {
            End::Complete => {
                let snapshot = self.shared.snapshot();
                if let Some((plan, name, _)) = content::order_file(&snapshot, &event.file) {
                    self.shared.reporter.served(plan, name);
                }
                format!("{} bytes in {seconds:.2} s ({block} B, window {window})", event.bytes)
            }
            // It wanted to know the size.
            End::Aborted(ErrorCode::OptionRefused, _) if event.bytes == 0 => "size told, the client asks again".to_owned(),
            End::Aborted(code, message) => format!("the client ended it with ERROR {}: {message}", code.code()),
            End::TimedOut => format!("the client fell silent after {} bytes", event.bytes),
            End::Failed(why) => why.clone(),
            End::Replaced => "the client asked for something else".to_owned(),
        };
        self.tell(event.peer, &event.file, answer);
    }

    fn tell(&self, peer: SocketAddr, file: &str, answer: String) {
        let asked: String = crate::report::redact(file).chars().take(200).collect();
        tracing::debug!(%peer, asked, answer, "TFTP");
        let snapshot = self.shared.snapshot();
        if let Some(mac) = snapshot.mac_of(peer.ip()) {
            self.shared.reporter.saw(snapshot.told_as(mac), Seen { protocol: "TFTP", asked, answer, row: None, subnet: None });
        }
    }
}
