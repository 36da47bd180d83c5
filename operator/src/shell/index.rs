//! Which objects of a kind a term is true of, kept beside the store of its watch.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use kube::runtime::reflector::ObjectRef;

use super::feed::key;
use crate::{
    port::Object,
    term::{Indexed, Term},
};

/// The index of one kind.
pub(super) struct Index<K: Object> {
    terms_of: fn(&K) -> Vec<Term>,
    is_about: fn(&K, &[Term]) -> bool,
    terms: RwLock<Terms<K>>,
}

struct Terms<K: Object> {
    by_term: HashMap<Term, HashSet<ObjectRef<K>>>,
    by_object: HashMap<ObjectRef<K>, Vec<Term>>,
}

impl<K: Object> Index<K> {
    pub(super) fn new() -> Self
    where
        K: Indexed,
    {
        Self { terms_of: K::terms, is_about: K::is_about, terms: RwLock::new(Terms::new()) }
    }

    /// Whether one of some terms is true of an object.
    pub(super) fn is_about(&self, object: &K, wanted: &[Term]) -> bool {
        (self.is_about)(object, wanted)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Terms<K>> {
        self.terms.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object is so now.
    pub(super) fn set(&self, object: &K) {
        self.write().set(object, (self.terms_of)(object));
    }

    /// An object is gone.
    pub(super) fn remove(&self, object: &K) {
        self.write().remove(&name_of(object));
    }

    /// These are all objects.
    pub(super) fn replace(&self, all: &[Arc<K>]) {
        let mut terms = Terms::<K>::new();
        all.iter().for_each(|object| terms.set(object, (self.terms_of)(object)));
        *self.write() = terms;
    }

    /// The objects of which one of some terms was true when the watch last told of them.
    pub(super) fn about(&self, wanted: &[Term]) -> HashSet<ObjectRef<K>> {
        let terms = self.terms.read().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().filter_map(|term| terms.by_term.get(term)).flatten().cloned().collect()
    }
}

/// An object's name alone: a reference to it would keep its version and uid, too.
fn name_of<K: Object>(object: &K) -> ObjectRef<K> {
    key(object.meta().namespace.as_deref(), object.meta().name.as_deref().unwrap_or_default())
}

impl<K: Object> Terms<K> {
    fn new() -> Self {
        Self { by_term: HashMap::new(), by_object: HashMap::new() }
    }

    fn set(&mut self, object: &K, terms: Vec<Term>) {
        let key = name_of(object);
        if self.by_object.get(&key).is_some_and(|before| *before == terms) {
            return;
        }
        self.remove(&key);
        if terms.is_empty() {
            return;
        }
        for term in &terms {
            self.by_term.entry(term.clone()).or_default().insert(key.clone());
        }
        self.by_object.insert(key, terms);
    }

    fn remove(&mut self, key: &ObjectRef<K>) {
        for term in self.by_object.remove(key).into_iter().flatten() {
            if let Some(objects) = self.by_term.get_mut(&term) {
                objects.remove(key);
                if objects.is_empty() {
                    self.by_term.remove(&term);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use athanor_crds::{Machine, MachineSpec, machine::Interface};

    use super::*;

    fn machine(name: &str, macs: &[&str]) -> Machine {
        let interface = |mac: &&str| Interface { mac: mac.parse().unwrap(), boot: true, addresses: Vec::new() };
        Machine::new(name, MachineSpec { interfaces: macs.iter().map(interface).collect(), ..MachineSpec::default() })
    }

    #[test]
    fn objects_are_found_by_what_is_true_of_them_now() {
        let (one, two) = ("52:54:00:00:00:01", "52:54:00:00:00:02");
        let index = Index::new();
        let found = |macs: &[&str]| {
            let terms: Vec<Term> = macs.iter().map(|mac| Term::Mac(mac.parse().unwrap())).collect();
            let mut names: Vec<String> = index.about(&terms).into_iter().map(|key: ObjectRef<Machine>| key.name).collect();
            names.sort();
            names.join(" ")
        };
        index.set(&machine("a", &[one]));
        index.set(&machine("b", &[one, two]));
        assert_eq!((found(&[one]), found(&[two]), found(&[one, two])), ("a b".into(), "b".into(), "a b".into()));
        index.set(&machine("b", &[two]));
        assert_eq!((found(&[one]), found(&[two])), ("a".into(), "b".into()));
        index.remove(&machine("a", &[]));
        assert_eq!(found(&[one]), "");
        index.replace(&[Arc::new(machine("c", &[one]))]);
        assert_eq!((found(&[one]), found(&[two])), ("c".into(), String::new()));
        index.remove(&machine("c", &[one]));
        assert!(index.write().by_term.is_empty() && index.write().by_object.is_empty());
    }
}
