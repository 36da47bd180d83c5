//! Which transfers want to be looked at, and when: a heap with one entry each, that is put right when it comes up.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::SocketAddr,
    time::Instant,
};

/// Deadlines by client.
#[derive(Debug, Default)]
pub(crate) struct Due {
    heap: BinaryHeap<Reverse<(Instant, SocketAddr)>>,
    /// The earliest entry of each client in the heap. Later ones are left overs and are dropped when they come up.
    earliest: HashMap<SocketAddr, Instant>,
}

impl Due {
    /// A client has a deadline. A later one than is known costs nothing: the earlier entry is put right when it comes up.
    pub(crate) fn at(&mut self, peer: SocketAddr, deadline: Instant) {
        if self.earliest.get(&peer).is_some_and(|known| *known <= deadline) {
            return;
        }
        self.earliest.insert(peer, deadline);
        self.heap.push(Reverse((deadline, peer)));
    }

    /// A client is gone.
    pub(crate) fn forget(&mut self, peer: SocketAddr) {
        self.earliest.remove(&peer);
    }

    /// A client whose entry has come up, if any has; its true deadline may be later.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<SocketAddr> {
        while let Some(Reverse((deadline, peer))) = self.heap.peek().copied() {
            if self.earliest.get(&peer) == Some(&deadline) {
                if deadline > now {
                    return None;
                }
                self.heap.pop();
                self.earliest.remove(&peer);
                return Some(peer);
            }
            self.heap.pop();
        }
        None
    }

    /// When the next entry comes up.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((deadline, _))| *deadline)
    }
}
