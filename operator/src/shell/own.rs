//! What this operator wrote and its watch has not told yet.
//!
//! Without it a reconciler that is called again at once would decide on what it has changed already, and learn so from a conflict; and of
//! two that look for a free address at once, both would take the same. Versions are compared as numbers, which Kubernetes promises
//! (KEP-5504).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::runtime::reflector::ObjectRef;

use crate::port::Object;

/// How long a write that a new list does not have is believed in: the watch that goes on from that list has told by then, unless it is gone.
const AFTER_A_LIST: Duration = Duration::from_secs(60);

/// The writes of one kind.
pub(super) struct Own<K: Object>(Mutex<Writes<K>>);

struct Writes<K: Object> {
    objects: HashMap<ObjectRef<K>, Write<K>>,
    /// Those of which the API itself is to be asked.
    doubts: HashSet<ObjectRef<K>>,
    /// The newest version that the watch told.
    told: u64,
}

struct Write<K> {
    object: Arc<K>,
    /// When a list came that does not have it.
    missed: Option<Instant>,
}

impl<K: Object> Own<K> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Writes { objects: HashMap::new(), doubts: HashSet::new(), told: 0 }))
    }

    fn writes(&self) -> MutexGuard<'_, Writes<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API took a write, and this is what it stores now.
    pub(super) fn wrote(&self, object: K) {
        let (mut writes, key) = (self.writes(), ObjectRef::from_obj(&object));
        // With its last finalizer a deleted object is gone.
        if object.meta().deletion_timestamp.is_some() && object.meta().finalizers.as_ref().is_none_or(Vec::is_empty) {
            writes.objects.remove(&key);
            return;
        }
        // Answers come in any order, and the watch may have told more by then.
        let known = writes.objects.get(&key).map_or(0, |known| version(&*known.object));
        if version(&object) > known.max(writes.told) {
            writes.objects.insert(key, Write { object: Arc::new(object), missed: None });
        }
    }

    /// An object was deleted.
    pub(super) fn deleted(&self, key: &ObjectRef<K>) {
        self.writes().objects.remove(key);
    }

    /// Of this object nothing is known for certain: it cannot be read, or somebody else wrote it.
    pub(super) fn doubt(&self, key: ObjectRef<K>) {
        self.writes().doubts.insert(key);
    }

    /// Whether the API itself is to be asked.
    pub(super) fn is_doubtful(&self, key: &ObjectRef<K>) -> bool {
        self.writes().doubts.contains(key)
    }

    /// The API itself was asked: what it has is what the watch told.
    pub(super) fn confirm(&self, key: &ObjectRef<K>) {
        let mut writes = self.writes();
        writes.objects.remove(key);
        writes.doubts.remove(key);
    }

    /// The watch told of an object, or that it is gone.
    pub(super) fn told(&self, object: &K) {
        let (mut writes, key) = (self.writes(), ObjectRef::from_obj(object));
        writes.told = writes.told.max(version(object));
        writes.doubts.remove(&key);
        if writes.objects.get(&key).is_some_and(|own| version(&*own.object) <= version(object)) {
            writes.objects.remove(&key);
        }
    }

    /// The watch begins anew: what cannot be read is told again.
    pub(super) fn begins_anew(&self) {
        self.writes().doubts.clear();
    }

    /// The watch has begun anew with these objects, perhaps on data that is older. What was written since, or went with that data, is doubtful.
    pub(super) fn began_anew(&self, all: &[Arc<K>]) {
        let told = all.iter().map(|object| version(&**object)).max().unwrap_or_default();
        let Writes { objects, doubts, told: newest } = &mut *self.writes();
        *newest = told;
        objects.retain(|_, own| version(&*own.object) > told);
        for (key, own) in objects {
            own.missed.get_or_insert_with(Instant::now);
            doubts.insert(key.clone());
        }
    }

    /// One object: what the watch told of it, or what was written since.
    pub(super) fn newest(&self, key: &ObjectRef<K>, told: Option<Arc<K>>) -> Option<Arc<K>> {
        self.with(|objects| objects.get(key).map(|own| own.object.clone())).or(told)
    }

    /// All objects: what the watch told of them, and what was written since.
    pub(super) fn over(&self, mut told: Vec<Arc<K>>) -> Vec<Arc<K>> {
        self.with(|objects| {
            if objects.is_empty() {
                return;
            }
            told.retain(|object| !objects.contains_key(&ObjectRef::from_obj(&**object)));
            told.extend(objects.values().map(|own| own.object.clone()));
        });
        told
    }

    fn with<T>(&self, look: impl FnOnce(&HashMap<ObjectRef<K>, Write<K>>) -> T) -> T {
        let mut writes = self.writes();
        writes.objects.retain(|_, own| own.missed.is_none_or(|since| since.elapsed() < AFTER_A_LIST));
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
    fn where_a_new_list_knows_less_the_api_itself_is_asked() {
        let (own, key) = (Own::new(), ObjectRef::from_obj(&machine("m1", 0)));
        own.wrote(machine("m1", 50));
        own.wrote(machine("m2", 6));
        own.began_anew(&[Arc::new(machine("m1", 7))]);
        assert!(own.is_doubtful(&key), "it is older than what was written");
        assert_eq!(seen(&own, &[("m1", 7)]), ["m1 50"], "what the list has counts where it is not older");
        own.confirm(&key);
        assert_eq!((seen(&own, &[("m1", 7)]), own.is_doubtful(&key)), (vec!["m1 7".to_owned()], false));
    }

    #[test]
    fn what_cannot_be_read_is_doubtful_until_it_can() {
        let (own, key) = (Own::new(), ObjectRef::from_obj(&machine("m1", 0)));
        own.doubt(key.clone());
        assert!(own.is_doubtful(&key));
        own.told(&machine("m1", 3));
        assert!(!own.is_doubtful(&key));
    }
}
