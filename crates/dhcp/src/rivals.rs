//! What other servers offer a machine that nobody accepted, where addresses are theirs.
//!
//! EDK2 takes a proxyDHCP offer rather than the boot file that comes with an address: ours would take their machines from servers that were there
//! before. So a machine that is offered something to boot is left to who offers it. A client that asks for the broadcast is offered everything so,
//! and is answered when that was heard: without an address it could do nothing with a boot file. Others, as iPXE, boot what came with their address,
//! which is not heard, and else take the proxy's offer that comes first: those are heard, and left their time.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use athanor_wire::MacAddr;

use crate::{
    crowd::make_room,
    patience::{BOOT, FORGOTTEN},
    probe::Offer,
};

/// How long after its question a client that has an address, and nothing to boot, may still be offered that by a third: such servers look nothing up.
pub const GRACE: Duration = Duration::from_millis(300);
/// How long nothing is heard before that means that nothing can be heard here. dnsmasq pings for 3 s before it offers an address, for one client
/// after the other and for six in half a minute; EDK2 asks after 0, 4, 12 and 28 s.
pub const DEAF: Duration = Duration::from_secs(25);
/// How long a question waits for what others offer: until EDK2 asks again.
pub const HOLD: Duration = Duration::from_secs(16);
/// How long a question that is not answered to everybody waits for what other proxies offer, since these are: iPXE takes what it has after 2 s.
pub const PROXIES: Duration = Duration::from_millis(1500);
/// How many clients are remembered, of some 100 bytes: a whole hall. Beyond, who asked longest ago is forgotten.
const MAX_CLIENTS: usize = 16_384;

/// What other servers offered a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// Something to boot.
    Boots(Ipv4Addr),
    /// Nothing to boot, as far as can be heard.
    Nothing,
}

/// A question of a client that boots from the network.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Whose.
    pub mac: MacAddr,
    /// Its transaction.
    pub xid: u32,
    /// Its answers are broadcast.
    pub broadcast: bool,
}

#[derive(Debug, Clone, Copy)]
struct Client {
    /// What it asked last.
    question: Option<Question>,
    /// When it began to ask, when it did so in this transaction, and when it asked last.
    first: Instant,
    began: Instant,
    last: Instant,
    /// Who offered it something to boot last, in which transaction, and when.
    boots: Option<(Ipv4Addr, u32, Instant)>,
    /// Whether that came with an address: then it need not be heard again in the stages that follow.
    with_address: bool,
    /// In which transaction it was offered an address without anything to boot, and when.
    address: Option<(u32, Instant)>,
    /// When we offered it something.
    ours: Option<Instant>,
}

/// What was asked and heard, by client.
#[derive(Debug, Default)]
pub struct Rivals {
    clients: HashMap<MacAddr, Client>,
}

impl Rivals {
    fn client(&mut self, now: Instant, mac: MacAddr) -> &mut Client {
        make_room(&mut self.clients, MAX_CLIENTS, &mac, |client| client.last);
        self.clients.entry(mac).or_insert(Client {
            question: None,
            first: now,
            began: now,
            last: now,
            boots: None,
            with_address: false,
            address: None,
            ours: None,
        })
    }

    /// A client asks.
    pub fn asks(&mut self, now: Instant, question: Question) {
        let client = self.client(now, question.mac);
        let anew = client.question.is_some_and(|before| before.xid != question.xid);
        // Whoever was heard before can be heard again, and firmware that asks anew boots anew.
        if (anew && (client.boots.is_some() || client.address.is_some())) || now.duration_since(client.last) >= FORGOTTEN {
            client.first = now;
        }
        if anew || client.question.is_none() || now.duration_since(client.last) >= FORGOTTEN {
            client.began = now;
        }
        if anew && question.broadcast {
            client.ours = None;
        }
        (client.question, client.last) = (Some(question), now);
    }

    /// Another server offered a client something.
    pub fn heard(&mut self, now: Instant, offer: &Offer) {
        let client = self.client(now, offer.client);
        if offer.boots {
            (client.boots, client.with_address) = (Some((offer.server, offer.xid, now)), offer.gives_address);
        } else if offer.gives_address {
            client.address = Some((offer.xid, now));
        }
    }

    /// We offered a client something: it is booted by us until its firmware asks again.
    pub fn answered(&mut self, now: Instant, mac: MacAddr) {
        let client = self.client(now, mac);
        (client.first, client.ours) = (now, Some(now));
    }

    /// Whether it is known what others offer a client that asked.
    pub fn is_known(&self, now: Instant, mac: MacAddr) -> bool {
        let question = self.clients.get(&mac).and_then(|client| client.question);
        question.is_none_or(|question| self.of(now, question).is_some())
    }

    /// What others offer a client, as far as is known by now.
    pub fn of(&self, now: Instant, question: Question) -> Option<Rival> {
        let lately = |when: Instant| now.duration_since(when) < BOOT;
        let Some(client) = self.clients.get(&question.mac) else { return (!question.broadcast).then_some(Rival::Nothing) };
        if !question.broadcast {
            // A later stage of what it boots, which its first stage decided.
            if client.ours.is_some_and(lately) {
                return Some(Rival::Nothing);
            }
            // A proxy offers to everybody, at each stage.
            let counts = |xid: u32, when: Instant| xid == question.xid || (client.with_address && lately(when));
            let theirs = client.boots.filter(|(_, xid, when)| counts(*xid, *when)).map(|(server, ..)| Rival::Boots(server));
            let settled = now.duration_since(client.began) >= PROXIES;
            return theirs.or(settled.then_some(Rival::Nothing));
        }
        let theirs = client.boots.filter(|(_, xid, _)| *xid == question.xid);
        // From whichever was seen first: the offer of a server that looked an address up for seconds comes after all others.
        let since = |heard: Instant| now.duration_since(heard.min(client.last));
        let settled = client.address.is_some_and(|(xid, heard)| xid == question.xid && since(heard) >= GRACE);
        let deaf = now.duration_since(client.first) >= DEAF;
        theirs.map(|(server, ..)| Rival::Boots(server)).or((settled || deaf).then_some(Rival::Nothing))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
    const BOOTS: Option<Rival> = Some(Rival::Boots(SERVER));

    fn question(xid: u32, broadcast: bool) -> Question {
        Question { mac: MAC, xid, broadcast }
    }

    fn offer(xid: u32, boots: bool) -> Offer {
        Offer { xid, server: SERVER, client: MAC, gives_address: true, boots }
    }

    #[test]
    fn firmware_is_answered_when_it_is_known_that_nobody_else_boots_it() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let of = |rivals: &Rivals, ms, xid| rivals.of(after(ms), question(xid, true));
        rivals.asks(start, question(1, true));
        assert!(of(&rivals, 0, 1).is_none() && !rivals.is_known(start, MAC));
        rivals.heard(after(1), &offer(1, false));
        assert_eq!((of(&rivals, 1, 1), of(&rivals, 300, 1)), (None, Some(Rival::Nothing)), "a third may offer something");
        assert!(rivals.is_known(after(300), MAC));
        // Its server boots it the next time, and no longer the time after that.
        rivals.asks(after(5_000), question(2, true));
        assert_eq!(of(&rivals, 5_000, 2), None, "what was offered before is another transaction");
        rivals.heard(after(8_000), &offer(2, true));
        assert_eq!(of(&rivals, 8_000, 2), BOOTS);
        rivals.asks(after(9_000), question(3, true));
        rivals.heard(after(9_001), &offer(3, false));
        assert_eq!(of(&rivals, 9_300, 3), Some(Rival::Nothing));
    }

    #[test]
    fn where_nothing_can_be_heard_who_asks_on_is_answered() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        let asked: Vec<_> = [0, 4, 12, 28]
            .into_iter()
            .map(|seconds| {
                let now = start + Duration::from_secs(seconds);
                rivals.asks(now, question(1, true));
                rivals.of(now, question(1, true))
            })
            .collect();
        assert_eq!(asked, [None, None, None, Some(Rival::Nothing)]);
        let next = start + Duration::from_secs(120);
        rivals.asks(next, question(2, true));
        assert_eq!(rivals.of(next, question(2, true)), None, "another boot");
    }

    /// Its loader failed, or it was restarted: that its server was silent for a moment says nothing.
    #[test]
    fn who_was_heard_before_is_waited_for_at_the_next_boot() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        rivals.asks(start, question(1, true));
        rivals.heard(start, &offer(1, true));
        for (seconds, xid) in [(20, 2), (40, 3), (60, 4)] {
            let now = start + Duration::from_secs(seconds);
            rivals.asks(now, question(xid, true));
            assert_eq!(rivals.of(now, question(xid, true)), None, "after {seconds} s");
        }
    }

    #[test]
    fn later_stages_belong_to_who_booted_the_first() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rivals.of(start, question(1, false)), Some(Rival::Nothing), "it boots what came with its address");
        rivals.asks(start, question(1, true));
        rivals.heard(start, &offer(1, true));
        assert_eq!(rivals.of(after(20), question(2, false)), BOOTS);
        assert_eq!(rivals.of(after(600), question(2, false)), Some(Rival::Nothing));
        // Of two that offer at once, neither forsakes whom it boots.
        rivals.answered(after(1), MAC);
        rivals.heard(after(2), &offer(1, true));
        assert_eq!(rivals.of(after(20), question(2, false)), Some(Rival::Nothing));
        // What another boots the next time, it boots to the end.
        rivals.asks(after(60), question(3, true));
        rivals.heard(after(60), &offer(3, true));
        assert_eq!(rivals.of(after(65), question(4, false)), BOOTS);
    }

    /// Two proxies beside a router: whichever offers first boots it.
    #[test]
    fn who_has_no_boot_file_with_its_address_is_left_to_the_proxy_that_was_there() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        rivals.asks(start, question(1, false));
        rivals.asks(after(1_000), question(1, false));
        assert_eq!(rivals.of(after(1_499), question(1, false)), None);
        assert_eq!(rivals.of(after(1_500), question(1, false)), Some(Rival::Nothing), "there is none");
        rivals.heard(after(1_000), &Offer { gives_address: false, ..offer(1, true) });
        assert_eq!(rivals.of(after(1_001), question(1, false)), BOOTS);
        // It is heard anew at each boot, and is gone when it is silent.
        rivals.asks(after(60_000), question(2, false));
        assert_eq!(
            (rivals.of(after(60_000), question(2, false)), rivals.of(after(61_500), question(2, false))),
            (None, Some(Rival::Nothing))
        );
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_again() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        let mac = |n: usize| {
            let [.., a, b, c] = n.to_be_bytes();
            MacAddr([2, 0, 0, a, b, c])
        };
        (0..MAX_CLIENTS + 100).for_each(|n| rivals.asks(start, Question { mac: mac(n), xid: 1, broadcast: true }));
        assert_eq!(rivals.clients.len(), MAX_CLIENTS);
    }
}
