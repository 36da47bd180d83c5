//! Which of several agents on a segment answers a client: each knows its place by itself, from the addresses of all (rendezvous hashing).
//!
//! The first answers at once. The next two answer a little later, unless the client has chosen by then: so a dead agent's clients lose a
//! moment and nothing else, and no client hears a dozen offers. The others stay silent, until a client has asked for long.

use std::{net::Ipv4Addr, time::Duration};

use athanor_wire::MacAddr;

/// How much later each place answers than the one before: an offer and the client's choice cross a rack within a few milliseconds.
pub const STEP: Duration = Duration::from_millis(200);
/// How many agents answer a client.
pub const ANSWERING: usize = 3;
/// A client that has asked for so many seconds is answered by everybody: those before us are dead, and nobody has noticed yet.
pub const LONG: u16 = 8;

/// The place of `ours` among the agents of a segment for a client: 0 is the first. Whether `servers` has us in it makes no difference.
pub fn place(client: MacAddr, ours: Ipv4Addr, servers: &[Ipv4Addr]) -> usize {
    let own = (weight(client, ours), ours);
    servers.iter().filter(|server| (weight(client, **server), **server) > own).count()
}

/// FNV-1a over both, and MurmurHash3's finalizer: neighbouring addresses shall not follow each other around.
fn weight(client: MacAddr, server: Ipv4Addr) -> u64 {
    let bytes = client.0.into_iter().chain(server.octets());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(count: u8) -> Vec<Ipv4Addr> {
        (1..=count).map(|last| Ipv4Addr::new(10, 0, 0, last)).collect()
    }

    #[test]
    fn every_client_has_one_first_agent_and_each_agent_its_share() {
        let agents = agents(4);
        let mut first = [0; 4];
        for number in 0..4000_u16 {
            let [high, low] = number.to_be_bytes();
            let client = MacAddr([2, 0, 0, 0, high, low]);
            let mut places: Vec<usize> = agents.iter().map(|ours| place(client, *ours, &agents)).collect();
            first[places.iter().position(|place| *place == 0).unwrap()] += 1;
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3]);
        }
        assert!(first.iter().all(|share| (800..1200).contains(share)), "{first:?}");
    }

    #[test]
    fn an_agent_that_goes_moves_its_own_clients_and_nobody_elses() {
        let (all, gone) = (agents(4), Ipv4Addr::new(10, 0, 0, 3));
        let left: Vec<Ipv4Addr> = all.iter().copied().filter(|agent| *agent != gone).collect();
        for number in 0..1000_u16 {
            let [high, low] = number.to_be_bytes();
            let client = MacAddr([2, 0, 0, 0, high, low]);
            let first = |agents: &[Ipv4Addr]| agents.iter().copied().find(|ours| place(client, *ours, agents) == 0).unwrap();
            if first(&all) != gone {
                assert_eq!(first(&all), first(&left));
            }
        }
    }

    #[test]
    fn who_is_alone_or_not_listed_yet_is_first_of_its_own() {
        let client = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(place(client, Ipv4Addr::new(10, 0, 0, 1), &[]), 0);
        assert_eq!(place(client, Ipv4Addr::new(10, 0, 0, 1), &[Ipv4Addr::new(10, 0, 0, 1)]), 0);
    }
}
