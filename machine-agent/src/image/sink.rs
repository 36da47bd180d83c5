//! Where pieces of an image go: the first MiB is kept back, zeros are not written, the rest goes to several writers at once.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::Scope,
};

use athanor_sys::PageBuffer;

use super::{Extent, PIECE, is_zero, lock, too_large};
use crate::{AgentError, device::Device, marker::MIB};

/// How many requests a disk has at once.
const WRITERS: usize = 4;
/// What of a piece is looked at for zeros: a hole smaller than this is written.
const GRAIN: usize = 64 << 10;
/// The longest hole that is zeroed in one go, so that progress is told meanwhile.
const LONGEST_HOLE: u64 = 256 << 20;

struct Job {
    offset: u64,
    buffer: Arc<PageBuffer>,
    from: usize,
    to: usize,
}

#[derive(Default)]
struct State {
    extents: Vec<Extent>,
    failure: Option<AgentError>,
}

/// Takes an image in order.
pub(crate) struct Sink<'a> {
    disk: &'a dyn Device,
    /// What goes last.
    head: Vec<u8>,
    /// A hole that has no end yet.
    hole: Option<(u64, u64)>,
    size: u64,
    jobs: Option<SyncSender<Job>>,
    queue: Arc<Mutex<Option<Receiver<Job>>>>,
    state: Arc<Mutex<State>>,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(disk: &'a dyn Device) -> Self {
        let (jobs, queue) = sync_channel(WRITERS);
        Self {
            disk,
            head: vec![0; usize::try_from(MIB.min(disk.size())).unwrap_or_default()],
            hole: None,
            size: 0,
            jobs: Some(jobs),
            queue: Arc::new(Mutex::new(Some(queue))),
            state: Arc::default(),
        }
    }

    /// Starts the writers, lets an image be put, and ends the writers, whether that went well or not.
    pub(crate) fn fill<'scope, T>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        put: impl FnOnce(&mut Self) -> Result<T, AgentError>,
    ) -> Result<T, AgentError>
    where
        'a: 'scope,
    {
        for _ in 0..WRITERS {
            let (disk, queue, state) = (self.disk, self.queue.clone(), self.state.clone());
            scope.spawn(move || {
                loop {
                    let job = lock(&queue).as_ref().and_then(|queue| queue.recv().ok());
                    let Some(job) = job else { return };
                    write(disk, &job, &state);
                }
            });
        }
        let result = put(self);
        self.jobs = None;
        result
    }

    /// Takes the first `length` bytes of a buffer that belong at a place. Places come in order.
    pub(crate) fn put(&mut self, offset: u64, buffer: PageBuffer, length: usize) -> Result<(), AgentError> {
        let failed = lock(&self.state).failure.take();
        if let Some(failure) = failed {
            return Err(failure);
        }
        let end = offset + length as u64;
        if end > self.disk.size() {
            return Err(too_large(self.disk, None));
        }
        self.size = self.size.max(end);
        let buffer = Arc::new(buffer);
        let mut at = self.keep_back(offset, &buffer[..length]);
        while at < length {
            let zero = is_zero(&buffer[at..length.min(at + GRAIN)]);
            let mut to = at;
            while to < length && is_zero(&buffer[to..length.min(to + GRAIN)]) == zero {
                to = length.min(to + GRAIN);
            }
            if zero {
                self.skip(offset + at as u64, (to - at) as u64)?;
            } else {
                self.fill_hole()?;
                self.send(Job { offset: offset + at as u64, buffer: buffer.clone(), from: at, to });
            }
            at = to;
        }
        Ok(())
    }

    /// What of a piece belongs to the first MiB is kept; returns how many bytes that were.
    fn keep_back(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let Some(room) = (self.head.len() as u64).checked_sub(offset).and_then(|room| usize::try_from(room).ok()) else { return 0 };
        let (start, kept) = (usize::try_from(offset).unwrap_or_default(), room.min(bytes.len()));
        self.head[start..start + kept].copy_from_slice(&bytes[..kept]);
        kept
    }

    /// Takes zeros.
    pub(crate) fn skip(&mut self, offset: u64, length: u64) -> Result<(), AgentError> {
        if offset.saturating_add(length) > self.disk.size() {
            return Err(too_large(self.disk, None));
        }
        self.size = self.size.max(offset + length);
        // The first MiB was zeroed and is written whole.
        let kept = (self.head.len() as u64).saturating_sub(offset).min(length);
        let (offset, length) = (offset + kept, length - kept);
        if length == 0 {
            return Ok(());
        }
        match &mut self.hole {
            Some((_, end)) if *end == offset => *end += length,
            _ => {
                self.fill_hole()?;
                self.hole = Some((offset, offset + length));
            }
        }
        if self.hole.is_some_and(|(start, end)| end - start >= LONGEST_HOLE) { self.fill_hole() } else { Ok(()) }
    }

    fn fill_hole(&mut self) -> Result<(), AgentError> {
        let Some((start, end)) = self.hole.take() else { return Ok(()) };
        if let Err(error) = self.disk.zero(start, end - start) {
            return Err(AgentError::disk(self.disk.name(), "writing zeros")(error));
        }
        let extents = &mut lock(&self.state).extents;
        let mut at = start;
        while at < end {
            let length = (end - at).min(LONGEST_HOLE);
            extents.push(Extent::Zeros { offset: at, length });
            at += length;
        }
        Ok(())
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The writers live as long as the queue: it cannot be closed before us.
            let _ = jobs.send(job);
        }
    }

    /// Once the writers have ended: the first MiB, what is to be read back, and the image's size.
    pub(crate) fn finish(mut self) -> Result<(Vec<u8>, Vec<Extent>, u64), AgentError> {
        self.fill_hole()?;
        let mut state = lock(&self.state);
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        let mut extents = std::mem::take(&mut state.extents);
        drop(state);
        // In the disk's order, which is the fastest.
        extents.sort_by_key(Extent::start);
        Ok((self.head, extents, self.size))
    }
}

impl Extent {
    fn start(&self) -> u64 {
        match self {
            Self::Data { offset, .. } | Self::Zeros { offset, .. } => *offset,
        }
    }
}

fn write(disk: &dyn Device, job: &Job, state: &Mutex<State>) {
    let bytes = &job.buffer[job.from..job.to];
    debug_assert!(bytes.len() <= PIECE, "no piece is larger");
    let sum = crc32fast::hash(bytes);
    let written = disk.write_at(job.offset, bytes);
    let mut state = lock(state);
    match written {
        Ok(()) => state.extents.push(Extent::Data { offset: job.offset, length: bytes.len(), sum }),
        Err(error) => {
            state.failure.get_or_insert_with(|| AgentError::disk(disk.name(), "writing to it")(error));
        }
    }
}
