//! Clients that are no machines, on Subnets that serve everyone: addresses for a while.

use std::net::{IpAddr, Ipv4Addr};

use athanor_crds::SubnetSpec;
use athanor_wire::MacAddr;

use super::{Answer, Authority, Decision, Grant, Row, Scene};
use crate::packet::MessageType;

/// An address that a client has for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub ip: Ipv4Addr,
    /// Its Subnet.
    pub subnet: String,
    /// For how many seconds it is stored that the client has it.
    pub remaining: u32,
}

impl Lease {
    /// Whether it may be offered or renewed as it is stored: a client that renews at half its time has one that is stored for longer first.
    pub fn lasts(&self, subnet: &SubnetSpec) -> bool {
        self.remaining >= subnet.lease_seconds / 4 * 3
    }

    /// Whether it would be given today: a range may have become smaller, an address reserved.
    pub fn may_stand(&self, subnet: &SubnetSpec) -> bool {
        let ip = IpAddr::V4(self.ip);
        subnet.may_give(ip) && subnet.ranges.iter().any(|range| (range.from..=range.to).contains(&ip))
    }
}

/// A lease that a client is to have, or to have for longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Who.
    pub mac: MacAddr,
    /// In which Subnet.
    pub subnet: String,
    /// The address that it has or would like.
    pub ip: Option<Ipv4Addr>,
    /// It came through a relay: its wire cannot be asked whether somebody uses an address.
    pub relayed: bool,
}

impl Scene<'_> {
    /// Answers from what is stored. What is not, or not for long enough, is wished for first: what a client is promised survives us.
    pub(super) fn dynamic(&self) -> Decision {
        match self.authority {
            Authority::Foreign(server) => {
                return Decision::silence(Row::Other, format!("no dynamic addresses while {server} also answers DHCP here"));
            }
            Authority::Probing => return Decision::silence(Row::Held, "the probe for another DHCP server is not finished"),
            Authority::Alone => {}
        }
        let here = || self.context.leases.iter().filter(|lease| lease.subnet == self.subnet.name && lease.may_stand(&self.subnet.spec));
        let lease = here().find(|lease| Some(lease.ip) == self.request.wanted()).or_else(|| here().next());
        let lasts = |lease: &&Lease| lease.lasts(&self.subnet.spec);
        if self.request.message != MessageType::Request {
            return match lease.filter(lasts) {
                Some(lease) => self.lend(MessageType::Offer, lease),
                None => self.wish(lease.map(|lease| lease.ip).or(self.request.wanted())),
            };
        }
        match (lease, self.request.wanted()) {
            (Some(lease), Some(wanted)) if lease.ip == wanted && lasts(&lease) => self.lend(MessageType::Ack, lease),
            (Some(lease), Some(wanted)) if lease.ip == wanted => self.wish(Some(wanted)),
            (Some(lease), Some(wanted)) => {
                let why = format!("it wants {wanted}, but has {}", lease.ip);
                if self.routed { Decision::silence(Row::Nak, why) } else { self.answer(Row::Nak, MessageType::Nak, None, None, None, why) }
            }
            (_, wanted) => {
                let wanted = wanted.map_or_else(|| "its address".to_owned(), |ip| ip.to_string());
                Decision::silence(Row::NotOurs, format!("nothing is known of {wanted}"))
            }
        }
    }

    fn lend(&self, message: MessageType, lease: &Lease) -> Decision {
        let grant = Grant { ip: lease.ip, seconds: lease.remaining.min(self.subnet.spec.lease_seconds) };
        self.answer(Row::Other, message, None, Some(grant), None, format!("{}, for {} s", grant.ip, grant.seconds))
    }

    fn wish(&self, ip: Option<Ipv4Addr>) -> Decision {
        let ip = ip.filter(|ip| self.subnet.spec.cidr.contains(&IpAddr::V4(*ip)));
        let relayed = self.routed || !self.request.giaddr.is_unspecified();
        let wish = Wish { mac: self.request.mac, subnet: self.subnet.name.clone(), ip, relayed };
        Decision { answer: Answer::Lease(wish), ..Decision::silence(Row::Other, "its lease is stored first; it is answered then") }
    }
}
