//! Offers of other DHCP servers, as far as they are broadcast: a server that is slow to answer our probe, or never does, is heard here, and whether
//! it boots a client.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use athanor_dhcp::{
    CLIENT_PORT, probe,
    rivals::{GRACE, Rival, Rivals, WAIT},
};
use athanor_sys::PacketSocket;
use athanor_wire::MacAddr;
use tokio::{net::UdpSocket, sync::watch};

use crate::{frame, interface::Duty, shared::Shared};

/// How long is waited after an interface did not let itself be heard: it is down, as a rule.
const AGAIN: Duration = Duration::from_secs(1);

/// What other servers offered whom.
#[derive(Default)]
pub(crate) struct Overheard {
    rivals: Mutex<Rivals>,
    changes: watch::Sender<()>,
}

impl Overheard {
    /// What other servers offered a client, as far as it was heard.
    pub(crate) fn of(&self, mac: MacAddr) -> Option<Rival> {
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner).of(Instant::now(), mac)
    }

    fn heard(&self, mac: MacAddr, rival: Rival) {
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner).heard(Instant::now(), mac, rival);
        self.changes.send_replace(());
    }

    /// Waits until it is known what other servers offer a client that asked a moment ago.
    pub(crate) async fn all_offered(&self, mac: MacAddr) {
        let (asked, mut changes) = (tokio::time::Instant::now(), self.changes.subscribe());
        let known = changes.wait_for(|()| self.of(mac).is_some());
        if tokio::time::timeout(WAIT, known).await.is_err() {
            self.heard(mac, Rival::Nothing);
        }
        let boots = changes.wait_for(|()| matches!(self.of(mac), Some(Rival::Boots(_))));
        // It ends in any case.
        let _ = tokio::time::timeout_at(asked + GRACE, boots).await;
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
                shared.rivals.heard(offer.client, if offer.boots { Rival::Boots(offer.server) } else { Rival::Nothing });
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
