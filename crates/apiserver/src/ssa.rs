//! Server-side apply, and who manages which field after any other write.

use serde_json::{Map, Value, json};

use crate::{
    error::{ApiError, Cause, Result},
    fields::{self, FieldSet, ListType},
    kinds::Kind,
};

/// How many managers an object records; the oldest updaters go first (Kubernetes caps them at ten, too).
const MAX_UPDATERS: usize = 10;

/// One entry of `managedFields`.
#[derive(Debug, Clone)]
struct Entry {
    manager: String,
    apply: bool,
    status: bool,
    time: Value,
    fields: FieldSet,
}

/// Who writes, and where.
#[derive(Debug, Clone)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    pub(crate) status: bool,
    pub(crate) force: bool,
    pub(crate) now: &'a str,
}

fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array();
    entries
        .into_iter()
        .flatten()
        .map(|entry| Entry {
            manager: entry["manager"].as_str().unwrap_or_default().to_owned(),
            apply: entry["operation"] == "Apply",
            status: entry["subresource"] == "status",
            time: entry["time"].clone(),
            fields: FieldSet::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

fn write(kind: &Kind, object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    let updaters = entries.iter().filter(|entry| !entry.apply).count();
    for _ in MAX_UPDATERS..updaters {
        if let Some(oldest) = entries.iter().position(|entry| !entry.apply) {
            entries.remove(oldest);
        }
    }
    let list: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let mut json = json!({
                "manager": entry.manager, "operation": if entry.apply { "Apply" } else { "Update" },
                "apiVersion": kind.api_version(), "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": entry.fields.to_json()
            });
            if entry.status {
                json["subresource"] = json!("status");
            }
            json
        })
        .collect();
    if list.is_empty() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    } else {
        object["metadata"]["managedFields"] = Value::Array(list);
    }
}

/// Records a write that was no apply: what changed is the writer's now, and nobody else's. The book so far is the one in `new`: clients
/// may send an edited one, as `kubectl apply --server-side` does when it takes over from a client-side apply.
pub(crate) fn record_update(kind: &Kind, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let schema = kind.schema.as_ref();
    let mut entries = read(new);
    let (before, after) = (old.map(|old| FieldSet::of(schema, old)).unwrap_or_default(), FieldSet::of(schema, new));
    let mut changed = FieldSet::default();
    for path in after.paths() {
        let was = old.and_then(|old| fields::value_at(schema, old, &path));
        let is = fields::value_at(schema, new, &path);
        // An item of a list-map is the same item whatever is in it; what is in it has paths of its own.
        let same_item = path.last().is_some_and(|step| step.starts_with("k:")) && was.is_some();
        if was != is && !same_item {
            changed.insert(&path);
        }
    }
    let gone: Vec<_> = before.paths().into_iter().filter(|path| !after.contains(path)).collect();
    for entry in &mut entries {
        for path in gone.iter().filter(|path| !after.touches(path)).chain(&changed.paths()) {
            entry.fields.remove(path);
        }
    }
    if !changed.is_empty() {
        let mine = |entry: &&mut Entry| !entry.apply && entry.manager == writer.manager && entry.status == writer.status;
        match entries.iter_mut().find(mine) {
            Some(entry) => {
                entry.fields.union(&changed);
                entry.time = json!(writer.now);
            }
            None => entries.push(Entry {
                manager: writer.manager.to_owned(),
                apply: false,
                status: writer.status,
                time: json!(writer.now),
                fields: changed,
            }),
        }
    }
    write(kind, new, entries);
}

/// Applies a configuration to what is stored. `schema` has been used to prune and default the configuration before.
///
/// # Errors
/// 409 with manager and path of each field that another manager owns with another value, unless forced.
pub(crate) fn apply(kind: &Kind, live: &Value, config: &Value, writer: &Writer<'_>) -> Result<Value> {
    let schema = kind.schema.as_ref();
    let mut entries = read(live);
    let wanted = FieldSet::of(schema, config);
    let is_mine = |entry: &Entry| entry.apply && entry.manager == writer.manager && entry.status == writer.status;
    let mut causes = Vec::new();
    for path in wanted.paths() {
        if path.last().is_some_and(|step| step.starts_with("k:") || step.starts_with("v:")) {
            continue;
        }
        let (theirs, ours) = (fields::value_at(schema, live, &path), fields::value_at(schema, config, &path));
        // An empty map, or list whose items are known by their keys, says nothing about what others have in it.
        if theirs == ours || (ours.is_some_and(is_empty) && fields::is_granular(schema, &path)) {
            continue;
        }
        for entry in entries.iter_mut().filter(|entry| !is_mine(entry) && entry.fields.touches(&path)) {
            if writer.force {
                entry.fields.remove(&path);
            } else {
                let message = format!("conflict with {:?}{}", entry.manager, if entry.apply { "" } else { " using Update" });
                causes.push(Cause { reason: "FieldManagerConflict", field: fields::show(&path), message });
            }
        }
    }
    if !causes.is_empty() {
        return Err(ApiError::apply_conflict(&causes));
    }
    let mut merged = merge(schema.unwrap_or(&Value::Null), live, config, true);
    let before = entries.iter().find(|entry| is_mine(entry)).map(|entry| entry.fields.clone()).unwrap_or_default();
    // An item of a list-map goes whole, before its fields: without its key it could not be found. One that stays keeps its key.
    for path in before.paths().iter().filter(|path| !fields::is_key(path)) {
        let free = |path: &[String]| {
            let others = entries.iter().any(|entry| !is_mine(entry) && entry.fields.touches(path));
            !wanted.touches(path) && !others
        };
        // A parent that nobody wants goes with all that is in it: defaults in it were nobody's wish.
        let root = if path.first().is_some_and(|first| first == "f:metadata") { 2 } else { 1 };
        if let Some(length) = (root..=path.len()).find(|length| free(&path[..*length])) {
            fields::remove_at(schema, &mut merged, &path[..length]);
        }
    }
    let unchanged = without_managers(&merged) == without_managers(live) && before == wanted;
    let time = entries.iter().find(|entry| is_mine(entry) && unchanged).map_or_else(|| json!(writer.now), |entry| entry.time.clone());
    entries.retain(|entry| !is_mine(entry));
    entries.push(Entry { manager: writer.manager.to_owned(), apply: true, status: writer.status, time, fields: wanted });
    write(kind, &mut merged, entries);
    Ok(merged)
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// An object without `managedFields`, to see whether anything else changed.
pub(crate) fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
    object
}

/// Lays a configuration over an object: objects field by field, list-maps item by item, the rest whole.
fn merge(schema: &Value, live: &Value, config: &Value, top: bool) -> Value {
    match (live, config) {
        (Value::Object(old), Value::Object(new)) if schema["x-kubernetes-map-type"] != "atomic" => {
            let mut out = old.clone();
            for (name, value) in new {
                let child = if top && name == "metadata" { &fields::METADATA_SCHEMA } else { fields::child_schema(schema, name) };
                let merged = old.get(name).map_or_else(|| value.clone(), |old| merge(child, old, value, false));
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Value::Array(old), Value::Array(new)) if fields::list_type(schema) != ListType::Atomic => {
            let mut out = old.clone();
            for item in new {
                let element = fields::element(schema, item);
                match out.iter_mut().find(|other| fields::element(schema, other) == element) {
                    Some(other) => *other = merge(&schema["items"], other, item, false),
                    None => out.push(item.clone()),
                }
            }
            Value::Array(out)
        }
        _ => config.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::kinds;

    const MACS: [&str; 3] = ["52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"];

    static MACHINE: LazyLock<Kind> = LazyLock::new(|| kinds::all().into_iter().find(|kind| kind.kind == "Machine").unwrap());

    fn by<'a>(manager: &'a str, force: bool) -> Writer<'a> {
        Writer { manager, status: false, force, now: "2026-01-31T12:00:00Z" }
    }

    fn bare() -> Value {
        json!({ "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "Machine", "metadata": { "name": "m1" } })
    }

    /// What one manager wants of a Machine: a scalar, a map, a list-map with items of its own.
    fn config() -> impl Strategy<Value = Value> {
        let labels = proptest::collection::btree_map("[ab]", "[xy]", 0..3);
        let interfaces = proptest::collection::btree_map(0..MACS.len(), proptest::option::of(any::<bool>()), 0..3);
        (proptest::option::of(any::<bool>()), labels, interfaces).prop_map(|(accepted, labels, interfaces)| {
            let mut config = bare();
            if let Some(accepted) = accepted {
                config["spec"]["accepted"] = accepted.into();
            }
            if !labels.is_empty() {
                config["metadata"]["labels"] = json!(labels);
            }
            for (index, boot) in interfaces {
                let mut interface = json!({ "mac": MACS[index] });
                if let Some(boot) = boot {
                    interface["boot"] = boot.into();
                }
                match config["spec"]["interfaces"].as_array_mut() {
                    Some(list) => list.push(interface),
                    None => config["spec"]["interfaces"] = json!([interface]),
                }
            }
            config
        })
    }

    proptest! {
        #[test]
        fn a_set_survives_its_json(config in config()) {
            let set = FieldSet::of(MACHINE.schema.as_ref(), &config);
            prop_assert_eq!(FieldSet::from_json(&set.to_json()), set);
        }

        #[test]
        fn applying_twice_is_applying_once(first in config(), second in config()) {
            let kind = &*MACHINE;
            let live = apply(kind, &bare(), &first, &by("one", false)).unwrap();
            let once = apply(kind, &live, &second, &by("one", false)).unwrap();
            let twice = apply(kind, &once, &second, &by("one", false)).unwrap();
            prop_assert_eq!(&once, &twice);
        }

        #[test]
        fn what_a_manager_stops_applying_goes_and_what_others_apply_stays(mine in config(), theirs in config()) {
            let kind = &*MACHINE;
            let before = apply(kind, &bare(), &theirs, &by("other", false)).unwrap();
            // Where both want the same field, they may disagree only by force, and then it is mine to take away.
            let Ok(live) = apply(kind, &before, &mine, &by("me", false)) else { return Ok(()) };
            let after = apply(kind, &live, &bare(), &by("me", false)).unwrap();
            prop_assert_eq!(after, before);
        }

        #[test]
        fn a_refused_apply_names_what_a_forced_one_takes(mine in config(), theirs in config()) {
            let kind = &*MACHINE;
            let before = apply(kind, &bare(), &theirs, &by("other", false)).unwrap();
            let forced = apply(kind, &before, &mine, &by("me", true)).unwrap();
            let of = |manager: &str| read(&forced).into_iter().find(|entry| entry.manager == manager).map(|entry| entry.fields).unwrap_or_default();
            for path in FieldSet::of(kind.schema.as_ref(), &mine).paths() {
                prop_assert_eq!(fields::value_at(kind.schema.as_ref(), &forced, &path).is_some(), true);
            }
            match apply(kind, &before, &mine, &by("me", false)) {
                Ok(agreed) => prop_assert_eq!(agreed, forced),
                Err(refused) => {
                    prop_assert_eq!(refused.code, http::StatusCode::CONFLICT);
                    prop_assert_ne!(of("other"), FieldSet::of(kind.schema.as_ref(), &theirs));
                }
            }
        }
    }
}
