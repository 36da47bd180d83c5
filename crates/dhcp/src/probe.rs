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
/// Where a packet's boot file is (RFC 951).
const FILE: std::ops::Range<usize> = 108..236;
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

/// An OFFER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Of which question.
    pub xid: u32,
    /// Whose.
    pub server: Ipv4Addr,
    /// For whom.
    pub client: MacAddr,
    /// It has an address.
    pub gives_address: bool,
    /// It has something to boot.
    pub boots: bool,
}

/// The server that answered the probe, if these bytes are that.
pub fn foreign_server(bytes: &[u8], xid: u32, ours: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    offer(bytes).filter(|offer| offer.xid == xid && !ours.contains(&offer.server)).map(|offer| offer.server)
}

/// The OFFER of an address, if these bytes are that.
pub fn offer(bytes: &[u8]) -> Option<Offer> {
    // A proxyDHCP offer gives no address and takes nobody's authority.
    any_offer(bytes).filter(|offer| offer.gives_address)
}

/// An OFFER of an address, of something to boot, or of both, if these bytes are that.
pub fn any_offer(bytes: &[u8]) -> Option<Offer> {
    let fixed = bytes.get(..FIXED)?;
    if fixed.first() != Some(&2) {
        return None;
    }
    let xid = u32::from_be_bytes(fixed.get(4..8)?.try_into().ok()?);
    let mut options = Options::default();
    options.read(bytes.get(FIXED + COOKIE.len()..)?);
    // RFC 2131 section 4.1: the file field may hold options.
    let overload = options.get(option::OVERLOAD).and_then(|value| value.first().copied()).unwrap_or_default();
    let file = fixed.get(FILE)?;
    if overload & 1 != 0 {
        options.read(file);
    }
    let is_offer = options.get(option::MESSAGE_TYPE) == Some(&[MessageType::Offer.code()]);
    let yiaddr = <[u8; 4]>::try_from(fixed.get(16..20)?).ok().map(Ipv4Addr::from)?;
    let client = MacAddr(fixed.get(28..34)?.try_into().ok()?);
    // A PXE server may name its file only when it is asked on port 4011; that it is one says its class. Some servers echo the client's, which is
    // longer.
    let is_pxe = options.text(option::VENDOR_CLASS).is_some_and(|class| class == "PXEClient");
    let named = |bytes: &[u8]| bytes.first().is_some_and(|byte| *byte != 0);
    let boots = is_pxe || (overload & 1 == 0 && named(file)) || options.get(option::BOOT_FILE_NAME).is_some_and(named);
    let offer = |server| Offer { xid, server, client, gives_address: !yiaddr.is_unspecified(), boots };
    options.address(option::SERVER_ID).filter(|_| is_offer).map(offer)
}
