//! The probe for another DHCP server: a DISCOVER that says whose it is, and the judgement of what comes back.

use std::{net::Ipv4Addr, time::Duration};

use athanor_wire::MacAddr;

use crate::{
    packet::{COOKIE, FIXED, MessageType, Options, option},
    table::PROBE_CLASS,
};

/// How long answers are waited for. dnsmasq pings an address for 3 s before it offers it; a probe of 3 s was seen to miss it.
pub const WAIT: Duration = Duration::from_secs(5);
/// How often the DISCOVER is sent in that time, so that one lost packet hides nobody.
pub const TRIES: u32 = 3;
/// How long a verdict is good for.
pub const VERDICT_LIFETIME: Duration = Duration::from_secs(3600);

/// A DISCOVER that no server of our own installation answers. It asks for the broadcast, since nobody listens at its address.
pub fn discover(xid: u32, mac: MacAddr, installation: &str) -> Vec<u8> {
    let mut out = vec![0; FIXED];
    out[..4].copy_from_slice(&[1, 1, 6, 0]);
    out[4..8].copy_from_slice(&xid.to_be_bytes());
    out[10] = 0x80;
    out[28..34].copy_from_slice(&mac.0);
    out.extend(COOKIE);
    out.extend([option::MESSAGE_TYPE, 1, 1]);
    let class = format!("{PROBE_CLASS}{installation}");
    // Vendor class and client id are short: an installation's id is a UUID.
    out.extend([option::VENDOR_CLASS, u8::try_from(class.len()).unwrap_or(0)]);
    out.extend(class.bytes().take(usize::from(u8::MAX)));
    out.extend([option::PARAMETER_REQUEST_LIST, 2, option::SUBNET_MASK, option::ROUTER, 255]);
    out.resize(out.len().max(300), 0);
    out
}

/// An OFFER of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Of which question.
    pub xid: u32,
    /// Whose.
    pub server: Ipv4Addr,
}

/// The server that answered the probe, if these bytes are that.
pub fn foreign_server(bytes: &[u8], xid: u32, ours: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    offer(bytes).filter(|offer| offer.xid == xid && !ours.contains(&offer.server)).map(|offer| offer.server)
}

/// The OFFER of an address, if these bytes are that.
pub fn offer(bytes: &[u8]) -> Option<Offer> {
    let fixed = bytes.get(..FIXED)?;
    if fixed.first() != Some(&2) {
        return None;
    }
    let xid = u32::from_be_bytes(fixed.get(4..8)?.try_into().ok()?);
    let mut options = Options::default();
    options.read(bytes.get(FIXED + COOKIE.len()..)?);
    let is_offer = options.get(option::MESSAGE_TYPE) == Some(&[MessageType::Offer.code()]);
    let yiaddr = <[u8; 4]>::try_from(fixed.get(16..20)?).ok().map(Ipv4Addr::from)?;
    // A proxyDHCP offer gives no address and takes nobody's authority.
    if yiaddr.is_unspecified() {
        return None;
    }
    options.address(option::SERVER_ID).filter(|_| is_offer).map(|server| Offer { xid, server })
}
