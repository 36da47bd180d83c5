//! Who asks on, because nobody has offered it anything.
//!
//! A server that knows its clients by name ignores our probe, and nothing tells of it but a client that takes its offer. So a client that nobody
//! accepted is first left to whoever else may know it. iPXE asks after 0, 1, 3 and 7 s and takes an offer it has after 3; EDK2 asks after 0,
//! 4, 12 and 28 s and takes one after 4, if it can boot from that: who asks again that late has none. But dnsmasq pings for 3 s before it offers an
//! address, and iPXE's third question may come a moment before that offer: so it is answered a moment later. That firmware has none says nothing of
//! the operating system that it starts, which is left to others anew.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use athanor_wire::MacAddr;

use crate::crowd::make_room;

/// Who still asks so long after its first question has no offer: less than iPXE's third question, with what clocks of firmware are off.
pub const UNCLAIMED_AFTER: Duration = Duration::from_millis(2500);
/// When who asked on may be offered something: after what dnsmasq's ping takes, and the choice that follows.
pub const OFFERED_AFTER: Duration = Duration::from_millis(3500);
/// Silence that ends a row of questions: longer than the pauses of firmware (32 s) and of operating systems (64 s, RFC 2131 section 4.1).
pub const FORGOTTEN: Duration = Duration::from_secs(70);
/// How long after its first question somebody that nobody else took need not wait again: the stages of a boot ask within this time.
pub const BOOT: Duration = Duration::from_secs(600);
/// How many are remembered, of some 50 bytes: a whole hall. Beyond, who was silent longest is forgotten and waits again.
pub const MAX_ASKING: usize = 16_384;

/// A machine, and whether it is what boots it from the network that asks.
pub type Asker = (MacAddr, bool);

#[derive(Debug, Clone, Copy)]
struct Asking {
    first: Instant,
    last: Instant,
    unclaimed: bool,
}

impl Asking {
    fn lasts(&self, now: Instant) -> bool {
        if self.unclaimed { now.duration_since(self.first) < BOOT } else { now.duration_since(self.last) < FORGOTTEN }
    }
}

/// Who asked, since when.
#[derive(Debug, Default)]
pub struct Patience {
    clients: HashMap<Asker, Asking>,
}

impl Patience {
    /// A client asks who is there.
    pub fn asks(&mut self, now: Instant, who: Asker) {
        make_room(&mut self.clients, MAX_ASKING, &who, |asking| asking.last);
        let new = Asking { first: now, last: now, unclaimed: false };
        let asking = self.clients.entry(who).or_insert(new);
        if !asking.lasts(now) {
            *asking = new;
        }
        asking.last = now;
        asking.unclaimed |= now.duration_since(asking.first) >= UNCLAIMED_AFTER;
    }

    /// A client took another server's offer: it may do so again.
    pub fn chose_another(&mut self, mac: MacAddr) {
        for boots in [true, false] {
            self.clients.remove(&(mac, boots));
        }
    }

    /// Whether nobody else offered it anything.
    pub fn is_unclaimed(&self, now: Instant, who: Asker) -> bool {
        self.unclaimed_in(now, who).is_some_and(|left| left.is_zero())
    }

    /// How long who asked on has still to wait, in case that somebody offers it something.
    pub fn unclaimed_in(&self, now: Instant, who: Asker) -> Option<Duration> {
        let asking = self.clients.get(&who).filter(|asking| asking.unclaimed && asking.lasts(now))?;
        Some(OFFERED_AFTER.saturating_sub(now.duration_since(asking.first)))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    /// Whether a client that asks after so many milliseconds each is unclaimed in the end.
    fn unclaimed(asked: &[u64]) -> bool {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let times = || asked.iter().map(|ms| start + Duration::from_millis(*ms));
        times().for_each(|now| patience.asks(now, (MAC, true)));
        patience.is_unclaimed(times().next_back().unwrap_or(start).max(start + OFFERED_AFTER), (MAC, true))
    }

    #[test]
    fn who_asks_on_is_unclaimed() {
        assert!(!unclaimed(&[]));
        assert!(!unclaimed(&[0]), "it may have another's offer in a moment");
        assert!(!unclaimed(&[0, 1_000]), "iPXE asks again so early whether it has an offer or not");
        assert!(unclaimed(&[0, 1_000, 2_900]), "iPXE");
        assert!(unclaimed(&[0, 4_000]), "EDK2");
        assert!(!unclaimed(&[0, 71_000]), "it was started anew");
        assert!(unclaimed(&[0, 64_000]), "an operating system whose pauses have grown");
        assert!(unclaimed(&[0, 4_000, 500_000]), "a later stage of the same boot");
        assert!(!unclaimed(&[0, 4_000, 500_000, 610_000]), "another boot, however often it asks");
    }

    #[test]
    fn an_offer_that_a_ping_holds_up_is_waited_for() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        [0, 1_000, 2_999].into_iter().for_each(|ms| patience.asks(after(ms), (MAC, true)));
        assert!(!patience.is_unclaimed(after(2_999), (MAC, true)));
        assert_eq!(patience.unclaimed_in(after(2_999), (MAC, true)), Some(Duration::from_millis(501)));
        assert!(patience.is_unclaimed(after(3_500), (MAC, true)));
        patience.chose_another(MAC);
        assert_eq!(patience.unclaimed_in(after(3_500), (MAC, true)), None, "it came");
    }

    #[test]
    fn who_chose_another_server_may_do_so_again() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        patience.asks(start, (MAC, true));
        patience.chose_another(MAC);
        patience.asks(start + Duration::from_secs(20), (MAC, true));
        assert!(!patience.is_unclaimed(start + Duration::from_secs(20), (MAC, true)));
    }

    #[test]
    fn the_operating_system_is_left_to_others_anew() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        patience.asks(start, (MAC, true));
        patience.asks(start + Duration::from_secs(4), (MAC, true));
        let booted = start + Duration::from_secs(30);
        patience.asks(booted, (MAC, false));
        assert!(patience.is_unclaimed(booted, (MAC, true)) && !patience.is_unclaimed(booted, (MAC, false)));
    }

    #[test]
    fn a_flood_of_addresses_keeps_nobody_out() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let mac = |n: usize| MacAddr([2, 0, 0, 0, u8::try_from(n >> 8).unwrap_or(0), u8::try_from(n & 255).unwrap_or(0)]);
        (0..MAX_ASKING).for_each(|n| patience.asks(start, (mac(n), true)));
        let late = (MacAddr([6, 0, 0, 0, 0, 1]), true);
        patience.asks(start + Duration::from_secs(1), late);
        patience.asks(start + Duration::from_secs(5), late);
        assert!(patience.is_unclaimed(start + Duration::from_secs(5), late));
        assert_eq!(patience.clients.len(), MAX_ASKING);
    }
}
