//! The addresses that clients which are no machines have for a while, as the API stores them.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use athanor_crds::{AddressSpec, SubnetSpec};
use athanor_dhcp::Lease;
use athanor_wire::MacAddr;
use jiff::Timestamp;
use tokio::sync::watch;

/// What is stored of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    mac: MacAddr,
    subnet: String,
    expires: Timestamp,
    quarantined: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    known: Mutex<Known>,
    /// Clients of whom something is being written.
    turns: Mutex<HashSet<MacAddr>>,
    /// Counts what was told by the API; 0 until the first list is whole.
    told: watch::Sender<u64>,
}

/// That something is being written of a client; nothing else is until it is dropped.
pub(crate) struct Turn<'a> {
    lent: &'a Lent,
    mac: MacAddr,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lent.turns.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.mac);
    }
}

/// How long it may take until the API tells of an object that somebody else has just created.
const TOLD: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Known {
    by_ip: HashMap<Ipv4Addr, Stored>,
    by_mac: HashMap<MacAddr, Vec<Ipv4Addr>>,
}

impl Lent {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to write something of a client; `None` while somebody does.
    pub(crate) fn turn(&self, mac: MacAddr) -> Option<Turn<'_>> {
        let free = self.turns.lock().unwrap_or_else(PoisonError::into_inner).insert(mac);
        free.then_some(Turn { lent: self, mac })
    }

    /// Wakes whenever the API told of a lease.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Waits until the first list is whole.
    pub(crate) async fn listed(&self) {
        let _ = self.told.subscribe().wait_for(|told| *told > 0).await;
    }

    /// Whether an address that somebody has just created turns out to be the client's: another agent answers it, too.
    pub(crate) async fn comes_to(&self, mac: MacAddr, ip: Ipv4Addr) -> bool {
        let mut told = self.told.subscribe();
        let known = async {
            while !self.is_used(ip) {
                if told.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(TOLD, known).await;
        self.known().by_mac.get(&mac).is_some_and(|own| own.contains(&ip))
    }

    /// What a client has, that still runs.
    pub(crate) fn of(&self, mac: MacAddr, now: Timestamp) -> Vec<Lease> {
        let known = self.known();
        let all = known.by_mac.get(&mac).into_iter().flatten();
        all.filter_map(|ip| {
            let stored = known.by_ip.get(ip)?;
            let remaining = u32::try_from(stored.expires.duration_since(now).as_secs()).ok().filter(|seconds| *seconds > 0)?;
            Some(Lease { ip: *ip, subnet: stored.subnet.clone(), remaining })
        })
        .collect()
    }

    /// Whether an address is somebody's, or nobody's on purpose.
    pub(crate) fn is_used(&self, ip: Ipv4Addr) -> bool {
        self.known().by_ip.contains_key(&ip)
    }

    /// The API has stored it.
    pub(crate) fn store(&self, spec: &AddressSpec) {
        let (IpAddr::V4(ip), Some(expires)) = (spec.ip, &spec.expires) else { return };
        let mut known = self.known();
        known.forget(ip);
        let quarantined = spec.quarantine.is_some();
        known.by_ip.insert(ip, Stored { mac: spec.mac, subnet: spec.subnet.clone(), expires: expires.0, quarantined });
        if !quarantined {
            known.by_mac.entry(spec.mac).or_default().push(ip);
        }
        drop(known);
        self.told.send_modify(|told| *told += u64::from(*told > 0));
    }

    /// It is nobody's any more.
    pub(crate) fn forget(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip {
            self.known().forget(ip);
        }
    }

    /// What is stored now is this and nothing else.
    pub(crate) fn replace<'a>(&self, all: impl Iterator<Item = &'a AddressSpec>) {
        *self.known() = Known::default();
        all.for_each(|spec| self.store(spec));
        self.told.send_modify(|told| *told += 1);
    }
}

impl Known {
    fn forget(&mut self, ip: Ipv4Addr) {
        let Some(old) = self.by_ip.remove(&ip) else { return };
        if let Some(own) = self.by_mac.get_mut(&old.mac) {
            own.retain(|other| *other != ip);
            if own.is_empty() {
                self.by_mac.remove(&old.mac);
            }
        }
    }
}

/// Addresses to try for a client: the one that it would like, then from a place that is its own: agents that
/// look at once look in the same place, and a client that comes back finds what it had.
pub(crate) fn candidates(spec: &SubnetSpec, mac: MacAddr, likes: Option<Ipv4Addr>, used: impl Fn(Ipv4Addr) -> bool) -> Vec<Ipv4Addr> {
    let v4 = |ip: IpAddr| if let IpAddr::V4(ip) = ip { Some(u32::from(ip)) } else { None };
    let ranges: Vec<(u32, u32)> = spec.ranges.iter().filter_map(|range| Some((v4(range.from)?, v4(range.to)?))).collect();
    let total: u64 = ranges.iter().map(|(from, to)| u64::from(to - from) + 1).sum();
    let nth = |mut index: u64| {
        ranges.iter().find_map(|(from, to)| {
            let length = u64::from(to - from) + 1;
            let here = (index < length).then(|| u32::try_from(index).ok().and_then(|index| from.checked_add(index))).flatten();
            index = index.saturating_sub(length);
            here.map(Ipv4Addr::from)
        })
    };
    let inside = |ip: &Ipv4Addr| ranges.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(*ip)));
    let mut hasher = DefaultHasher::new();
    mac.hash(&mut hasher);
    let start = hasher.finish().checked_rem(total).unwrap_or(0);
    let own_place = (0..total.min(MAX_LOOK)).filter_map(|step| nth((start + step) % total));
    let fine = |ip: &Ipv4Addr| spec.may_give(IpAddr::V4(*ip)) && !used(*ip);
    likes.into_iter().filter(inside).chain(own_place.filter(|ip| Some(*ip) != likes)).filter(fine).take(MAX_CANDIDATES).collect()
}

/// How many addresses of a range are looked at for one that is free.
const MAX_LOOK: u64 = 1 << 16;
/// How many are tried: each may be taken in this moment, or used by somebody unasked.
const MAX_CANDIDATES: usize = 8;

#[cfg(test)]
mod tests {
    use athanor_crds::subnet::AddressRange;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn lab() -> SubnetSpec {
        let mut spec = SubnetSpec::of("10.0.0.0/24".parse().unwrap());
        let range = |from: &str, to: &str| AddressRange { from: from.parse().unwrap(), to: to.parse().unwrap() };
        spec.ranges = vec![range("10.0.0.10", "10.0.0.12"), range("10.0.0.20", "10.0.0.20")];
        spec.reserved = vec!["10.0.0.11".parse().unwrap()];
        spec
    }

    #[test]
    fn a_client_is_offered_what_it_likes_or_anything_free_of_the_ranges() {
        let all = |likes: Option<&str>, used: &[u8]| -> Vec<u8> {
            let used = |ip: Ipv4Addr| used.contains(&ip.octets()[3]);
            candidates(&lab(), CLIENT, likes.map(|ip| ip.parse().unwrap()), used).iter().map(|ip| ip.octets()[3]).collect()
        };
        let mut some = all(None, &[]);
        some.sort_unstable();
        assert_eq!(some, [10, 12, 20], "the reserved one is given to nobody");
        assert_eq!(all(Some("10.0.0.12"), &[])[0], 12);
        assert!(!all(Some("10.0.0.99"), &[]).contains(&99), "outside the ranges");
        assert_eq!(all(Some("10.0.0.12"), &[10, 12]), [20]);
        assert!(all(None, &[10, 12, 20]).is_empty());
        let nothing = SubnetSpec { ranges: Vec::new(), ..lab() };
        assert!(candidates(&nothing, CLIENT, None, |_| false).is_empty());
    }

    #[test]
    fn a_lease_lasts_as_long_as_it_is_stored() {
        let (lent, now) = (Lent::default(), Timestamp::now());
        let until = |seconds| Time(now + jiff::SignedDuration::from_secs(seconds));
        let ip: IpAddr = "10.0.0.10".parse().unwrap();
        lent.store(&AddressSpec::lent(ip, "lab", CLIENT, until(60)));
        assert_eq!(lent.of(CLIENT, now).first().map(|lease| lease.remaining), Some(60));
        lent.store(&AddressSpec::lent(ip, "lab", CLIENT, until(600)));
        assert_eq!(lent.of(CLIENT, now).iter().map(|lease| lease.remaining).collect::<Vec<_>>(), [600]);
        lent.store(&AddressSpec::quarantined(ip, "lab", CLIENT, "declined".to_owned(), until(600)));
        assert!(lent.of(CLIENT, now).is_empty() && lent.is_used("10.0.0.10".parse().unwrap()));
        lent.forget(ip);
        assert!(!lent.is_used("10.0.0.10".parse().unwrap()));
        lent.store(&AddressSpec::lent(ip, "lab", CLIENT, until(-1)));
        assert!(lent.of(CLIENT, now).is_empty(), "its time is over");
    }
}
