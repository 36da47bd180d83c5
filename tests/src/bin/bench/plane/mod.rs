//! The boot plane beside its peers: one segment, one host that serves, one that asks. Each server runs alone, one after the other, with the same
//! files, in the same network, asked by the same program.

pub(crate) mod dhcp;
pub(crate) mod getter;
pub(crate) mod http;
pub(crate) mod reader;
pub(crate) mod tftp;

use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use athanor_tests::{Neighbour, Rack, Service, rack::Process, tools, wait_for};

/// The processor that servers run on.
const SERVES: &str = "0";
/// The processor of whoever asks. In lock-step two programs on one processor are three times as fast as on two, and where the scheduler puts them
/// is luck.
const ASKS: &str = "1";
/// Where everybody serves.
const SERVER: &str = "10.64.0.1";
/// Where everybody asks from.
const CLIENT: &str = "10.64.0.2";

/// The network of the clients' own addresses: the host that asks takes all of it for its own.
const CLIENTS: &str = "10.64.8.0/21";

/// The address of a client.
fn address_of(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 64, 8 | (high & 7), low)
}

/// A segment with a host that serves and one that asks.
struct Segment {
    rack: Rack,
    client: Neighbour,
}

impl Segment {
    fn up() -> anyhow::Result<Self> {
        let rack = Rack::up()?;
        rack.ip(&format!("addr add {SERVER}/10 dev br0"))?;
        let client = rack.neighbour(&format!("{CLIENT}/10"))?;
        client.ip(&format!("route add local {CLIENTS} dev lo"))?;
        fs::create_dir_all(rack.file("files"))?;
        Ok(Self { rack, client })
    }

    /// A file of random bytes that every server serves.
    fn file(&self, name: &str, length: usize) -> anyhow::Result<PathBuf> {
        let path = self.rack.file("files").join(name);
        let mut random = fs::File::open("/dev/urandom")?;
        let mut file = fs::File::create(&path)?;
        std::io::copy(&mut std::io::Read::take(&mut random, length as u64), &mut file)?;
        file.flush()?;
        Ok(path)
    }

    /// Our own server.
    fn ours(&self) -> anyhow::Result<Service<'_>> {
        let files = self.rack.file("files");
        let service = Service::start_on(
            &self.rack,
            |config| {
                let top: String = config.lines().filter(|line| line.contains("Dir")).map(|line| format!("{line}\n")).collect();
                format!(
                    "{top}loaderDirs: [{}, /usr/lib/ipxe]\nsubnets:\n  bench:\n    cidr: 10.64.0.0/10\n    mode: dhcp\n    authority: assumed\n    \
                     ranges: [{{from: 10.65.0.0, to: 10.66.255.255}}]\n",
                    files.display()
                )
            },
            false,
        )?;
        let pid = service.pid().context("the services ended")?.to_string();
        tools::run(Command::new("taskset").args(["-a", "-c", "-p", SERVES, &pid]))?;
        Ok(service)
    }

    /// A peer, once a port of it is open (`udp` or `tcp`).
    fn peer(&self, line: &str, table: &str, port: u16) -> anyhow::Result<Process> {
        let mut command = self.rack.command("taskset");
        command
            .args(["-c", SERVES])
            .args(line.split_whitespace())
            .env("KEA_PIDFILE_DIR", self.rack.folder())
            .env("KEA_LOCKFILE_DIR", self.rack.folder());
        let errors = fs::File::create(self.rack.file("peer.log"))?;
        let process = Process(command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors).spawn()?);
        let needle = format!(":{port:04X} ");
        wait_for(line, Duration::from_secs(10), || {
            let sockets = tools::run(self.rack.command("cat").arg(format!("/proc/net/{table}"))).map_err(|error| error.to_string())?;
            if sockets.contains(&needle) { Ok(()) } else { Err(fs::read_to_string(self.rack.file("peer.log")).unwrap_or_default()) }
        })?;
        Ok(process)
    }

    /// This program, run as one of its parts on the host that asks.
    fn ask(&self, args: &[String]) -> anyhow::Result<String> {
        tools::run(self.client.command("taskset").args(["-c", ASKS]).arg(std::env::current_exe()?).args(args))
    }
}

/// A program of Debian's; where one is missing, the packages that all suites want are named.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.with_context(|| format!("{name} is missing: ./scripts/setup.sh peers installs what the bench compares with"))
}

/// The version of a Debian package.
fn version(package: &str) -> String {
    let shown = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output();
    shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
