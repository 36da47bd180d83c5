//! ISC's DHCP client, out of its Debian package: what laptops ran for twenty years.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::{Rack, guest, rack::Neighbour, tools};

/// What it does with an address: it takes it, for it renews from there.
const TAKES: &str = "#!/bin/sh\n[ -z \"$new_ip_address\" ] || ip addr replace \"$new_ip_address/24\" dev \"$interface\"\nexit 0\n";

/// Where it writes what it has.
pub const LEASES: &str = "dhclient.leases";

/// Runs it on a host's `eth0`: `-1` to get an address, after which it renews in the background; `-r` to give it back.
///
/// # Errors
/// It gets no answer, or the package cannot be had.
pub fn run(rack: &Rack, host: &Neighbour, how: &str) -> anyhow::Result<String> {
    let script = rack.file("dhclient.sh");
    fs::write(&script, TAKES)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    fs::write(rack.file("dhclient.conf"), "timeout 20;\n")?;
    // The one before goes on in the background, and nobody would end it.
    if let Some(before) = fs::read_to_string(rack.file("dhclient.pid")).ok().filter(|_| how == "-1") {
        tools::run(rack.command("kill").arg(before.trim()))?;
    }
    let mut command = host.command(guest::packaged("isc-dhcp-client", "sbin/dhclient")?);
    for (option, name) in [("-sf", "dhclient.sh"), ("-lf", LEASES), ("-pf", "dhclient.pid"), ("-cf", "dhclient.conf")] {
        command.arg(option).arg(rack.file(name));
    }
    tools::run(command.args([how, "eth0"]))
}
