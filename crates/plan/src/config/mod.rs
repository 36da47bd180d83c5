//! Configuration files of loaders other than iPXE, from the same plan.
//!
//! ```text
//!   name ──► Asked::of     which loader asks, and about which machine (the name says it, or the address that asks)
//!   plan ──► Step::of      what that machine does now, once: boot, leave to its disk, or wait and ask again
//!   Step ──► grub | pxelinux | uboot | raspberry     in the words of its loader
//! ```
//!
//! GRUB and U-Boot have no timer that asks again, but loops: what they read first is the same for everybody, and goes on with the machine's next
//! step until that boots something.

pub mod grub;
pub mod pxelinux;
pub mod raspberry;
pub mod uboot;

use std::time::Duration;

use athanor_crds::conditions::reasons;
use athanor_wire::{MacAddr, work::SERVERS_WORD};

use crate::{
    boot_plan::{BootPlan, Linux, Safe},
    ipxe::{self, Part},
};

/// Which file a loader asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// GRUB's first configuration, the same for everybody.
    GrubLoop,
    /// GRUB: the machine's next step.
    Grub,
    /// SYSLINUX and U-Boot's `pxe`.
    Pxelinux,
    /// U-Boot's first script, the same for everybody.
    UBootLoop,
    /// U-Boot: the machine's next step.
    UBoot,
    /// A Raspberry Pi's `config.txt`.
    RaspberryConfig,
    /// A Raspberry Pi's `cmdline.txt`.
    RaspberryCommandLine,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Whoever asks.
    Asking,
    /// The machine with this MAC address.
    Mac(MacAddr),
}

/// A configuration file by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Which file.
    pub file: File,
    /// Whose.
    pub who: Who,
}

impl Asked {
    /// Understands a name as clients ask for it; `None` where it is none of ours. UEFI loads GRUB over HTTP out of the folder `l`, and some
    /// GRUBs look beside themselves.
    pub fn of(path: &str) -> Option<Self> {
        let path = path.trim_start_matches('/');
        let path = path.strip_prefix("l/").unwrap_or(path);
        let asked = |file, who| Some(Self { file, who });
        if let Some(name) = path.strip_prefix("pxelinux.cfg/") {
            return asked(File::Pxelinux, pxelinux_name(name)?);
        }
        if let Some(mac) = path.strip_prefix("grub/next-") {
            return asked(File::Grub, Who::Mac(mac.parse().ok()?));
        }
        if let Some(mac) = path.strip_prefix("uboot/next-") {
            return asked(File::UBoot, Who::Mac(mac.parse().ok()?));
        }
        match path {
            "boot.scr.uimg" | "boot.scr" => return asked(File::UBootLoop, Who::Asking),
            _ => {}
        }
        if let Some((serial, name)) = path.split_once('/')
            && serial.len() == 8
            && serial.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return match name {
                "config.txt" => asked(File::RaspberryConfig, Who::Asking),
                "cmdline.txt" => asked(File::RaspberryCommandLine, Who::Asking),
                _ => None,
            };
        }
        let name = path.strip_prefix("grub/").unwrap_or(path).strip_prefix("grub.cfg")?;
        let constant = name.is_empty() || name.strip_prefix("-01-").is_some_and(|mac| mac.parse::<MacAddr>().is_ok());
        constant.then_some(Self { file: File::GrubLoop, who: Who::Asking })
    }
}

/// The names that PXELINUX tries: UUID, hardware type and MAC, the address in hexadecimal, `default`. But for the MAC, whoever asks is meant.
fn pxelinux_name(name: &str) -> Option<Who> {
    if let Some(mac) = name.strip_prefix("01-") {
        return mac.parse().ok().map(Who::Mac);
    }
    let hex = |byte: u8| byte.is_ascii_hexdigit();
    let is_address = name.len() == 8 && name.bytes().all(hex);
    let dashes = |(at, byte): (usize, u8)| if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { hex(byte) };
    let is_uuid = name.len() == 36 && name.bytes().enumerate().all(dashes);
    (name == "default" || is_address || is_uuid).then_some(Who::Asking)
}

/// What a machine does now, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It boots.
    Boot(Boot),
    /// It boots by an iPXE script, which its loader does not read: it must come to an iPXE.
    Chain {
        /// For the person in front of the screen.
        message: String,
    },
    /// It leaves to its own disk.
    Disk {
        /// Why, for the person in front of the screen.
        message: String,
    },
    /// It asks again in [`ipxe::POLL_SECONDS`].
    Wait {
        /// Why, for the person in front of the screen.
        message: String,
    },
}

/// A Linux with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// For the person in front of the screen.
    pub message: String,
    /// The kernel: a path on our servers, or a URL.
    pub kernel: String,
    /// The initrds, likewise.
    pub initrds: Vec<String>,
    /// All arguments.
    pub arguments: String,
}

impl Step {
    /// The step of a plan's machine, which boots from `mac` and reaches the agent's HTTP at `agent` (`192.168.10.1:7481`); `servers` are it and
    /// those that may take over. `waited` is how long
    /// ago its firmware first asked in this boot.
    pub fn of(plan: &BootPlan, part: Part, mac: MacAddr, agent: &str, servers: &str, waited: Duration) -> Self {
        let who = &plan.machine;
        let parked =
            |reason: &str, message: &str| Self::Wait { message: ipxe::harmless(&format!("{who} is {}, {reason}. {message}", plan.state)) };
        let disk = |reason: &str| Self::Disk { message: ipxe::harmless(&format!("{who} boots its disk, {reason}")) };
        match (&plan.order, &plan.safe) {
            (Some(order), _) if part == Part::NoFiles => {
                let message = format!("A file of {0} cannot be served now: athanorctl describe deployment {0}", order.deployment);
                parked(reasons::CONTENT_UNAVAILABLE, &message)
            }
            (Some(order), _) if part == Part::Order => match &order.linux {
                Some(linux) => {
                    let report = order.reports().then(|| format!("http://{agent}/v1/report/{}", order.report_token));
                    let message = ipxe::harmless(&format!("{who} boots {}", order.deployment));
                    Self::Boot(Boot { message, ..boot(linux, plan, mac, report.as_deref(), agent, servers) })
                }
                None => Self::Chain { message: ipxe::harmless(&format!("{who} boots {}, an iPXE script", order.deployment)) },
            },
            (_, Safe::LocalDisk { reason }) => disk(reason),
            (_, Safe::LocalDiskThenWait { reason, .. }) if waited >= ipxe::WAIT_BEFORE_DISK => disk(reason),
            (_, Safe::Wait { reason, message } | Safe::LocalDiskThenWait { reason, message }) => parked(reason, message),
        }
    }
}

fn boot(linux: &Linux, plan: &BootPlan, mac: MacAddr, report: Option<&str>, agent: &str, servers: &str) -> Boot {
    let place = |name: &String| if ipxe::is_url(name) { name.clone() } else { format!("/b/{}/f/{name}", plan.token) };
    let report = report.map(|url| format!(" athanor.report={url}")).unwrap_or_default();
    let servers = if linux.asks_servers { format!(" {SERVERS_WORD}{servers}") } else { String::new() };
    let seed = linux.metadata.as_ref().map(|token| ipxe::seed(&format!("http://{agent}"), token)).unwrap_or_default();
    let card = mac.to_string().replace(':', "-");
    let arguments = format!("{} BOOTIF=01-{card}{report}{servers}{seed}", linux.arguments).trim().to_owned();
    Boot { message: String::new(), kernel: place(&linux.kernel), initrds: linux.initrds.iter().map(place).collect(), arguments }
}

#[cfg(test)]
mod tests;
