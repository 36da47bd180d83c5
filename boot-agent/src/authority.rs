//! Whether we may answer with authority: the probe for another DHCP server, and its verdict, which survives a restart.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use athanor_crds::subnet::{self, Mode};
use athanor_dhcp::{
    Authority, CLIENT_PORT, Link, SERVER_PORT,
    probe::{TRIES, VERDICT_LIFETIME, WAIT, discover, foreign_server},
};
use athanor_plan::Snapshot;
use athanor_sys::{EtherType, PacketSocket};
use athanor_wire::MacAddr;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    frame::{self, End},
    interface::Duty,
    kept::write_whole,
    shared::Shared,
};

/// How soon a segment with another server is probed again.
const FOREIGN_AGAIN: Duration = Duration::from_secs(60);
/// How long a server that was heard to offer something counts, whether it answers our probe or not: two probes see whether it is gone.
const HEARD: Duration = Duration::from_secs(120);
/// How soon a probe that could not be made is tried again.
const FAILED_AGAIN: Duration = Duration::from_secs(5);

/// What a probe said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The other server, if one answered.
    pub foreign: Option<Ipv4Addr>,
    /// When.
    pub at: Timestamp,
    /// When a client last chose it instead of us: it may answer nobody's probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Timestamp>,
}

/// What holds on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    authority: Authority,
    /// The verdict is of before we served the interface as it is now: an earlier process', as a rule.
    inherited: bool,
}

/// The verdicts of an agent's interfaces.
pub(crate) struct Verdicts {
    file: PathBuf,
    kept: Mutex<BTreeMap<String, Verdict>>,
    current: watch::Sender<BTreeMap<String, Standing>>,
    /// How often another server was suspected on an interface.
    suspicions: watch::Sender<BTreeMap<String, u64>>,
    /// Whom a client of a place chose instead of us, and when last.
    chosen: Mutex<BTreeMap<String, (Ipv4Addr, Instant)>>,
    /// Who was heard to offer an address in a place, and when last.
    heard: Mutex<BTreeMap<String, (Ipv4Addr, Instant)>>,
}

impl Verdicts {
    pub(crate) fn load(data_dir: &Path) -> Self {
        let file = data_dir.join("authority.json");
        // A damaged file only costs a probe.
        let kept = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let (current, suspicions) = (watch::Sender::default(), watch::Sender::default());
        Self { file, kept: Mutex::new(kept), current, suspicions, chosen: Mutex::default(), heard: Mutex::default() }
    }

    /// Whether we may answer with authority on an interface, now.
    pub(crate) fn of(&self, interface: &str) -> Authority {
        self.current.borrow().get(interface).map_or(Authority::Probing, |standing| standing.authority.clone())
    }

    /// Whether the verdict on an interface is an earlier one, which we have not looked at yet.
    pub(crate) fn is_inherited(&self, interface: &str) -> bool {
        self.current.borrow().get(interface).is_some_and(|standing| standing.inherited)
    }

    /// A client chose another server: the verdict that there is none is looked at again, does not outlive us, and may hold no longer from now on.
    pub(crate) fn suspect(&self, link: &Link, server: Ipv4Addr, at_once: bool) {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).insert(place(link), (server, Instant::now()));
        self.doubt(link, server, true, at_once);
    }

    /// A server was heard to offer somebody an address: likewise, but that it is gone is believed sooner.
    pub(crate) fn overhear(&self, link: &Link, server: Ipv4Addr, at_once: bool) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(place(link), (server, Instant::now()));
        self.doubt(link, server, false, at_once);
    }

    fn heard_lately(&self, place: &str) -> Option<Ipv4Addr> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(place).filter(|(_, when)| when.elapsed() < HEARD).map(|(server, _)| *server)
    }

    /// Somebody else may be there after all.
    fn doubt(&self, link: &Link, server: Ipv4Addr, chosen: bool, at_once: bool) {
        let interface = &link.interface;
        if self.of(interface) == Authority::Alone {
            let (place, now) = (place(link), Timestamp::now());
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&place).and_then(|verdict| verdict.foreign);
            if kept != Some(server) || chosen {
                self.remember(place, Verdict { foreign: Some(server), at: now, chosen: chosen.then_some(now) });
            }
            if at_once {
                // Firmware that got nothing to boot there asks on in the same second.
                self.set(interface, Authority::Foreign(server), false);
            }
            self.suspicions.send_modify(|known| {
                *known.entry(interface.clone()).or_default() += 1;
            });
        }
    }

    /// The server that a client chose lately. It offered that client something a moment before, whether it answers our probe or not: a server
    /// that knows its clients by name ignores everybody else. An earlier process may have seen it.
    fn chosen_lately(&self, place: &str) -> Option<(Ipv4Addr, Timestamp)> {
        let seen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).get(place).copied();
        // A clock that is set does not move what this process saw itself.
        if let Some((server, when)) = seen {
            let ago = when.elapsed();
            return (ago < VERDICT_LIFETIME).then(|| (server, Timestamp::now().saturating_sub(ago).unwrap_or_default()));
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = kept.get(place)?;
        verdict.foreign.zip(verdict.chosen).filter(|(_, when)| age(*when).is_some_and(|age| age < VERDICT_LIFETIME))
    }

    /// The server that a client chose is one of ours, and remains so when it has gone.
    fn acquit(&self, place: &str) {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).remove(place);
    }

    /// Wakes whenever a verdict changes.
    pub(crate) fn changes(&self) -> watch::Receiver<BTreeMap<String, Standing>> {
        self.current.subscribe()
    }

    fn set(&self, interface: &str, authority: Authority, inherited: bool) {
        self.current.send_if_modified(|current| {
            let before = current.insert(interface.to_owned(), Standing { authority: authority.clone(), inherited });
            before.map(|before| before.authority) != Some(authority)
        });
    }

    /// Nobody asks for a verdict there any more.
    fn forget(&self, interface: &str) {
        self.current.send_if_modified(|current| current.remove(interface).is_some());
    }

    /// Interfaces that are no longer served are probed anew when they come back.
    pub(crate) fn keep_only<'a>(&self, interfaces: impl Iterator<Item = &'a String>) {
        let wanted: Vec<&String> = interfaces.collect();
        self.current.send_if_modified(|current| {
            let before = current.len();
            current.retain(|name, _| wanted.contains(&name));
            current.len() != before
        });
    }

    /// The age of a verdict that nobody else is there, while it holds.
    fn fresh(&self, place: &str) -> Option<Duration> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = kept.get(place).filter(|verdict| verdict.foreign.is_none())?;
        age(verdict.at).filter(|age| *age < VERDICT_LIFETIME)
    }

    /// Another server that was there a moment ago is there while it is looked for anew: who is answered beside it is not kept waiting.
    fn hold_on(&self, place: &str, interface: &str, is_other: impl Fn(Ipv4Addr) -> bool) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(place).cloned();
        let lately = kept.filter(|verdict| age(verdict.at).is_some_and(|age| age < HEARD));
        if let Some(server) = lately.and_then(|verdict| verdict.foreign).filter(|server| is_other(*server))
            && self.of(interface) == Authority::Probing
        {
            self.set(interface, Authority::Foreign(server), false);
        }
    }

    fn remember(&self, place: String, verdict: Verdict) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(place, verdict);
        let written = serde_json::to_vec_pretty(&*kept).map_err(io::Error::from).and_then(|bytes| write_whole(&self.file, &bytes));
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "verdict not kept; the next start probes again");
        }
    }
}

/// What a verdict is about: a wire. The same interface with other addresses may be on another one.
fn place(link: &Link) -> String {
    format!("{} {:?}", link.interface, link.addresses)
}

/// How long ago that was. What is of the future does not count: the clock was set back.
fn age(when: Timestamp) -> Option<Duration> {
    Duration::try_from(Timestamp::now().duration_since(when)).ok()
}

/// Whether any Subnet of an interface gives addresses on the strength of a verdict.
fn needs_verdict(snapshot: &Snapshot, duty: &Duty) -> bool {
    let here = duty.link.ips();
    let mut ours = snapshot.subnets().iter().filter(|subnet| duty.subnets.contains(&subnet.name)).map(|subnet| &subnet.spec);
    ours.any(|spec| spec.mode == Mode::Dhcp && spec.authority != subnet::Authority::Assumed && !spec.is_behind_relays(&here))
}

/// Keeps the verdict of an interface current.
pub(crate) async fn keep_current(shared: Arc<Shared>, duty: Duty) {
    let interface = duty.link.interface.clone();
    let place = place(&duty.link);
    let (mut changes, mut suspicions) = (shared.changes(), shared.authority.suspicions.subscribe());
    // What an earlier process found out holds at once, and is looked at again: somebody may have come since.
    let mut suspected = true;
    let (mut looked, mut told) = (false, None);
    loop {
        changes.mark_unchanged();
        let before = suspicions.borrow_and_update().get(&interface).copied();
        if !needs_verdict(&shared.snapshot(), &duty) {
            // Nobody asks for a verdict, until a Subnet changes.
            shared.authority.forget(&interface);
            // What is there by then is looked at as at the start.
            (suspected, looked) = (true, false);
            let _ = changes.changed().await;
            continue;
        }
        if let Some(age) = shared.authority.fresh(&place) {
            shared.authority.set(&interface, Authority::Alone, !looked);
            if !suspected {
                suspected = tokio::time::timeout(VERDICT_LIFETIME.saturating_sub(age), is_suspected(&mut suspicions, &interface, before))
                    .await
                    .is_ok();
                continue;
            }
        }
        shared.authority.hold_on(&place, &interface, |server| !shared.is_ours(server));
        let (name, mac, installation) = (interface.clone(), duty.mac, shared.options.installation.clone());
        let addresses = duty.link.addresses.clone();
        let probed = tokio::task::spawn_blocking(move || probe(&name, mac, &addresses, &installation)).await;
        let chosen = chosen_stranger(&shared, &place);
        let heard = shared.authority.heard_lately(&place);
        let another = |answered: Option<Ipv4Addr>| {
            let seen = answered.into_iter().chain(heard).find(|server| !shared.is_ours(*server));
            chosen.map(|(server, _)| server).or(seen)
        };
        let (pause, found) = match probed.map(|probed| probed.map(another)) {
            Ok(Ok(None)) => {
                tracing::info!(%interface, "no other DHCP server answered");
                told = None;
                shared.authority.set(&interface, Authority::Alone, false);
                shared.authority.remember(place.clone(), Verdict { foreign: None, at: Timestamp::now(), chosen: None });
                (VERDICT_LIFETIME, None)
            }
            Ok(Ok(Some(server))) => {
                // It is told when it comes, not each minute that it stays.
                if told.replace(server) != Some(server) {
                    tracing::warn!(%interface, %server, "another DHCP server answers: newcomers are not served, nobody is sent a NAK");
                }
                shared.authority.set(&interface, Authority::Foreign(server), false);
                shared
                    .authority
                    .remember(place.clone(), Verdict { foreign: Some(server), at: Timestamp::now(), chosen: chosen.map(|(_, when)| when) });
                (FOREIGN_AGAIN, Some(server))
            }
            Ok(Err(error)) => {
                tracing::error!(%interface, %error, "the probe for another DHCP server failed");
                (FAILED_AGAIN, None)
            }
            Err(_) => (FAILED_AGAIN, None),
        };
        let failed = pause == FAILED_AGAIN;
        looked |= !failed;
        suspected = tokio::select! {
            () = tokio::time::sleep(pause) => failed,
            () = is_suspected(&mut suspicions, &interface, before) => true,
            () = turns_out_ours(&shared, found) => true,
        };
    }
}

/// The server that a client chose lately, unless it turned out to be one of ours.
fn chosen_stranger(shared: &Shared, place: &str) -> Option<(Ipv4Addr, Timestamp)> {
    let chosen = shared.authority.chosen_lately(place)?;
    if shared.is_ours(chosen.0) {
        shared.authority.acquit(place);
        return None;
    }
    Some(chosen)
}

/// Ends when another server is suspected on an interface more often than before.
async fn is_suspected(suspicions: &mut watch::Receiver<BTreeMap<String, u64>>, interface: &str, before: Option<u64>) {
    // Its sender lives as long as we do.
    let _ = suspicions.wait_for(|known| known.get(interface).copied() != before).await;
}

/// Ends when a server that was taken for another is known to be an agent of ours: clients meet a new one before its Subnet tells of it.
async fn turns_out_ours(shared: &Shared, server: Option<Ipv4Addr>) {
    if let Some(server) = server
        && shared.changes().wait_for(|_| shared.is_ours(server)).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Asks for a DHCP server on an interface and waits; returns the first that is not at one of our own addresses.
///
/// # Errors
/// No such interface, or no right (CAP_NET_RAW).
pub fn probe(interface: &str, mac: MacAddr, ours: &[Ipv4Addr], installation: &str) -> io::Result<Option<Ipv4Addr>> {
    let socket = PacketSocket::open(interface, EtherType::Ip)?;
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let xid = u32::from_be_bytes(random);
    let message = discover(xid, mac, installation);
    let from = End { ip: Ipv4Addr::UNSPECIFIED, port: CLIENT_PORT };
    let packet = frame::udp(from, End { ip: Ipv4Addr::BROADCAST, port: SERVER_PORT }, &message).ok_or(io::ErrorKind::InvalidInput)?;
    let start = Instant::now();
    let mut sent = 0;
    let mut buffer = [0; 2048];
    while start.elapsed() < WAIT {
        if sent < TRIES && start.elapsed() >= WAIT / TRIES * sent {
            socket.send([0xff; 6], &packet)?;
            sent += 1;
        }
        let until = (WAIT / TRIES * sent).min(WAIT).saturating_sub(start.elapsed());
        match socket.receive(&mut buffer, until) {
            Ok(length) => {
                let answer = frame::udp_payload(&buffer[..length], CLIENT_PORT).and_then(|bytes| foreign_server(bytes, xid, ours));
                if answer.is_some() {
                    return Ok(answer);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
