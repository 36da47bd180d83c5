//! DHCP beside Kea, dnsmasq, and a responder that only echoes: what the load and the kernel can do at most on this machine.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::Context as _;
use athanor_tests::{Service, wait_for};

use super::{ASKS, CLIENT, SERVER, Segment, program, version};
use crate::{
    figure::{Aim, Better, Figure, Peer},
    process,
};

/// The word with which the bench starts itself as the responder that only echoes.
pub(crate) const ECHO: &str = "echo-dhcp";
/// How many machines are known to us.
const MACHINES: usize = 10_000;
/// How long each rate is held, in seconds.
const PERIOD: f64 = 5.0;
/// More answers than this, in percent, may not be missing (the method of ISC's own measurements).
const DROPS: f64 = 2.5;
/// The rate that the search begins with.
const START: f64 = 2_000.0;
/// The search ends when it is this close.
const CLOSE: f64 = 0.06;

/// What one rate came to.
#[derive(Debug, Clone, Copy)]
struct Held {
    rate: f64,
    drops: f64,
    microseconds: f64,
}

pub(crate) fn run() -> anyhow::Result<Vec<Figure>> {
    let segment = Segment::up()?;
    program("perfdhcp")?;
    let echo = {
        let me = std::env::current_exe()?;
        let peer = segment.peer(&format!("{} {ECHO}", me.display()), "udp", 67)?;
        best(&segment, peer.0.id())?
    };
    let kea = {
        let peer = segment.peer(&format!("{} -c {}", program("kea-dhcp4")?.display(), kea_config(&segment)?), "udp", 67)?;
        best(&segment, peer.0.id())?
    };
    let dnsmasq = {
        let folder = segment.rack.folder().display();
        let line = format!(
            "{} -k --port=0 --interface=br0 --bind-interfaces --no-ping --dhcp-authoritative --dhcp-range=10.67.0.0,10.126.255.254,255.192.0.0,2h \
             --dhcp-lease-max=2000000 --dhcp-leasefile={folder}/dnsmasq.leases --quiet-dhcp --log-facility=/dev/null --conf-file=/dev/null \
             --user=root --group=root --pid-file=",
            program("dnsmasq")?.display()
        );
        let peer = segment.peer(&line, "udp", 67)?;
        best(&segment, peer.0.id())?
    };
    let service = segment.ours()?;
    fill(&segment, &service)?;
    let ours = best(&segment, service.pid().context("the services ended")?)?;
    let versus = |name: String, value, better| Some(Peer { name, value, better });
    let kea_name = format!("kea {}", version("kea-dhcp4-server"));
    let figure = |what: &str, value, aim, unit, peer| Figure { what: what.to_owned(), value, aim, unit, peer };
    Ok(vec![
        figure(
            "exchanges held, 10,000 known machines",
            ours.rate,
            Aim::Ratio(0.9),
            "/s",
            versus("echo".to_owned(), echo.rate, Better::Higher),
        ),
        figure("exchanges held", ours.rate, Aim::Ratio(1.0), "/s", versus(kea_name.clone(), kea.rate, Better::Higher)),
        figure(
            "exchanges held",
            ours.rate,
            Aim::Ratio(1.0),
            "/s",
            versus(format!("dnsmasq {}", version("dnsmasq-base")), dnsmasq.rate, Better::Higher),
        ),
        figure("processor for each exchange", ours.microseconds, Aim::Below(40.0), "us", versus(kea_name, kea.microseconds, Better::Lower)),
        Figure::own("processor for each exchange, echo", echo.microseconds, Aim::None, "us"),
    ])
}

/// The highest rate that a server holds.
fn best(segment: &Segment, pid: u32) -> anyhow::Result<Held> {
    let (mut held, mut failed, mut rate): (Option<Held>, Option<f64>, f64) = (None, None, START);
    loop {
        let came = hold(segment, pid, rate)?;
        if came.drops <= DROPS && came.rate >= rate * 0.95 {
            held = Some(came);
        } else {
            failed = Some(rate);
        }
        let low = held.map_or(0.0, |held| held.rate);
        rate = match failed {
            None => rate * 2.0,
            Some(failed) if failed - low <= CLOSE * failed => return held.context("not even the lowest rate is held"),
            Some(failed) => f64::midpoint(failed, low),
        };
        anyhow::ensure!(rate > 20.0, "not even {rate:.0} exchanges a second are held");
    }
}

fn hold(segment: &Segment, pid: u32, rate: f64) -> anyhow::Result<Held> {
    let before = process::used_seconds(pid)?;
    let mut perfdhcp = segment.client.command("taskset");
    perfdhcp.args(["-c", ASKS]).arg(program("perfdhcp")?).args(["-4", "-l", CLIENT, "-L", "67", "-u", "-b", "mac=52:54:01:00:00:00"]);
    perfdhcp.args(["-r", &format!("{rate:.0}"), "-R", &MACHINES.to_string(), "-p", &format!("{PERIOD:.0}"), "-W", "1000000", SERVER]);
    // It ends with an error where answers are missing, which is what we look for.
    let output = perfdhcp.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let spent = process::used_seconds(pid)? - before;
    let part = text.split("Statistics for: REQUEST-ACK").nth(1).with_context(|| format!("perfdhcp said: {text}"))?;
    let number = |text: &str, name: &str| -> f64 {
        let rest = text.split(&format!("{name}: ")).nth(1).unwrap_or_default();
        rest.split(|c: char| !(c.is_ascii_digit() || c == '.')).next().and_then(|digits| digits.parse().ok()).unwrap_or(0.0)
    };
    let offers = text.split("Statistics for: DISCOVER-OFFER").nth(1).unwrap_or_default();
    let acks = number(part, "received packets");
    let (sent, lost) = (number(offers, "sent packets") + number(part, "sent packets"), number(offers, "drops") + number(part, "drops"));
    Ok(Held { rate: acks / PERIOD, drops: 100.0 * lost / sent.max(1.0), microseconds: 1e6 * spent / acks.max(1.0) })
}

fn kea_config(segment: &Segment) -> anyhow::Result<String> {
    let folder = segment.rack.folder().display();
    let config = format!(
        r#"{{ "Dhcp4": {{ "interfaces-config": {{ "interfaces": ["br0"], "dhcp-socket-type": "udp" }},
            "lease-database": {{ "type": "memfile", "persist": false }}, "multi-threading": {{ "enable-multi-threading": false }},
            "valid-lifetime": 7200,
            "subnet4": [ {{ "id": 1, "subnet": "10.64.0.0/10", "pools": [ {{ "pool": "10.67.0.0 - 10.126.255.254" }} ] }} ],
            "loggers": [ {{ "name": "kea-dhcp4", "severity": "ERROR", "output_options": [ {{ "output": "{folder}/kea.log" }} ] }} ] }} }}"#
    );
    let file = segment.rack.file("kea.json");
    fs::write(&file, config)?;
    Ok(file.display().to_string())
}

/// Makes the machines known.
fn fill(segment: &Segment, service: &Service<'_>) -> anyhow::Result<()> {
    let mut file = String::new();
    for number in 0..MACHINES {
        let (high, low) = (number / 256, number % 256);
        file.push_str(&format!(
            "---\napiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {{name: m{number}, labels: {{metal.athanor.dev/subnet: bench}}}}\n\
             spec: {{accepted: true, interfaces: [{{mac: \"52:54:01:00:{high:02x}:{low:02x}\", boot: true}}]}}\n"
        ));
    }
    let path = segment.rack.file("machines.yaml");
    fs::write(&path, file)?;
    service.ctl(&format!("apply -f {}", path.display()))?;
    wait_for("every plan", Duration::from_secs(600), || {
        let plans = service.ctl("get secrets -n athanor-plans -o name").map_err(|error| error.to_string())?.lines().count();
        if plans >= MACHINES { Ok(()) } else { Err(format!("{plans} plans")) }
    })
}

/// Answers every DISCOVER and REQUEST with an address made of the MAC, and knows nothing.
pub(crate) fn echo() -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67))?;
    let mut packet = [0; 1500];
    loop {
        let (length, _) = socket.recv_from(&mut packet)?;
        let Some(type_) = packet[240..length.max(240)].windows(3).find(|option| option[..2] == [53, 1]).map(|option| option[2]) else {
            continue;
        };
        packet[0] = 2;
        let (b, c, d) = (packet[31], packet[32], packet[33]);
        packet[16..20].copy_from_slice(&[10, 64 | (b & 0x3f), c, d]);
        let tail = [53, 1, if type_ == 1 { 2 } else { 5 }, 54, 4, 10, 64, 0, 1, 51, 4, 0, 0, 0x1c, 0x20, 1, 4, 255, 192, 0, 0, 255];
        packet[240..240 + tail.len()].copy_from_slice(&tail);
        packet[240 + tail.len()..300].fill(0);
        let relay = Ipv4Addr::new(packet[24], packet[25], packet[26], packet[27]);
        socket.send_to(&packet[..300], SocketAddrV4::new(relay, 67))?;
    }
}
