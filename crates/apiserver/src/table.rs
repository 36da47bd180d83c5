//! Objects as `kubectl get` wants them: tables with our printer columns, or metadata only.

use jiff::Timestamp;
use jsonpath_rust::JsonPath;
use serde_json::{Value, json};

use crate::kinds::Kind;

/// How a client wants objects (`Accept: …;as=…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Object,
    Table(Beside),
    Metadata,
}

/// What of an object a table has beside its cells (`includeObject=`): `kubectl --sort-by` wants all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    Metadata,
    Object,
}

impl View {
    /// From an `Accept` header and `includeObject`. Clients list what they can take, best first.
    pub(crate) fn of(accept: &str, include: Option<&str>) -> Self {
        let beside = match include {
            Some("None") => Beside::Nothing,
            Some("Object") => Beside::Object,
            _ => Beside::Metadata,
        };
        let first = accept.split(',').map(str::trim).find_map(|part| {
            if part.contains("as=Table") {
                Some(Self::Table(beside))
            } else if part.contains("as=PartialObjectMetadata") {
                Some(Self::Metadata)
            } else if part.starts_with("application/json") || part.starts_with("*/*") {
                Some(Self::Object)
            } else {
                None
            }
        });
        first.unwrap_or(Self::Object)
    }

    /// One object, as a get or a watch event carries it.
    pub(crate) fn one(self, kind: &Kind, object: Value, now: Timestamp) -> Value {
        match self {
            Self::Object => object,
            Self::Metadata => metadata(&object),
            Self::Table(beside) => {
                let version = object["metadata"]["resourceVersion"].clone();
                json!({
                    "kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": columns(kind),
                    "rows": [row(kind, object, beside, now)], "metadata": { "resourceVersion": version }
                })
            }
        }
    }

    /// One object, as an item of a list.
    pub(crate) fn item(self, kind: &Kind, object: Value, now: Timestamp) -> Value {
        match self {
            Self::Object => object,
            Self::Metadata => metadata(&object),
            Self::Table(beside) => row(kind, object, beside, now),
        }
    }

    /// A list without its items and its metadata, and the field that the items are in.
    pub(crate) fn frame(self, kind: &Kind) -> (Value, &'static str) {
        match self {
            Self::Object => (json!({ "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version() }), "items"),
            Self::Metadata => (json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1" }), "items"),
            Self::Table(_) => (json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": columns(kind) }), "rows"),
        }
    }
}

fn metadata(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

fn columns(kind: &Kind) -> Vec<Value> {
    let name = json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name must be unique within a namespace."
    });
    let more = kind.columns.iter().map(|column| {
        let type_ = if column.type_ == "reference" { "string" } else { &column.type_ };
        json!({ "name": column.name, "type": type_, "format": "", "priority": column.priority, "description": column.description })
    });
    std::iter::once(name).chain(more).collect()
}

fn row(kind: &Kind, object: Value, beside: Beside, now: Timestamp) -> Value {
    let cells = kind.columns.iter().map(|column| cell(&object, &column.path, &column.type_, now));
    let cells: Vec<Value> = std::iter::once(object["metadata"]["name"].clone()).chain(cells).collect();
    let object = match beside {
        Beside::Nothing => Value::Null,
        Beside::Metadata => metadata(&object),
        Beside::Object => object,
    };
    json!({ "cells": cells, "object": object })
}

fn cell(object: &Value, path: &str, type_: &str, now: Timestamp) -> Value {
    let found = object.query(&format!("${path}")).ok().and_then(|values| values.first().map(|value| (*value).clone()));
    match (type_, found) {
        (_, None | Some(Value::Null)) => {
            if type_ == "date" {
                json!("<unknown>")
            } else {
                json!("")
            }
        }
        ("date", Some(Value::String(time))) => time.parse().map_or_else(|_| json!(time), |time| json!(age(time, now))),
        // What an Event is about, as kubectl names it.
        ("reference", Some(about)) => {
            let text = |field: &str| about[field].as_str().unwrap_or_default().to_owned();
            json!(format!("{}/{}", text("kind").to_lowercase(), text("name")))
        }
        (_, Some(value)) => value,
    }
}

/// A duration as kubectl shortens it: `5s`, `3m`, `2h`, `4d`.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - since.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{}m{}s", seconds / 60, seconds % 60).replace("m0s", "m"),
        600..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        172_800..63_072_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}
