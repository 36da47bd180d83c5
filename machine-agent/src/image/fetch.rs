//! Where an image comes from: HTTP, begun again at the byte where it broke off, as long as it is the same file.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use athanor_wire::{
    hex,
    work::{Headers, Write},
};
use sha2::{Digest as _, Sha256, Sha512};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::AgentError;

/// How often a broken transfer is taken up again without a byte in between.
const TRIES: u32 = 12;
/// The pause before the first of them; doubled up to [`LONGEST_PAUSE`]: together about five minutes.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest checksum file that is read.
const MAX_CHECKSUMS: u64 = 4 << 20;
/// So many bytes tell what an image is.
const SNIFF: usize = 64 << 10;

/// What comes from a server.
pub trait Source: Read + Send {
    /// The file's size from its beginning, where the server tells.
    fn length(&self) -> Option<u64>;
    /// Which version of the file it is, where the server tells.
    fn etag(&self) -> Option<String>;
}

/// Who fetches.
pub trait Fetcher: Sync {
    /// Opens a file at a byte. With an ETag it must be that version.
    ///
    /// # Errors
    /// The server has no such file, or another version of it.
    fn open(&self, url: &str, from: u64, etag: Option<&str>) -> Result<Box<dyn Source + '_>, AgentError>;
}

/// Fetches over HTTP.
#[derive(Debug)]
pub struct Http {
    agent: ureq::Agent,
    /// Who vouches for https servers, where the public authorities do not.
    roots: Option<Arc<Vec<Certificate<'static>>>>,
    headers: Headers,
    /// The only server that is sent the headers.
    origin: String,
}

impl Http {
    /// One that speaks through an agent, as an order says.
    ///
    /// # Errors
    /// What should be certificates are none.
    pub fn new(agent: ureq::Agent, order: &Write) -> Result<Self, AgentError> {
        let roots = order.ca.as_deref().map(certificates).transpose()?;
        Ok(Self { agent, roots, headers: order.headers.clone(), origin: origin(&order.url).to_owned() })
    }

    /// What a request to this URL is sent besides.
    fn headers_for(&self, url: &str) -> impl Iterator<Item = (&String, &String)> {
        let theirs = (origin(url) == self.origin).then_some(&self.headers.0);
        theirs.into_iter().flatten()
    }
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let after = url.find("://").map_or(0, |at| at + 3);
    let end = url[after..].find(['/', '?', '#']).map_or(url.len(), |at| after + at);
    &url[..end]
}

/// Whether a server's certificate is not vouched for; any other failure of TLS may be a connection that broke.
fn is_stranger(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

fn certificates(pem: &str) -> Result<Arc<Vec<Certificate<'static>>>, AgentError> {
    let wrong = |why: String| AgentError::Image(format!("spec.image.ca: {why}; give certificates in PEM"));
    let mut found = Vec::new();
    for item in parse_pem(pem.as_bytes()) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(wrong("there is no certificate in it".to_owned())) } else { Ok(Arc::new(found)) }
}

impl Fetcher for Http {
    fn open(&self, url: &str, from: u64, etag: Option<&str>) -> Result<Box<dyn Source + '_>, AgentError> {
        let mut body = Body { http: self, url: url.to_owned(), at: 0, length: None, etag: etag.map(str::to_owned), reader: None, skip: 0 };
        body.at = from;
        body.again(0)?;
        Ok(Box::new(body))
    }
}

/// A file being fetched.
struct Body<'a> {
    http: &'a Http,
    url: String,
    /// The next byte.
    at: u64,
    length: Option<u64>,
    etag: Option<String>,
    reader: Option<ureq::BodyReader<'static>>,
    /// Bytes that come again, from a server without ranges.
    skip: u64,
}

impl Body<'_> {
    fn failed(&self, why: impl ToString) -> AgentError {
        AgentError::Fetch { url: self.url.clone(), why: why.to_string() }
    }

    /// Connects, or connects again where it broke off; a server that is gone is tried again.
    fn again(&mut self, already: u32) -> Result<(), AgentError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = already;
        loop {
            match self.connect() {
                Ok(()) => return Ok(()),
                Err(error @ AgentError::Image(_)) => return Err(error),
                Err(error) if tries >= TRIES => return Err(error),
                Err(_) => {}
            }
            tries += 1;
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn connect(&mut self) -> Result<(), AgentError> {
        let mut request = self.http.agent.get(&self.url).header("accept-encoding", "identity");
        if self.at > 0 {
            request = request.header("range", format!("bytes={}-", self.at));
            if let Some(etag) = self.etag.as_deref().filter(|etag| !etag.starts_with("W/")) {
                request = request.header("if-range", etag);
            }
        }
        let mut sent = false;
        for (name, value) in self.http.headers_for(&self.url) {
            request = request.header(name, value);
            sent = true;
        }
        let mut config = request.config();
        if let Some(roots) = &self.http.roots {
            config = config.tls_config(TlsConfig::builder().root_certs(RootCerts::Specific(roots.clone())).build());
        }
        // Whoever is sent on could be told what only this server is to know.
        if sent {
            config = config.max_redirects(0);
        }
        let response = config.build().call().map_err(|error| match &error {
            // Nobody becomes another by being asked again.
            ureq::Error::Io(inner) if is_stranger(inner) => {
                let who = if self.http.roots.is_some() { "spec.image.ca" } else { "the public authorities; give its own in spec.image.ca" };
                AgentError::Image(format!("{}: {inner}: its certificate must be vouched for by {who}", self.url))
            }
            _ => self.failed(error),
        })?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (etag, length) = (header("etag"), header("content-length").and_then(|length| length.parse::<u64>().ok()));
        match status {
            200 | 206 => {}
            300..=399 => {
                let why = "its server sends elsewhere, where its headers are nobody's to see; name the URL that it leads to";
                return Err(AgentError::Image(format!("{}: {why}", self.url)));
            }
            401 | 403 => return Err(AgentError::Image(format!("{}: the server answers {status}; look at spec.image.headers", self.url))),
            // It will be there no sooner than somebody does something.
            400..=499 => return Err(AgentError::Image(format!("{}: the server answers {status}; is the URL right?", self.url))),
            _ => return Err(self.failed(format!("the server answers {status}"))),
        }
        if self.etag.is_some() && etag != self.etag {
            return Err(AgentError::Image(format!("{}: the file was replaced while it was fetched; try again", self.url)));
        }
        self.skip = if status == 206 { 0 } else { self.at };
        let total = length.map(|length| if status == 206 { self.at + length } else { length });
        if self.length.is_some() && total.is_some() && self.length != total {
            return Err(AgentError::Image(format!("{}: the file has another size than before; try again", self.url)));
        }
        self.length = self.length.or(total);
        self.etag = etag;
        self.reader = Some(response.into_body().into_with_config().limit(u64::MAX).reader());
        Ok(())
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return Err(io::ErrorKind::NotConnected.into()) };
        while self.skip > 0 {
            let piece = usize::try_from(self.skip).unwrap_or(buffer.len()).min(buffer.len());
            match reader.read(&mut buffer[..piece])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.skip -= read as u64,
            }
        }
        let read = reader.read(buffer)?;
        if read == 0 && self.length.is_some_and(|length| self.at < length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut tries = 0;
        loop {
            match self.read_once(buffer) {
                Ok(read) => {
                    self.at += read as u64;
                    return Ok(read);
                }
                Err(error) if tries >= TRIES => return Err(error),
                Err(_) => tries += 1,
            }
            self.reader = None;
            self.again(tries).map_err(io::Error::other)?;
        }
    }
}

impl Source for Body<'_> {
    fn length(&self) -> Option<u64> {
        self.length
    }
    fn etag(&self) -> Option<String> {
        self.etag.clone()
    }
}

/// The first bytes of a file.
pub(crate) fn sniff(source: &mut dyn Source) -> Result<Vec<u8>, AgentError> {
    let mut first = Vec::new();
    source.take(SNIFF as u64).read_to_end(&mut first).map_err(|error| AgentError::Image(error.to_string()))?;
    Ok(first)
}

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

/// A hash under way.
pub(crate) enum Hash {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hash {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::new(Sha512::new())),
        }
    }
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }
    /// `sha256:…`, as it is written everywhere.
    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => format!("sha256:{}", hex::encode(&hash.finalize())),
            Self::Sha512(hash) => format!("sha512:{}", hex::encode(&hash.finalize())),
        }
    }
}

/// The checksum that an image must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) algorithm: Algorithm,
    pub(crate) digest: String,
}

impl Expected {
    pub(crate) fn compare(&self, found: &str, url: &str) -> Result<(), AgentError> {
        if self.digest == found {
            return Ok(());
        }
        Err(AgentError::Image(format!(
            "{url}: its checksum is {found}, expected was {}; the disk was left without a partition table",
            self.digest
        )))
    }
}

/// Reads a digest, or fetches the file that has it.
pub(crate) fn expected(checksum: &str, url: &str, fetcher: &dyn Fetcher) -> Result<Expected, AgentError> {
    if let Some(expected) = digest(checksum.split_once(':').map_or(checksum, |(_, hex)| hex)) {
        return Ok(expected);
    }
    let mut text = String::new();
    let file = fetcher.open(checksum, 0, None)?;
    file.take(MAX_CHECKSUMS)
        .read_to_string(&mut text)
        .map_err(|error| AgentError::Fetch { url: checksum.to_owned(), why: error.to_string() })?;
    let name = url.rsplit('/').next().unwrap_or_default();
    let name = name.split(['?', '#']).next().unwrap_or(name);
    find(&text, name).ok_or_else(|| AgentError::Image(format!("the checksum file {checksum} has no sha256 or sha512 of {name}")))
}

fn digest(hex: &str) -> Option<Expected> {
    let hex = hex.to_ascii_lowercase();
    let algorithm = match hex.len() {
        64 => Algorithm::Sha256,
        128 => Algorithm::Sha512,
        _ => return None,
    };
    let prefix = if algorithm == Algorithm::Sha256 { "sha256" } else { "sha512" };
    hex.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| Expected { algorithm, digest: format!("{prefix}:{hex}") })
}

/// Finds a file's digest among the lines of `sha256sum`, of BSD's `SHA256 (file) = …`, or in a file that holds nothing else.
fn find(text: &str, name: &str) -> Option<Expected> {
    let mut alone = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let named = |word: &str| word.trim_start_matches(['*', '(']).trim_end_matches(')').trim_start_matches("./") == name;
        match words.as_slice() {
            [hex] => alone.push(digest(hex)?),
            [hex, file] if named(file) => return digest(hex),
            [_, file, "=", hex] if named(file) => return digest(hex),
            _ => {}
        }
    }
    if alone.len() == 1 { alone.pop() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_for_one_server() {
        assert_eq!(origin("https://a.example:8443/x/y?z"), "https://a.example:8443");
        assert_eq!(origin("https://a.example?z"), "https://a.example");
        assert_ne!(origin("http://a.example/x"), origin("https://a.example/x"));
    }

    #[test]
    fn a_digest_is_found_in_the_files_people_publish() {
        let (one, other) = ("a".repeat(64), "B".repeat(128));
        let text = format!("# made today\n{one}  other.img\n{other} *./disk.img\n");
        assert_eq!(find(&text, "disk.img").unwrap().digest, format!("sha512:{}", other.to_lowercase()));
        assert_eq!(find(&format!("SHA256 (disk.img) = {one}\n"), "disk.img").unwrap().algorithm, Algorithm::Sha256);
        assert_eq!(find(&format!("{one}\n"), "whatever").unwrap().digest, format!("sha256:{one}"));
        assert_eq!(find(&text, "third.img"), None);
        assert_eq!(find("zzz disk.img", "disk.img"), None);
    }
}
