//! A machine with real firmware: QEMU under software emulation, which is what runs everywhere.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use athanor_wire::MacAddr;

use crate::{Rack, rack::Process, wait_for};

/// A line of a console that does not grow in so many looks is whole, though nothing ends it: some firmware moves its cursor instead.
const STILL_LOOKS: u32 = 10;

/// Which firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS; the network card brings iPXE in its ROM.
    Bios,
    /// OVMF; its own PXE client.
    Uefi,
    /// OVMF with the keys of Microsoft, under which Debian's shim is signed, and Secure Boot on.
    SecureUefi,
}

/// What a disk is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// SATA.
    Ahci,
    /// NVMe.
    Nvme,
}

impl Bus {
    /// What Linux calls the first disk on it.
    pub fn first_disk(self) -> &'static str {
        match self {
            Self::Virtio => "vda",
            Self::Ahci => "sda",
            Self::Nvme => "nvme0n1",
        }
    }

    /// QEMU's devices, with the drive `d`.
    fn devices(self) -> &'static [&'static str] {
        match self {
            Self::Virtio => &["virtio-blk-pci,drive=d,bootindex=2"],
            Self::Ahci => &["ahci,id=sata", "ide-hd,drive=d,bus=sata.0,serial=ATHANOR-SATA,bootindex=2"],
            Self::Nvme => &["nvme,drive=d,serial=ATHANOR-NVME,bootindex=2"],
        }
    }
}

/// A machine in a rack. It is off until it is switched on.
pub struct Vm<'a> {
    rack: &'a Rack,
    /// Its hardware address.
    pub mac: MacAddr,
    firmware: Firmware,
    port: String,
    disk: Option<(PathBuf, Bus)>,
    http_boot: bool,
    restarts: bool,
    serial: PathBuf,
    process: Option<Process>,
}

impl<'a> Vm<'a> {
    /// A machine plugged into the rack's switch.
    ///
    /// # Errors
    /// The switch has no port left.
    pub fn plug(rack: &'a Rack, firmware: Firmware, mac: &str) -> anyhow::Result<Self> {
        let mac: MacAddr = mac.parse()?;
        let serial = rack.file(&format!("serial-{}.log", mac.to_hex()));
        Ok(Self { rack, mac, firmware, port: rack.port()?, disk: None, http_boot: false, restarts: false, serial, process: None })
    }

    /// Plugs it into another port.
    #[must_use]
    pub fn at(mut self, port: String) -> Self {
        self.port = port;
        self
    }

    /// Its firmware boots over HTTP: PXE is switched off in its setup.
    #[must_use]
    pub fn with_http_boot(mut self) -> Self {
        self.http_boot = true;
        self
    }

    /// What runs on it may restart it; else its power goes off then.
    #[must_use]
    pub fn that_restarts(mut self) -> Self {
        self.restarts = true;
        self
    }

    /// Gives it a disk.
    #[must_use]
    pub fn with_disk(self, image: &Path) -> Self {
        self.with_disk_on(Bus::Virtio, image)
    }

    /// Gives it a disk, plugged in somewhere.
    #[must_use]
    pub fn with_disk_on(mut self, bus: Bus, image: &Path) -> Self {
        self.disk = Some((image.to_owned(), bus));
        self
    }

    /// The name it registers itself with.
    pub fn name(&self) -> String {
        format!("m-{}", self.mac.to_hex())
    }

    /// Switches it on; the network comes first in its boot order.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        self.process = None;
        let _ = fs::remove_file(&self.serial);
        let mut qemu = self.rack.command("qemu-system-x86_64");
        qemu.args(["-m", "512", "-display", "none", "-monitor", "none"]);
        if !self.restarts {
            qemu.arg("-no-reboot");
        }
        // KVM is not everywhere, and hangs in firmware in some clouds.
        match self.firmware {
            Firmware::Bios => qemu.args(["-machine", "pc,accel=tcg"]),
            Firmware::Uefi | Firmware::SecureUefi => self.uefi(&mut qemu)?,
        };
        qemu.arg("-serial").arg(format!("file:{}", self.serial.display()));
        qemu.arg("-netdev").arg(format!("tap,id=n,ifname={},script=no,downscript=no", self.port));
        let rom = if self.firmware != Firmware::Bios { ",romfile=" } else { "" };
        qemu.arg("-device").arg(format!("virtio-net-pci,netdev=n,mac={},bootindex=1{rom}", self.mac));
        if let Some((disk, bus)) = &self.disk {
            qemu.arg("-drive").arg(format!("if=none,id=d,format=raw,file={}", disk.display()));
            qemu.args(bus.devices().iter().flat_map(|device| ["-device", device]));
        }
        let errors = fs::File::create(self.serial.with_extension("qemu"))?;
        self.process = Some(Process(qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().context("qemu-system-x86_64")?));
        Ok(())
    }

    fn uefi<'q>(&self, qemu: &'q mut Command) -> anyhow::Result<&'q mut Command> {
        let variables = self.rack.file(&format!("vars-{}.fd", self.mac.to_hex()));
        let (machine, keys) = if self.firmware == Firmware::SecureUefi { ("q35,smm=on,accel=tcg", ".ms") } else { ("q35,accel=tcg", "") };
        if !variables.exists() {
            fs::copy(format!("/usr/share/OVMF/OVMF_VARS_4M{keys}.fd"), &variables)?;
        }
        qemu.args(["-machine", machine]);
        if self.firmware == Firmware::SecureUefi {
            qemu.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        // There is no IPv6 in the rack; OVMF would look for it for a minute.
        qemu.args(["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]);
        if self.http_boot {
            qemu.args(["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]);
        }
        qemu.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M{keys}.fd"));
        Ok(qemu.arg("-drive").arg(format!("if=pflash,format=raw,file={}", variables.display())))
    }

    /// Waits until it has switched itself off.
    ///
    /// # Errors
    /// Time is up.
    pub fn wait_off(&mut self, seconds: u64) -> anyhow::Result<()> {
        let name = self.name();
        let process = &mut self.process;
        wait_for(&format!("{name} is off"), Duration::from_secs(seconds), || match process {
            Some(running) => match running.0.try_wait() {
                Ok(None) => Err("it runs".to_owned()),
                _ => Ok(()),
            },
            None => Ok(()),
        })?;
        self.process = None;
        Ok(())
    }

    /// Cuts its power.
    pub fn power_off(&mut self) {
        self.process = None;
    }

    /// Everything its serial console said.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// Waits until its console says something; returns that line, whole.
    ///
    /// # Errors
    /// Time is up; the message has the end of the console.
    pub fn wait_console(&self, text: &str, seconds: u64) -> anyhow::Result<String> {
        let (mut half, mut looks) = (String::new(), 0);
        wait_for(&format!("console of {} says {text:?}", self.name()), Duration::from_secs(seconds), || {
            let console = self.console();
            if let Some(line) = console.split_inclusive('\n').find(|line| line.contains(text)) {
                looks = if line == half { looks + 1 } else { 0 };
                if line.ends_with('\n') || looks >= STILL_LOOKS {
                    return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
                }
                line.clone_into(&mut half);
            }
            Err(console.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect())
        })
    }
}
