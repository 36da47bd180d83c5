//! What other servers offer a machine that nobody accepted, where addresses are theirs.
//!
//! EDK2 takes a proxyDHCP offer rather than the boot file that comes with an address: ours would take their machines from servers that were there
//! before. So a machine that is offered something to boot is left to who offers it, and what others offer is heard first, as far as it can be: a
//! client that asks for the broadcast is answered so.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use athanor_wire::MacAddr;

use crate::patience::BOOT;

/// How long the offers of others are waited for. dnsmasq pings an address for 3 s before it offers it; EDK2 takes what it has after 3.6.
pub const WAIT: Duration = Duration::from_millis(3100);
/// How long after its question a client that has an address, and nothing to boot, may still be offered that by a third: such servers look nothing up.
pub const GRACE: Duration = Duration::from_millis(300);
/// How long it holds that nobody offered a client anything to boot: the pauses between the questions of one attempt.
const ATTEMPT: Duration = Duration::from_secs(30);
/// How many clients are remembered, of some 50 bytes: a whole hall. Beyond, who was heard of longest ago is forgotten.
const MAX_CLIENTS: usize = 16_384;
/// Among how many the one that is forgotten is looked for.
const EVICTION_LOOK: usize = 64;

/// What other servers offered a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// Something to boot.
    Boots(Ipv4Addr),
    /// Nothing to boot, or nothing at all.
    Nothing,
}

/// What was heard, by client.
#[derive(Debug, Default)]
pub struct Rivals {
    clients: HashMap<MacAddr, (Instant, Rival)>,
}

impl Rivals {
    /// A client was offered this, or nothing in time.
    pub fn heard(&mut self, now: Instant, mac: MacAddr, rival: Rival) {
        if rival == Rival::Nothing && matches!(self.of(now, mac), Some(Rival::Boots(_))) {
            return;
        }
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&mac) {
            // Of some that the map's own order picks: a flood of new addresses must not go over all of them for each.
            let oldest = self.clients.iter().take(EVICTION_LOOK).min_by_key(|(_, (when, _))| *when).map(|(mac, _)| *mac);
            oldest.map(|oldest| self.clients.remove(&oldest));
        }
        self.clients.insert(mac, (now, rival));
    }

    /// What is known of a client. What it was offered to boot it may boot for the whole of a boot, whose later stages ask, too.
    pub fn of(&self, now: Instant, mac: MacAddr) -> Option<Rival> {
        let (when, rival) = self.clients.get(&mac)?;
        let lasts = if *rival == Rival::Nothing { ATTEMPT } else { BOOT };
        (now.duration_since(*when) < lasts).then_some(*rival)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const BOOTS: Rival = Rival::Boots(Ipv4Addr::new(192, 168, 10, 2));

    #[test]
    fn what_boots_a_machine_counts_more_and_longer_than_that_somebody_does_not() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rivals.of(start, MAC), None);
        rivals.heard(start, MAC, Rival::Nothing);
        assert_eq!((rivals.of(after(29), MAC), rivals.of(after(30), MAC)), (Some(Rival::Nothing), None));
        rivals.heard(after(1), MAC, BOOTS);
        rivals.heard(after(2), MAC, Rival::Nothing);
        assert_eq!((rivals.of(after(600), MAC), rivals.of(after(601), MAC)), (Some(BOOTS), None));
        rivals.heard(after(602), MAC, Rival::Nothing);
        assert_eq!(rivals.of(after(603), MAC), Some(Rival::Nothing));
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_again() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        let mac = |n: usize| {
            MacAddr([
                2,
                0,
                0,
                u8::try_from(n >> 16).unwrap_or(0),
                u8::try_from(n >> 8 & 255).unwrap_or(0),
                u8::try_from(n & 255).unwrap_or(0),
            ])
        };
        (0..MAX_CLIENTS + 100).for_each(|n| rivals.heard(start, mac(n), BOOTS));
        assert_eq!(rivals.clients.len(), MAX_CLIENTS);
    }
}
