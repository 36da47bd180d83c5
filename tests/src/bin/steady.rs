//! Asks DHCP, TFTP and HTTP all the time, and tells for how long nobody answered: `steady MAC SERVER…`. It ends with its input and prints
//! the longest silence of each, in seconds.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use athanor_tests::FirmwareClient;

/// A file that every agent has.
const FILE: &str = "undionly.kpxe";
/// How often each is asked, and how long it may take.
const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(250);

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mac: athanor_wire::MacAddr = args.next().context("steady MAC SERVER…")?.parse()?;
    let ended = Arc::new(AtomicBool::new(false));
    let mut asking = Vec::new();
    let mut ask = |what: String, question: Box<dyn FnMut() -> bool + Send>| {
        let ended = ended.clone();
        asking.push((what, thread::spawn(move || longest_silence(&ended, question))));
    };
    ask("dhcp".to_owned(), dhcp(mac)?);
    for server in args {
        let address: Ipv4Addr = server.parse()?;
        ask(format!("tftp {address}"), Box::new(move || tftp(address).unwrap_or(false)));
        ask(format!("http {address}"), Box::new(move || http(address).unwrap_or(false)));
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    ended.store(true, Ordering::Relaxed);
    for (what, thread) in asking {
        let silence = thread.join().map_err(|_| anyhow::anyhow!("{what}: the thread ended"))?;
        println!("{what} {:.3}", silence.as_secs_f64());
    }
    Ok(())
}

/// Asks until it is over; the time before the first answer does not count.
fn longest_silence(ended: &AtomicBool, mut question: impl FnMut() -> bool) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, None::<Instant>);
    while !ended.load(Ordering::Relaxed) {
        if question() {
            longest = longest.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
            last = Some(Instant::now());
        }
        thread::sleep(PAUSE);
    }
    longest.max(last.map_or(Duration::MAX, |last| last.elapsed()))
}

fn dhcp(mac: athanor_wire::MacAddr) -> anyhow::Result<Box<dyn FnMut() -> bool + Send>> {
    let client = FirmwareClient::new(mac)?;
    client.socket.set_read_timeout(Some(PATIENCE))?;
    Ok(Box::new(move || client.ask()))
}

fn tftp(server: Ipv4Addr) -> std::io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let request = [b"\x00\x01", FILE.as_bytes(), b"\0octet\0"].concat();
    socket.send_to(&request, (server, 69))?;
    let mut answer = [0; 600];
    let (_, from) = socket.recv_from(&mut answer)?;
    // That is enough: the server need not wait for us.
    socket.send_to(b"\x00\x05\x00\x00enough\0", from)?;
    Ok(answer[1] == 3)
}

fn http(server: Ipv4Addr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((server, 7481)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("HEAD /l/{FILE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer.ends_with(b"200"))
}
