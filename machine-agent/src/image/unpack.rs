//! From what a server sends to what the image is: hashed as it comes, decompressed where it is compressed.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{Scope, ScopedJoinHandle},
};

use athanor_sys::PageBuffer;

use super::{
    PIECE,
    fetch::{Algorithm, Hash, Source},
};
use crate::AgentError;

/// How many pieces may be under way between two threads.
const DEPTH: usize = 4;
/// The largest window of zstd, as a power of two: 32 MiB. `zstd --long=27` has four times as much, which a machine may not have.
const ZSTD_WINDOW: u32 = 25;
/// The most memory for xz: what its level 9 needs.
const XZ_MEMORY: u64 = 68 << 20;

/// How an image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Packing {
    /// By the first bytes.
    pub(crate) fn of(first: &[u8]) -> Self {
        let zstd_skippable = first.len() > 3 && first[0] & 0xF0 == 0x50 && first[1..4] == [0x2A, 0x4D, 0x18];
        match first {
            [0x1F, 0x8B, 0x08, ..] => Self::Gzip,
            [0xFD, b'7', b'z', b'X', b'Z', 0x00, ..] => Self::Xz,
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => Self::Bzip2,
            _ if zstd_skippable => Self::Zstd,
            _ => Self::None,
        }
    }

    pub(super) fn reader<'a>(self, packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(packed)),
            Self::Zstd => {
                let mut reader = zstd::stream::read::Decoder::new(packed)?;
                reader.window_log_max(ZSTD_WINDOW)?;
                Box::new(reader)
            }
            Self::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED).map_err(io::Error::other)?;
                Box::new(liblzma::read::XzDecoder::new_stream(packed, stream))
            }
        })
    }
}

/// The first bytes of what is compressed.
pub(crate) fn first_bytes(packing: Packing, first: &[u8]) -> Result<Vec<u8>, AgentError> {
    let mut reader = packing.reader(first).map_err(|error| broken(packing, &error))?;
    let mut bytes = vec![0; 512];
    // The first bytes may be too few for so many: what there is will do.
    let read = reader.read(&mut bytes).unwrap_or(0);
    bytes.truncate(read);
    Ok(bytes)
}

fn broken(packing: Packing, error: &io::Error) -> AgentError {
    let hint = match packing {
        Packing::Zstd => " (windows above 32 MiB are refused: compress without --long, or with --long=25)",
        _ => "",
    };
    AgentError::Image(format!("it cannot be unpacked as {packing:?}: {error}{hint}"))
}

/// A piece of the image, and how many bytes of it count.
pub(crate) type Piece = Result<(PageBuffer, usize), AgentError>;

/// An image on its way.
pub(crate) struct Stream<'a> {
    pub(crate) source: Box<dyn Source + 'a>,
    /// What was read of it already.
    pub(crate) first: Vec<u8>,
    pub(crate) packing: Packing,
    pub(crate) algorithm: Algorithm,
    /// The most bytes that are fetched: a file that has more never ends.
    pub(crate) most: u64,
}

/// Pieces as they come, and the digest of all that was fetched.
pub(crate) struct Pieces<'scope> {
    pub(crate) receiver: Receiver<Piece>,
    fetching: ScopedJoinHandle<'scope, String>,
}

impl Pieces<'_> {
    /// Once all pieces came.
    pub(crate) fn digest(self) -> Result<String, AgentError> {
        drop(self.receiver);
        self.fetching.join().map_err(|_| AgentError::Image("the fetching thread ended".to_owned()))
    }
}

impl Stream<'_> {
    /// Begins to fetch and to unpack.
    pub(crate) fn begin<'scope, 'env: 'scope>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        report: &'env (dyn Fn(u64) + Sync),
    ) -> Pieces<'scope>
    where
        Self: 'scope,
    {
        let Self { source, first, packing, algorithm, most } = self;
        let (packed_out, packed_in) = sync_channel::<io::Result<Vec<u8>>>(DEPTH);
        let (out, receiver) = sync_channel(DEPTH);
        let (empty_out, empty_in) = sync_channel::<Vec<u8>>(2 * DEPTH);
        let fetching = scope.spawn(move || fetch(source, first, (algorithm, most), &packed_out, &empty_in, report));
        scope.spawn(move || {
            let packed = FromChannel { receiver: packed_in, empty: empty_out, piece: Vec::new(), at: 0, ended: false };
            unpack(packing, packed, &out);
        });
        Pieces { receiver, fetching }
    }
}

/// Fetches, and hashes what comes. Goes on to the end even where nobody unpacks any more, for the checksum is of all of it.
fn fetch(
    mut source: Box<dyn Source + '_>,
    first: Vec<u8>,
    (algorithm, most): (Algorithm, u64),
    out: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
    report: &(dyn Fn(u64) + Sync),
) -> String {
    let mut hash = Hash::new(algorithm);
    hash.update(&first);
    let mut done = first.len() as u64;
    if out.send(Ok(first)).is_err() {
        return String::new();
    }
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let read = match fill(&mut source, &mut piece) {
            Ok(0) => return hash.finish(),
            Ok(read) => read,
            Err(error) => {
                let _ = out.send(Err(error));
                return String::new();
            }
        };
        piece.truncate(read);
        hash.update(&piece);
        done += read as u64;
        report(done);
        if done > most {
            let _ = out.send(Err(io::Error::other(format!("its file does not end after {done} bytes"))));
            return String::new();
        }
        if out.send(Ok(piece)).is_err() {
            // Who unpacks gave up, and has said why.
            return String::new();
        }
    }
}

fn unpack(packing: Packing, mut packed: FromChannel, out: &SyncSender<Piece>) {
    let mut reader = match packing.reader(&mut packed) {
        Ok(reader) => reader,
        Err(error) => return drop(out.send(Err(broken(packing, &error)))),
    };
    loop {
        let mut buffer = PageBuffer::zeroed(PIECE);
        match fill(&mut reader, &mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                if out.send(Ok((buffer, read))).is_err() {
                    return;
                }
            }
            Err(error) => return drop(out.send(Err(broken(packing, &error)))),
        }
    }
    drop(reader);
    // What follows the compressed data is part of the file, and of its checksum.
    let mut rest = [0; 4096];
    while packed.read(&mut rest).is_ok_and(|read| read > 0) {}
}

/// Reads until the buffer is full or there is no more.
fn fill(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match reader.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Reads what another thread fetches.
struct FromChannel {
    receiver: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for FromChannel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.recv() {
                Ok(piece) => {
                    let used = std::mem::replace(&mut self.piece, piece?);
                    let _ = self.empty.try_send(used);
                    self.at = 0;
                }
                Err(_) => self.ended = true,
            }
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
