//! HTTP beside nginx.

use std::{fs, process::Command, time::Duration};

use anyhow::Context as _;
use athanor_tests::{Service, tools, wait_for};

use super::{SERVER, Segment, getter, program, version};
use crate::figure::{Aim, Better, Figure, Peer};

/// An initrd, in bytes.
const IMAGE: usize = 64 << 20;
/// The folder of nginx and its port.
const PORT: u16 = 8080;
/// How long each row is asked, in seconds.
const SECONDS: &str = "5";

pub(crate) fn run() -> anyhow::Result<Vec<Figure>> {
    let segment = Segment::up()?;
    segment.file("image.efi", IMAGE)?;
    Command::new("chmod").args(["-R", "a+rX"]).arg(segment.rack.folder()).status()?;
    let clients = [1, 10, 100, 1000];

    let service = segment.ours()?;
    let script = script(&service)?;
    let script_length = tools::run(segment.client.command("curl").args(["-sf", &script]))?.len();
    let at = format!("http://{SERVER}:7481/l/image.efi");
    let images: Vec<f64> = clients.iter().map(|count| Ok(load(&segment, &at, *count)?.megabytes)).collect::<anyhow::Result<_>>()?;
    let scripts = load(&segment, &script, 100)?.requests;
    drop(service);

    fs::write(segment.rack.file("files/boot.ipxe"), vec![b'#'; script_length])?;
    let (mut best_images, mut best_scripts) = (vec![0.0_f64; clients.len()], 0.0_f64);
    for sendfile in ["on", "off"] {
        let line = format!("{} -c {}", program("nginx")?.display(), nginx_config(&segment, sendfile)?);
        let _nginx = segment.peer(&line, "tcp", PORT)?;
        for (best, count) in best_images.iter_mut().zip(clients) {
            *best = best.max(load(&segment, &format!("http://{SERVER}:{PORT}/image.efi"), count)?.megabytes);
        }
        best_scripts = best_scripts.max(load(&segment, &format!("http://{SERVER}:{PORT}/boot.ipxe"), 100)?.requests);
    }
    let name = format!("nginx {}", version("nginx-light"));
    let peer = |value| Some(Peer { name: name.clone(), value, better: Better::Higher });
    let mut figures: Vec<Figure> = clients
        .iter()
        .zip(images.iter().zip(&best_images))
        .map(|(count, (ours, best))| Figure {
            what: format!("64 MiB x {count} clients"),
            value: *ours,
            aim: Aim::Ratio(1.0),
            unit: "MB/s",
            peer: peer(*best),
        })
        .collect();
    figures.push(Figure {
        what: format!("script of {script_length} bytes x 100 clients, rendered for the machine"),
        value: scripts,
        aim: Aim::Ratio(0.9),
        unit: "/s",
        peer: peer(best_scripts),
    });
    Ok(figures)
}

/// The URL of a machine's script.
fn script(service: &Service<'_>) -> anyhow::Result<String> {
    service.ctl("create machine one --mac 52:54:01:00:00:01")?;
    let plan = wait_for("a plan", Duration::from_secs(10), || {
        let command = service.ctl("get secret default.one -n athanor-plans -o json");
        command.map_err(|error| error.to_string())
    })?;
    let secret: serde_json::Value = serde_json::from_str(&plan)?;
    let data = secret["data"]["plan"].as_str().context("no plan in the Secret")?;
    let decoded = Command::new("sh").args(["-c", "printf %s \"$0\" | base64 -d", data]).output()?;
    let plan: serde_json::Value = serde_json::from_slice(&decoded.stdout)?;
    Ok(format!("http://{SERVER}:7481/b/{}/boot.ipxe", plan["token"].as_str().context("no token")?))
}

struct Load {
    megabytes: f64,
    requests: f64,
}

/// What so many clients get in a while.
fn load(segment: &Segment, url: &str, clients: usize) -> anyhow::Result<Load> {
    let said = segment.ask(&[getter::COMMAND.to_owned(), url.to_owned(), clients.to_string(), SECONDS.to_owned()])?;
    let got: serde_json::Value = serde_json::from_str(&said)?;
    let number = |name: &str| got[name].as_f64().context("no figure");
    Ok(Load { megabytes: number("mbps")?, requests: number("rate")? })
}

fn nginx_config(segment: &Segment, sendfile: &str) -> anyhow::Result<String> {
    let folder = segment.rack.folder().display();
    let temporary: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {folder}/{what}; ")).concat();
    let config = format!(
        "daemon off; user root; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 1; worker_rlimit_nofile 65536;\n\
         events {{ worker_connections 16384; }}\n\
         http {{ access_log off; sendfile {sendfile}; sendfile_max_chunk 2m; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;\n\
         open_file_cache max=100; {temporary}\n server {{ listen {SERVER}:{PORT} backlog=8192; root {folder}/files; }} }}\n"
    );
    let file = segment.rack.file("nginx.conf");
    fs::write(&file, config)?;
    Ok(file.display().to_string())
}
