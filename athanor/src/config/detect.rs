//! `config detect`: a complete configuration out of this machine's real network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, bail};
use athanor_boot_agent::{Interface, interfaces, probe};
use athanor_crds::{
    SubnetSpec,
    subnet::{AddressRange, Mode},
};
use clap::{Args, ValueEnum};
use ipnet::{IpNet, Ipv4Net};

use super::{Api, Config, Http, Metrics, default_data_dir, default_loader_dirs, default_ramdisk_dir};

/// How many addresses a proposed range has at the most: a cellar has fewer machines, a rack row can say more.
const RANGE: u32 = 100;
/// The smallest network that has room for a machine beside this one: a /30 has two addresses.
const SMALLEST: u8 = 30;
/// How many addresses are asked whether they are in use.
const MAX_SWEEP: u32 = 1024;
/// How long neighbours have to answer ARP.
const SWEEP_WAIT: Duration = Duration::from_millis(1500);

/// Arguments of `config detect`.
#[derive(Debug, Args)]
pub(crate) struct DetectArgs {
    /// The interface that machines boot on [default: the one that has no default route, else the only one]
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// How the configuration is written
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

/// What was seen on the network.
struct Findings {
    interface: Interface,
    net: Ipv4Net,
    own: Ipv4Addr,
    /// Every address that this machine has in the network, on whatever interface.
    ours: Vec<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    dns: Vec<Ipv4Addr>,
    neighbours: BTreeSet<Ipv4Addr>,
    foreign: Option<Ipv4Addr>,
    others: Vec<String>,
}

/// Prints a configuration.
///
/// # Errors
/// No interface can serve, or the probe needs a right.
pub(crate) fn detect(args: &DetectArgs) -> anyhow::Result<String> {
    let findings = look(args.interface.as_deref())?;
    let (config, spec) = propose(&findings);
    if args.output == Format::Json {
        return Ok(format!("{}\n", serde_json::to_string_pretty(&config)?));
    }
    Ok(render(&config, &findings, &spec))
}

fn look(wanted: Option<&str>) -> anyhow::Result<Findings> {
    let all = interfaces();
    let usable: Vec<Interface> =
        all.iter().filter(|interface| interface.up && interface.mac.is_some() && !interface.addresses.is_empty()).cloned().collect();
    let names: Vec<&str> = usable.iter().map(|interface| interface.name.as_str()).collect();
    let default_route = default_route();
    let chosen = match wanted {
        Some(name) => usable.iter().find(|interface| interface.name == name).with_context(|| unusable(name, &all, &names))?,
        None => {
            let without_route = usable.iter().find(|interface| default_route.as_ref().is_none_or(|(name, _)| *name != interface.name));
            without_route
                .or(usable.first())
                .with_context(|| format!("no interface is up with an IPv4 address; {}", give_address("eth1")))?
        }
    };
    let interface = chosen.clone();
    // An address that the machine gave itself, or one of a point-to-point link, is in no network of machines.
    let serves = |(ip, prefix): &&(Ipv4Addr, u8)| !ip.is_link_local() && *prefix <= SMALLEST;
    let Some((own, prefix)) = interface.addresses.iter().find(serves).copied() else {
        let has: Vec<String> = interface.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
        bail!(
            "{} has {}: no network in which machines could be given addresses; {}, or name another interface with --interface",
            interface.name,
            has.join(", "),
            give_address(&interface.name)
        )
    };
    let net = Ipv4Net::new(own, prefix)?.trunc();
    let on_it: Vec<Ipv4Addr> = interface.addresses.iter().map(|(ip, _)| *ip).collect();
    let mac = interface.mac.context("the interface has no hardware address")?;
    let foreign = probe(&interface.name, mac, &on_it, "detect")
        .with_context(|| format!("cannot look for another DHCP server on {}; this needs CAP_NET_RAW: run as root", interface.name))?;
    Ok(Findings {
        others: names.iter().filter(|name| **name != interface.name).map(|name| (*name).to_owned()).collect(),
        // A gateway of another network on the same wire is none for machines of this one.
        gateway: default_route.filter(|(name, _)| *name == interface.name).and_then(|(_, gateway)| gateway).filter(|ip| net.contains(ip)),
        dns: resolvers(),
        neighbours: neighbours(&interface.name, net, own),
        ours: all.iter().flat_map(|interface| &interface.addresses).map(|(ip, _)| *ip).filter(|ip| net.contains(ip)).collect(),
        interface,
        net,
        own,
        foreign,
    })
}

/// What is wrong with an interface that somebody named, and what to do.
fn unusable(name: &str, all: &[Interface], usable: &[&str]) -> String {
    let what = match all.iter().find(|interface| interface.name == name) {
        None => {
            let names: Vec<&str> =
                all.iter().filter(|interface| interface.mac.is_some()).map(|interface| interface.name.as_str()).collect();
            return format!("--interface {name}: there is no such interface; there are: {}", names.join(", "));
        }
        Some(found) if found.mac.is_none() => "it has no hardware address".to_owned(),
        Some(found) if !found.up => format!("it is down; for example: ip link set {name} up"),
        Some(_) => format!("it has no IPv4 address; {}", give_address(name)),
    };
    let others = if usable.is_empty() { String::new() } else { format!("; these could serve: {}", usable.join(", ")) };
    format!("--interface {name}: {what}{others}")
}

fn give_address(interface: &str) -> String {
    format!("give it one first, for example: ip addr add 192.168.10.1/24 dev {interface}")
}

/// The interface with the default route, and the gateway behind it: a point-to-point link has none.
fn default_route() -> Option<(String, Option<Ipv4Addr>)> {
    let table = fs::read_to_string("/proc/net/route").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, "00000000", gateway, ..] = fields.as_slice() else { return None };
        let bytes = u32::from_str_radix(gateway, 16).ok()?.to_le_bytes();
        Some(((*name).to_owned(), (bytes != [0; 4]).then(|| Ipv4Addr::from(bytes))))
    })
}

/// Name servers that other machines can reach, too.
fn resolvers() -> Vec<Ipv4Addr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")).filter_map(|ip| ip.trim().parse::<Ipv4Addr>().ok());
    servers.filter(|ip| !ip.is_loopback()).take(3).collect()
}

/// Who answers ARP: a packet to each address makes the kernel ask.
fn neighbours(interface: &str, net: Ipv4Net, own: Ipv4Addr) -> BTreeSet<Ipv4Addr> {
    if let Ok(socket) = UdpSocket::bind((own, 0)) {
        // The discard port; nobody has to listen.
        for ip in net.hosts().take(MAX_SWEEP as usize).filter(|ip| *ip != own) {
            let _ = socket.send_to(&[], (ip, 9));
        }
        std::thread::sleep(SWEEP_WAIT);
    }
    let table = fs::read_to_string("/proc/net/arp").unwrap_or_default();
    let complete = |fields: &Vec<&str>| fields.get(2).is_some_and(|flags| *flags != "0x0") && fields.get(5) == Some(&interface);
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .filter(complete)
        .filter_map(|fields| fields.first()?.parse().ok())
        .collect()
}

fn propose(findings: &Findings) -> (Config, SubnetSpec) {
    let mut spec = SubnetSpec::of(IpNet::V4(findings.net));
    spec.interfaces = Vec::new();
    spec.gateway = findings.gateway.map(IpAddr::V4);
    spec.dns = findings.dns.iter().copied().map(IpAddr::V4).collect();
    if findings.foreign.is_some() {
        spec.mode = Mode::Proxy;
    } else {
        spec.mode = Mode::Dhcp;
        spec.ranges = free_ranges(findings);
        spec.reserved = findings.ours.iter().copied().map(IpAddr::V4).collect();
    }
    let config = Config {
        data_dir: default_data_dir(),
        node: None,
        media_dirs: vec![default_data_dir().join("media")],
        loader_dirs: default_loader_dirs(),
        ramdisk_dir: default_ramdisk_dir(),
        api: Api::default(),
        http: Http::default(),
        metrics: Metrics::default(),
        subnets: [("lab".to_owned(), spec.clone())].into(),
        written: BTreeMap::new(),
    };
    (config, spec)
}

/// A hundred addresses from .100 on, or the upper half of a small network, without those that are in use.
fn free_ranges(findings: &Findings) -> Vec<AddressRange> {
    let (first, last) = (u32::from(findings.net.network()), u32::from(findings.net.broadcast()));
    let size = last - first;
    let (from, to) = if size >= 255 { (first + 100, first + 199) } else { (first + size / 2, last.saturating_sub(1)) };
    let used: BTreeSet<u32> = findings.neighbours.iter().chain(&findings.ours).chain(&findings.gateway).map(|ip| u32::from(*ip)).collect();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for ip in (from..=to).take(RANGE as usize).filter(|ip| !used.contains(ip)) {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == ip => *end = ip,
            _ => ranges.push((ip, ip)),
        }
    }
    // More pieces than the API takes: the largest ones are enough.
    ranges.sort_by_key(|(from, to)| std::cmp::Reverse(to - from));
    ranges.truncate(16);
    ranges.sort_unstable();
    let ip = |value: u32| IpAddr::V4(Ipv4Addr::from(value));
    ranges.into_iter().map(|(from, to)| AddressRange { from: ip(from), to: ip(to) }).collect()
}

/// What was seen on the network, as comments.
fn seen(findings: &Findings, spec: &SubnetSpec) -> Vec<String> {
    let mut lines = Vec::new();
    let seen = match findings.foreign {
        Some(server) => format!("{server} answers DHCP here: mode proxy, boot files only"),
        None => {
            let pool = spec.ranges.first().zip(spec.ranges.last()).map(|(a, b)| format!(", pool {}–{}", a.from, b.to)).unwrap_or_default();
            format!("no other DHCP server answered in 5 s: mode dhcp{pool} ({} neighbours avoided)", findings.neighbours.len())
        }
    };
    lines.push(format!("# {}  {}/{}, {seen}", findings.interface.name, findings.own, findings.net.prefix_len()));
    let elsewhere: Vec<String> = findings
        .interface
        .addresses
        .iter()
        .filter(|(ip, _)| !findings.net.contains(ip))
        .map(|(ip, prefix)| format!("{ip}/{prefix}"))
        .collect();
    if !elsewhere.is_empty() {
        lines.push(format!(
            "# {} also has {}; add a subnet for each network that is to be served",
            findings.interface.name,
            elsewhere.join(", ")
        ));
    }
    if !findings.others.is_empty() {
        lines.push(format!("# other interfaces: {}; choose one with --interface", findings.others.join(", ")));
    }
    lines
}

fn render(config: &Config, findings: &Findings, spec: &SubnetSpec) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    seen(findings, spec).into_iter().for_each(&mut line);
    line(format!("dataDir: {}", config.data_dir.display()));
    line("# ISOs are read from these folders and from nowhere else.".to_owned());
    line(format!("mediaDirs: [{}]", config.media_dirs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")));
    line("# The first folder that has a loader wins; the package ipxe fills /usr/lib/ipxe.".to_owned());
    line(format!("loaderDirs: [{}]", config.loader_dirs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")));
    line("# The machine-agent's ramdisk (make ramdisk): it looks at hardware, writes images and wipes. Without it nobody does.".to_owned());
    line(format!("ramdiskDir: {}", config.ramdisk_dir.display()));
    line("api:".to_owned());
    line(format!("  listen: {}            # TLS; `athanor kubeconfig` prints how to reach it", config.api.listen));
    line("http:".to_owned());
    line(format!("  port: {}                        # what machines fetch from", config.http.port));
    line("metrics:".to_owned());
    line(format!("  listen: {}            # for Prometheus; health, too", config.metrics.listen));
    line("subnets:".to_owned());
    line("  lab:".to_owned());
    line(format!("    cidr: {}", spec.cidr));
    line(format!(
        "    mode: {}                      # dhcp: addresses and boot files; proxy: boot files beside another DHCP server; \"off\"",
        spec.mode
    ));
    match spec.gateway {
        Some(gateway) => line(format!("    gateway: {gateway}")),
        None => line("    # gateway: none was found on this interface".to_owned()),
    }
    if spec.dns.is_empty() {
        line("    # dns: []  none was found that other machines can reach".to_owned());
    } else {
        line(format!("    dns: [{}]", spec.dns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    }
    if !spec.ranges.is_empty() {
        let ranges: Vec<String> = spec.ranges.iter().map(|range| format!("{{from: {}, to: {}}}", range.from, range.to)).collect();
        line(format!("    ranges: [{}]", ranges.join(", ")));
        let ours: Vec<String> = findings.ours.iter().map(ToString::to_string).collect();
        line(format!("    reserved: [{}]          # this machine", ours.join(", ")));
    }
    line("    serves: machines                # everyone: also laptops".to_owned());
    line("    newcomers:".to_owned());
    line("      namespace: default            # where machines that register themselves appear".to_owned());
    line("      perMinute: 30".to_owned());
    line("      total: 500".to_owned());
    line(
        "      # Half a minute, then its own disk: a server with an operating system is not taken hostage. Empty machines may Wait."
            .to_owned(),
    );
    line("      whileUnaccepted: LocalDiskThenWait".to_owned());
    out
}
