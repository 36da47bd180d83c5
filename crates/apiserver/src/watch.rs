//! Watches: the changes after a revision, as a stream of JSON lines.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use http_body::Frame;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use crate::{
    error::{ApiError, Result},
    events,
    path::Target,
    selector::Selector,
    store::{Change, ChangeType, Store},
    table::View,
    verbs,
};

/// How long a watch lasts when the client does not say: as kube-apiserver's least.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// The longest a client may ask for.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// What is watched.
pub(crate) struct Watch {
    pub(crate) target: Target,
    pub(crate) selector: Selector,
    pub(crate) view: View,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Option<Duration>,
}

struct State {
    store: Arc<Store>,
    watch: Watch,
    revision: u64,
    newest: watch::Receiver<u64>,
    deadline: Instant,
    queue: VecDeque<Bytes>,
    ended: bool,
}

/// Begins a watch after a revision; without one, what exists comes first as ADDED.
pub(crate) fn begin(
    store: Arc<Store>,
    watch: Watch,
    after: Option<u64>,
) -> Result<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + use<>> {
    let newest = store.subscribe();
    let mut queue = VecDeque::new();
    let revision = match after {
        Some(revision) => {
            // An expired revision is an answer of its own, not an event.
            store.since(revision)?;
            revision
        }
        None => verbs::each(&store, &watch.target, &watch.selector, |object| queue.push_back(line(&watch, "ADDED", object)))?,
    };
    let timeout = watch.timeout.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
    let state = State { store, watch, revision, newest, deadline: Instant::now() + timeout, queue, ended: false };
    Ok(stream::unfold(state, next))
}

async fn next(mut state: State) -> Option<(Result<Frame<Bytes>, Infallible>, State)> {
    loop {
        if let Some(line) = state.queue.pop_front() {
            return Some((Ok(Frame::data(line)), state));
        }
        if state.ended {
            return None;
        }
        state.newest.mark_unchanged();
        match state.store.since(state.revision) {
            Ok(changes) => {
                for change in changes {
                    state.revision = change.revision;
                    state.queue.extend(event(&state.watch, &change));
                }
            }
            Err(error) => {
                state.queue.push_back(error_line(&error));
                state.ended = true;
            }
        }
        if !state.queue.is_empty() {
            continue;
        }
        let woken = tokio::time::timeout_at(state.deadline, state.newest.changed()).await;
        if !matches!(woken, Ok(Ok(()))) {
            state.ended = true;
            if state.watch.bookmarks {
                state.queue.push_back(bookmark(&state.watch, state.revision));
            }
        }
    }
}

/// The event that a change is for this watch: an object that a selector takes no longer is DELETED for it, one that it newly takes ADDED.
fn event(watch: &Watch, change: &Change) -> Option<Bytes> {
    let elsewhere = watch.target.namespace.as_ref().is_some_and(|namespace| *namespace != change.namespace);
    if change.storage != watch.target.kind.storage || elsewhere {
        return None;
    }
    let object: Value = serde_json::from_slice(&change.object).ok()?;
    let object = events::from_stored(&watch.target.kind, object);
    let now = watch.selector.matches(&object);
    let before = change
        .before
        .as_ref()
        .and_then(|before| serde_json::from_slice(before).ok())
        .is_some_and(|before: Value| watch.selector.matches(&events::from_stored(&watch.target.kind, before)));
    let type_ = match (change.type_, before, now) {
        (ChangeType::Deleted, true, _) => "DELETED",
        (ChangeType::Deleted, false, true) => "DELETED",
        (ChangeType::Deleted, false, false) => return None,
        (_, true, false) => "DELETED",
        (ChangeType::Added, _, true) | (ChangeType::Modified, false, true) => "ADDED",
        (ChangeType::Modified, true, true) => "MODIFIED",
        (_, false, false) => return None,
    };
    Some(line(watch, type_, object))
}

fn line(watch: &Watch, type_: &str, object: Value) -> Bytes {
    let object = watch.view.one(&watch.target.kind, object, Timestamp::now());
    text(&json!({ "type": type_, "object": object }))
}

fn bookmark(watch: &Watch, revision: u64) -> Bytes {
    let kind = &watch.target.kind;
    let object = json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": { "resourceVersion": revision.to_string() } });
    text(&json!({ "type": "BOOKMARK", "object": object }))
}

fn error_line(error: &ApiError) -> Bytes {
    text(&json!({ "type": "ERROR", "object": error.status() }))
}

fn text(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}
