//! An API in memory that misbehaves within its rights, and a clock and ids that replay.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use athanor_crds::{Deployment, DeploymentSpec, Machine, MachineSpec, bootprofile::ProfileRef, machine::Interface};
use athanor_operator::{Clock, Cluster, Ids, PortError, deployment, machine, port::Object};
use futures::executor::block_on;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A small generator (SplitMix64): what it yields depends on the seed alone.
pub(crate) struct Dice(AtomicU64);

impl Dice {
    pub(crate) fn roll(&self, sides: u64) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

type Key = (String, String, String);
type Objects = BTreeMap<Key, Value>;

/// An API in memory that misbehaves within its rights.
pub(crate) struct Memory {
    pub(crate) dice: Dice,
    now: Mutex<Objects>,
    /// Earlier states: what a stale read may see.
    past: Mutex<Vec<Objects>>,
    pub(crate) revision: AtomicU64,
    pub(crate) calm: Mutex<bool>,
}

impl Memory {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice(AtomicU64::new(seed)),
            now: Mutex::default(),
            past: Mutex::default(),
            revision: AtomicU64::new(1),
            calm: Mutex::new(false),
        }
    }

    fn luck(&self, one_in: u64) -> bool {
        !*self.calm.lock().unwrap() && self.dice.roll(one_in) == 0
    }

    fn key<K: Object>(namespace: Option<&str>, name: &str) -> Key {
        (K::kind(&()).into_owned(), namespace.unwrap_or_default().to_owned(), name.to_owned())
    }

    /// The state that a list sees: mostly the newest.
    fn view(&self) -> Objects {
        let past = self.past.lock().unwrap();
        if !past.is_empty() && self.luck(3) {
            let back = usize::try_from(self.dice.roll(past.len().min(6) as u64)).unwrap();
            return past[past.len() - 1 - back].clone();
        }
        self.now.lock().unwrap().clone()
    }

    fn commit(&self, key: Key, mut object: Value) -> Value {
        let mut now = self.now.lock().unwrap();
        self.past.lock().unwrap().push(now.clone());
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        if key.0 == "Machine" {
            let before = now.get(&key).map(|old| old["spec"]["claimRef"].clone()).unwrap_or_default();
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
            now.insert(key, object.clone());
        }
        drop(now);
        self.check();
        object
    }

    /// No Deployment has two Machines.
    fn check(&self) {
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for ((kind, _, name), object) in self.now.lock().unwrap().iter() {
            if let (true, Some(instance)) = (kind == "Machine", object["spec"]["claimRef"]["instanceID"].as_str())
                && let Some(other) = owners.insert(instance.to_owned(), name.clone())
            {
                panic!("instance {instance} has two Machines: {other} and {name}");
            }
        }
    }

    fn merge<K: Object>(&self, read: &K, patch: &Value, status: bool) -> Result<K, PortError> {
        let key = Self::key::<K>(read.meta().namespace.as_deref(), read.meta().name.as_deref().unwrap());
        let live = self.now.lock().unwrap().get(&key).cloned().ok_or_else(|| PortError::NotFound(format!("{key:?}")))?;
        if live["metadata"]["resourceVersion"].as_str() != read.meta().resource_version.as_deref() || self.luck(12) {
            return Err(PortError::Conflict(format!("{key:?}")));
        }
        let mut new = live;
        let part = if status { json!({ "status": patch["status"] }) } else { patch.clone() };
        json_patch::merge(&mut new, &part);
        let new = self.commit(key, new);
        if self.luck(10) {
            return Err(PortError::Unavailable("the answer was lost".to_owned()));
        }
        Ok(serde_json::from_value(new).unwrap())
    }

    pub(crate) fn put<K: Object>(&self, object: &K) {
        let key = Self::key::<K>(object.meta().namespace.as_deref(), object.meta().name.as_deref().unwrap());
        self.commit(key, serde_json::to_value(object).unwrap());
    }

    pub(crate) fn delete_now<K: Object>(&self, name: &str) {
        let key = Self::key::<K>(Some("default"), name);
        let found = self.now.lock().unwrap().get(&key).cloned();
        if let Some(mut object) = found {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            self.commit(key, object);
        }
    }

    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        self.now.lock().unwrap().keys().filter(|key| key.0 == kind).map(|key| key.2.clone()).collect()
    }
}

impl Cluster for Memory {
    async fn get<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>, PortError> {
        if self.luck(25) {
            return Err(PortError::Unavailable("no answer".to_owned()));
        }
        // A get is answered by the API itself and is never old; lists come out of caches.
        Ok(self.now.lock().unwrap().get(&Self::key::<K>(namespace, name)).map(|object| serde_json::from_value(object.clone()).unwrap()))
    }

    async fn list<K: Object>(&self, namespace: Option<&str>) -> Result<Vec<Arc<K>>, PortError> {
        let kind = K::kind(&()).into_owned();
        let inside = |key: &Key| key.0 == kind && namespace.is_none_or(|namespace| key.1 == namespace);
        let view = self.view();
        let mut list: Vec<&Value> = view.iter().filter(|(key, _)| inside(key)).map(|(_, object)| object).collect();
        // Nobody promises an order.
        for last in (1..list.len()).rev() {
            list.swap(last, usize::try_from(self.dice.roll(last as u64 + 1)).unwrap());
        }
        Ok(list.into_iter().map(|object| Arc::new(serde_json::from_value(object.clone()).unwrap())).collect())
    }

    async fn create<K: Object>(&self, object: &K) -> Result<K, PortError> {
        let key = Self::key::<K>(object.meta().namespace.as_deref(), object.meta().name.as_deref().unwrap());
        if self.now.lock().unwrap().contains_key(&key) {
            return Err(PortError::AlreadyExists(format!("{key:?}")));
        }
        let stored = self.commit(key, serde_json::to_value(object).unwrap());
        if self.luck(10) {
            return Err(PortError::Unavailable("the answer was lost".to_owned()));
        }
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
        if now.get(&key).is_some_and(|object| object["metadata"]["uid"].as_str() == read.meta().uid.as_deref()) {
            now.remove(&key);
        }
        Ok(())
    }

    async fn delete<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<(), PortError> {
        self.now.lock().unwrap().remove(&Self::key::<K>(namespace, name));
        Ok(())
    }
}

/// Ten seconds pass whenever somebody looks.
#[derive(Default)]
pub(crate) struct Hurry(AtomicU64);

impl Clock for Hurry {
    fn now(&self) -> Timestamp {
        let seconds = self.0.fetch_add(10, Ordering::Relaxed);
        Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap()
    }
}

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Ids for Count {
    fn id(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn token(&self) -> String {
        self.id("t")
    }
}

pub(crate) fn machine(number: u8) -> Machine {
    let mac = athanor_wire::MacAddr([0x52, 0x54, 0, 0, 0, number]);
    let interfaces = vec![Interface { mac, boot: true, addresses: vec![] }];
    let mut machine = Machine::new(&format!("m{number}"), MachineSpec { accepted: true, interfaces, ..MachineSpec::default() });
    machine.metadata.namespace = Some("default".to_owned());
    machine
}

pub(crate) fn deployment(name: &str) -> Deployment {
    let profile = ProfileRef { name: Some("live".to_owned()), inline: None };
    let mut deployment = Deployment::new(name, DeploymentSpec { profile, ..DeploymentSpec::default() });
    deployment.metadata.namespace = Some("default".to_owned());
    deployment
}

/// The API behaves again, and everything is looked at until nothing changes.
pub(crate) fn settle(cluster: &Memory, ids: &Count, clock: &Hurry) {
    *cluster.calm.lock().unwrap() = true;
    for _ in 0..30 {
        let before = cluster.revision.load(Ordering::Relaxed);
        for name in cluster.names("Machine") {
            block_on(machine::reconcile("default", &name, cluster, clock, ids)).unwrap();
        }
        for name in cluster.names("Deployment") {
            block_on(deployment::reconcile("default", &name, cluster, clock, ids)).unwrap();
        }
        if cluster.revision.load(Ordering::Relaxed) == before {
            return;
        }
    }
    panic!("it never comes to rest");
}
