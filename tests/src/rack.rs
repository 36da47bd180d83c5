//! A network namespace with a bridge. One process holds it; when that ends, everything in it is gone.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::{tools, wait_for};

/// The address of the host on the bridge.
pub const HOST: &str = "192.168.10.1";

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace, entered by the process that holds it.
#[derive(Debug)]
pub struct Namespace {
    holder: Process,
    user: bool,
}

impl Namespace {
    fn new() -> anyhow::Result<Self> {
        let user = !is_root();
        let mut command = Command::new("setpriv");
        // It dies with us, also when we are killed.
        command.args(["--pdeathsig", "KILL", "unshare"]);
        if user {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "sleep", "infinity"]).stdin(Stdio::null()).stdout(Stdio::null());
        let holder = Process(command.spawn().context("setpriv and unshare (package util-linux) are needed")?);
        let this = Self { holder, user };
        wait_for("network namespace", Duration::from_secs(10), || {
            let entered = tools::run(this.command("ip").args(["-o", "link"])).map_err(|error| error.to_string())?;
            if entered.lines().count() == 1 { Ok(()) } else { Err("still the host's".to_owned()) }
        })
        .context("no network namespace: run as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)")?;
        Ok(this)
    }

    /// A command inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter", "--net", "-t", &self.holder.0.id().to_string()]);
        if self.user {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    fn ip(&self, line: &str) -> anyhow::Result<()> {
        tools::run(self.command("ip").args(line.split_whitespace())).map(|_| ())
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Removes a folder when this process ends, however it ends: nobody runs destructors after Ctrl-C or `kill -9`. It waits at a pipe that closes
/// with its last writer, which is us.
#[derive(Debug)]
struct Janitor(Child);

impl Janitor {
    fn of(folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        // What still writes there dies at the same moment; the second try is for its last file.
        command.args(["-c", "trap '' INT TERM HUP; read -r _; rm -rf \"$0\" || { sleep 1; rm -rf \"$0\"; }"]).arg(folder);
        Ok(Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A rack: a namespace, a bridge `br0` with 192.168.10.1/24, and a folder for files.
#[derive(Debug)]
pub struct Rack {
    namespace: Namespace,
    folder: TempDir,
    _janitor: Janitor,
    ports: AtomicU32,
}

impl Rack {
    /// Brings a rack up.
    ///
    /// # Errors
    /// A tool is missing, or there is no right to a namespace.
    pub fn up() -> anyhow::Result<Self> {
        tools::ensure()?;
        let namespace = Namespace::new()?;
        namespace.ip("link set lo up")?;
        namespace.ip("link add br0 type bridge")?;
        namespace.ip(&format!("addr add {HOST}/24 dev br0"))?;
        namespace.ip("link set br0 up")?;
        let folder = tempfile::Builder::new().prefix("athanor-rack-").tempdir()?;
        let janitor = Janitor::of(folder.path())?;
        Ok(Self { namespace, folder, _janitor: janitor, ports: AtomicU32::new(0) })
    }

    /// A line of `ip` on the host.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn ip(&self, line: &str) -> anyhow::Result<()> {
        self.namespace.ip(line)
    }

    /// A command on the host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// The rack's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the rack's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A switch port for one more machine: a tap device on the bridge.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn port(&self) -> anyhow::Result<String> {
        self.port_on("br0")
    }

    /// One on another switch of the rack.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn port_on(&self, bridge: &str) -> anyhow::Result<String> {
        let name = format!("tap{}", self.ports.fetch_add(1, Ordering::Relaxed));
        self.namespace.ip(&format!("tuntap add {name} mode tap"))?;
        self.namespace.ip(&format!("link set {name} master {bridge} up"))?;
        Ok(name)
    }

    /// Another switch, `br1`, on which the host has no address, and a router between the two: 192.168.10.2 here, 192.168.20.1 there.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn far_segment(&self) -> anyhow::Result<Neighbour> {
        self.namespace.ip("link add br1 type bridge")?;
        self.namespace.ip("link set br1 up")?;
        let router = self.neighbour("192.168.10.2/24")?;
        self.connect(&router.namespace, "br1", "eth1")?;
        router.ip("addr add 192.168.20.1/24 dev eth1")?;
        tools::run(router.command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))?;
        router.ip(&format!("route add default via {HOST}"))?;
        self.namespace.ip("route add 192.168.20.0/24 via 192.168.10.2")?;
        Ok(router)
    }

    /// A cable from a host to a switch.
    fn connect(&self, namespace: &Namespace, bridge: &str, name: &str) -> anyhow::Result<()> {
        let number = self.ports.fetch_add(1, Ordering::Relaxed);
        let (here, there) = (format!("veth{number}"), format!("peer{number}"));
        self.namespace.ip(&format!("link add {here} type veth peer name {there}"))?;
        // Seen from inside a user namespace, the other holder is a process of the same user.
        self.namespace.ip(&format!("link set {there} netns {}", namespace.holder.0.id()))?;
        self.namespace.ip(&format!("link set {here} master {bridge} up"))?;
        namespace.ip(&format!("link set {there} name {name}"))?;
        namespace.ip(&format!("link set {name} up"))
    }

    /// Another host on the same bridge, with an address.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn neighbour(&self, address: &str) -> anyhow::Result<Neighbour> {
        let neighbour = self.guest()?;
        neighbour.ip(&format!("addr add {address} dev eth0"))?;
        Ok(neighbour)
    }

    /// Another host on the same bridge, that has no address yet.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn guest(&self) -> anyhow::Result<Neighbour> {
        let namespace = Namespace::new()?;
        self.connect(&namespace, "br0", "eth0")?;
        Ok(Neighbour { namespace })
    }
}

/// Another host on the bridge.
#[derive(Debug)]
pub struct Neighbour {
    namespace: Namespace,
}

impl Neighbour {
    /// What names its network to the kernel.
    ///
    /// # Errors
    /// It is gone.
    pub fn network(&self) -> anyhow::Result<PathBuf> {
        let pid = self.namespace.holder.0.id();
        std::fs::read_link(format!("/proc/{pid}/ns/net")).context("the namespace is gone")
    }

    /// A line of `ip` on it.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn ip(&self, line: &str) -> anyhow::Result<()> {
        self.namespace.ip(line)
    }

    /// Its hardware address.
    ///
    /// # Errors
    /// It has none.
    pub fn mac(&self) -> anyhow::Result<String> {
        let link = tools::run(self.command("ip").args(["-o", "link", "show", "eth0"]))?;
        let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
        mac.map(str::to_owned).context("eth0 has no MAC")
    }

    /// A command on it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command(program)
    }
}
