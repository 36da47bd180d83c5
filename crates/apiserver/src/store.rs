//! Objects in one redb file, and the log of the newest changes that watchers read.
//!
//! A write is one durable transaction: acknowledged means on disk. The revision is one counter for everything and is every object's
//! `resourceVersion`, so it only ever grows, also across restarts.

use std::{
    collections::VecDeque,
    ops::{Bound, ControlFlow},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use tokio::sync::watch;

use crate::error::{ApiError, OpenError, Result};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// The revision of an empty store: 0 means "any" to clients.
const FIRST_REVISION: u64 = 1;

/// How many changes a watcher may be behind before it must list again. At a few KiB each this stays below three MiB.
const LOG: usize = 512;
/// redb's page cache; the working set of a thousand machines is a few MiB.
const CACHE: usize = 4 << 20;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeType {
    Added,
    Modified,
    Deleted,
}

/// A change in the log. Objects are kept as JSON text: a parsed one is several times larger.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) type_: ChangeType,
    pub(crate) storage: String,
    pub(crate) namespace: String,
    pub(crate) object: Bytes,
    /// The object before, as far as selectors look: whether one took it decides what a watcher is told.
    pub(crate) before: Option<Bytes>,
}

/// Where an object is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) storage: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    fn path(&self) -> String {
        format!("{}/{}/{}", self.storage, self.namespace, self.name)
    }
}

/// What a write does to an object.
pub(crate) enum Outcome {
    /// It stays as it is.
    Keep(Value),
    /// It becomes this; the revision is filled in.
    Put(Value),
    /// It goes.
    Remove(Value),
}

pub(crate) struct Store {
    path: PathBuf,
    /// None while it is opened anew.
    database: RwLock<Option<Database>>,
    /// The disk failed in a write: redb takes no further one until it is opened anew.
    failed: AtomicBool,
    /// Held while an object is read, changed and written: writes are one after another.
    writer: Mutex<()>,
    log: Mutex<VecDeque<Change>>,
    newest: watch::Sender<u64>,
    /// The revision at the start, or when the store was opened anew: what happened before is not in the log.
    floor: AtomicU64,
}

/// The database, while it is not opened anew.
struct MappedDatabase<'a>(RwLockReadGuard<'a, Option<Database>>);

impl std::ops::Deref for MappedDatabase<'_> {
    type Target = Database;

    #[allow(clippy::expect_used, reason = "it is made of a guard that holds one, and holds it as long")]
    fn deref(&self) -> &Database {
        self.0.as_ref().expect("a database")
    }
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source: redb::Error| match source {
            redb::Error::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
            source => OpenError::Store { path: path.to_owned(), source: Box::new(source) },
        };
        let database = redb::Builder::new().set_cache_size(CACHE).create(path).map_err(|error| failed(error.into()))?;
        let floor = Self::prepare(&database).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
            failed: AtomicBool::new(false),
            writer: Mutex::default(),
            log: Mutex::default(),
            newest: watch::Sender::new(floor),
            floor: AtomicU64::new(floor),
        })
    }

    fn database(&self) -> Result<MappedDatabase<'_>> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            return Err(ApiError::internal("the store is being opened anew after the disk failed; try again".to_owned()));
        }
        Ok(MappedDatabase(guard))
    }

    /// Whatever fails, reading too: redb says no to everything after its first failure, until it is opened anew.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(ApiError::is_of_store) {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    /// Opens the file anew after the disk failed: it may have been full, and have room again.
    fn heal(&self) -> Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have done it meanwhile.
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        // Two at once may not have the file.
        drop(database.take());
        let opened = redb::Builder::new().set_cache_size(CACHE).create(&self.path).map_err(redb::Error::from)?;
        // What was acknowledged is there, and so is its revision; one that was not may be, too, and is nobody's.
        let revision = Self::prepare(&opened)?;
        *database = Some(opened);
        if revision > self.revision() {
            // A write that failed is there all the same, and no watcher was told: all list again.
            self.floor.store(revision, Ordering::Release);
            self.newest.send_replace(revision);
        }
        self.failed.store(false, Ordering::Release);
        tracing::warn!(path = %self.path.display(), "the store was opened anew after the disk failed");
        Ok(())
    }

    fn prepare(database: &Database) -> Result<u64, redb::Error> {
        let transaction = database.begin_write()?;
        let revision = {
            transaction.open_table(OBJECTS)?;
            let meta = transaction.open_table(META)?;
            meta.get(REVISION)?.map_or(FIRST_REVISION, |value| value.value())
        };
        transaction.commit()?;
        Ok(revision)
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Wakes whenever the revision grows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Option<Value>> {
        self.heal()?;
        self.noted(self.read(key))
    }

    fn read(&self, key: &Key) -> Result<Option<Value>> {
        let transaction = self.database()?.begin_read()?;
        let table = transaction.open_table(OBJECTS)?;
        let Some(bytes) = table.get(key.path().as_str())? else { return Ok(None) };
        decode(bytes.value()).map(Some)
    }

    /// Shows every object of a kind to `visit`, by namespace and name, from behind the key `after` on, until it has seen enough. Returns the
    /// revision that they are of. They are shown as they are stored: a list of a thousand parsed objects is ten times its text.
    pub(crate) fn scan(
        &self,
        storage: &str,
        namespace: Option<&str>,
        after: Option<&str>,
        visit: impl FnMut(&str, &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<u64> {
        self.heal()?;
        self.noted(self.visit(storage, namespace, after, visit))
    }

    fn visit(
        &self,
        storage: &str,
        namespace: Option<&str>,
        after: Option<&str>,
        mut visit: impl FnMut(&str, &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<u64> {
        let transaction = self.database()?.begin_read()?;
        let revision = transaction.open_table(META)?.get(REVISION)?.map_or(FIRST_REVISION, |value| value.value());
        let table = transaction.open_table(OBJECTS)?;
        let prefix = namespace.map_or_else(|| format!("{storage}/"), |namespace| format!("{storage}/{namespace}/"));
        let from = after.filter(|after| after.starts_with(&prefix)).map_or(Bound::Included(prefix.as_str()), Bound::Excluded);
        for entry in table.range::<&str>((from, Bound::Unbounded))? {
            let (key, value) = entry?;
            if !key.value().starts_with(&prefix) || visit(key.value(), value.value())?.is_break() {
                break;
            }
        }
        Ok(revision)
    }

    /// How many objects of a kind there are.
    pub(crate) fn count(&self, storage: &str) -> Result<usize> {
        let table = self.database()?.begin_read()?.open_table(OBJECTS)?;
        // '0' is what follows '/'.
        let (from, to) = (format!("{storage}/"), format!("{storage}0"));
        Ok(table.range(from.as_str()..to.as_str())?.count())
    }

    /// The keys of everything in a namespace.
    pub(crate) fn keys_in(&self, namespace: &str) -> Result<Vec<Key>> {
        let transaction = self.database()?.begin_read()?;
        let table = transaction.open_table(OBJECTS)?;
        let mut keys = Vec::new();
        for entry in table.iter()? {
            let (key, _) = entry?;
            if let [storage, ns, name] = key.value().splitn(3, '/').collect::<Vec<_>>()[..]
                && ns == namespace
            {
                keys.push(Key { storage: storage.to_owned(), namespace: ns.to_owned(), name: name.to_owned() });
            }
        }
        Ok(keys)
    }

    /// Reads an object, lets `change` decide, and writes, as one.
    ///
    /// # Errors
    /// `change` refuses, or the disk fails; then nothing happened.
    pub(crate) fn update(&self, key: &Key, change: impl FnOnce(Option<&Value>) -> Result<Outcome>) -> Result<Value> {
        let _guard = self.lock();
        self.heal()?;
        let before = self.get(key)?;
        let (type_, mut object) = match change(before.as_ref())? {
            Outcome::Keep(object) => return Ok(object),
            Outcome::Put(object) => (if before.is_some() { ChangeType::Modified } else { ChangeType::Added }, object),
            Outcome::Remove(object) => (ChangeType::Deleted, object),
        };
        let revision = self.revision() + 1;
        object["metadata"]["resourceVersion"] = Value::String(revision.to_string());
        let bytes = Bytes::from(serde_json::to_vec(&object).map_err(|error| ApiError::internal(error.to_string()))?);
        self.commit(key, revision, (type_ != ChangeType::Deleted).then_some(bytes.as_ref()))?;
        let before = before.map(|object| Bytes::from(selectable(object).to_string()));
        let (storage, namespace) = (key.storage.clone(), key.namespace.clone());
        self.append(Change { revision, type_, storage, namespace, object: bytes, before });
        Ok(object)
    }

    /// One durable transaction; `None` removes the object.
    fn commit(&self, key: &Key, revision: u64, bytes: Option<&[u8]>) -> Result<()> {
        let database = self.database()?;
        let write = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(OBJECTS)?;
                match bytes {
                    Some(bytes) => drop(table.insert(key.path().as_str(), bytes)?),
                    None => drop(table.remove(key.path().as_str())?),
                }
                transaction.open_table(META)?.insert(REVISION, revision)?;
            }
            Ok(transaction.commit()?)
        };
        self.noted(write().map_err(ApiError::from))
    }

    fn append(&self, change: Change) {
        let revision = change.revision;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG {
            log.pop_front();
        }
        log.push_back(change);
        drop(log);
        self.newest.send_replace(revision);
    }

    /// The changes after a revision.
    ///
    /// # Errors
    /// They are no longer known: 410, and the watcher lists again.
    pub(crate) fn since(&self, revision: u64) -> Result<Vec<Change>> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a store that was replaced by an older copy: whoever waited for that revision would wait through all that happens until then.
        let newest = log.back().map_or(0, |change| change.revision).max(self.revision());
        if revision > newest {
            return Err(ApiError::gone(format!("resource version {revision} is of the future ({newest})")));
        }
        let oldest = log.front().map_or(self.revision(), |change| change.revision - 1).max(self.floor.load(Ordering::Acquire));
        if revision < oldest {
            return Err(ApiError::gone(format!("too old resource version: {revision} ({oldest})")));
        }
        let first = log.partition_point(|change| change.revision <= revision);
        Ok(log.range(first..).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What selectors look at; the rest of an object is most of it.
fn selectable(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "spec" | "status" | "data"));
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::internal(format!("a stored object is no JSON: {error}")))
}
