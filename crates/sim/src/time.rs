//! Clocks and ids that replay.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use athanor_operator::{Clock, Ids};
use jiff::Timestamp;

/// Ten seconds pass whenever somebody looks.
#[derive(Debug, Default)]
pub struct Hurry(AtomicU64);

impl Clock for Hurry {
    fn now(&self) -> Timestamp {
        let seconds = self.0.fetch_add(10, Ordering::Relaxed);
        Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap()
    }
}

/// Time passes when somebody says so. Microseconds, from some day on.
#[derive(Debug)]
pub struct Virtual(AtomicI64);

impl Default for Virtual {
    fn default() -> Self {
        Self(AtomicI64::new(1_800_000_000_000_000))
    }
}

impl Virtual {
    /// So many milliseconds go by.
    pub fn pass(&self, milliseconds: u64) {
        self.0.fetch_add(i64::try_from(milliseconds).unwrap() * 1000, Ordering::Relaxed);
    }

    /// Now, in microseconds since the epoch.
    pub fn micros(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        // The operator's own clock knows seconds.
        Timestamp::from_second(self.micros() / 1_000_000).unwrap()
    }
}

/// Ids that count.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Ids for Count {
    fn id(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn token(&self) -> String {
        self.id("t")
    }
}
