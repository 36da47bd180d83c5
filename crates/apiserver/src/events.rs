//! Events: `v1` and `events.k8s.io/v1` are one store, kept in the shape of `v1`.

use serde_json::{Map, Value};

use crate::kinds::Kind;

/// Field names of `events.k8s.io/v1` and what `v1` calls them.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// How many events are kept; the oldest go. A day of a lab, an hour of a rack.
pub(crate) const MAX_EVENTS: usize = 1000;
/// How many more go at once when there are too many.
pub(crate) const FORGET: usize = 50;

pub(crate) fn is_event(kind: &Kind) -> bool {
    kind.storage == "events"
}

/// As stored.
pub(crate) fn to_stored(kind: &Kind, object: Value) -> Value {
    if is_event(kind) && kind.group == "events.k8s.io" {
        let mut stored = rename(object, |name| RENAMED.iter().find(|(new, _)| *new == name).map(|(_, old)| *old));
        stored["apiVersion"] = "v1".into();
        // What `kubectl describe` sorts and shows.
        let time = stored["eventTime"].as_str().map(|time| format!("{}Z", time.split('.').next().unwrap_or(time).trim_end_matches('Z')));
        if let (Some(time), true) = (time, stored["lastTimestamp"].is_null()) {
            stored["firstTimestamp"] = time.clone().into();
            stored["lastTimestamp"] = time.into();
        }
        return stored;
    }
    object
}

/// As a client of `kind` sees it.
pub(crate) fn from_stored(kind: &Kind, object: Value) -> Value {
    if is_event(kind) && kind.group == "events.k8s.io" {
        let mut seen = rename(object, |name| RENAMED.iter().find(|(_, old)| *old == name).map(|(new, _)| *new));
        seen["apiVersion"] = "events.k8s.io/v1".into();
        return seen;
    }
    object
}

fn rename(object: Value, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    match object {
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (name(&key).map_or(key, str::to_owned), value)).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}
