//! Offers of other DHCP servers, as far as they are broadcast: a server that is slow to answer our probe, or never does, is heard here, and whether
//! it boots a client.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use athanor_dhcp::{
    CLIENT_PORT,
    probe::{self, Offer},
    rivals::{GRACE, PROXIES, Question, Rival, Rivals},
};
use athanor_sys::PacketSocket;
use athanor_wire::MacAddr;
use tokio::{net::UdpSocket, sync::watch};

use crate::{frame, interface::Duty, shared::Shared};

/// How long is waited after an interface did not let itself be heard: it is down, as a rule.
const AGAIN: Duration = Duration::from_secs(1);

/// How often those are looked at that wait for nothing but time: a tenth of what firmware does not notice.
const LOOK: Duration = Duration::from_millis(100);

/// What other servers offered whom.
#[derive(Default)]
pub(crate) struct Overheard {
    rivals: Mutex<Rivals>,
    changes: watch::Sender<()>,
    /// Until when some question waits, while somebody looks at them.
    waited_for: Mutex<Option<Instant>>,
}

impl Overheard {
    fn rivals(&self) -> MutexGuard<'_, Rivals> {
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client asks.
    pub(crate) fn asks(&self, question: Question) {
        self.rivals().asks(Instant::now(), question);
    }

    /// Whether it is known what other servers offer a client that asked.
    pub(crate) fn is_known(&self, mac: MacAddr) -> bool {
        self.rivals().is_known(Instant::now(), mac)
    }

    /// We offered a client something.
    pub(crate) fn answered(&self, mac: MacAddr) {
        self.rivals().answered(Instant::now(), mac);
    }

    /// What other servers offer a client, as far as is known by now.
    pub(crate) fn of(&self, question: Question) -> Option<Rival> {
        self.rivals().of(Instant::now(), question)
    }

    /// Ticks when somebody was offered something, and when that has settled.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn heard(&self, offer: &Offer) {
        self.rivals().heard(Instant::now(), offer);
        self.changes.send_replace(());
        if !offer.boots {
            self.tick_after(GRACE);
        }
    }

    /// Some question waits for what others may offer: it is looked at again in a moment, and for as long as any may wait.
    pub(crate) fn waits(self: &Arc<Self>) {
        let until = Instant::now() + PROXIES + LOOK;
        if self.waited_for.lock().unwrap_or_else(PoisonError::into_inner).replace(until).is_some() {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                this.changes.send_replace(());
                let mut waited_for = this.waited_for.lock().unwrap_or_else(PoisonError::into_inner);
                if waited_for.is_none_or(|until| until <= Instant::now()) {
                    *waited_for = None;
                    return;
                }
            }
        });
    }

    fn tick_after(&self, pause: Duration) {
        let changes = self.changes.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            changes.send_replace(());
        });
    }
}

/// Listens on an interface for as long as it is served.
pub(crate) async fn run(shared: Arc<Shared>, duty: Duty) {
    let (interface, mut told) = (&duty.link.interface, false);
    loop {
        if let Err(error) = listen(&shared, &duty).await
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!(%interface, %error, "offers of other DHCP servers are not heard: only the probe tells of them");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn listen(shared: &Shared, duty: &Duty) -> io::Result<()> {
    let socket = UdpSocket::from_std(PacketSocket::listener(&duty.link.interface, CLIENT_PORT)?)?;
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => {
                let offer = frame::udp_payload(&buffer[..length], CLIENT_PORT).and_then(probe::any_offer);
                let Some(offer) = offer.filter(|offer| !shared.is_ours(offer.server)) else { continue };
                shared.rivals.heard(&offer);
                if offer.gives_address {
                    // Of several agents one may hear of another a moment late; the second probe gives it that.
                    shared.authority.overhear(&duty.link, offer.server, !shared.options.in_cluster);
                }
            }
            Err(error) => {
                tracing::debug!(interface = %duty.link.interface, %error, "nothing heard");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
