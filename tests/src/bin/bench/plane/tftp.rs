//! TFTP beside tftpd-hpa, dnsmasq and atftpd.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;
use athanor_tests::{guest, tools};
use serde_json::Value;

use super::{Segment, program, reader::Reader, version};
use crate::{
    figure::{Aim, Better, Figure, Peer},
    process,
};

/// The file that one reader reads, in bytes.
const LARGE: usize = 32 << 20;
/// The file that is read over a link that loses, in bytes.
const MIDDLE: usize = 8 << 20;
/// The file that many read, and one that is far away.
const SMALL: usize = 1 << 20;

/// A row: what is read, and what must come of it.
struct Row {
    what: String,
    reader: Reader,
    aim: Aim,
}

fn rows() -> Vec<Row> {
    let reader = |file: &str, block, window| Reader { file: file.to_owned(), block, window, readers: 1, far: 0, lost: 0 };
    let mut rows = Vec::new();
    for (block, window) in [(512, 1), (1468, 1), (1468, 4), (1468, 16), (1468, 64)] {
        // In lock-step the round trip is all there is; nobody can be faster than the others by much.
        let aim = Aim::Ratio(if window == 1 { 0.95 } else { 1.0 });
        rows.push(Row { what: format!("one reader, near, {block} B x {window}"), reader: reader("large.efi", block, window), aim });
    }
    for (far, name) in [(610, "0.75 ms"), (2160, "2.3 ms")] {
        for window in [1, 16] {
            let reader = Reader { far, ..reader("small.efi", 1468, window) };
            rows.push(Row { what: format!("one reader, {name} away, 1468 B x {window}"), reader, aim: Aim::Ratio(0.95) });
        }
    }
    // One loss in a thousand is two for this file: it shall be near, so that the loss is what it waits for.
    for (lost, name, far, place) in [(1_000, "0.1 %", 0, "near"), (10_000, "1 %", 610, "0.75 ms away")] {
        for window in [1, 16] {
            let reader = Reader { far, lost, ..reader(if far == 0 { "middle.efi" } else { "small.efi" }, 1468, window) };
            let aim = Aim::Ratio(if window == 1 { 10.0 } else { 1.0 });
            rows.push(Row { what: format!("one reader, {place}, {name} lost, 1468 B x {window}"), reader, aim });
        }
    }
    rows
}

pub(crate) fn run() -> anyhow::Result<Vec<Figure>> {
    let segment = Segment::up()?;
    segment.file("large.efi", LARGE)?;
    segment.file("small.efi", SMALL)?;
    segment.file("middle.efi", MIDDLE)?;
    let folder = segment.rack.file("files");
    Command::new("chmod").args(["-R", "a+rX"]).arg(segment.rack.folder()).status()?;
    let rows = rows();
    let crowd = Reader { file: "small.efi".to_owned(), block: 1468, window: 16, readers: 500, far: 0, lost: 0 };

    let service = segment.ours()?;
    let ours = measure(&segment, &rows)?;
    let pid = service.pid().context("the services ended")?;
    let before = process::used_seconds(pid)?;
    let crowded = ask(&segment, &crowd)?;
    let spent = process::used_seconds(pid)? - before;
    drop(service);

    let mut peers = Vec::new();
    for (name, line) in peers_lines(&folder)? {
        let peer = segment.peer(&line, "udp", 69).with_context(|| name.clone())?;
        let measured = measure(&segment, &rows)?;
        // The two others know no windows and would need the patience of minutes.
        let crowded = if name.starts_with("atftpd") { Some(ask(&segment, &crowd)?) } else { None };
        drop(peer);
        peers.push((name, measured, crowded));
    }

    let mut figures = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let best = peers.iter().map(|(name, measured, _)| (name, measured[index])).max_by(|a, b| a.1.total_cmp(&b.1));
        let peer = best.map(|(name, value)| Peer { name: name.clone(), value, better: Better::Higher });
        figures.push(Figure { what: row.what.clone(), value: ours[index], aim: row.aim, unit: "MB/s", peer });
    }
    let number = |value: &Value, field: &str| value[field].as_f64().unwrap_or(0.0);
    let other = peers.iter().find_map(|(name, _, crowded)| Some((name, crowded.as_ref()?)));
    let peer = other.map(|(name, crowded)| Peer { name: name.clone(), value: number(crowded, "mbps"), better: Better::Higher });
    figures.push(Figure { what: "500 readers".to_owned(), value: number(&crowded, "mbps"), aim: Aim::Ratio(1.0), unit: "MB/s", peer });
    figures.push(Figure::own("500 readers, silences of a second", number(&crowded, "silences"), Aim::Below(1.0), ""));
    let per_second = number(&crowded, "bytes") / 1e6 / spent.max(0.01);
    figures.push(Figure::own("500 readers, for each second of processor", per_second, Aim::AtLeast(150.0), "MB"));
    Ok(figures)
}

/// How every peer is started, with its version.
fn peers_lines(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let folder = folder.display();
    let hpa = program("in.tftpd")?;
    let dnsmasq = program("dnsmasq")?;
    let log = "--log-facility=/dev/null --conf-file=/dev/null --user=root --group=root";
    Ok(vec![
        (format!("tftpd-hpa {}", version("tftpd-hpa")), format!("{} -L -a 0.0.0.0:69 -s -u root {folder}", hpa.display())),
        (
            format!("dnsmasq {}", version("dnsmasq-base")),
            format!("{} -k --port=0 --enable-tftp --tftp-root={folder} --tftp-max=2000 --pid-file= {log}", dnsmasq.display()),
        ),
        ("atftpd".to_owned(), format!("{} --daemon --no-fork --user root.root --port 69 --maxthread 3000 {folder}", atftpd()?.display())),
    ])
}

/// atftpd's package cannot be installed beside tftpd-hpa's: it is unpacked into the cache.
fn atftpd() -> anyhow::Result<std::path::PathBuf> {
    let cache = guest::cache()?.join("atftpd");
    let program = cache.join("usr/sbin/atftpd");
    if !program.exists() {
        fs::create_dir_all(&cache)?;
        tools::run(Command::new("sh").current_dir(&cache).args(["-c", "apt-get download -qq atftpd && dpkg -x atftpd_*.deb ."]))?;
    }
    Ok(program)
}

fn measure(segment: &Segment, rows: &[Row]) -> anyhow::Result<Vec<f64>> {
    let speed = |row: &Row| -> anyhow::Result<f64> {
        let read = ask(segment, &row.reader).with_context(|| row.what.clone())?;
        read["mbps"].as_f64().context("no speed")
    };
    rows.iter().map(speed).collect()
}

fn ask(segment: &Segment, reader: &Reader) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&segment.ask(&reader.args())?)?)
}
