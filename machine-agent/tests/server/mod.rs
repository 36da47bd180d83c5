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
    /// A line that every request must have.
    demands: Mutex<Option<String>>,
    /// Where it sends everybody.
    sends_to: Mutex<Option<String>>,
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
    pub(crate) fn demands(&self, line: &str) {
        *self.state.demands.lock().unwrap() = Some(line.to_lowercase());
    }
    pub(crate) fn sends_to(&self, url: String) {
        *self.state.sends_to.lock().unwrap() = Some(url);
    }
    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

/// A server over TLS with one file, and the certificate of the authority that vouches for it.
pub(crate) fn over_tls(file: Vec<u8>) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let chain = vec![certificate.der().clone()];
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, rustls::pki_types::PrivateKeyDer::Pkcs8(own.serialize_der().into()))
        .unwrap();
    let (config, file) = (Arc::new(config), Arc::new(file));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            // A client that does not trust us hangs up.
            let _ = serve_tls(rustls::StreamOwned::new(connection, stream), &file);
        }
    });
    (format!("https://{address}/disk.img"), authority.pem())
}

fn serve_tls(mut stream: rustls::StreamOwned<rustls::ServerConnection, TcpStream>, file: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::new(&mut stream).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    stream.write_all(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", file.len()).as_bytes())?;
    stream.write_all(file)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn serve(state: &State, mut stream: &TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(first) = lines.next() else { return Ok(()) };
        let name = first?.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let mut from = 0;
        let wanted = state.demands.lock().unwrap().clone();
        let mut welcome = wanted.is_none();
        for line in lines.by_ref() {
            let line = line?.to_lowercase();
            if line.is_empty() {
                break;
            }
            welcome |= wanted.as_ref() == Some(&line);
            if let Some(range) = line.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().unwrap();
            }
        }
        state.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(url) = state.sends_to.lock().unwrap().clone() {
            stream.write_all(format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
            continue;
        }
        if !welcome {
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
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
