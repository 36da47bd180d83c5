//! Sets of fields, as `managedFields` records them (FieldsV1), and how they relate to objects.
//!
//! A set is a tree of path elements: `f:name` for a field, `k:{…}` for an item of a list-map, `v:…` for an item of a set. An atomic value
//! is a leaf. See Kubernetes' server-side apply and its structured-merge-diff.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value, json};

/// Fields that nobody manages: identity, and what the server itself writes.
const UNMANAGED: [&str; 11] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "generateName",
];

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// The element itself is in the set (`.`), not only something below it.
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

/// A path through an object: elements as FieldsV1 spells them.
pub(crate) type Path = Vec<String>;

impl FieldSet {
    /// Every field of an object that a manager can own.
    pub(crate) fn of(schema: Option<&Value>, object: &Value) -> Self {
        let mut set = Self::default();
        let empty = Value::Null;
        let schema = schema.unwrap_or(&empty);
        for (name, value) in object.as_object().into_iter().flatten() {
            if name == "apiVersion" || name == "kind" {
                continue;
            }
            let child = &schema["properties"][name];
            let below = if name == "metadata" { Self::of_metadata(value) } else { Self::of_value(child, value) };
            if below.member || !below.children.is_empty() {
                set.children.insert(format!("f:{name}"), below);
            }
        }
        set
    }

    fn of_metadata(metadata: &Value) -> Self {
        let mut set = Self::default();
        for (name, value) in metadata.as_object().into_iter().flatten().filter(|(name, _)| !UNMANAGED.contains(&name.as_str())) {
            set.children.insert(format!("f:{name}"), Self::of_value(&METADATA_SCHEMA["properties"][name], value));
        }
        set
    }

    fn of_value(schema: &Value, value: &Value) -> Self {
        let mut set = Self::default();
        match value {
            Value::Object(fields) if !fields.is_empty() && schema["x-kubernetes-map-type"] != "atomic" => {
                for (name, field) in fields {
                    set.children.insert(format!("f:{name}"), Self::of_value(child_schema(schema, name), field));
                }
            }
            Value::Array(items) if list_type(schema) != ListType::Atomic && !items.is_empty() => {
                for item in items {
                    let mut below = Self::of_value(&schema["items"], item);
                    below.member = true;
                    set.children.insert(element(schema, item), below);
                }
            }
            _ => set.member = true,
        }
        set
    }

    /// From FieldsV1.
    pub(crate) fn from_json(json: &Value) -> Self {
        let mut set = Self::default();
        for (name, below) in json.as_object().into_iter().flatten() {
            if name == "." {
                set.member = true;
            } else {
                let mut child = Self::from_json(below);
                if child.children.is_empty() {
                    child.member = true;
                }
                set.children.insert(name.clone(), child);
            }
        }
        set
    }

    /// As FieldsV1.
    pub(crate) fn to_json(&self) -> Value {
        let mut out = Map::new();
        if self.member && !self.children.is_empty() {
            out.insert(".".to_owned(), json!({}));
        }
        for (name, child) in &self.children {
            out.insert(name.clone(), child.to_json());
        }
        Value::Object(out)
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// The paths of the set's members, each before what is below it.
    pub(crate) fn paths(&self) -> Vec<Path> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Path, out: &mut Vec<Path>) {
        if self.member {
            out.push(prefix.clone());
        }
        for (name, child) in &self.children {
            prefix.push(name.clone());
            child.collect(prefix, out);
            prefix.pop();
        }
    }

    pub(crate) fn contains(&self, path: &[String]) -> bool {
        match path {
            [] => self.member,
            [first, rest @ ..] => self.children.get(first).is_some_and(|child| child.contains(rest)),
        }
    }

    /// Whether the path, or anything below it, is in the set.
    pub(crate) fn touches(&self, path: &[String]) -> bool {
        match path {
            [] => !self.is_empty(),
            [first, rest @ ..] => self.children.get(first).is_some_and(|child| child.touches(rest)),
        }
    }

    pub(crate) fn insert(&mut self, path: &[String]) {
        match path {
            [] => self.member = true,
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// Removes a path and everything below it.
    pub(crate) fn remove(&mut self, path: &[String]) {
        match path {
            [] => *self = Self::default(),
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(first) {
                    child.remove(rest);
                    if child.is_empty() {
                        self.children.remove(first);
                    }
                }
            }
        }
    }

    pub(crate) fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (name, child) in &other.children {
            self.children.entry(name.clone()).or_default().union(child);
        }
    }
}

/// How a list merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListType {
    Atomic,
    Set,
    Map,
}

pub(crate) fn list_type(schema: &Value) -> ListType {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => ListType::Map,
        Some("set") => ListType::Set,
        _ => ListType::Atomic,
    }
}

/// The schema of a field of an object.
pub(crate) fn child_schema<'a>(schema: &'a Value, name: &str) -> &'a Value {
    schema["properties"].get(name).unwrap_or(&schema["additionalProperties"])
}

/// The path element of a list's item.
pub(crate) fn element(schema: &Value, item: &Value) -> String {
    if list_type(schema) == ListType::Map {
        let keys = schema["x-kubernetes-list-map-keys"].as_array();
        let key: Map<String, Value> =
            keys.into_iter().flatten().filter_map(Value::as_str).map(|key| (key.to_owned(), item[key].clone())).collect();
        return format!("k:{}", Value::Object(key));
    }
    format!("v:{item}")
}

/// How the lists of `metadata` merge, for every kind.
pub(crate) static METADATA_SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "properties": {
            "finalizers": { "x-kubernetes-list-type": "set" },
            "ownerReferences": { "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"] }
        }
    })
});

/// Whether a path names a key of an item of a list-map, as `mac` in `interfaces[mac="…"].mac`.
pub(crate) fn is_key(path: &[String]) -> bool {
    let [.., item, field] = path else { return false };
    let key = item.strip_prefix("k:").and_then(|key| serde_json::from_str::<Map<String, Value>>(key).ok());
    key.zip(field.strip_prefix("f:")).is_some_and(|(key, name)| key.contains_key(name))
}

/// Whether what stands at a path is managed field by field, or item by item, rather than whole.
pub(crate) fn is_granular(schema: Option<&Value>, path: &[String]) -> bool {
    let null = Value::Null;
    let mut schema = schema.unwrap_or(&null);
    for (depth, step) in path.iter().enumerate() {
        schema = match step.strip_prefix("f:") {
            Some("metadata") if depth == 0 => &METADATA_SCHEMA,
            Some(name) => child_schema(schema, name),
            None => &schema["items"],
        };
    }
    if schema["type"] == "array" || !schema["x-kubernetes-list-type"].is_null() {
        return list_type(schema) != ListType::Atomic;
    }
    schema["x-kubernetes-map-type"] != "atomic"
}

/// The value at a path.
pub(crate) fn value_at<'a>(schema: Option<&Value>, object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let null = Value::Null;
    let (mut value, mut schema) = (object, schema.unwrap_or(&null));
    for (depth, step) in path.iter().enumerate() {
        if let Some(name) = step.strip_prefix("f:") {
            value = value.get(name)?;
            schema = if depth == 0 && name == "metadata" { &METADATA_SCHEMA } else { child_schema(schema, name) };
        } else {
            value = value.as_array()?.iter().find(|item| element(schema, item) == *step)?;
            schema = &schema["items"];
        }
    }
    Some(value)
}

/// Removes the value at a path, if it is there.
pub(crate) fn remove_at(schema: Option<&Value>, object: &mut Value, path: &[String]) {
    let null = Value::Null;
    let (mut value, mut schema) = (object, schema.unwrap_or(&null));
    for (depth, step) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        if let Some(name) = step.strip_prefix("f:") {
            if last {
                if let Some(fields) = value.as_object_mut() {
                    fields.remove(name);
                }
                return;
            }
            let Some(next) = value.get_mut(name) else { return };
            value = next;
            schema = if depth == 0 && name == "metadata" { &METADATA_SCHEMA } else { child_schema(schema, name) };
        } else {
            let Some(items) = value.as_array_mut() else { return };
            let Some(at) = items.iter().position(|item| element(schema, item) == *step) else { return };
            if last {
                items.remove(at);
                return;
            }
            value = &mut items[at];
            schema = &schema["items"];
        }
    }
}

/// A path as messages show it: `.spec.interfaces[mac="52:54:00:aa:00:01"].boot`.
pub(crate) fn show(path: &[String]) -> String {
    path.iter()
        .map(|step| match step.split_once(':') {
            Some(("f", name)) => format!(".{name}"),
            Some(("k", key)) => {
                let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let pairs: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("[{}]", pairs.join(","))
            }
            Some((_, value)) => format!("[={value}]"),
            None => step.clone(),
        })
        .collect()
}
