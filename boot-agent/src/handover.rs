//! How an agent leaves: its successor on the node answers what comes anew, and what is under way is brought to its end.
//!
//! ```text
//!   successor starts ──► both have the request ports (SO_REUSEPORT) ──► we are told to stop ──► we close ours ──► last transfer ends
//! ```
//!
//! Without a successor (somebody deleted the pod) we answer on until the last transfer has ended: nobody else would.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use athanor_dhcp::SERVER_PORT;

use crate::{port, shared::Shared};

/// How long transfers may take to end: an initrd over a gigabit link needs seconds, over a bad one a minute. Kubernetes waits longer.
pub const DRAIN: Duration = Duration::from_secs(60);
/// How often it is looked whether the last one has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Counts what is under way.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Arc<()>);

/// One transfer; it is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Transfer {
    _counted: Arc<()>,
}

impl UnderWay {
    pub(crate) fn begin(&self) -> Transfer {
        Transfer { _counted: self.0.clone() }
    }

    pub(crate) fn count(&self) -> usize {
        // One is ours.
        Arc::strong_count(&self.0) - 1
    }
}

/// Ends when the last transfer has, or may take no longer.
pub(crate) async fn drain(shared: &Shared) {
    let began = Instant::now();
    let mut closed = false;
    while shared.under_way.count() > 0 && began.elapsed() < DRAIN {
        if !closed && port::is_shared(SERVER_PORT) {
            tracing::info!(transfers = shared.under_way.count(), "another agent answers on this node now; finishing transfers");
            shared.close();
            closed = true;
        }
        tokio::time::sleep(LOOK).await;
    }
    if shared.under_way.count() > 0 {
        tracing::warn!(transfers = shared.under_way.count(), waited = ?DRAIN, "transfers that did not end are cut off");
    }
    shared.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_counts_until_it_is_dropped() {
        let under_way = UnderWay::default();
        let (one, other) = (under_way.begin(), under_way.begin());
        assert_eq!(under_way.count(), 2);
        drop(one);
        assert_eq!(under_way.count(), 1);
        drop(other);
        assert_eq!(under_way.count(), 0);
    }
}
