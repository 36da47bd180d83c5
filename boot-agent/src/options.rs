//! What an agent is started with, and why it could not start.

use std::{io, path::PathBuf};

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's name.
    pub node: String,
    /// The installation's id: probes that carry it are our own.
    pub installation: String,
    /// The Deployment of the system's namespace, by name and uid, with which the agent's Lease goes; none where nothing installed it.
    pub installed_by: Option<(String, String)>,
    /// Where verdicts about other servers are kept.
    pub data_dir: PathBuf,
    /// The only folders that ISOs are read from.
    pub media_dirs: Vec<PathBuf>,
    /// Folders with loaders; the first that has a file wins.
    pub loader_dirs: Vec<PathBuf>,
    /// The machine-agent's ramdisk: `vmlinuz` and `initramfs`. Without one nobody looks at hardware, writes images or wipes.
    pub ramdisk_dir: Option<PathBuf>,
    /// The port of boot HTTP.
    pub http_port: u16,
    /// The API lives elsewhere: what it said is kept for when it is away, and a newer agent on this node takes over from this one.
    pub in_cluster: bool,
}

impl Options {
    /// Whether the machine-agent can be served.
    pub(crate) fn has_ramdisk(&self) -> bool {
        self.ramdisk_dir.as_ref().is_some_and(|folder| ["vmlinuz", "initramfs"].iter().all(|file| folder.join(file).is_file()))
    }
}

/// The ports that TFTP transfers share.
pub(crate) const TRANSFER_PORTS: std::ops::RangeInclusive<u16> = 7490..=7497;
/// The port of TFTP requests.
pub(crate) const TFTP_PORT: u16 = 69;

/// Why the boot plane cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another program has the port.
    #[error("cannot serve {service} on {place}: port {port} is in use{}. {hint}", .holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    PortInUse {
        /// DHCP, TFTP, HTTP.
        service: &'static str,
        /// The interface or address.
        place: String,
        /// The port.
        port: u16,
        /// `name (pid n)`, where it can be told.
        holder: Option<String>,
        /// What to do.
        hint: &'static str,
    },
    /// No right to use it.
    #[error("port {port} needs CAP_NET_BIND_SERVICE and CAP_NET_RAW: run as root, or setcap cap_net_bind_service,cap_net_raw+ep {exe}")]
    NoRight {
        /// The port.
        port: u16,
        /// This program.
        exe: String,
    },
    /// Something else is wrong with a socket.
    #[error("cannot serve {service} on {place}: {source}")]
    Socket {
        /// DHCP, TFTP, HTTP.
        service: &'static str,
        /// The interface or address.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The API cannot be watched.
    #[error("the API cannot be watched: {0}")]
    Api(String),
}

impl AgentError {
    /// A word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::PortInUse { .. } => "port-in-use",
            Self::NoRight { .. } => "no-right",
            Self::Socket { .. } => "socket",
            Self::Api(_) => "api",
        }
    }
}
