//! The virtual rack: a bridge in a network namespace, machines with real firmware, and the real binary beside them.
//!
//! ```text
//!   Rack (namespace, bridge) ── Service (athanor start services; or operator and agent on a ControlPlane) ── ctl
//!     ├── Node (containerd and kubelet of a ControlPlane, with its network on the bridge)
//!     ├── Vm (QEMU: SeaBIOS with its iPXE ROM, or OVMF; disks; serial console)
//!     ├── FakeIpxe (iPXE's side of DHCP, TFTP and HTTP, without firmware)
//!     ├── Neighbour (another host on the same bridge: dnsmasq)
//!     └── Capture (what went over the bridge)
//!   guest: kernel out of a Debian package, a one-file initramfs, an ISO; made at test time
//! ```
//!
//! Works as root, and without root in a user namespace where the kernel allows one. Everything ends with its owner: the namespace is
//! held by one process, and every other one dies with the test.

pub mod capture;
pub mod cluster;
pub mod curl;
pub mod dhclient;
pub mod disk;
pub mod dnsmasq;
pub mod fake_agent;
pub mod fake_ipxe;
pub mod firmware_client;
pub mod golden;
pub mod guest;
pub mod node;
mod own_cluster;
pub mod plane;
pub mod rack;
pub mod service;
pub mod tools;
pub mod vm;

pub use capture::Capture;
pub use curl::Curl;
pub use fake_agent::FakeAgent;
pub use fake_ipxe::FakeIpxe;
pub use firmware_client::FirmwareClient;
pub use guest::Guest;
pub use node::Node;
pub use plane::ControlPlane;
pub use rack::{Neighbour, Rack};
pub use service::Service;
pub use vm::{Bus, Firmware, Vm};

use std::time::{Duration, Instant};

/// Waits for a condition, with a deadline; what was last seen is the error.
///
/// # Errors
/// Time is up.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() >= deadline => anyhow::bail!("{what}: not within {} s; last seen: {seen}", deadline.as_secs()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
