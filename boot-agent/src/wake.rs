//! Wakes machines: a magic packet on their segment, again and again until they boot.
//!
//! A magic packet is six bytes of ones and sixteen times the card's MAC address, wherever they lie in a frame (AMD, Magic Packet Technology, 1995).

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use athanor_plan::{BootPlan, Snapshot};
use athanor_sys::PacketSocket;
use athanor_wire::MacAddr;

use crate::{
    frame::{self, End},
    interface::Duty,
    shared::Shared,
};

/// How often: one packet may be lost, and a card listens only once its machine is fully off.
const EVERY: Duration = Duration::from_secs(5);
/// How many machines are woken at once: a row of racks that starts together asks more of its fuses than of its switch.
const AT_ONCE: usize = 64;
/// The port that nobody listens on (discard), where such packets go by custom.
const DISCARD: u16 = 9;

/// Wakes whoever is to be woken on an interface, for ever.
pub(crate) async fn run(shared: Arc<Shared>, duty: Duty) {
    let mut turn = 0;
    loop {
        // What is not known to be wanted still, wakes nobody.
        let cards = if shared.is_fresh() { sleeping(&shared.snapshot(), &duty, turn) } else { Vec::new() };
        if !cards.is_empty() {
            match wake(&duty, &cards) {
                Ok(()) => tracing::debug!(interface = %duty.link.interface, ?cards, "magic packets sent"),
                Err(error) => tracing::warn!(interface = %duty.link.interface, ?cards, %error, "magic packets not sent"),
            }
        }
        turn = turn.wrapping_add(1);
        tokio::time::sleep(EVERY).await;
    }
}

/// The cards of machines that are to be woken here. Where there are more than are woken at once, each has its turn: some may never come.
fn sleeping(snapshot: &Snapshot, duty: &Duty, turn: usize) -> Vec<MacAddr> {
    let here = |plan: &&Arc<BootPlan>| {
        let mut addresses = plan.interfaces.iter().flat_map(|interface| &interface.addresses);
        plan.wake && addresses.any(|address| duty.subnets.contains(&address.subnet))
    };
    let all: Vec<&Arc<BootPlan>> = snapshot.plans().iter().filter(here).collect();
    let first = turn.wrapping_mul(AT_ONCE) % all.len().max(1);
    let machines = all.iter().cycle().skip(first).take(AT_ONCE.min(all.len()));
    machines.flat_map(|plan| plan.interfaces.iter().map(|interface| interface.mac)).collect()
}

fn wake(duty: &Duty, cards: &[MacAddr]) -> std::io::Result<()> {
    let socket = PacketSocket::sender(&duty.link.interface)?;
    let from = End { ip: duty.link.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED), port: DISCARD };
    let to = End { ip: Ipv4Addr::BROADCAST, port: DISCARD };
    cards.iter().try_for_each(|mac| {
        let packet = frame::udp(from, to, &magic(*mac)).ok_or(std::io::ErrorKind::InvalidInput)?;
        socket.send([0xff; 6], &packet)
    })
}

fn magic(mac: MacAddr) -> Vec<u8> {
    [[0xff; 6].as_slice(), &mac.0.repeat(16)].concat()
}
