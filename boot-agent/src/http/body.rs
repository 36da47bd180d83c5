//! Bodies: bytes of a file on their way out. What the kernel has in memory is sent at once; only what must be waited for goes to a thread that may
//! wait. Buffers are used again, so that a large file costs no fresh memory for each of its pieces.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::{Body, Delivery};
use crate::content::Content;

/// What is read from a file at once. Two of these wait for each client that reads slowly.
const CHUNK: usize = 128 << 10;
/// How many buffers are kept for the next piece: as many as sockets take at once on a busy server.
const KEPT: usize = 32;

/// Buffers that are free.
static FREE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer that is given back when its bytes are sent.
struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
}

impl Buffer {
    fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { bytes: free.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice()), length: 0 }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// A range of some content, and whom to tell when it went out whole.
pub(super) fn of(content: Content, range: Range<u64>, delivery: Delivery) -> Body {
    let whole = range == (0..content.size());
    if let Content::Memory(bytes) = &content {
        delivery.finished(whole);
        let part = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
        return Full::new(bytes.slice(part(range.start)..part(range.end))).map_err(|never| match never {}).boxed_unsync();
    }
    let chunks = stream::try_unfold((content, range, delivery, false), move |(content, range, delivery, done)| async move {
        if done || range.is_empty() {
            if !done {
                delivery.finished(whole);
            }
            return Ok(None);
        }
        let wanted = usize::try_from(range.end - range.start).unwrap_or(CHUNK).min(CHUNK);
        let mut buffer = Buffer::take();
        let (content, mut buffer, read) = match content.read_cached(range.start, &mut buffer.bytes[..wanted])? {
            Some(read) if read > 0 => (content, buffer, read),
            _ => {
                let reading = delivery.shared.on_disk(move || {
                    let read = content.read_at(range.start, &mut buffer.bytes[..wanted]);
                    (content, buffer, read)
                });
                let (content, buffer, read) = reading.await.ok_or(std::io::ErrorKind::TimedOut)?;
                (content, buffer, read?)
            }
        };
        if read == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        }
        buffer.length = read;
        let rest = range.start + read as u64..range.end;
        let done = rest.is_empty();
        if done {
            delivery.finished(whole);
        }
        Ok(Some((Frame::data(Bytes::from_owner(buffer)), (content, rest, delivery, done))))
    });
    StreamBody::new(chunks).boxed_unsync()
}
