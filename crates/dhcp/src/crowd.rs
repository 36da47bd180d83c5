//! Clients that are remembered, in a map that strangers fill.

use std::{collections::HashMap, hash::Hash, time::Instant};

/// Among how many the one that is forgotten is looked for.
const EVICTION_LOOK: usize = 64;

/// Makes room for a client, if it is new and the map is full: of some that the map's own order picks, who was `last` heard of longest ago goes. A
/// flood of new addresses must not go over all of them for each.
pub(crate) fn make_room<K: Eq + Hash + Copy, V>(clients: &mut HashMap<K, V>, most: usize, who: &K, last: impl Fn(&V) -> Instant) {
    if clients.len() >= most && !clients.contains_key(who) {
        let quietest = clients.iter().take(EVICTION_LOOK).min_by_key(|(_, client)| last(client)).map(|(who, _)| *who);
        quietest.map(|quietest| clients.remove(&quietest));
    }
}
