//! DHCP on one interface: sockets around `athanor_dhcp::decide`.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use athanor_crds::subnet::{Mode, OnForeignServer};
use athanor_dhcp::{
    Answer, Authority, Context, Decision, Destination, Lease, Newcomer, PROXY_PORT, Reply, Request, Row, SERVER_PORT, Wish, decide,
    held::{Admission, Held},
    packet::{MAX_PACKET, MessageType},
    patience::{OFFERED_AFTER, Patience},
    reply::{destination, encode},
    rivals::{self, Question, Rival},
};
use athanor_plan::Snapshot;
use athanor_sys::PacketSocket;
use athanor_wire::MacAddr;
use jiff::Timestamp;
use tokio::{net::UdpSocket, sync::Semaphore, task::JoinSet};

use crate::{
    AgentError,
    api::Order,
    frame::{self, End},
    interface::Duty,
    port,
    report::Seen,
    shared::Shared,
};

/// The DHCP server of one interface.
struct Server {
    shared: Arc<Shared>,
    duty: Duty,
    raw: PacketSocket,
    held: Mutex<Held<Vec<u8>>>,
    /// Clients that are no machines and wait for their lease.
    borrowers: Mutex<Held<Vec<u8>>>,
    /// Clients that asked while another server was looked for.
    unprobed: Mutex<Held<Vec<u8>>>,
    /// Machines that nobody accepted, while it is heard what other servers offer them.
    unheard: Mutex<Held<Vec<u8>>>,
    /// Who asked on, while another server's ping may hold its offer up.
    unclaimed: Mutex<Held<Vec<u8>>>,
    /// Who asks on, because no other server has offered it anything.
    patience: Mutex<Patience>,
    /// Clients that chose a server lately, and when.
    chose: Mutex<HashMap<MacAddr, Instant>>,
    /// Who waits for its turn.
    waiting: Arc<Semaphore>,
}

/// How many answers may wait for their turn, of some hundred bytes each: an avalanche of a whole hall. Beyond, the agents before us answer, or the
/// client asks again.
const MAX_WAITING: usize = 16_384;
/// How many clients that are no machines may ask for a lease within a minute: more than offices have, and no more than the API bears.
const MAX_BORROWERS: u32 = 600;
/// How long a question waits for the probe's end, which takes five seconds.
const UNPROBED: Duration = Duration::from_secs(6);
/// How long it is known that a client chose; all turns are over by then.
const CHOICE: Duration = Duration::from_secs(2);

/// Opens the sockets of an interface and serves them.
///
/// # Errors
/// A port is in use, or there is no right to it.
pub(crate) fn start(shared: &Arc<Shared>, duty: &Duty, tasks: &mut JoinSet<()>) -> Result<(), AgentError> {
    let interface = &duty.link.interface;
    let main = Arc::new(port::udp("DHCP", interface, Ipv4Addr::UNSPECIFIED, SERVER_PORT, shared.options.in_cluster)?);
    let proxy = Arc::new(port::udp("DHCP", interface, Ipv4Addr::UNSPECIFIED, PROXY_PORT, shared.options.in_cluster)?);
    let raw = PacketSocket::sender(interface).map_err(|source| match source.kind() {
        std::io::ErrorKind::PermissionDenied => AgentError::NoRight { port: SERVER_PORT, exe: exe() },
        _ => AgentError::Socket { service: "DHCP", place: interface.clone(), source },
    })?;
    let (held, borrowers, patience, chose) = (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
    let (unprobed, unheard) = (Mutex::new(Held::lasting(UNPROBED)), Mutex::new(Held::lasting(rivals::HOLD)));
    // A second is left of it when it begins.
    let unclaimed = Mutex::new(Held::lasting(OFFERED_AFTER));
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let server = Arc::new(Server {
        shared: shared.clone(),
        duty: duty.clone(),
        raw,
        held,
        borrowers,
        unprobed,
        unheard,
        unclaimed,
        patience,
        chose,
        waiting,
    });
    tasks.spawn(receive(server.clone(), main.clone(), false));
    tasks.spawn(receive(server.clone(), proxy, true));
    tasks.spawn(release_held(server, main));
    Ok(())
}

fn exe() -> String {
    std::env::current_exe().map_or_else(|_| "athanor".to_owned(), |path| path.display().to_string())
}

async fn receive(server: Arc<Server>, socket: Arc<UdpSocket>, proxy_port: bool) {
    let mut buffer = vec![0; MAX_PACKET];
    let mut closed = pin!(server.shared.closed());
    loop {
        let received = tokio::select! {
            biased;
            received = socket.recv_from(&mut buffer) => received,
            () = &mut closed => return,
        };
        match received {
            Ok((length, from)) => server.handle(&socket, &buffer[..length], from, proxy_port).await,
            // The interface went away, or an ICMP error came back; the link's next look ends this task if it must.
            Err(error) => {
                tracing::debug!(interface = %server.duty.link.interface, %error, "DHCP receive failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers newcomers from the plans that came back.
async fn release_held(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let (mut changes, mut lent, mut verdicts) = (server.shared.changes(), server.shared.lent.changes(), server.shared.authority.changes());
    let mut offers = server.shared.rivals.changes();
    loop {
        let told = tokio::select! {
            told = changes.changed() => told,
            told = lent.changed() => told,
            told = verdicts.changed() => told,
            told = offers.changed() => told,
        };
        if told.is_err() {
            return;
        }
        let snapshot = server.shared.snapshot();
        // Where only boot files are given, a plan is all there is to wait for.
        let served = snapshot.subnets().iter().filter(|subnet| server.duty.subnets.contains(&subnet.name));
        let proxy = served.clone().any(|subnet| subnet.spec.mode == Mode::Proxy || subnet.spec.on_foreign_server == OnForeignServer::Proxy);
        let has_plan = |mac| {
            let interface = snapshot.by_mac(mac).and_then(|plan| plan.interface(mac));
            interface.is_some_and(|interface| proxy || !interface.addresses.is_empty())
        };
        let mut packets = server.held.lock().unwrap_or_else(PoisonError::into_inner).take_known(Instant::now(), has_plan);
        let now = Timestamp::now();
        // Of the Subnets here alone: a client may come from elsewhere, with a lease of there.
        let lasts = |lease: &Lease| {
            let here = snapshot.subnets().iter().filter(|subnet| server.duty.subnets.contains(&subnet.name));
            here.into_iter().any(|subnet| subnet.name == lease.subnet && lease.lasts(&subnet.spec))
        };
        let has_lease = |mac| server.shared.lent.of(mac, now).iter().any(lasts);
        packets.extend(server.borrowers.lock().unwrap_or_else(PoisonError::into_inner).take_known(Instant::now(), has_lease));
        if server.authority() != Authority::Probing {
            packets.extend(server.unprobed.lock().unwrap_or_else(PoisonError::into_inner).take_known(Instant::now(), |_| true));
        }
        // Somebody may have accepted it meanwhile.
        let accepted = |mac| snapshot.by_mac(mac).is_some_and(|plan| plan.state != athanor_crds::MachineState::Discovered);
        let heard = |mac| server.shared.rivals.is_known(mac) || accepted(mac);
        packets.extend(server.unheard.lock().unwrap_or_else(PoisonError::into_inner).take_known(Instant::now(), heard));
        let free = |mac| {
            let patience = server.patience.lock().unwrap_or_else(PoisonError::into_inner);
            [true, false].iter().any(|boots| patience.is_unclaimed(Instant::now(), (mac, *boots)))
        };
        packets.extend(server.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).take_known(Instant::now(), free));
        for packet in packets {
            server.handle(&socket, &packet, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), false).await;
        }
    }
}

impl Server {
    fn authority(&self) -> Authority {
        self.shared.authority.of(&self.duty.link.interface)
    }

    /// Whether no other server has offered a client anything. What an earlier process found holds until we have looked ourselves.
    fn is_unclaimed(&self, request: &Request, was_held: bool) -> bool {
        let now = Instant::now();
        let who = (request.mac, athanor_dhcp::Client::of(request).boots_from_network());
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        // Behind relays a person vouches for us.
        if request.message == MessageType::Discover && request.giaddr.is_unspecified() && !was_held {
            patience.asks(now, who);
        }
        patience.is_unclaimed(now, who) || self.shared.authority.is_inherited(&self.duty.link.interface)
    }

    /// Whether a question is kept for a moment: who asked on is offered something only after what another server's ping may hold up.
    fn waits_for_pings(&self, request: &Request, decision: &Decision) -> bool {
        let who = (request.mac, athanor_dhcp::Client::of(request).boots_from_network());
        let asked_on = self.patience.lock().unwrap_or_else(PoisonError::into_inner).unclaimed_in(Instant::now(), who).is_some();
        asked_on && request.message == MessageType::Discover && decision.row == Row::Held
    }

    /// What other servers offer a client, as far as it was heard. Who was not known yet as one of ours is none.
    fn rival(&self, request: &Request, was_held: bool) -> Option<Rival> {
        let question = Question { mac: request.mac, xid: request.xid, broadcast: request.broadcast };
        if request.message == MessageType::Discover && athanor_dhcp::Client::of(request).boots_from_network() && !was_held {
            self.shared.rivals.asks(question);
        }
        let rival = self.shared.rivals.of(question)?;
        Some(if matches!(rival, Rival::Boots(server) if self.shared.is_ours(server)) { Rival::Nothing } else { rival })
    }

    async fn handle(self: &Arc<Self>, socket: &Arc<UdpSocket>, bytes: &[u8], from: SocketAddr, proxy_port: bool) {
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(error) => {
                self.shared.metrics.dhcp(Row::Malformed);
                tracing::debug!(interface = %self.duty.link.interface, row = %Row::Malformed, %error, "DHCP packet dropped");
                if let Some(mac) = athanor_dhcp::packet::sender(bytes) {
                    let (asked, answer) = (format!("{} bytes", bytes.len()), format!("no answer: {error}"));
                    let row = Some(Row::Malformed.name().to_owned());
                    self.shared.reporter.saw(mac, Seen { protocol: "DHCP", asked, answer, row, subnet: None });
                }
                return;
            }
        };
        let snapshot = self.shared.snapshot();
        let authority = self.authority();
        // Who has not heard from the API for long does not know what others gave away since.
        let fresh = request.message != MessageType::Discover || self.shared.is_fresh();
        let leases = if fresh { self.shared.lent.of(request.mac, Timestamp::now()) } else { Vec::new() };
        // What was held comes from no socket any more.
        let was_held = from.port() == 0;
        let context = Context {
            snapshot: &snapshot,
            link: &self.duty.link,
            authority: &authority,
            unclaimed: self.is_unclaimed(&request, was_held),
            rival: self.rival(&request, was_held),
            installation: &self.shared.options.installation,
            http_port: self.shared.options.http_port,
            proxy_port,
            leases: &leases,
            chain_loop: self.shared.reporter.loops(snapshot.told_as(request.mac)),
        };
        let mut decision = decide(&request, &context);
        match &decision.answer {
            Answer::Register(newcomer) => decision = self.register(newcomer.clone(), bytes, decision.clone()).await,
            Answer::AfterRivals => {
                let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
                unheard.admit(Instant::now(), request.mac, "", u32::MAX, bytes.to_vec());
                self.shared.rivals.waits();
            }
            Answer::Reply(_) if request.message == MessageType::Discover => self.shared.rivals.answered(request.mac),
            Answer::Lease(wish) => decision = self.lend(wish.clone(), bytes, decision.clone()),
            // Whoever asked on in these seconds need not ask again: firmware waits four and eight for that.
            Answer::Silence if decision.row == Row::Held && authority == Authority::Probing && request.message == MessageType::Discover => {
                let mut unprobed = self.unprobed.lock().unwrap_or_else(PoisonError::into_inner);
                unprobed.admit(Instant::now(), request.mac, "", u32::MAX, bytes.to_vec());
            }
            Answer::Silence if !context.unclaimed && self.waits_for_pings(&request, &decision) => {
                let mut unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
                unclaimed.admit(Instant::now(), request.mac, "", u32::MAX, bytes.to_vec());
                self.shared.rivals.waits();
            }
            _ => self.give_back(&request, &decision, &leases),
        }
        self.note(&snapshot, &request, &decision, was_held);
        if request.message == MessageType::Request && request.server_id().is_some() {
            self.chosen(request.mac);
        }
        let Answer::Reply(reply) = decision.answer else { return };
        if decision.after.is_zero() {
            self.send(socket, &request, &reply, from, proxy_port).await;
        } else if let Ok(place) = self.waiting.clone().try_acquire_owned() {
            let (this, socket, asked) = (self.clone(), socket.clone(), Instant::now());
            tokio::spawn(async move {
                let _place = place;
                tokio::time::sleep(decision.after).await;
                if request.message != MessageType::Discover || !this.has_chosen_since(request.mac, asked) {
                    this.send(&socket, &request, &reply, from, proxy_port).await;
                }
            });
        }
    }

    fn chosen(&self, mac: MacAddr) {
        let mut chose = self.chose.lock().unwrap_or_else(PoisonError::into_inner);
        if chose.len() >= MAX_WAITING {
            chose.retain(|_, when| when.elapsed() < CHOICE);
        }
        if chose.len() < MAX_WAITING {
            chose.insert(mac, Instant::now());
        }
    }

    fn has_chosen_since(&self, mac: MacAddr, asked: Instant) -> bool {
        self.chose.lock().unwrap_or_else(PoisonError::into_inner).get(&mac).is_some_and(|when| *when >= asked)
    }

    /// Holds a newcomer's packet and has it registered, within the limits of its Subnet.
    async fn register(&self, newcomer: Newcomer, bytes: &[u8], decision: Decision) -> Decision {
        let newcomer_subnet = newcomer.subnet.clone();
        let limited = |detail: String| {
            self.shared.turned_away(&newcomer_subnet, &detail);
            Decision { row: Row::Limited, answer: Answer::Silence, detail, ..decision.clone() }
        };
        let snapshot = self.shared.snapshot();
        let Some(subnet) = snapshot.subnets().iter().find(|subnet| subnet.name == newcomer.subnet) else { return decision };
        let limits = &subnet.spec.newcomers;
        let waiting = snapshot.plans().iter().filter(|plan| plan.state == athanor_crds::MachineState::Discovered).count();
        if waiting >= usize::try_from(limits.total).unwrap_or(usize::MAX) {
            return limited(format!(
                "newcomers are turned away: {} wait already; accept or delete some, or raise spec.newcomers.total of Subnet {}",
                limits.total, subnet.name
            ));
        }
        let admission = self.held.lock().unwrap_or_else(PoisonError::into_inner).admit(
            Instant::now(),
            newcomer.mac,
            &newcomer.subnet,
            limits.per_minute,
            bytes.to_vec(),
        );
        match admission {
            Admission::Waiting => decision,
            Admission::Limited => limited(format!(
                "newcomers are turned away: more than {} came in a minute; they are let in as they ask again, or raise spec.newcomers.perMinute of Subnet {}",
                limits.per_minute, subnet.name
            )),
            Admission::Register => match self.shared.newcomers.try_send(newcomer) {
                Ok(()) => decision,
                Err(_) => limited("too many newcomers wait for registration".to_owned()),
            },
        }
    }

    /// Holds the packet of a client that is no machine until its lease is stored.
    fn lend(&self, wish: Wish, bytes: &[u8], decision: Decision) -> Decision {
        let limited = |detail: &str| Decision { row: Row::Limited, answer: Answer::Silence, detail: detail.to_owned(), ..decision.clone() };
        let admission = self.borrowers.lock().unwrap_or_else(PoisonError::into_inner).admit(
            Instant::now(),
            wish.mac,
            &wish.subnet,
            MAX_BORROWERS,
            bytes.to_vec(),
        );
        let wire = (!wish.relayed).then(|| self.duty.link.interface.clone());
        match admission {
            Admission::Waiting => decision,
            Admission::Limited => limited("too many clients want an address at once"),
            Admission::Register => match self.shared.lending.try_send(Order::Lend(wish, wire)) {
                Ok(()) => decision,
                Err(_) => limited("too many leases wait to be stored"),
            },
        }
    }

    /// A client that is no machine gives its lease back, or would not have it.
    fn give_back(&self, request: &Request, decision: &Decision, leases: &[Lease]) {
        let Some(lease) = leases.iter().find(|lease| Some(lease.ip) == request.wanted()) else { return };
        let order = match decision.row {
            Row::Release => Order::Return(request.mac, lease.ip),
            Row::Decline => Order::Declined(request.mac, lease.ip, lease.subnet.clone()),
            _ => return,
        };
        // It is nobody's from now on, whenever the API hears of it. Lost where too many wait: it runs out by itself.
        self.shared.lent.forget(lease.ip.into());
        let _ = self.shared.lending.try_send(order);
    }

    fn note(&self, snapshot: &Snapshot, request: &Request, decision: &Decision, was_held: bool) {
        let answer = match &decision.answer {
            Answer::Reply(reply) if decision.after.is_zero() => format!("{} {}", reply.message, decision.detail),
            Answer::Reply(reply) => {
                let pause = decision.after.as_millis();
                format!("{} {}; in {pause} ms, unless another agent is chosen before", reply.message, decision.detail)
            }
            Answer::Register(_) | Answer::Lease(_) | Answer::AfterRivals => format!("held: {}", decision.detail),
            _ if decision.row == Row::Held => format!("no answer yet: {}", decision.detail),
            _ => format!("no answer: {}", decision.detail),
        };
        // What a client behind a relay chose tells nothing of our own wire.
        if let (MessageType::Request, Row::NotOurs, Some(server)) = (request.message, decision.row, request.server_id())
            && request.giaddr.is_unspecified()
            && !self.shared.is_ours(server)
        {
            self.patience.lock().unwrap_or_else(PoisonError::into_inner).chose_another(request.mac);
            // Of several agents one may hear of another a moment late; the second probe gives it that.
            self.shared.authority.suspect(&self.duty.link, server, !self.shared.options.in_cluster);
        }
        if let (Row::Decline, Some(ip), Some(subnet)) = (decision.row, request.wanted(), &decision.subnet)
            && snapshot.by_mac(request.mac).and_then(|plan| plan.address(request.mac, subnet)) == Some(ip.into())
        {
            self.shared.reporter.declined(snapshot.told_as(request.mac), ip.into());
        }
        self.shared.metrics.dhcp(decision.row);
        let client = athanor_dhcp::Client::of(request);
        let again = if was_held { ", which was held" } else { "" };
        let asked = format!("{} {}{again}", request.message, client.describe());
        let told = tracing::enabled!(tracing::Level::DEBUG).then(|| (asked.clone(), answer.clone()));
        // What is meant for others is noise: a busy segment has a lot of it.
        let boot = if decision.row == Row::Sibling {
            None
        } else {
            let (row, subnet) = (Some(decision.row.name().to_owned()), decision.subnet.clone());
            let plan = snapshot.by_mac(request.mac);
            let at_home = plan.zip(subnet.as_ref()).is_some_and(|(plan, subnet)| plan.address(request.mac, subnet).is_some());
            // Where it is says what it boots from: its other interfaces may be cabled to anywhere.
            let tells = plan.is_none_or(|plan| plan.boots_from(request.mac));
            let seen = Seen { protocol: "DHCP", asked, answer, row, subnet: subnet.filter(|_| tells) };
            self.shared.reporter.saw_dhcp(snapshot.told_as(request.mac), client.boots_from_network(), seen, at_home)
        };
        let Some((asked, answer)) = told else { return };
        tracing::debug!(interface = %self.duty.link.interface, mac = %request.mac, boot, asked, row = %decision.row, answer, "DHCP");
    }

    async fn send(&self, socket: &UdpSocket, request: &Request, reply: &Reply, from: SocketAddr, proxy_port: bool) {
        if let Err(error) = self.try_send(socket, request, reply, from, proxy_port).await {
            tracing::warn!(interface = %self.duty.link.interface, mac = %request.mac, %error, "DHCP answer not sent");
        }
    }

    async fn try_send(
        &self,
        socket: &UdpSocket,
        request: &Request,
        reply: &Reply,
        from: SocketAddr,
        proxy_port: bool,
    ) -> std::io::Result<()> {
        let bytes = encode(request, reply);
        if proxy_port {
            // A ProxyDHCPREQUEST is unicast from where its answer is awaited.
            return socket.send_to(&bytes, from).await.map(|_| ());
        }
        let to = destination(request, reply);
        let server = reply.options.iter().find(|(code, _)| *code == athanor_dhcp::packet::option::SERVER_ID);
        let server_ip =
            server.and_then(|(_, value)| <[u8; 4]>::try_from(value.as_slice()).ok()).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
        let from = End { ip: server_ip, port: SERVER_PORT };
        let link = |mac: [u8; 6], ip: Ipv4Addr| {
            let packet = frame::udp(from, End { ip, port: to.port() }, &bytes).ok_or(std::io::ErrorKind::InvalidData)?;
            self.raw.send(mac, &packet)
        };
        match to {
            Destination::Relay(ip) | Destination::Unicast(ip) => socket.send_to(&bytes, (ip, to.port())).await.map(|_| ()),
            Destination::Link(mac, ip) => link(mac.0, ip),
            Destination::Broadcast => link([0xff; 6], Ipv4Addr::BROADCAST),
        }
    }
}
