//! dnsmasq on another host of the rack: as a DHCP server, or as a relay.

use std::{process::Stdio, time::Duration};

use crate::{Neighbour, Rack, rack::Process, tools, wait_for};

/// Gives 192.168.10.50 to 60 on the segment, with authority.
///
/// # Errors
/// It does not start.
pub fn giving_addresses(rack: &Rack, on: &Neighbour) -> anyhow::Result<Process> {
    let leases = format!("--dhcp-leasefile={}", rack.file("leases").display());
    start(on, &["--interface=eth0", "--dhcp-authoritative", "--dhcp-range=192.168.10.50,192.168.10.60,1h", &leases])
}

/// Gives one client an address and something to boot, with authority, and ignores everybody else. `who` is its MAC address, and what it is to have: an
/// address, or a name alone, for which dnsmasq then looks an address up, with pings.
///
/// # Errors
/// It does not start.
pub fn knowing_only(rack: &Rack, on: &Neighbour, who: &str) -> anyhow::Result<Process> {
    let (leases, host) = (format!("--dhcp-leasefile={}", rack.file("leases").display()), format!("--dhcp-host={who}"));
    let range = "--dhcp-range=192.168.10.50,192.168.10.60,1h";
    start(on, &["--interface=eth0", "--dhcp-authoritative", range, &leases, &host, "--dhcp-ignore=tag:!known", "--dhcp-boot=other.efi"])
}

/// Gives everybody an address and something to boot, over TFTP, with authority.
///
/// # Errors
/// It does not start.
pub fn booting(rack: &Rack, on: &Neighbour, file: &str) -> anyhow::Result<Process> {
    let root = rack.file("theirs");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join(file), "no loader; that it was asked for is enough")?;
    let (leases, root) = (format!("--dhcp-leasefile={}", rack.file("leases").display()), format!("--tftp-root={}", root.display()));
    let (range, boot) = ("--dhcp-range=192.168.10.50,192.168.10.60,1h", format!("--dhcp-boot={file}"));
    start(on, &["--interface=eth0", "--dhcp-authoritative", range, &leases, "--enable-tftp", &root, &boot])
}

/// Gives everybody something to boot over TFTP, beside whoever gives addresses.
///
/// # Errors
/// It does not start.
pub fn proxying(rack: &Rack, on: &Neighbour, file: &str) -> anyhow::Result<Process> {
    let root = rack.file("theirs");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join(format!("{file}.0")), "no loader; that it was asked for is enough")?;
    let (root, service) = (format!("--tftp-root={}", root.display()), format!("--pxe-service=x86PC,Boot,{file}"));
    start(on, &["--interface=eth0", "--dhcp-range=192.168.10.0,proxy", "--enable-tftp", &root, &service, "--pxe-prompt=x,0"])
}

/// Relays what is asked at `from`, its address on that side, to a server.
///
/// # Errors
/// It does not start.
pub fn relaying(on: &Neighbour, from: &str, to: &str) -> anyhow::Result<Process> {
    start(on, &["--interface=eth1", "--interface=eth0", &format!("--dhcp-relay={from},{to}")])
}

fn start(on: &Neighbour, args: &[&str]) -> anyhow::Result<Process> {
    let mut dnsmasq = on.command("dnsmasq");
    dnsmasq.args(["--no-daemon", "--port=0", "--bind-interfaces", "--no-resolv", "--user=root"]).args(args);
    let dnsmasq = Process(dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    wait_for("dnsmasq", Duration::from_secs(10), || {
        let table = tools::run(on.command("cat").arg("/proc/net/udp")).map_err(|error| error.to_string())?;
        if table.contains(":0043 ") { Ok(()) } else { Err(table) }
    })?;
    Ok(dnsmasq)
}
