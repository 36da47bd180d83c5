//! What this operator wrote and its watch has not told yet.
//!
//! Without it a reconciler that is called again at once would decide on what it has changed already, and learn so from a conflict; and of
//! two that look for a free address at once, both would take the same. Versions are compared as numbers, which Kubernetes promises
//! (KEP-5504).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::runtime::reflector::ObjectRef;

use crate::port::Object;

/// How long a write is remembered. A watch that is later than that is broken, and begins anew.
const PATIENCE: Duration = Duration::from_secs(10);

/// The writes of one kind.
pub(super) struct Own<K: Object>(Mutex<Writes<K>>);

struct Writes<K: Object> {
    objects: HashMap<ObjectRef<K>, (Arc<K>, Instant)>,
    /// The newest version that the watch told.
    told: u64,
}

impl<K: Object> Own<K> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Writes { objects: HashMap::new(), told: 0 }))
    }

    fn writes(&self) -> MutexGuard<'_, Writes<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API took a write, and this is what it stores now.
    pub(super) fn wrote(&self, object: K) {
        let mut writes = self.writes();
        let known = writes.objects.get(&ObjectRef::from_obj(&object)).map_or(writes.told, |(known, _)| version(&**known));
        // With its last finalizer a deleted object is gone. And an answer may come after the watch has told of it.
        let gone = object.meta().deletion_timestamp.is_some() && object.meta().finalizers.as_ref().is_none_or(Vec::is_empty);
        if !gone && version(&object) > known.max(writes.told) {
            writes.objects.insert(ObjectRef::from_obj(&object), (Arc::new(object), Instant::now()));
        }
    }

    /// The watch told of an object, or that it is gone.
    pub(super) fn told(&self, object: &K) {
        let mut writes = self.writes();
        writes.told = writes.told.max(version(object));
        let key = ObjectRef::from_obj(object);
        if writes.objects.get(&key).is_some_and(|(own, _)| version(&**own) <= version(object)) {
            writes.objects.remove(&key);
        }
    }

    /// The watch began anew, perhaps on data that is older.
    pub(super) fn began_anew(&self, all: &[Arc<K>]) {
        let told = all.iter().map(|object| version(&**object)).max().unwrap_or_default();
        *self.writes() = Writes { objects: HashMap::new(), told };
    }

    /// One object: what the watch told of it, or what was written since.
    pub(super) fn newest(&self, key: &ObjectRef<K>, told: Option<Arc<K>>) -> Option<Arc<K>> {
        self.with(|objects| objects.get(key).map(|(own, _)| own.clone())).or(told)
    }

    /// All objects: what the watch told of them, and what was written since.
    pub(super) fn over(&self, mut told: Vec<Arc<K>>) -> Vec<Arc<K>> {
        self.with(|objects| {
            if objects.is_empty() {
                return;
            }
            told.retain(|object| !objects.contains_key(&ObjectRef::from_obj(&**object)));
            told.extend(objects.values().map(|(own, _)| own.clone()));
        });
        told
    }

    fn with<T>(&self, look: impl FnOnce(&HashMap<ObjectRef<K>, (Arc<K>, Instant)>) -> T) -> T {
        let mut writes = self.writes();
        writes.objects.retain(|_, (_, since)| since.elapsed() < PATIENCE);
        look(&writes.objects)
    }
}

/// An object's version; `0` for one that is no number, which is then never newer than anything.
fn version<K: Object>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use athanor_crds::{Machine, MachineSpec};
    use kube::ResourceExt as _;

    use super::*;

    fn machine(name: &str, version: u64) -> Machine {
        let mut machine = Machine::new(name, MachineSpec::default());
        machine.metadata.resource_version = Some(version.to_string());
        machine
    }

    fn seen(own: &Own<Machine>, told: &[(&str, u64)]) -> Vec<String> {
        let list = own.over(told.iter().map(|(name, version)| Arc::new(machine(name, *version))).collect());
        let mut list: Vec<String> =
            list.iter().map(|machine| format!("{} {}", machine.name_any(), machine.resource_version().unwrap())).collect();
        list.sort();
        list
    }

    #[test]
    fn what_was_written_counts_until_the_watch_tells_as_much() {
        let own = Own::new();
        own.told(&machine("m1", 4));
        own.wrote(machine("m1", 5));
        own.wrote(machine("m2", 6));
        assert_eq!(seen(&own, &[("m1", 4)]), ["m1 5", "m2 6"]);
        own.told(&machine("m1", 5));
        assert_eq!(seen(&own, &[("m1", 5)]), ["m1 5", "m2 6"]);
        own.told(&machine("m2", 7));
        assert_eq!(seen(&own, &[("m1", 5), ("m2", 7)]), ["m1 5", "m2 7"]);
    }

    #[test]
    fn an_answer_that_comes_after_the_watch_brings_nobody_back() {
        let own = Own::new();
        own.wrote(machine("m1", 5));
        own.wrote(machine("m1", 4));
        assert_eq!(seen(&own, &[]), ["m1 5"], "answers may come in any order");
        // It was written at 8, and somebody deleted it at 9.
        own.told(&machine("m1", 9));
        own.wrote(machine("m1", 8));
        assert_eq!(seen(&own, &[]), Vec::<String>::new());
        let mut last = machine("m2", 10);
        last.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        own.wrote(last);
        assert_eq!(seen(&own, &[]), Vec::<String>::new(), "its last finalizer went");
    }

    #[test]
    fn a_watch_that_begins_anew_is_believed_also_where_it_knows_less() {
        let own = Own::new();
        own.wrote(machine("m1", 50));
        own.began_anew(&[Arc::new(machine("m1", 7))]);
        assert_eq!(seen(&own, &[("m1", 7)]), ["m1 7"]);
        own.wrote(machine("m1", 8));
        assert_eq!(seen(&own, &[("m1", 7)]), ["m1 8"]);
    }
}
