//! Newcomers wait for their plan, the newest packet per MAC, and only so many may come.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use athanor_wire::MacAddr;

/// How long a newcomer's DISCOVER waits for its plan. Firmware asks again after 4 s, so nothing is lost by giving up before.
pub const HOLD: Duration = Duration::from_secs(3);
/// How many may wait at once: a rack row that is switched on by one breaker, several times over.
pub const MAX_HELD: usize = 4096;
/// What limits on newcomers are counted over.
const MINUTE: Duration = Duration::from_secs(60);

/// Packets of newcomers, and the limits on how many may register.
#[derive(Debug)]
pub struct Held<P> {
    packets: HashMap<MacAddr, Packet<P>>,
    /// Who was let in during the last minute and when, by Subnet. Who asks on counts once.
    admitted: HashMap<String, HashMap<MacAddr, Instant>>,
    /// How long a packet waits.
    lasts: Duration,
}

#[derive(Debug)]
struct Packet<P> {
    /// When its registration was asked for.
    ordered: Instant,
    until: Instant,
    content: P,
}

impl<P> Default for Held<P> {
    fn default() -> Self {
        Self::lasting(HOLD)
    }
}

/// What happens to a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is to be registered.
    Register,
    /// It is registered already, or about to be; its newer packet replaced the older.
    Waiting,
    /// Too many came.
    Limited,
}

impl<P> Held<P> {
    /// Packets that wait so long.
    pub fn lasting(lasts: Duration) -> Self {
        Self { packets: HashMap::new(), admitted: HashMap::new(), lasts }
    }

    /// Admits a newcomer and keeps its packet. What came of a registration is not told here: who still asks after a packet's time is to be
    /// registered again, however often it asked meanwhile.
    pub fn admit(&mut self, now: Instant, mac: MacAddr, subnet: &str, per_minute: u32, content: P) -> Admission {
        self.expire(now);
        let until = now + self.lasts;
        if let Some(packet) = self.packets.get_mut(&mac)
            && now.duration_since(packet.ordered) < self.lasts
        {
            (packet.until, packet.content) = (until, content);
            return Admission::Waiting;
        }
        let admitted = self.admitted.entry(subnet.to_owned()).or_default();
        admitted.retain(|_, then| now.duration_since(*then) < MINUTE);
        let is_full = admitted.len() >= usize::try_from(per_minute).unwrap_or(usize::MAX);
        if (is_full && !admitted.contains_key(&mac)) || (self.packets.len() >= MAX_HELD && !self.packets.contains_key(&mac)) {
            return Admission::Limited;
        }
        admitted.entry(mac).or_insert(now);
        self.packets.insert(mac, Packet { ordered: now, until, content });
        Admission::Register
    }

    /// The packets whose plan has come, as `known` says, oldest deadline first.
    pub fn take_known(&mut self, now: Instant, known: impl Fn(MacAddr) -> bool) -> Vec<P> {
        self.expire(now);
        let ready: Vec<MacAddr> = self.packets.keys().copied().filter(|mac| known(*mac)).collect();
        let mut taken: Vec<_> = ready.into_iter().filter_map(|mac| self.packets.remove(&mac)).collect();
        taken.sort_by_key(|packet| packet.until);
        taken.into_iter().map(|packet| packet.content).collect()
    }

    fn expire(&mut self, now: Instant) {
        self.packets.retain(|_, packet| packet.until > now);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
mod tests {
    use super::*;

    #[test]
    fn the_newest_packet_waits_three_seconds() {
        let (mut held, start) = (Held::default(), Instant::now());
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(held.admit(start, mac, "lab", 30, "first"), Admission::Register);
        assert_eq!(held.admit(start, mac, "lab", 30, "second"), Admission::Waiting);
        assert!(held.take_known(start, |_| false).is_empty());
        assert_eq!(held.take_known(start + Duration::from_secs(2), |_| true), ["second"]);
        held.admit(start, mac, "lab", 30, "third");
        assert!(held.take_known(start + HOLD, |_| true).is_empty());
    }

    #[test]
    fn who_asks_every_second_is_registered_again_when_nothing_came_of_it() {
        let (mut held, start) = (Held::default(), Instant::now());
        let mut at = |seconds| held.admit(start + Duration::from_secs(seconds), MacAddr([2, 0, 0, 0, 0, 1]), "lab", 1, ());
        assert_eq!(at(0), Admission::Register);
        assert_eq!((at(1), at(2)), (Admission::Waiting, Admission::Waiting));
        assert_eq!(at(3), Admission::Register, "of one newcomer a minute, it is the one");
        assert_eq!(at(4), Admission::Waiting);
    }

    #[test]
    fn beyond_the_limit_nobody_registers_until_a_minute_has_passed() {
        let (mut held, start) = (Held::default(), Instant::now());
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        assert_eq!(held.admit(start, mac(1), "lab", 2, ()), Admission::Register);
        assert_eq!(held.admit(start, mac(2), "lab", 2, ()), Admission::Register);
        assert_eq!(held.admit(start, mac(3), "lab", 2, ()), Admission::Limited);
        assert_eq!(held.admit(start, mac(3), "rack2", 2, ()), Admission::Register);
        assert_eq!(held.admit(start + Duration::from_secs(10), mac(2), "lab", 2, ()), Admission::Register, "it was let in");
        assert_eq!(held.admit(start + Duration::from_secs(10), mac(3), "lab", 2, ()), Admission::Limited);
        assert_eq!(held.admit(start + Duration::from_secs(60), mac(4), "lab", 2, ()), Admission::Register);
    }
}
