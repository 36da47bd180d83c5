//! Which options an answer has. Each code stands once: clients put the values of one that comes twice together (RFC 3396).

use std::net::IpAddr;

use athanor_crds::Firmware;
use athanor_plan::BootPlan;

use super::Scene;
use crate::{client::Client, packet::option};

/// Codes and values, in the order in which they were thought of.
pub(super) type Options = Vec<(u8, Vec<u8>)>;

/// Says an option, in place of what was said before.
pub(super) fn put(options: &mut Options, code: u8, value: Vec<u8>) {
    options.retain(|(known, _)| *known != code);
    options.push((code, value));
}

impl Scene<'_> {
    pub(super) fn network_options(&self, plan: Option<&BootPlan>, options: &mut Options) {
        let spec = &self.subnet.spec;
        let v4 = |ips: &[IpAddr]| -> Vec<u8> {
            ips.iter().filter_map(|ip| if let IpAddr::V4(v4) = ip { Some(v4.octets()) } else { None }).flatten().collect()
        };
        if let Some(mask) = spec.mask() {
            options.push((option::SUBNET_MASK, mask.octets().to_vec()));
        }
        if let IpAddr::V4(broadcast) = spec.cidr.broadcast() {
            options.push((option::BROADCAST_ADDRESS, broadcast.octets().to_vec()));
        }
        let gateway: Vec<IpAddr> = spec.gateway.into_iter().collect();
        for (code, value) in
            [(option::ROUTER, v4(&gateway)), (option::DOMAIN_NAME_SERVER, v4(&spec.dns)), (option::NTP_SERVERS, v4(&spec.ntp))]
        {
            if !value.is_empty() {
                options.push((code, value));
            }
        }
        if let Some(domain) = &spec.domain {
            options.push((option::DOMAIN_NAME, domain.clone().into_bytes()));
        }
        if let Some(hostname) = plan.and_then(|plan| plan.hostname.as_ref()) {
            options.push((option::HOST_NAME, hostname.clone().into_bytes()));
        }
        for raw in &spec.options {
            put(options, raw.code, raw.bytes());
        }
    }

    /// The boot file, and options 60 and 43, by mode and firmware: EDK2 would take an offer with 60 = PXEClient for a BINL answer and ask port
    /// 4011, while BIOS PXE wants to see it, with a discovery control (43.6 = 8) that says not to look for boot servers.
    pub(super) fn boot_options(&self, file: Option<&str>, options: &mut Options) {
        if let Some(file) = file {
            put(options, option::TFTP_SERVER_NAME, self.server.to_string().into_bytes());
            put(options, option::BOOT_FILE_NAME, file.as_bytes().to_vec());
        }
        let class = |options: &mut Options, text: &[u8]| put(options, option::VENDOR_CLASS, text.to_vec());
        match self.client {
            Client::HttpClient(_) if file.is_some() => class(options, b"HTTPClient"),
            Client::PxeClient(arch) if arch.machine().is_some_and(|(_, firmware)| firmware == Firmware::Bios) && file.is_some() => {
                class(options, b"PXEClient");
                put(options, option::VENDOR_SPECIFIC, vec![6, 1, 8, 255]);
            }
            Client::PxeClient(_) | Client::Ipxe { .. } if self.proxy => class(options, b"PXEClient"),
            Client::RaspberryPi => {
                // A menu with one entry of the name its ROM looks for.
                let mut menu = vec![6, 1, 3, 10, 4, 0];
                menu.extend(b"PXE");
                menu.extend([9, 23, 0, 0, 20]);
                menu.extend(b"Raspberry Pi Boot   ");
                menu.push(255);
                put(options, option::VENDOR_SPECIFIC, menu);
                class(options, b"PXEClient");
            }
            _ => {}
        }
    }
}

/// How long an address is lent.
pub(super) fn lease(lease: u32, options: &mut Options) {
    // RFC 2131 section 4.4.5: T1 at half the lease, T2 at seven eighths.
    for (code, seconds) in [(option::LEASE_TIME, lease), (option::RENEWAL_TIME, lease / 2), (option::REBINDING_TIME, lease / 8 * 7)] {
        options.push((code, seconds.to_be_bytes().to_vec()));
    }
}
