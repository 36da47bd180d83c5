//! A file server that misbehaves as it is told.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

#[derive(Default)]
struct State {
    files: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    endless: AtomicBool,
    no_ranges: AtomicBool,
    /// A connection ends after so many bytes; 0 for never.
    breaks: AtomicUsize,
    replaces: AtomicBool,
    version: AtomicUsize,
    asked: AtomicUsize,
}

/// A server with one file, `disk.img`.
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    /// One that has this file.
    pub(crate) fn with(file: Vec<u8>) -> Self {
        let state = Arc::new(State::default());
        state.files.lock().unwrap().insert("disk.img".into(), Arc::new(file));
        Self::start(state)
    }

    /// One whose file never ends.
    pub(crate) fn endless() -> Self {
        let state = Arc::new(State::default());
        state.endless.store(true, Ordering::SeqCst);
        Self::start(state)
    }

    fn start(state: Arc<State>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || drop(serve(&state, &stream)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
    pub(crate) fn also(&self, name: &str, file: Vec<u8>) {
        self.state.files.lock().unwrap().insert(name.into(), Arc::new(file));
    }
    pub(crate) fn breaks_every(&self, bytes: usize) {
        self.state.breaks.store(bytes, Ordering::SeqCst);
    }
    pub(crate) fn has_ranges(&self, has: bool) {
        self.state.no_ranges.store(!has, Ordering::SeqCst);
    }
    pub(crate) fn replaced_after_break(&self) {
        self.state.replaces.store(true, Ordering::SeqCst);
    }
    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

fn serve(state: &State, mut stream: &TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(first) = lines.next() else { return Ok(()) };
        let name = first?.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let mut from = 0;
        for line in lines.by_ref() {
            let line = line?.to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().unwrap();
            }
        }
        state.asked.fetch_add(1, Ordering::SeqCst);
        if state.endless.load(Ordering::SeqCst) {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[7; 65536])?;
            }
        }
        let Some(file) = state.files.lock().unwrap().get(&name).cloned() else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let from = if state.no_ranges.load(Ordering::SeqCst) { 0 } else { from };
        let etag = state.version.load(Ordering::SeqCst);
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\nETag: \"{etag}\"\r\nContent-Length: {}\r\n\r\n", file.len() - from);
        stream.write_all(head.as_bytes())?;
        let breaks = state.breaks.load(Ordering::SeqCst);
        let end = if breaks > 0 { file.len().min(from + breaks) } else { file.len() };
        stream.write_all(&file[from..end])?;
        if end < file.len() {
            if state.replaces.load(Ordering::SeqCst) {
                state.version.fetch_add(1, Ordering::SeqCst);
            }
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
