//! A machine that speaks DHCP as iPXE does, without the wait for firmware: busybox' client with the user class "iPXE", and curl.

use std::{fs, process::Command, time::Duration};

use anyhow::Context as _;

use crate::{Neighbour, Rack, rack::HOST, tools, wait_for};

/// The machine.
pub struct FakeIpxe {
    /// Where it runs.
    pub host: Neighbour,
    /// Its MAC address.
    pub mac: String,
    lease: std::path::PathBuf,
}

impl FakeIpxe {
    /// Plugs it into the rack.
    ///
    /// # Errors
    /// There is no right to do so.
    pub fn plug(rack: &Rack) -> anyhow::Result<Self> {
        let host = rack.neighbour("192.168.10.77/24")?;
        let mac = host.mac()?;
        let lease = rack.file("lease.sh");
        fs::write(&lease, "#!/bin/sh\n[ \"$1\" = bound ] && echo \"file=$boot_file ip=$ip\"\nexit 0\n")?;
        tools::run(Command::new("chmod").arg("+x").arg(&lease))?;
        Ok(Self { host, mac, lease })
    }

    /// The name that it registers under.
    pub fn name(&self) -> String {
        format!("m-{}", self.mac.replace(':', ""))
    }

    /// The boot file that DHCP names.
    ///
    /// # Errors
    /// Nobody gives it an address.
    pub fn boot_file(&self) -> anyhow::Result<String> {
        self.file("-x 0x4d:69505845")
    }

    /// The loader that DHCP names to its ROM.
    ///
    /// # Errors
    /// Nobody gives it an address.
    pub fn loader(&self) -> anyhow::Result<String> {
        self.file("")
    }

    fn file(&self, more: &str) -> anyhow::Result<String> {
        let line = format!("udhcpc -i eth0 -n -q -f -t 25 -T 1 -V PXEClient:Arch:00000:UNDI:002001 {more} -s");
        let said = tools::run(self.host.command("busybox").args(line.split_whitespace()).arg(&self.lease))?;
        let file = said.lines().find_map(|line| line.split("file=").nth(1)).and_then(|rest| rest.split(' ').next());
        Ok(file.with_context(|| format!("no lease: {said}"))?.to_owned())
    }

    /// What a URL answers; the error is the client's.
    ///
    /// # Errors
    /// It is no success.
    pub fn http(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let output = self.host.command("curl").args(["-sSf", "--path-as-is", "--max-time", "10", url]).output()?;
        anyhow::ensure!(output.status.success(), "{} {}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    /// The same name by TFTP.
    ///
    /// # Errors
    /// It is not there.
    pub fn tftp(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let path = url.splitn(4, '/').nth(3).unwrap_or_default();
        self.http(&format!("tftp://{HOST}/{path}"))
    }

    /// The script with its order, asked for by the name that it was first given.
    ///
    /// # Errors
    /// None comes within some seconds.
    pub fn order(&self, first: &str) -> anyhow::Result<String> {
        wait_for("its order", Duration::from_secs(10), || {
            let script = self.http(&first.replace("boot.ipxe", "poll")).map_err(|error| error.to_string())?;
            let script = String::from_utf8_lossy(&script).into_owned();
            if script.contains("/f/kernel") { Ok(script) } else { Err(script) }
        })
    }

    /// A guest's report with the token of a script, not yet sent; curl prints what is answered.
    ///
    /// # Errors
    /// The script has no token.
    pub fn report(&self, script: &str, outcome: &str) -> anyhow::Result<Command> {
        let report = script.lines().find_map(|line| line.strip_prefix("set report ")).context("no place to report to")?;
        let token = script.split("athanor.report=${report}/").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no token")?;
        let mut command = self.host.command("curl");
        command.args(["-sS", "--max-time", "20", "-d", &format!("{{\"outcome\": \"{outcome}\", \"message\": \"up\"}}")]);
        command.arg(format!("{report}/{token}"));
        Ok(command)
    }
}
