//! One watch for each kind: a store that reconcilers list from, and every controller that is told of changes.
//!
//! kube's own shared streams tell neither of objects that were deleted nor of those that went while nobody watched; both matter here,
//! because what somebody gave back may be what another one waits for.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use athanor_crds::conditions::reasons;
use futures::{
    SinkExt as _, Stream, StreamExt as _,
    channel::mpsc::{self, Sender},
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use k8s_openapi::api::events::v1 as events;
use kube::{
    Api, Client, ResourceExt as _,
    api::PostParams,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};
use tokio::sync::watch;

use super::{
    index::Index,
    own::{Own, place},
};
use crate::{
    PortError,
    port::Object,
    status::{self, News},
    term::{Indexed, Term},
};

/// How many changes may wait for one controller, which takes them in as they come. Beyond it the watch waits; nothing is lost.
const WAITING: usize = 256;
/// How long is waited before a kind is listed anew: connections that break, break together.
const BEFORE_LIST: Duration = Duration::from_secs(1);

/// The watch of one kind, before it is started.
pub(super) struct Feed<K: Object> {
    api: Api<DeserializeGuard<K>>,
    trim: fn(&mut K),
    store: Store<K>,
    writer: Writer<K>,
    own: Arc<Own<K>>,
    index: Arc<Index<K>>,
    listeners: Vec<Sender<Arc<K>>>,
    whole: watch::Sender<bool>,
}

/// What a feed knows of its kind.
pub(super) struct Kept<K: Object> {
    namespace: Option<String>,
    trim: fn(&mut K),
    store: Store<K>,
    pub(super) own: Arc<Own<K>>,
    index: Arc<Index<K>>,
    whole: watch::Receiver<bool>,
}

impl<K: Object> Kept<K> {
    /// Whether objects of a namespace, or of all, are kept here.
    pub(super) fn covers(&self, namespace: Option<&str>) -> bool {
        self.namespace.is_none() || self.namespace.as_deref() == namespace
    }

    /// Waits for the first list. The store's own `wait_until_ready` wakes one waiter only.
    pub(super) async fn ready(&self) -> Result<(), PortError> {
        let whole = self.whole.clone().wait_for(|whole| *whole).await.map(drop);
        whole.map_err(|error| PortError::Unavailable(error.to_string()))
    }

    /// One object, as it is known.
    pub(super) fn one(&self, key: &ObjectRef<K>) -> Option<Arc<K>> {
        self.own.newest(key, || self.store.get(key))
    }

    /// The API itself was asked. Where the watch is not as far, it is asked again.
    pub(super) fn answered(&self, key: &ObjectRef<K>, live: Option<&K>) {
        self.own.answered(key, live, self.store.get(key).as_deref());
    }

    /// All objects of a namespace, or of all, as they are known.
    pub(super) fn all(&self, namespace: Option<&str>) -> Vec<Arc<K>> {
        let inside = |object: &Arc<K>| namespace.is_none() || object.meta().namespace.as_deref() == namespace;
        let mut all = self.own.over(|| self.store.state());
        all.retain(inside);
        all
    }

    /// All objects of which one of some terms is true, as they are known.
    pub(super) fn about(&self, terms: &[Term]) -> Vec<Arc<K>> {
        let mut all = self.own.over(|| self.index.about(terms).into_iter().filter_map(|key| self.store.get(&key)).collect());
        // What changed since it was found may be about something else.
        all.retain(|object| self.index.is_about(object, terms));
        // Every look finds them in one order.
        all.sort_by(|one, other| place(&**one).cmp(&place(&**other)));
        all
    }

    /// Their names.
    pub(super) fn keys_about(&self, terms: &[Term]) -> Vec<ObjectRef<K>> {
        self.about(terms).iter().map(|object| ObjectRef::from_obj(&**object)).collect()
    }

    /// The API took a write.
    pub(super) fn wrote(&self, object: &K) {
        if self.covers(object.meta().namespace.as_deref()) {
            let mut object = object.clone();
            trim(self.trim, &mut object);
            self.own.wrote(object);
        }
    }
}

/// Nobody reads who manages which field; it is a third of an object.
fn trim<K: Object>(trim: fn(&mut K), object: &mut K) {
    object.meta_mut().managed_fields = None;
    trim(object);
}

impl<K: Object> Feed<K> {
    /// Of what is to be watched there: one namespace, or all.
    pub(super) fn of(api: Api<DeserializeGuard<K>>) -> Self
    where
        K: Indexed,
    {
        let (store, writer) = reflector::store();
        let (own, index) = (Arc::new(Own::new()), Arc::new(Index::new()));
        Self { api, trim: |_| {}, store, writer, own, index, listeners: Vec::new(), whole: watch::Sender::new(false) }
    }

    /// Without what nobody reads.
    pub(super) fn without(self, trim: fn(&mut K)) -> Self {
        Self { trim, ..self }
    }

    /// What is known of the kind, by its watch.
    pub(super) fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// What is known of the kind, by its watch and by what was written.
    pub(super) fn kept(&self) -> Kept<K> {
        let (store, own, index) = (self.store.clone(), self.own.clone(), self.index.clone());
        Kept { namespace: self.api.namespace().map(str::to_owned), trim: self.trim, store, own, index, whole: self.whole.subscribe() }
    }

    /// Every object that changed, came or went, from the first list on.
    pub(super) fn changes(&mut self) -> impl Stream<Item = Arc<K>> + Send + 'static + use<K> {
        let (listener, changes) = mpsc::channel(WAITING);
        self.listeners.push(listener);
        changes
    }

    /// Watches for ever. An object that cannot be read, as one that an older version stored may be, keeps nobody from the others.
    pub(super) async fn run(mut self) {
        let (api, client) = (self.api.clone(), self.api.into_client());
        let mut events = pin!(
            lasting(move || watcher::watcher(api.clone(), watcher::Config::default()).default_backoff().boxed())
                .filter_map(|event| readable(event, &self.own, &self.store, client.clone()))
                .modify(|object| trim(self.trim, object))
                .reflect(self.writer)
        );
        let mut before = Vec::new();
        while let Some(event) = events.next().await {
            let changed = match event {
                // The index first: what was written is found beside it until the watch is known to have told of it.
                Ok(Event::Apply(object)) => {
                    self.index.set(&object);
                    self.own.told(&object);
                    vec![self.store.get(&ObjectRef::from_obj(&object)).unwrap_or_else(|| Arc::new(object))]
                }
                Ok(Event::Delete(object)) => {
                    self.index.remove(&object);
                    self.own.told(&object);
                    vec![Arc::new(object)]
                }
                Ok(Event::Init) => {
                    self.own.begins_anew();
                    before = self.store.state();
                    Vec::new()
                }
                Ok(Event::InitApply(_)) => Vec::new(),
                Ok(Event::InitDone) => {
                    let now = self.store.state();
                    self.index.replace(&now);
                    self.own.began_anew(&now);
                    self.whole.send_replace(true);
                    news(std::mem::take(&mut before), now)
                }
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted");
                    Vec::new()
                }
            };
            for object in changed {
                for listener in &mut self.listeners {
                    // A controller that has stopped wants to know nothing more.
                    let _ = listener.send(object.clone()).await;
                }
            }
        }
    }
}

/// A watch that begins with a list again where its connection broke: the API may have been started anew with other data, and of versions
/// that are long ahead a watch is told nothing.
fn lasting<K>(begin: impl Fn() -> BoxStream<'static, watcher::Result<Event<K>>>) -> impl Stream<Item = watcher::Result<Event<K>>> {
    stream::unfold((begin(), begin, false), |(mut events, begin, broke)| async move {
        if broke {
            tokio::time::sleep(BEFORE_LIST).await;
            events = begin();
        }
        let event = events.next().await?;
        let broke = event.as_ref().is_err_and(broke_off);
        Some((event, (events, begin, broke)))
    })
}

/// Whether nobody answered. An API that refuses has the data that it had.
fn broke_off(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) if !matches!(error, kube::Error::Api(_)))
}

/// An event with its object; nothing where that cannot be read, but for a word to whoever looks at it.
async fn readable<K: Object>(
    event: Result<Event<DeserializeGuard<K>>, watcher::Error>,
    own: &Own<K>,
    store: &Store<K>,
    client: Client,
) -> Option<Result<Event<K>, watcher::Error>> {
    let (is_gone, is_listed) = (matches!(event, Ok(Event::Delete(_))), matches!(event, Ok(Event::InitApply(_))));
    let (event, object): (fn(K) -> Event<K>, _) = match event {
        Ok(Event::Apply(object)) => (Event::Apply, object),
        Ok(Event::InitApply(object)) => (Event::InitApply, object),
        Ok(Event::Delete(object)) => (Event::Delete, object),
        Ok(Event::Init) => return Some(Ok(Event::Init)),
        Ok(Event::InitDone) => return Some(Ok(Event::InitDone)),
        Err(error) => return Some(Err(error)),
    };
    match object.0 {
        Ok(object) => Some(Ok(event(object))),
        Err(unreadable) => {
            let name = unreadable.metadata.name.clone().unwrap_or_default();
            // What was known of it before is not what it is, and nothing is done on either.
            let key = key(unreadable.metadata.namespace.as_deref(), &name);
            own.doubt(key.clone());
            if is_gone {
                own.deleted(&key);
                return store.get(&key).map(|old| Ok(Event::Delete(K::clone(&old))));
            }
            tracing::warn!(kind = %K::kind(&()), name, namespace = unreadable.metadata.namespace, error = unreadable.error, "object cannot be read and is left alone");
            let message = format!("it cannot be read, and is left alone until it is corrected: {}", unreadable.error);
            let news = News { trouble: true, reason: reasons::UNREADABLE, message: &message };
            let told = status::event::<K>(&unreadable.metadata, news, Timestamp::now());
            let events = Api::<events::Event>::namespaced(client, told.metadata.namespace.as_deref().unwrap_or_default());
            // It may have been told before; and it is only news.
            let _ = events.create(&PostParams::default(), &told).await;
            // A new list forgets nobody: what it was last still takes its place among the others.
            store.get(&key).filter(|_| is_listed).map(|old| Ok(Event::InitApply(K::clone(&old))))
        }
    }
}

/// What an object is kept under.
pub(super) fn key<K: Object>(namespace: Option<&str>, name: &str) -> ObjectRef<K> {
    let key = ObjectRef::new(name);
    match namespace {
        Some(namespace) => key.within(namespace),
        None => key,
    }
}

/// What a new list says that the old one did not: objects that came, changed, or are gone.
fn news<K: Object>(before: Vec<Arc<K>>, now: Vec<Arc<K>>) -> Vec<Arc<K>> {
    let mut gone: HashMap<ObjectRef<K>, Arc<K>> = before.into_iter().map(|object| (ObjectRef::from_obj(&*object), object)).collect();
    let mut news: Vec<Arc<K>> = now
        .into_iter()
        .filter(|object| gone.remove(&ObjectRef::from_obj(&**object)).is_none_or(|old| old.resource_version() != object.resource_version()))
        .collect();
    news.extend(gone.into_values());
    news
}

#[cfg(test)]
mod tests {
    use athanor_crds::{Machine, MachineSpec};

    use super::*;

    fn machine(name: &str, version: &str) -> Arc<Machine> {
        let mut machine = Machine::new(name, MachineSpec::default());
        machine.metadata.resource_version = Some(version.to_owned());
        Arc::new(machine)
    }

    fn told(events: Vec<watcher::Result<Event<Machine>>>) -> BoxStream<'static, watcher::Result<Event<Machine>>> {
        stream::iter(events).chain(stream::pending()).boxed()
    }

    #[tokio::test]
    async fn a_watch_whose_connection_broke_begins_anew_and_one_that_was_refused_goes_on() {
        let refused = || Err(watcher::Error::WatchStartFailed(kube::Error::Api(Box::default())));
        let broke = || Err(watcher::Error::WatchFailed(kube::Error::Service("connection refused".into())));
        let watches =
            std::sync::Mutex::new(vec![told(vec![Ok(Event::Init)]), told(vec![refused(), Ok(Event::InitDone), broke(), Ok(Event::Init)])]);
        let mut events = pin!(lasting(|| watches.lock().unwrap().pop().expect("begun too often")));
        let mut seen = Vec::new();
        for _ in 0..4 {
            let event = tokio::time::timeout(BEFORE_LIST * 2, events.next()).await.unwrap().unwrap();
            seen.push(match event {
                Ok(Event::Init) => "init",
                Ok(Event::InitDone) => "done",
                Ok(_) => "other",
                Err(_) => "error",
            });
        }
        assert_eq!(seen, ["error", "done", "error", "init"]);
        assert!(watches.lock().unwrap().is_empty());
    }

    #[test]
    fn after_a_break_only_what_changed_is_told() {
        let before = vec![machine("same", "1"), machine("changed", "2"), machine("gone", "3")];
        let now = vec![machine("same", "1"), machine("changed", "4"), machine("new", "5")];
        let mut told: Vec<String> = news(before, now).iter().map(|machine| machine.name_any()).collect();
        told.sort();
        assert_eq!(told, ["changed", "gone", "new"]);
    }
}
