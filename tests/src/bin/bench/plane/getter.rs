//! HTTP clients on the host that asks, each with an address of its own as machines have, for a few seconds.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::address_of;
use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// The word with which the bench starts itself as these clients.
pub(crate) const COMMAND: &str = "get-http";
#[derive(Default)]
struct Got {
    bytes: AtomicU64,
    answers: AtomicU64,
}

/// Gets `http://ADDRESS:PORT/path` with so many clients for so many seconds; prints what came as JSON.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let [url, clients, seconds] = args[..] else { bail!("URL, clients, seconds") };
    let (server, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("no URL")?;
    let (server, clients, seconds): (SocketAddr, u16, u64) = (server.parse()?, clients.parse()?, seconds.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (got, began) = (Arc::new(Got::default()), Instant::now());
    let until = began + Duration::from_secs(seconds);
    let failed = runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for number in 0..clients {
            all.spawn(client(server, address_of(number), path.to_owned(), got.clone(), until));
        }
        let mut failed = None;
        while let Some(ended) = all.join_next().await {
            if let Ok(Err(error)) = ended {
                failed = Some(error);
            }
        }
        failed
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let spent = began.elapsed().as_secs_f64();
    let (bytes, answers) = (got.bytes.load(Ordering::Relaxed) as f64, got.answers.load(Ordering::Relaxed) as f64);
    println!("{}", json!({ "mbps": bytes / spent / 1e6, "rate": answers / spent }));
    Ok(())
}

/// One client: asks again as soon as it has everything, on one connection.
async fn client(server: SocketAddr, from: Ipv4Addr, path: String, got: Arc<Got>, until: Instant) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let mut stream = socket.connect(server).await?;
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {server}\r\n\r\n");
    let mut buffer = vec![0; 64 << 10];
    while Instant::now() < until {
        stream.write_all(request.as_bytes()).await?;
        answer(&mut stream, &mut buffer, &got, until).await?;
    }
    Ok(())
}

/// Reads one answer, or as much of it as there is time for.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8], got: &Got, until: Instant) -> anyhow::Result<()> {
    let mut have = 0;
    let head = loop {
        let read = stream.read(&mut buffer[have..]).await?;
        ensure!(read > 0, "the server closed the connection");
        have += read;
        if let Some(end) = buffer[..have].windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
    ensure!(text.starts_with("http/1.1 200"), "{}", text.lines().next().unwrap_or_default());
    let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).context("no length")?;
    let mut missing = length.trim().parse::<u64>()?.saturating_sub((have - head) as u64);
    got.bytes.fetch_add((have - head) as u64, Ordering::Relaxed);
    while missing > 0 && Instant::now() < until {
        let read = stream.read(buffer).await? as u64;
        ensure!(read > 0, "the server closed the connection");
        missing = missing.saturating_sub(read);
        got.bytes.fetch_add(read, Ordering::Relaxed);
    }
    if missing == 0 {
        got.answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
