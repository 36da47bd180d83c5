//! A TFTP reader, or hundreds of them, on the host that asks. It can be far away, and its link can lose packets: both are made here, on what comes
//! in and on what goes out, so that every server meets the same.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::{SERVER, address_of};

/// The word with which the bench starts itself as readers.
pub(crate) const COMMAND: &str = "read-tftp";
/// When a reader says again what it said: as iPXE's and EDK2's clients, slower than any good server.
const AGAIN: Duration = Duration::from_secs(1);
/// When it gives up.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a reader wants, and how its link is.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) file: String,
    pub(crate) block: usize,
    pub(crate) window: u64,
    pub(crate) readers: usize,
    /// Added to the round trip, in microseconds.
    pub(crate) far: u64,
    /// Packets lost, of a million, each way.
    pub(crate) lost: u64,
}

impl Reader {
    /// Its words on the command line.
    pub(crate) fn args(&self) -> Vec<String> {
        let numbers = [self.block as u64, self.window, self.readers as u64, self.far, self.lost];
        [COMMAND.to_owned(), self.file.clone()].into_iter().chain(numbers.map(|number| number.to_string())).collect()
    }
}

/// Reads, and prints what that was like as JSON.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let [file, numbers @ ..] = args else { bail!("which file?") };
    let numbers: Vec<u64> = numbers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [block, window, readers, far, lost] = numbers[..] else { bail!("block, window, readers, far, lost") };
    let reader = Reader { file: (*file).to_owned(), block: usize::try_from(block)?, window, readers: usize::try_from(readers)?, far, lost };
    let began = Instant::now();
    let all: Vec<_> = (0..reader.readers)
        .map(|number| {
            let reader = reader.clone();
            thread::Builder::new().stack_size(256 << 10).spawn(move || read(&reader, number as u64))
        })
        .collect::<Result<_, _>>()?;
    let (mut bytes, mut silences) = (0, 0);
    for thread in all {
        let (length, silent) = thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        bytes += length;
        silences += silent;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{}", json!({ "mbps": bytes as f64 / seconds / 1e6, "seconds": seconds, "bytes": bytes, "silences": silences }));
    Ok(())
}

/// Packets as they arrive over the reader's link.
struct Wire {
    arrivals: mpsc::Receiver<(Instant, SocketAddr, Vec<u8>)>,
    socket: UdpSocket,
    far: Duration,
    lost: u64,
    chance: u64,
}

impl Wire {
    fn new(socket: UdpSocket, far: u64, lost: u64, seed: u64) -> anyhow::Result<Self> {
        let (queue, arrivals) = mpsc::channel();
        let receiving = socket.try_clone()?;
        thread::Builder::new().stack_size(256 << 10).spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = receiving.recv_from(&mut buffer) {
                if queue.send((Instant::now(), from, buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { arrivals, socket, far: Duration::from_micros(far), lost, chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 })
    }

    /// xorshift64: the same losses in every run.
    fn loses(&mut self) -> bool {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % 1_000_000 < self.lost
    }

    fn send(&mut self, bytes: &[u8], to: SocketAddr) -> anyhow::Result<()> {
        if !self.loses() {
            self.socket.send_to(bytes, to)?;
        }
        Ok(())
    }

    fn receive(&mut self, wait: Duration) -> Option<(SocketAddr, Vec<u8>)> {
        let until = Instant::now() + wait;
        loop {
            let (arrived, from, bytes) = self.arrivals.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
            if self.loses() {
                continue;
            }
            let due = arrived + self.far;
            while let Some(rest) = due.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
                // Sleeping is late by fifty microseconds and more.
                if rest > Duration::from_micros(200) { thread::sleep(rest - Duration::from_micros(150)) } else { std::hint::spin_loop() }
            }
            return Some((from, bytes));
        }
    }
}

/// Near and without losses, a reader needs no second thread.
enum Link {
    Plain(UdpSocket),
    Made(Wire),
}

impl Link {
    fn send(&mut self, bytes: &[u8], to: SocketAddr) -> anyhow::Result<()> {
        match self {
            Self::Plain(socket) => socket.send_to(bytes, to).map(|_| ()).context("send"),
            Self::Made(wire) => wire.send(bytes, to),
        }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Option<SocketAddr> {
        match self {
            Self::Plain(socket) => {
                buffer.resize(2048, 0);
                let (length, from) = socket.recv_from(buffer).ok()?;
                buffer.truncate(length);
                Some(from)
            }
            Self::Made(wire) => {
                let (from, bytes) = wire.receive(AGAIN)?;
                *buffer = bytes;
                Some(from)
            }
        }
    }
}

/// One transfer: its bytes, and how often the server was silent for so long that the reader spoke again.
fn read(reader: &Reader, seed: u64) -> anyhow::Result<(u64, u64)> {
    let socket = UdpSocket::bind((address_of(u16::try_from(seed)?), 0))?;
    let mut link = if reader.far == 0 && reader.lost == 0 {
        socket.set_read_timeout(Some(AGAIN))?;
        Link::Plain(socket)
    } else {
        Link::Made(Wire::new(socket, reader.far, reader.lost, seed + 7)?)
    };
    let (began, server): (_, SocketAddr) = (Instant::now(), format!("{SERVER}:69").parse()?);
    let request = request(reader);
    link.send(&request, server)?;
    let (mut buffer, mut peer) = (Vec::new(), None);
    let (mut block, mut window) = (512, 1);
    let (mut have, mut in_window, mut length, mut silences, mut told) = (0_u64, 0, 0, 0, false);
    loop {
        ensure!(began.elapsed() < PATIENCE, "gave up after {length} bytes");
        let ack = |have: u64| [0, 4, (have >> 8) as u8, have as u8];
        let Some(from) = link.receive(&mut buffer) else {
            silences += 1;
            in_window = 0;
            told = false;
            match peer {
                None => link.send(&request, server)?,
                Some(peer) => link.send(&ack(have), peer)?,
            }
            continue;
        };
        match buffer.as_slice() {
            [0, 6, options @ ..] => {
                (block, window) = agreed(options);
                peer = Some(from);
                link.send(&ack(0), from)?;
            }
            [0, 3, high, low, data @ ..] => {
                peer = Some(from);
                let ahead = u16::from_be_bytes([*high, *low]).wrapping_sub((have & 0xffff) as u16);
                if ahead != 1 {
                    // Something is missing: said once. Or our acknowledgement was lost: said again.
                    if ahead == 0 || ahead < 0x8000 && !told {
                        link.send(&ack(have), from)?;
                        told = ahead != 0;
                        in_window = 0;
                    }
                    continue;
                }
                told = false;
                have += 1;
                in_window += 1;
                length += data.len() as u64;
                if in_window == window || data.len() < block {
                    link.send(&ack(have), from)?;
                    in_window = 0;
                }
                if data.len() < block {
                    return Ok((length, silences));
                }
            }
            [0, 5, _, code, text @ ..] => bail!("ERROR {code}: {}", String::from_utf8_lossy(text)),
            _ => {}
        }
    }
}

fn request(reader: &Reader) -> Vec<u8> {
    let mut words = vec![reader.file.clone(), "octet".to_owned(), "tsize".to_owned(), "0".to_owned()];
    if reader.block != 512 {
        words.extend(["blksize".to_owned(), reader.block.to_string()]);
    }
    if reader.window != 1 {
        words.extend(["windowsize".to_owned(), reader.window.to_string()]);
    }
    [0, 1].into_iter().chain(words.into_iter().flat_map(|word| word.into_bytes().into_iter().chain([0]))).collect()
}

/// Block and window size out of an OACK.
fn agreed(options: &[u8]) -> (usize, u64) {
    let words: Vec<String> = options.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).to_lowercase()).collect();
    let number = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1)?.parse::<u64>().ok());
    (number("blksize").and_then(|block| usize::try_from(block).ok()).unwrap_or(512), number("windowsize").unwrap_or(1))
}
