//! One transfer: option negotiation, windows of blocks, acknowledgements, retransmission.

use std::time::{Duration, Instant};

use crate::{Content, DEFAULT_BLOCK_SIZE, MAX_BLOCK_SIZE, MAX_WINDOW, MIN_BLOCK_SIZE, ReadRequest, codec};

/// The first retransmission comes after a second, as RFC 1123 section 4.2.3.2 wants a start; then the pause doubles.
pub const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a window is sent before the client is given up: 1 + 2 + 4 + 8 + 8 s, longer than any firmware waits.
pub const MAX_TRIES: u32 = 5;
/// The longest pause between two tries.
const MAX_TIMEOUT: Duration = Duration::from_secs(8);

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Bytes in a block.
    pub block_size: u16,
    /// Blocks in a window.
    pub window: u16,
    /// The first pause before a retransmission.
    pub timeout: Duration,
    /// What the OACK says; empty where no option was understood.
    pub acknowledged: Vec<(&'static str, String)>,
}

/// Agrees on options. What is out of range is brought into it where the RFC lets the server choose, and left out where not.
pub fn negotiate(request: &ReadRequest, size: u64) -> Negotiated {
    let mut agreed = Negotiated { block_size: DEFAULT_BLOCK_SIZE, window: 1, timeout: FIRST_TIMEOUT, acknowledged: Vec::new() };
    for (name, value) in &request.options {
        let Ok(number) = value.trim().parse::<u64>() else { continue };
        match name.as_str() {
            "blksize" if number >= u64::from(MIN_BLOCK_SIZE) => {
                agreed.block_size = u16::try_from(number).unwrap_or(u16::MAX).min(MAX_BLOCK_SIZE);
                agreed.acknowledged.push(("blksize", agreed.block_size.to_string()));
            }
            "windowsize" if number >= 1 => {
                agreed.window = u16::try_from(number).unwrap_or(u16::MAX).min(MAX_WINDOW);
                agreed.acknowledged.push(("windowsize", agreed.window.to_string()));
            }
            // The client chooses the timeout: it is taken as it is, or not at all (RFC 2349).
            "timeout" if (1..=255).contains(&number) => {
                agreed.timeout = Duration::from_secs(number);
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
    deadline: Instant,
    tries: u32,
    /// The last time a whole window was sent again because the client missed a part of it.
    resent_after: Option<u64>,
}

impl<C: Content> Transfer<C> {
    /// Begins a transfer and sends its first packets.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn begin(now: Instant, request: &ReadRequest, content: C, out: &mut Vec<Vec<u8>>) -> std::io::Result<Self> {
        let agreed = negotiate(request, content.size());
        let opening = !agreed.acknowledged.is_empty();
        let deadline = now + agreed.timeout;
        let mut this = Self { content, agreed, opening, acked: 0, sent: 0, deadline, tries: 1, resent_after: None };
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

    /// Whether nothing but the first packet was ever sent; a client that asks again may then be answered anew.
    pub fn is_fresh(&self) -> bool {
        self.acked == 0
    }

    /// An acknowledgement came.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn acknowledge(&mut self, now: Instant, block: u16, out: &mut Vec<Vec<u8>>) -> std::io::Result<Standing> {
        if self.opening {
            if block == 0 {
                self.opening = false;
                self.advance(now, out)?;
            }
            return Ok(Standing::Open);
        }
        // Which of the blocks in flight has this 16-bit number? Older ones are echoes and are not answered (the Sorcerer's Apprentice).
        let base = self.acked;
        let Some(acked) = (base..=self.sent).find(|candidate| candidate & 0xffff == u64::from(block)) else {
            return Ok(Standing::Open);
        };
        if acked == base {
            // With windows, a repeated acknowledgement says that the block after it was lost (RFC 7440 section 4). Once for each place.
            if self.agreed.window > 1 && self.resent_after != Some(acked) {
                self.resent_after = Some(acked);
                self.send(out)?;
            }
            return Ok(Standing::Open);
        }
        self.acked = acked;
        if acked == self.last_block() {
            return Ok(Standing::Complete);
        }
        self.advance(now, out)?;
        Ok(Standing::Open)
    }

    fn advance(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
        self.tries = 1;
        self.deadline = now + self.agreed.timeout;
        self.send(out)
    }

    /// Its deadline passed: sends again, or gives up (`false`).
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn retransmit(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> std::io::Result<bool> {
        if self.tries >= MAX_TRIES {
            return Ok(false);
        }
        let pause = (self.agreed.timeout * 2u32.pow(self.tries)).min(MAX_TIMEOUT.max(self.agreed.timeout));
        self.tries += 1;
        self.deadline = now + pause;
        self.resent_after = None;
        self.send(out)?;
        Ok(true)
    }

    /// Sends the OACK, or the window after the last acknowledged block.
    fn send(&mut self, out: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
        if self.opening {
            out.push(codec::option_ack(&self.agreed.acknowledged));
            return Ok(());
        }
        let size = usize::from(self.agreed.block_size);
        self.sent = (self.acked + u64::from(self.agreed.window)).min(self.last_block());
        for block in self.acked + 1..=self.sent {
            let mut packet = vec![0; 4 + size];
            packet[1] = 3;
            #[allow(clippy::cast_possible_truncation, reason = "block numbers roll over, to 0 as every known client does")]
            packet[2..4].copy_from_slice(&(block as u16).to_be_bytes());
            let read = self.content.read_at((block - 1) * size as u64, &mut packet[4..])?;
            packet.truncate(4 + read);
            out.push(packet);
        }
        Ok(())
    }
}
