//! Offers of other DHCP servers, as far as they are broadcast: a server that is slow to answer our probe, or never does, is heard here.

use std::{io, sync::Arc, time::Duration};

use athanor_dhcp::{CLIENT_PORT, probe};
use athanor_sys::PacketSocket;
use tokio::net::UdpSocket;

use crate::{frame, interface::Duty, shared::Shared};

/// How long is waited after an interface did not let itself be heard: it is down, as a rule.
const AGAIN: Duration = Duration::from_secs(1);

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
                let offer = frame::udp_payload(&buffer[..length], CLIENT_PORT).and_then(probe::offer);
                if let Some(offer) = offer.filter(|offer| !shared.is_ours(offer.server)) {
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
