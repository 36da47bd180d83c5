//! One transfer: option negotiation, windows of blocks, acknowledgements, retransmission.

use std::time::{Duration, Instant};

use crate::{Content, DEFAULT_BLOCK_SIZE, MAX_WINDOW, MIN_BLOCK_SIZE, ReadRequest, Run, codec, pace::Pace};

/// How long a client may make no progress: longer than any firmware waits.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Who never acknowledged anything may be a forged address: its first packet is sent so often again, and no more.
pub const UNCONFIRMED_RETRIES: u32 = 2;
/// And where options are answered, all copies together are at most so many times as long as the request.
pub const MAX_AMPLIFICATION: usize = 3;

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Bytes in a block.
    pub block_size: u16,
    /// Blocks in a window.
    pub window: u16,
    /// The longest pause before a retransmission, if the client said one.
    pub timeout: Option<Duration>,
    /// What the OACK says; empty where no option was understood.
    pub acknowledged: Vec<(&'static str, String)>,
}

/// Agrees on options. What is out of range is brought into it where the RFC lets the server choose, and left out where not.
pub fn negotiate(request: &ReadRequest, size: u64, max_block: u16) -> Negotiated {
    let mut agreed = Negotiated { block_size: DEFAULT_BLOCK_SIZE, window: 1, timeout: None, acknowledged: Vec::new() };
    for (name, value) in &request.options {
        let Ok(number) = value.trim().parse::<u64>() else { continue };
        if agreed.acknowledged.iter().any(|(known, _)| known == name) {
            continue;
        }
        match name.as_str() {
            "blksize" if number >= u64::from(MIN_BLOCK_SIZE) => {
                agreed.block_size = u16::try_from(number).unwrap_or(u16::MAX).min(max_block);
                agreed.acknowledged.push(("blksize", agreed.block_size.to_string()));
            }
            "windowsize" if number >= 1 => {
                agreed.window = u16::try_from(number).unwrap_or(u16::MAX).min(MAX_WINDOW);
                agreed.acknowledged.push(("windowsize", agreed.window.to_string()));
            }
            // The client chooses the timeout: it is taken as it is, or not at all (RFC 2349).
            "timeout" if (1..=255).contains(&number) => {
                agreed.timeout = Some(Duration::from_secs(number));
                agreed.acknowledged.push(("timeout", number.to_string()));
            }
            "tsize" => agreed.acknowledged.push(("tsize", size.to_string())),
            _ => {}
        }
    }
    agreed
}

/// How a transfer stands after a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It goes on.
    Open,
    /// Everything was acknowledged.
    Complete,
}

/// One transfer.
#[derive(Debug)]
pub struct Transfer<C> {
    content: C,
    agreed: Negotiated,
    /// The OACK still waits for its acknowledgement (of block 0).
    opening: bool,
    /// The last block in order that the client has.
    acked: u64,
    /// The last block that was sent.
    sent: u64,
    pace: Pace,
    deadline: Instant,
    /// When the client last made progress.
    progress: Instant,
    /// How often the first packet may be sent again while nothing was acknowledged.
    retries: u32,
    /// The last time a whole window was sent again because the client missed a part of it.
    resent_after: Option<u64>,
}

impl<C: Content> Transfer<C> {
    /// Begins a transfer and sends its first packets; no block is longer than `max_block`.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn begin(now: Instant, request: &ReadRequest, content: C, max_block: u16, out: &mut Vec<Run>) -> std::io::Result<Self> {
        let agreed = negotiate(request, content.size(), max_block);
        let opening = !agreed.acknowledged.is_empty();
        let answer = codec::option_ack(&agreed.acknowledged).len();
        let allowed = (request.length * MAX_AMPLIFICATION / answer).saturating_sub(1);
        let retries = if opening { UNCONFIRMED_RETRIES.min(u32::try_from(allowed).unwrap_or(u32::MAX)) } else { UNCONFIRMED_RETRIES };
        let mut pace = Pace::new(agreed.timeout);
        let deadline = now + pace.sent(now);
        let mut this = Self { content, agreed, opening, acked: 0, sent: 0, pace, deadline, progress: now, retries, resent_after: None };
        this.send(out)?;
        Ok(this)
    }

    /// The number of the last block: the first that is shorter than the block size, even if it is empty.
    fn last_block(&self) -> u64 {
        self.content.size() / u64::from(self.agreed.block_size) + 1
    }

    /// Bytes that the client has acknowledged.
    pub fn acknowledged_bytes(&self) -> u64 {
        (self.acked * u64::from(self.agreed.block_size)).min(self.content.size())
    }

    /// What was agreed on.
    pub fn agreed(&self) -> &Negotiated {
        &self.agreed
    }

    /// When it wants to be polled.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether nothing was ever acknowledged. Nobody knows then that the address is not forged, and a client that asks again is answered anew.
    pub fn is_unconfirmed(&self) -> bool {
        self.acked == 0 && (self.opening || self.agreed.acknowledged.is_empty())
    }

    /// Whether the client has no byte of it yet.
    pub fn is_fresh(&self) -> bool {
        self.acked == 0
    }

    /// An acknowledgement came.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn acknowledge(&mut self, now: Instant, block: u16, out: &mut Vec<Run>) -> std::io::Result<Standing> {
        if self.opening {
            if block == 0 {
                self.opening = false;
                self.advance(now, out)?;
            }
            return Ok(Standing::Open);
        }
        // Which of the blocks in flight has this 16-bit number? Older ones are echoes and are not answered (the Sorcerer's Apprentice).
        let ahead = u64::from(block.wrapping_sub((self.acked & 0xffff) as u16));
        let acked = self.acked + ahead;
        if acked > self.sent {
            return Ok(Standing::Open);
        }
        if ahead == 0 {
            // With windows, a repeated acknowledgement says that the block after it was lost (RFC 7440 section 4). Once for each place.
            if self.agreed.window > 1 && self.resent_after != Some(acked) {
                self.resent_after = Some(acked);
                self.deadline = now + self.pace.sent_in_part();
                self.send(out)?;
            }
            return Ok(Standing::Open);
        }
        // Where copies of one window may be on their way, or the rest of it was cut by a loss, a client acknowledges this place once for each
        // packet that it did not expect. Answered with a window each, they would double all that follows (the Sorcerer's Apprentice).
        self.resent_after = (self.pace.was_repeated() || acked < self.sent).then_some(acked);
        self.acked = acked;
        if acked == self.last_block() {
            return Ok(Standing::Complete);
        }
        self.advance(now, out)?;
        Ok(Standing::Open)
    }

    fn advance(&mut self, now: Instant, out: &mut Vec<Run>) -> std::io::Result<()> {
        self.pace.acknowledged(now);
        self.progress = now;
        self.deadline = now + self.pace.sent(now);
        self.send(out)
    }

    /// Its deadline passed: sends again, or gives up (`false`).
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn retransmit(&mut self, now: Instant, out: &mut Vec<Run>) -> std::io::Result<bool> {
        if now.saturating_duration_since(self.progress) >= PATIENCE {
            return Ok(false);
        }
        self.deadline = (now + self.pace.sent_again()).min(self.progress + PATIENCE).max(now);
        if self.is_unconfirmed() {
            if self.retries == 0 {
                // Nothing more is sent, but a late acknowledgement is still welcome.
                self.deadline = self.progress + PATIENCE;
                return Ok(true);
            }
            self.retries -= 1;
        }
        self.resent_after = None;
        self.send(out)?;
        Ok(true)
    }

    /// Sends the OACK, or the window after the last acknowledged block.
    fn send(&mut self, out: &mut Vec<Run>) -> std::io::Result<()> {
        if self.opening {
            out.push(Run::one(codec::option_ack(&self.agreed.acknowledged)));
            return Ok(());
        }
        let size = usize::from(self.agreed.block_size);
        self.sent = (self.acked + u64::from(self.agreed.window)).min(self.last_block());
        let blocks = usize::try_from(self.sent - self.acked).unwrap_or(usize::MAX);
        let stride = codec::DATA_HEADER + size;
        let mut bytes = vec![0; blocks * stride];
        let mut length = 0;
        for (block, packet) in (self.acked + 1..=self.sent).zip(bytes.chunks_exact_mut(stride)) {
            let (header, data) = packet.split_at_mut(codec::DATA_HEADER);
            codec::data_header(block, header);
            length += codec::DATA_HEADER + self.content.read_at((block - 1) * size as u64, data)?;
        }
        // Only the last block is short.
        bytes.truncate(length);
        out.push(Run { bytes, stride });
        Ok(())
    }
}
