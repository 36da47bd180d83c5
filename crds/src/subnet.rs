//! Subnet: an L3 network that the boot plane serves.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, rules};

/// An L3 network that the boot plane serves. Cluster-scoped: a physical segment has one truth.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metal.athanor.dev",
    version = "v1alpha1",
    kind = "Subnet",
    plural = "subnets",
    shortname = "asn",
    category = "athanor",
    status = "SubnetStatus",
    derive = "PartialEq",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Serves", type_ = "string", json_path = ".spec.serves"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.used"),
    printcolumn(name = "Gateway", type_ = "string", json_path = ".spec.gateway", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!isCIDR(self.cidr) || !has(self.gateway) || cidr(self.cidr).containsIP(self.gateway)", "must be inside the cidr", ".gateway"),
    ("!isCIDR(self.cidr) || !has(self.gateway) || cidr(self.cidr).prefixLength() >= 31 || !self.cidr.startsWith(self.gateway + '/')",
     "is the network's own address, not a gateway's", ".gateway"),
    ("!isCIDR(self.cidr) || !has(self.ranges) || self.ranges.all(r, cidr(self.cidr).containsIP(r.from) && cidr(self.cidr).containsIP(r.to))",
     "every range must be inside the cidr", ".ranges"),
    ("!isCIDR(self.cidr) || !has(self.reserved) || self.reserved.all(r, cidr(self.cidr).containsIP(r))", "every reserved address must be inside the cidr", ".reserved"),
])))]
pub struct SubnetSpec {
    /// The network, like `192.168.10.0/24` or `fd00:10::/64`.
    #[schemars(schema_with = "cidr_schema")]
    pub cidr: IpNet,
    /// The interfaces that serve it; by default every interface with an address in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 15), regex(pattern = r"^[^\s/]+$")))]
    pub interfaces: Vec<String>,
    /// The default gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::ip")]
    pub gateway: Option<IpAddr>,
    /// DNS servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::servers")]
    pub dns: Vec<IpAddr>,
    /// NTP servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::servers")]
    pub ntp: Vec<IpAddr>,
    /// The domain name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hostname")]
    pub domain: Option<String>,
    /// Whether we give addresses here, only boot files beside another DHCP server, or nothing.
    #[serde(default)]
    pub mode: Mode,
    /// Where addresses are taken from when nobody fixed one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ranges: Vec<AddressRange>,
    /// Addresses that are never given, fixed or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::reserved")]
    pub reserved: Vec<IpAddr>,
    /// How long an address is lent, in seconds.
    #[serde(default = "default_lease")]
    #[schemars(range(min = 120, max = 31_536_000))]
    pub lease_seconds: u32,
    /// Who gets an address.
    #[serde(default)]
    pub serves: Serves,
    /// How machines that nobody knows are met.
    #[serde(default)]
    pub newcomers: Newcomers,
    /// Relay agents that speak for this network, by their address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub relays: Vec<Relay>,
    /// DHCP options sent as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["code"]))]
    pub options: Vec<RawOption>,
    /// Whether we probe for another DHCP server before we answer with authority.
    #[serde(default)]
    pub authority: Authority,
    /// What happens to known machines when another DHCP server shows up.
    #[serde(default)]
    pub on_foreign_server: OnForeignServer,
    /// The name of the loader chain to use instead of the architecture's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::loader")]
    pub loader: Option<String>,
}

fn cidr_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string", "maxLength": 49,
        "x-kubernetes-validations": rules(&[
            ("isCIDR(self)", "must be a network in CIDR notation, like 192.168.10.0/24", ""),
            ("self.contains(':') || !self.matches('(^|[.])0[0-9]')", "has a leading zero, which some read as octal; leave it out", ""),
            ("!isCIDR(self) || cidr(self) == cidr(self).masked()", "has bits set behind its prefix; write the network's own address", ""),
            ("!isCIDR(self) || (cidr(self).prefixLength() >= 8 && cidr(self).ip().isGlobalUnicast())",
             "must be a network of hosts: no multicast, loopback or link-local network, and no shorter prefix than /8", ""),
        ])
    })
}

/// The default lease: an hour. Machines renew at half of it, so a renumbering is through in thirty minutes.
pub const DEFAULT_LEASE_SECONDS: u32 = 3600;

fn default_lease() -> u32 {
    DEFAULT_LEASE_SECONDS
}

/// What we do on a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Addresses and boot files, with authority.
    Dhcp,
    /// Boot files beside another DHCP server.
    Proxy,
    /// Nothing.
    #[default]
    Off,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dhcp => "dhcp",
            Self::Proxy => "proxy",
            Self::Off => "off",
        })
    }
}

/// Addresses from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!isIP(self.from) || !isIP(self.to) || ip(self.from).family() == ip(self.to).family()", "from and to must be of one family", ""),
    // CEL cannot compare addresses; equal-length dotted quads are compared octet by octet.
    ("!isIP(self.from) || !isIP(self.to) || ip(self.from).family() != 4 || ip(self.to).family() != 4 || \
      int(self.from.split('.')[0]) * 16777216 + int(self.from.split('.')[1]) * 65536 + int(self.from.split('.')[2]) * 256 + int(self.from.split('.')[3]) <= \
      int(self.to.split('.')[0]) * 16777216 + int(self.to.split('.')[1]) * 65536 + int(self.to.split('.')[2]) * 256 + int(self.to.split('.')[3])",
     "from must not come after to", ""),
])))]
pub struct AddressRange {
    /// The first address.
    #[schemars(schema_with = "schema::ip")]
    pub from: IpAddr,
    /// The last address.
    #[schemars(schema_with = "schema::ip")]
    pub to: IpAddr,
}

impl AddressRange {
    /// Whether an address lies in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.from <= ip && ip <= self.to && self.from.is_ipv4() == ip.is_ipv4()
    }
}

/// What is said of a text that is no network.
pub const NO_CIDR: &str = "must be a network, like 192.168.10.0/24; a prefix has 0 to 32 bits, or 128 with IPv6";

/// Who gets an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Serves {
    /// Machines only: what boots from the network or is known.
    #[default]
    Machines,
    /// Also laptops.
    Everyone,
}

/// How machines that nobody knows are met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Newcomers {
    /// Where they register.
    #[serde(default = "default_newcomer_namespace")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: String,
    /// How many may register in a minute; 0 means none.
    #[serde(default = "default_per_minute")]
    #[schemars(range(min = 0, max = 10_000))]
    pub per_minute: u32,
    /// How many may wait unaccepted at once.
    #[serde(default = "default_total")]
    #[schemars(range(min = 0, max = 100_000))]
    pub total: u32,
    /// What they do until somebody accepts them.
    #[serde(default)]
    pub while_unaccepted: WhileUnaccepted,
    /// Who accepts them.
    #[serde(default)]
    pub accept: Accept,
}

impl Default for Newcomers {
    fn default() -> Self {
        Self {
            namespace: default_newcomer_namespace(),
            per_minute: default_per_minute(),
            total: default_total(),
            while_unaccepted: WhileUnaccepted::default(),
            accept: Accept::default(),
        }
    }
}

fn default_newcomer_namespace() -> String {
    crate::names::DEFAULT_NAMESPACE.to_owned()
}
fn default_per_minute() -> u32 {
    30
}
fn default_total() -> u32 {
    500
}

/// Who accepts newcomers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accept {
    /// A person, one by one.
    #[default]
    Manual,
    /// Nobody has to: for labs, where whatever is plugged in is to be used. Data on its disks is kept all the same.
    Always,
}

/// What a newcomer does until somebody accepts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhileUnaccepted {
    /// It says how to accept it, polls for 30 s, then boots its own disk.
    #[default]
    LocalDiskThenWait,
    /// It polls until somebody does.
    Wait,
    /// It boots its own disk at once.
    LocalDisk,
}

/// A relay agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Relay {
    /// Its address (giaddr).
    #[schemars(schema_with = "schema::ip")]
    pub address: IpAddr,
}

/// A DHCP option sent as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!(self.code in [1, 50, 51, 52, 53, 54, 55, 57, 58, 59, 61, 82])", "this option is decided by the server and cannot be given", ".code"),
    ("self.hex.size() % 2 == 0", "needs an even number of hexadecimal digits", ".hex"),
])))]
pub struct RawOption {
    /// Its code.
    #[schemars(range(min = 1, max = 254))]
    pub code: u8,
    /// Its value in hexadecimal.
    #[schemars(length(max = 510), regex(pattern = "^[0-9a-f]*$"))]
    pub hex: String,
}

impl RawOption {
    /// The value's bytes; odd or foreign digits, which the schema refuses, end it.
    pub fn bytes(&self) -> Vec<u8> {
        self.hex.as_bytes().chunks_exact(2).map_while(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
    }
}

/// Whether we make sure to be alone before we answer with authority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Authority {
    /// A probe of 5 s comes first.
    #[default]
    Probed,
    /// Somebody vouches for it.
    Assumed,
}

/// What happens to known machines when another DHCP server shows up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnForeignServer {
    /// They are served as before: one forged OFFER must not switch a fleet off.
    #[default]
    KeepKnown,
    /// They get boot files only.
    Proxy,
}

/// What the operator knows about a Subnet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetStatus {
    /// The generation this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Addresses in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub used: Option<u32>,
    /// The agents that serve it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node", "interface"]))]
    pub servers: Vec<SubnetServer>,
    /// Conditions: Ready, Authoritative; ForeignDHCP where somebody looked; Supported where it is not; NewcomersLimited where some are turned away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// An agent that serves a Subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetServer {
    /// Its node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The interface.
    #[schemars(length(max = 15))]
    pub interface: String,
    /// The address it serves from.
    #[schemars(length(max = 45))]
    pub address: String,
    /// What its probe for another DHCP server said: `Probing`, `Alone`, `Assumed`, `Foreign`, or `Unneeded` where no
    /// address is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub authority: Option<String>,
    /// The other DHCP server, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub foreign_server: Option<String>,
    /// Kinds of firmware that it has no loader for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 128)))]
    pub lacks: Vec<String>,
    /// Newcomers that it turned away within the last minute, and by which limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub limited: Option<String>,
    /// The other addresses that the interface has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 45)))]
    pub other_addresses: Vec<String>,
    /// It has the machine-agent's ramdisk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ramdisk: bool,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub version: Option<String>,
}

impl SubnetSpec {
    /// Whether an interface with these addresses serves it: the ones it names, else those with an address in it. Mode `off` is served
    /// nowhere.
    pub fn is_served_on(&self, interface: &str, addresses: &[IpAddr]) -> bool {
        let here = addresses.iter().any(|address| self.cidr.contains(address));
        self.mode != Mode::Off
            && self.is_supported()
            && if self.interfaces.is_empty() { here } else { self.interfaces.iter().any(|name| name == interface) }
    }

    /// Whether both are served and share addresses: what is not served is in nobody's way.
    pub fn overlaps(&self, other: &Self) -> bool {
        let served = self.mode != Mode::Off && other.mode != Mode::Off;
        served && (self.cidr.contains(&other.cidr) || other.cidr.contains(&self.cidr))
    }

    /// Whether it is served through its relays, on whatever interface leads to them.
    pub fn is_served_through_relays(&self) -> bool {
        self.mode != Mode::Off && self.is_supported() && self.interfaces.is_empty() && !self.relays.is_empty()
    }

    /// Whether an interface with these addresses meets it through relays only: its machines are somewhere else.
    pub fn is_behind_relays(&self, addresses: &[IpAddr]) -> bool {
        !self.relays.is_empty() && !addresses.iter().any(|address| self.cidr.contains(address))
    }

    /// A Subnet with every default; what tests and `config detect` start from.
    pub fn of(cidr: IpNet) -> Self {
        Self {
            cidr,
            interfaces: Vec::new(),
            gateway: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            domain: None,
            mode: Mode::default(),
            ranges: Vec::new(),
            reserved: Vec::new(),
            lease_seconds: DEFAULT_LEASE_SECONDS,
            serves: Serves::default(),
            newcomers: Newcomers::default(),
            relays: Vec::new(),
            options: Vec::new(),
            authority: Authority::default(),
            on_foreign_server: OnForeignServer::default(),
            loader: None,
        }
    }

    /// Whether an address may be given to a client at all: inside the CIDR, neither its network nor its broadcast address, not reserved, not the gateway.
    pub fn may_give(&self, ip: IpAddr) -> bool {
        let edge = match self.cidr {
            // A /31 and a /32 have neither network nor broadcast address (RFC 3021).
            IpNet::V4(net) => net.prefix_len() < 31 && (ip == IpAddr::V4(net.network()) || ip == IpAddr::V4(net.broadcast())),
            IpNet::V6(net) => ip == IpAddr::V6(net.network()),
        };
        self.cidr.contains(&ip) && !edge && !self.reserved.contains(&ip) && self.gateway != Some(ip)
    }

    /// Whether this version serves it: IPv4 only.
    pub fn is_supported(&self) -> bool {
        matches!(self.cidr, IpNet::V4(_))
    }

    /// What is wrong with it that its schema cannot say: CEL has no order of addresses.
    pub fn fault(&self) -> Option<String> {
        let mut ranges: Vec<&AddressRange> = self.ranges.iter().collect();
        ranges.sort_by_key(|range| range.from);
        if let Some([one, other]) = ranges.array_windows().find(|[one, other]| one.contains(other.from)) {
            return Some(format!("spec.ranges: {}–{} and {}–{} overlap; make one range of them", one.from, one.to, other.from, other.to));
        }
        match self.cidr {
            IpNet::V4(net) if net.prefix_len() < 31 && self.gateway == Some(IpAddr::V4(net.broadcast())) => {
                Some(format!("spec.gateway: {} is the broadcast address of {net}", net.broadcast()))
            }
            _ => None,
        }
    }

    /// The subnet mask, for IPv4.
    pub fn mask(&self) -> Option<Ipv4Addr> {
        match self.cidr {
            IpNet::V4(net) => Some(net.netmask()),
            IpNet::V6(_) => None,
        }
    }
}
