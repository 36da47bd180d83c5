//! What this operator wrote and its watch has not told yet.
//!
//! Without it a reconciler that is called again at once would decide on what it has changed already, and learn so from a conflict; and of
//! two that look for a free address at once, both would take the same. Versions are compared as numbers, which Kubernetes promises
//! (KEP-5504).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::runtime::reflector::ObjectRef;

use crate::port::Object;

/// The writes of one kind.
pub(super) struct Own<K: Object>(Mutex<Writes<K>>);

struct Writes<K: Object> {
    objects: HashMap<ObjectRef<K>, Arc<K>>,
    /// Those of which the API itself is to be asked.
    doubts: HashMap<ObjectRef<K>, Doubt>,
    /// The newest version that the watch told.
    told: u64,
    /// How often the watch began anew.
    round: u64,
}

/// Why the API itself is asked.
struct Doubt {
    /// What the watch must have told to be believed again.
    least: u64,
    /// In which round of the watch it arose.
    round: u64,
}

impl<K: Object> Own<K> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Writes { objects: HashMap::new(), doubts: HashMap::new(), told: 0, round: 0 }))
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
        let known = writes.objects.get(&key).map_or(0, |known| version(&**known));
        if version(&object) > known.max(writes.told) {
            writes.objects.insert(key, Arc::new(object));
        }
    }

    /// An object was deleted.
    pub(super) fn deleted(&self, key: &ObjectRef<K>) {
        self.writes().objects.remove(key);
    }

    /// Of this object nothing is known for certain: it cannot be read, somebody else wrote it, or an answer was lost.
    pub(super) fn doubt(&self, key: ObjectRef<K>) {
        let mut writes = self.writes();
        let round = writes.round;
        writes.doubts.entry(key).or_insert(Doubt { least: 0, round }).round = round;
    }

    /// Whether the API itself is to be asked.
    pub(super) fn is_doubtful(&self, key: &ObjectRef<K>) -> bool {
        self.writes().doubts.contains_key(key)
    }

    /// The API itself was asked, and where the watch has told as much there is no doubt any more. Else it is believed when it has.
    pub(super) fn answered(&self, key: &ObjectRef<K>, live: Option<&K>, told: Option<&K>) {
        let (mut writes, version_of) = (self.writes(), |object: Option<&K>| object.map(version));
        let (live, told) = (version_of(live), version_of(told));
        if writes.objects.get(key).is_some_and(|own| Some(version(&**own)) <= live) {
            writes.objects.remove(key);
        }
        if live == told {
            writes.doubts.remove(key);
        } else if let Some(doubt) = writes.doubts.get_mut(key) {
            doubt.least = doubt.least.max(live.unwrap_or_default());
        }
    }

    /// The watch told of an object, or that it is gone.
    pub(super) fn told(&self, object: &K) {
        let (mut writes, key, version_told) = (self.writes(), ObjectRef::from_obj(object), version(object));
        writes.told = writes.told.max(version_told);
        if writes.doubts.get(&key).is_some_and(|doubt| doubt.least <= version_told) {
            writes.doubts.remove(&key);
        }
        if writes.objects.get(&key).is_some_and(|own| version(&**own) <= version_told) {
            writes.objects.remove(&key);
        }
    }

    /// The watch begins anew. What cannot be read is found again by then, and doubtful until it is.
    pub(super) fn begins_anew(&self) {
        self.writes().round += 1;
    }

    /// The watch has begun anew with these objects, perhaps on data that is older. What was written and is not among them is doubtful.
    pub(super) fn began_anew(&self, all: &[Arc<K>]) {
        let mut writes = self.writes();
        let Writes { objects, doubts, told, round } = &mut *writes;
        *told = all.iter().map(|object| version(&**object)).max().unwrap_or_default();
        doubts.retain(|_, doubt| doubt.round == *round);
        for (key, own) in objects.drain() {
            if version(&*own) > *told {
                doubts.insert(key, Doubt { least: 0, round: *round });
            }
        }
    }

    /// One object: what the watch told of it, or what was written since.
    pub(super) fn newest(&self, key: &ObjectRef<K>, told: impl FnOnce() -> Option<Arc<K>>) -> Option<Arc<K>> {
        self.writes().objects.get(key).cloned().or_else(told)
    }

    /// What the watch told of objects, looked for while nothing that was written is forgotten, and all that was written since.
    pub(super) fn over(&self, told: impl FnOnce() -> Vec<Arc<K>>) -> Vec<Arc<K>> {
        let writes = self.writes();
        let mut told = told();
        if !writes.objects.is_empty() {
            // A fleet is told, and a few were written: no name is copied to be compared.
            let written: HashSet<_> = writes.objects.values().map(|object| place(&**object)).collect();
            told.retain(|object| !written.contains(&place(&**object)));
            told.extend(writes.objects.values().cloned());
        }
        told
    }
}

/// Where an object is.
pub(super) fn place<K: Object>(object: &K) -> (Option<&str>, Option<&str>) {
    let meta = object.meta();
    (meta.namespace.as_deref(), meta.name.as_deref())
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
        let list = own.over(|| told.iter().map(|(name, version)| Arc::new(machine(name, *version))).collect());
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
        own.begins_anew();
        own.began_anew(&[Arc::new(machine("m1", 7))]);
        assert!(own.is_doubtful(&key), "it is older than what was written");
        assert!(!own.is_doubtful(&ObjectRef::from_obj(&machine("m2", 0))), "the list is newer");
        own.answered(&key, Some(&machine("m1", 51)), Some(&machine("m1", 7)));
        own.told(&machine("m1", 50));
        assert!(own.is_doubtful(&key), "the watch is not as far as the API was");
        own.told(&machine("m1", 51));
        assert!(!own.is_doubtful(&key));
    }

    #[test]
    fn what_cannot_be_read_is_doubtful_until_it_can_or_is_gone() {
        let (own, key) = (Own::<Machine>::new(), ObjectRef::from_obj(&machine("m1", 0)));
        own.doubt(key.clone());
        own.begins_anew();
        assert!(own.is_doubtful(&key), "also while a new list is on its way");
        own.doubt(key.clone());
        own.began_anew(&[]);
        assert!(own.is_doubtful(&key), "that list had it, too");
        own.told(&machine("m1", 3));
        assert!(!own.is_doubtful(&key));
        own.doubt(key.clone());
        own.begins_anew();
        own.began_anew(&[]);
        assert!(!own.is_doubtful(&key), "it is gone");
    }
}
