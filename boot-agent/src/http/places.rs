//! How many connections there may be: in all, and of one address. Whoever is one too many is closed at once, so that a client that
//! hoards connections stands in nobody's way.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections at once: a rack row of machines with a few each.
const MOST: usize = 2048;
/// Connections of one address: an installer that fetches packages opens a handful.
const MOST_OF_ONE: usize = 64;

/// The places and who has them.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    of: IpAddr,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection of an address.
    pub(super) fn take(self: &Arc<Self>, of: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        if taken.values().sum::<usize>() >= MOST || taken.get(&of).is_some_and(|count| *count >= MOST_OF_ONE) {
            return None;
        }
        *taken.entry(of).or_default() += 1;
        Some(Place { places: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place() {
        let places = Arc::new(Places::default());
        let (greedy, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let held: Vec<_> = (0..MOST_OF_ONE).map_while(|_| places.take(greedy)).collect();
        assert_eq!(held.len(), MOST_OF_ONE);
        assert!(places.take(greedy).is_none());
        assert!(places.take(other).is_some());
        drop(held);
        assert!(places.take(greedy).is_some());
    }
}
