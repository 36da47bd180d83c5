//! An API in memory that misbehaves within its rights.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use athanor_crds::{Deployment, DeploymentSpec, Machine, MachineSpec, bootprofile::ProfileRef, machine::Interface};
use athanor_operator::{
    Clock, Cluster, PortError, deployment as deployments, machine as machines,
    port::Object,
    term::{Indexed, Term},
};
use futures::executor::block_on;
use serde_json::{Value, json};

use crate::{Count, Dice};

/// Kind, namespace and name.
pub type Key = (String, String, String);
type Objects = BTreeMap<Key, Arc<Stored>>;

/// An object as it was written, read as its kind once.
#[derive(Debug)]
pub struct Stored {
    value: Value,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Stored {
    fn read<K: Object>(&self) -> Arc<K> {
        let typed = self.typed.get_or_init(|| Arc::new(serde_json::from_value::<K>(self.value.clone()).unwrap()));
        typed.clone().downcast().unwrap()
    }
}

fn version(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// How many earlier states a stale read may see.
const PAST: usize = 6;

/// One of so many looks finds what cannot be read.
const UNREADABLE: u64 = 400;
/// After so many looks, as a rule, it was corrected.
const CORRECTED: u64 = 8;

/// An API in memory that misbehaves within its rights.
#[derive(Debug)]
pub struct Memory {
    /// Its chance.
    pub dice: Dice,
    now: Mutex<Objects>,
    /// Earlier states: what a stale read may see.
    past: Mutex<VecDeque<Objects>>,
    /// What reconcilers wrote, and the version: they see nothing older.
    own: Mutex<BTreeMap<Key, u64>>,
    revision: AtomicU64,
    calm: Mutex<bool>,
    /// What somebody wrote that this version cannot read, and whether lists have it as it was before.
    unreadable: Mutex<BTreeMap<Key, bool>>,
    /// What was written since somebody looked.
    written: Mutex<Vec<Key>>,
}

impl Memory {
    /// An empty one.
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            now: Mutex::default(),
            past: Mutex::default(),
            own: Mutex::default(),
            revision: AtomicU64::new(1),
            calm: Mutex::new(false),
            unreadable: Mutex::default(),
            written: Mutex::default(),
        }
    }

    /// From now on it behaves, or does not.
    pub fn set_calm(&self, calm: bool) {
        *self.calm.lock().unwrap() = calm;
        self.unreadable.lock().unwrap().clear();
    }

    /// How many writes there were.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// What was written since the last look, once for each write.
    pub fn take_written(&self) -> Vec<Key> {
        std::mem::take(&mut *self.written.lock().unwrap())
    }

    /// A copy of everything.
    pub fn backup(&self) -> BTreeMap<Key, Arc<Stored>> {
        self.now.lock().unwrap().clone()
    }

    /// Everything is as it was in a copy. Caches may have what was there before for a while.
    pub fn restore(&self, copy: BTreeMap<Key, Arc<Stored>>) {
        let before = std::mem::replace(&mut *self.now.lock().unwrap(), copy);
        let mut past = self.past.lock().unwrap();
        past.clear();
        past.push_back(before);
        self.own.lock().unwrap().clear();
    }

    /// An object as it is, whatever the weather.
    pub fn find<K: Object>(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let object = self.now.lock().unwrap().get(&Self::key::<K>(Some(namespace), name)).cloned();
        object.map(|object| object.read())
    }

    /// All objects of a kind as they are, whatever the weather.
    pub fn all<K: Object>(&self) -> Vec<Arc<K>> {
        let kind = K::kind(&()).into_owned();
        let now = self.now.lock().unwrap();
        now.iter().filter(|(key, _)| key.0 == kind).map(|(_, object)| object.read()).collect()
    }

    /// Whether something happens that happens so rarely, and never in calm.
    pub fn luck(&self, one_in: u64) -> bool {
        !*self.calm.lock().unwrap() && self.dice.roll(one_in) == 0
    }

    /// Whether an object can be read now. Now and then one cannot for a while, until somebody corrects it.
    fn readable(&self, key: &Key) -> Result<(), PortError> {
        let mut unreadable = self.unreadable.lock().unwrap();
        if self.luck(UNREADABLE) {
            unreadable.insert(key.clone(), self.dice.roll(2) == 0);
        } else if self.luck(CORRECTED) {
            unreadable.remove(key);
        }
        if unreadable.contains_key(key) { Err(PortError::Unreadable(format!("{key:?}"))) } else { Ok(()) }
    }

    fn key<K: Object>(namespace: Option<&str>, name: &str) -> Key {
        (K::kind(&()).into_owned(), namespace.unwrap_or_default().to_owned(), name.to_owned())
    }

    /// The state that somebody sees: mostly the newest, and once in so often an earlier one.
    fn view(&self, one_in: u64) -> Objects {
        let past = self.past.lock().unwrap();
        if !past.is_empty() && self.luck(one_in) {
            return past[self.dice.pick(past.len())].clone();
        }
        self.now.lock().unwrap().clone()
    }

    /// An object as an earlier state has it, unless a reconciler has written it since: it knows what it wrote.
    fn known<'a>(&self, key: &Key, view: &'a Objects, now: &'a Objects) -> Option<&'a Arc<Stored>> {
        let old = view.get(key);
        let own = self.own.lock().unwrap().get(key).copied();
        let known = own.is_none_or(|own| old.and_then(|old| version(&old.value)).is_some_and(|version| version >= own));
        if known { old } else { now.get(key) }
    }

    /// A reconciler wrote it.
    fn wrote(&self, object: &Value, key: Key) {
        self.own.lock().unwrap().extend(version(object).map(|version| (key, version)));
    }

    fn commit(&self, key: Key, mut object: Value) -> Value {
        let mut now = self.now.lock().unwrap();
        if !*self.calm.lock().unwrap() {
            let mut past = self.past.lock().unwrap();
            past.push_back(now.clone());
            if past.len() > PAST {
                past.pop_front();
            }
        }
        self.written.lock().unwrap().push(key.clone());
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let before = now.get(&key).map_or(&Value::Null, |old| &old.value);
        let is_new = before["spec"] != object["spec"] || before["metadata"]["deletionTimestamp"] != object["metadata"]["deletionTimestamp"];
        object["metadata"]["generation"] = json!(before["metadata"]["generation"].as_i64().unwrap_or_default() + i64::from(is_new));
        if key.0 == "Machine" {
            let before = now.get(&key).map(|old| old.value["spec"]["claimRef"].clone()).unwrap_or_default();
            let after = &object["spec"]["claimRef"];
            assert!(
                before.is_null() || after.is_null() || before["instanceID"] == after["instanceID"],
                "{key:?} changed hands: {before} → {after}"
            );
        }
        let finalized =
            object["metadata"]["deletionTimestamp"].is_string() && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if finalized {
            now.remove(&key);
        } else {
            now.insert(key, Arc::new(Stored { value: object.clone(), typed: OnceLock::new() }));
        }
        drop(now);
        self.check();
        object
    }

    /// No Deployment has two Machines.
    fn check(&self) {
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for ((kind, _, name), object) in self.now.lock().unwrap().iter() {
            if let (true, Some(instance)) = (kind == "Machine", object.value["spec"]["claimRef"]["instanceID"].as_str())
                && let Some(other) = owners.insert(instance.to_owned(), name.clone())
            {
                panic!("instance {instance} has two Machines: {other} and {name}");
            }
        }
    }

    fn merge<K: Object>(&self, read: &K, patch: &Value, status: bool) -> Result<K, PortError> {
        let key = Self::key::<K>(read.meta().namespace.as_deref(), read.meta().name.as_deref().unwrap());
        let live =
            self.now.lock().unwrap().get(&key).map(|live| live.value.clone()).ok_or_else(|| PortError::NotFound(format!("{key:?}")))?;
        let corrupt = self.unreadable.lock().unwrap().contains_key(&key);
        if corrupt || live["metadata"]["resourceVersion"].as_str() != read.meta().resource_version.as_deref() || self.luck(12) {
            return Err(PortError::Conflict(format!("{key:?}")));
        }
        let mut new = live;
        let part = if status { json!({ "status": patch["status"] }) } else { patch.clone() };
        json_patch::merge(&mut new, &part);
        let new = self.commit(key.clone(), new);
        if self.luck(10) {
            return Err(PortError::Unavailable("the answer was lost".to_owned()));
        }
        self.wrote(&new, key);
        Ok(serde_json::from_value(new).unwrap())
    }

    /// Stores an object, whatever is there.
    pub fn put<K: Object>(&self, object: &K) {
        let key = Self::key::<K>(object.meta().namespace.as_deref(), object.meta().name.as_deref().unwrap());
        self.commit(key, serde_json::to_value(object).unwrap());
    }

    /// Somebody deletes an object of the namespace `default`: it goes when its finalizers are gone.
    pub fn delete_now<K: Object>(&self, name: &str) {
        let key = Self::key::<K>(Some("default"), name);
        let found = self.now.lock().unwrap().get(&key).map(|found| found.value.clone());
        if let Some(mut object) = found {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            self.commit(key, object);
        }
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: &str) -> Vec<String> {
        self.now.lock().unwrap().keys().filter(|key| key.0 == kind).map(|key| key.2.clone()).collect()
    }
}

impl Cluster for Memory {
    async fn get<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>, PortError> {
        if self.luck(25) {
            return Err(PortError::Unavailable("no answer".to_owned()));
        }
        // A get is answered by the API itself and is never old; lists come out of caches.
        let key = Self::key::<K>(namespace, name);
        let found = self.now.lock().unwrap().get(&key).cloned();
        if found.is_some() {
            self.readable(&key)?;
        }
        Ok(found.map(|object| K::clone(&object.read())))
    }

    async fn look<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<Option<Arc<K>>, PortError> {
        let key = Self::key::<K>(namespace, name);
        // A reconciler looks at six objects in a row.
        let (view, now) = (self.view(6), self.now.lock().unwrap());
        if now.contains_key(&key) {
            self.readable(&key)?;
        }
        Ok(self.known(&key, &view, &now).map(|object| object.read()))
    }

    async fn list<K: Object>(&self, namespace: Option<&str>) -> Result<Vec<Arc<K>>, PortError> {
        let kind = K::kind(&()).into_owned();
        let inside = |key: &Key| key.0 == kind && namespace.is_none_or(|namespace| key.1 == namespace);
        let (view, now) = (self.view(3), self.now.lock().unwrap());
        // Who was started since it cannot be read has never seen it.
        let unreadable = self.unreadable.lock().unwrap();
        let seen = |key: &Key| unreadable.get(key).is_none_or(|as_before| *as_before);
        let keys: BTreeSet<&Key> = view.keys().chain(now.keys()).filter(|key| inside(key) && seen(key)).collect();
        let mut list: Vec<&Arc<Stored>> = keys.into_iter().filter_map(|key| self.known(key, &view, &now)).collect();
        // Nobody promises an order.
        for last in (1..list.len()).rev() {
            list.swap(last, self.dice.pick(last + 1));
        }
        Ok(list.into_iter().map(|object| object.read()).collect())
    }

    async fn about<K: Indexed>(&self, terms: &[Term]) -> Result<Vec<Arc<K>>, PortError> {
        let mut all = self.list::<K>(None).await?;
        all.retain(|object| object.is_about(terms));
        Ok(all)
    }

    async fn turn(&self) -> impl Send {}

    async fn create<K: Object>(&self, object: &K) -> Result<K, PortError> {
        let key = Self::key::<K>(object.meta().namespace.as_deref(), object.meta().name.as_deref().unwrap());
        if self.now.lock().unwrap().contains_key(&key) {
            return Err(PortError::AlreadyExists(format!("{key:?}")));
        }
        let stored = self.commit(key.clone(), serde_json::to_value(object).unwrap());
        if self.luck(10) {
            return Err(PortError::Unavailable("the answer was lost".to_owned()));
        }
        self.wrote(&stored, key);
        Ok(serde_json::from_value(stored).unwrap())
    }

    async fn patch<K: Object>(&self, read: &K, patch: Value) -> Result<K, PortError> {
        self.merge(read, &patch, false)
    }

    async fn patch_status<K: Object>(&self, read: &K, patch: Value) -> Result<K, PortError> {
        self.merge(read, &patch, true)
    }

    async fn delete_read<K: Object>(&self, read: &K) -> Result<(), PortError> {
        let key = Self::key::<K>(read.meta().namespace.as_deref(), read.meta().name.as_deref().unwrap_or_default());
        let mut now = self.now.lock().unwrap();
        let Some(object) = now.get(&key).map(|object| &object.value["metadata"]) else { return Ok(()) };
        let same = |field: &str, read: &Option<String>| object[field].as_str() == read.as_deref();
        match (same("uid", &read.meta().uid), same("resourceVersion", &read.meta().resource_version)) {
            (true, true) if self.unreadable.lock().unwrap().contains_key(&key) => return Err(PortError::Conflict(format!("{key:?}"))),
            (true, true) => drop(now.remove(&key)),
            (true, false) => return Err(PortError::Conflict(format!("{key:?}"))),
            (false, _) => {}
        }
        Ok(())
    }

    async fn delete<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<(), PortError> {
        let key = Self::key::<K>(namespace, name);
        if self.now.lock().unwrap().remove(&key).is_some() {
            self.written.lock().unwrap().push(key);
        }
        Ok(())
    }
}

/// A Machine that was accepted.
pub fn machine(number: u8) -> Machine {
    let mac = athanor_wire::MacAddr([0x52, 0x54, 0, 0, 0, number]);
    let interfaces = vec![Interface { mac, boot: true, addresses: vec![] }];
    let mut machine = Machine::new(&format!("m{number}"), MachineSpec { accepted: true, interfaces, ..MachineSpec::default() });
    machine.metadata.namespace = Some("default".to_owned());
    machine
}

/// A Deployment of a profile on any Machine.
pub fn deployment(name: &str, profile: &str) -> Deployment {
    let profile = ProfileRef { name: Some(profile.to_owned()), inline: None };
    let mut deployment = Deployment::new(name, DeploymentSpec { profile, ..DeploymentSpec::default() });
    deployment.metadata.namespace = Some("default".to_owned());
    deployment
}

/// The API behaves again, and everything is looked at until nothing changes.
pub fn settle(cluster: &Memory, ids: &Count, clock: &impl Clock) {
    cluster.set_calm(true);
    for _ in 0..30 {
        let before = cluster.revision();
        for name in cluster.names("Machine") {
            block_on(machines::reconcile("default", &name, cluster, clock, ids)).unwrap();
        }
        for name in cluster.names("Deployment") {
            block_on(deployments::reconcile("default", &name, cluster, clock, ids)).unwrap();
        }
        if cluster.revision() == before {
            return;
        }
    }
    panic!("it never comes to rest");
}
