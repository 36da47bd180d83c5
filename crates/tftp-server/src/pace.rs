//! When to send again: the round-trip estimator of RFC 6298, with a floor that fits a rack.

use std::time::{Duration, Instant};

/// The first retransmission comes after a second, as RFC 6298 section 2.1 wants where nothing was measured.
pub const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// The shortest pause. RFC 6298 says a second, for links across the world; a machine in a rack answers within a millisecond, and firmware that
/// needs longer raises the estimate by itself.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(20);
/// The longest pause.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(8);

/// An estimate of how long an acknowledgement takes.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    smoothed: Option<Duration>,
    variation: Duration,
    pause: Duration,
    /// A client may say how long to wait (RFC 2349): never longer than that.
    longest: Duration,
    /// When what is in flight was sent, if it was sent once only (Karn's rule: else nobody knows which copy was acknowledged).
    sent_once: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(agreed: Option<Duration>) -> Self {
        let longest = agreed.unwrap_or(MAX_TIMEOUT).min(MAX_TIMEOUT);
        Self { smoothed: None, variation: Duration::ZERO, pause: FIRST_TIMEOUT.min(longest), longest, sent_once: None }
    }

    /// Something new was sent; returns how long to wait for its acknowledgement.
    pub(crate) fn sent(&mut self, now: Instant) -> Duration {
        self.sent_once = Some(now);
        self.pause
    }

    /// It was sent again; returns how long to wait now.
    pub(crate) fn sent_again(&mut self) -> Duration {
        self.sent_once = None;
        self.pause = (self.pause * 2).min(self.longest);
        self.pause
    }

    /// A part of it was sent again at the client's wish: what comes next measures nothing, and nobody is slower than was thought.
    pub(crate) fn sent_in_part(&mut self) -> Duration {
        self.sent_once = None;
        self.pause
    }

    /// Whether there may be several copies of what is in flight.
    pub(crate) fn was_repeated(&self) -> bool {
        self.sent_once.is_none()
    }

    /// It was acknowledged.
    pub(crate) fn acknowledged(&mut self, now: Instant) {
        let Some(sent) = self.sent_once.take() else { return };
        let measured = now.saturating_duration_since(sent);
        let smoothed = match self.smoothed {
            None => {
                self.variation = measured / 2;
                measured
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(measured)) / 4;
                (smoothed * 7 + measured) / 8
            }
        };
        self.smoothed = Some(smoothed);
        self.pause = (smoothed + self.variation * 4).clamp(MIN_TIMEOUT, self.longest.max(MIN_TIMEOUT));
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
mod tests {
    use super::*;

    #[test]
    fn a_near_client_is_waited_for_briefly_and_a_slow_one_longer() {
        let (mut near, mut slow, start) = (Pace::new(None), Pace::new(None), Instant::now());
        assert_eq!(near.sent(start), FIRST_TIMEOUT);
        near.acknowledged(start + Duration::from_micros(200));
        assert_eq!(near.sent(start), MIN_TIMEOUT);
        slow.sent(start);
        slow.acknowledged(start + Duration::from_millis(100));
        assert_eq!(slow.sent(start), Duration::from_millis(300));
    }

    #[test]
    fn pauses_double_until_something_is_measured_again_and_stay_below_what_the_client_said() {
        let (mut pace, start) = (Pace::new(Some(Duration::from_secs(2))), Instant::now());
        pace.sent(start);
        pace.acknowledged(start + Duration::from_millis(1));
        assert_eq!([pace.sent(start), pace.sent_again(), pace.sent_again()], [20, 40, 80].map(Duration::from_millis));
        pace.acknowledged(start + Duration::from_secs(9));
        assert_eq!(pace.sent(start), Duration::from_millis(80), "an acknowledgement of who knows which copy measures nothing");
        pace.acknowledged(start + Duration::from_millis(1));
        assert_eq!(pace.sent(start), MIN_TIMEOUT);
        for _ in 0..20 {
            pace.sent_again();
        }
        assert_eq!(pace.pause, Duration::from_secs(2));
    }
}
