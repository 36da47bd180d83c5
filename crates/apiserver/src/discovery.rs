//! What is served: the API groups, their resources, and enough of OpenAPI for `kubectl explain` and server-side field validation.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// The Kubernetes version whose conventions we follow.
const MINOR: &str = "36";

/// The document at a discovery path, if it is one.
pub(crate) fn answer(path: &str, kinds: &[Arc<Kind>]) -> Option<Value> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["version"] => Some(json!({
            "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+athanor-{}", env!("CARGO_PKG_VERSION")),
            "platform": "linux/amd64", "goVersion": "", "compiler": "rustc", "buildDate": "", "gitCommit": "", "gitTreeState": ""
        })),
        ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })),
        ["api", "v1"] => Some(resources("", "v1", kinds)),
        ["apis"] => {
            let names: BTreeSet<(&str, &str)> = groups(kinds);
            let list: Vec<Value> = names.iter().map(|(name, version)| group(name, version)).collect();
            Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": list }))
        }
        ["apis", name] => groups(kinds).iter().find(|(group, _)| group == name).map(|(name, version)| {
            let mut group = group(name, version);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            group
        }),
        ["apis", name, version] if groups(kinds).contains(&(*name, *version)) => Some(resources(name, version, kinds)),
        ["openapi", "v3"] => {
            let mut paths = Map::new();
            paths.insert("api/v1".to_owned(), json!({ "serverRelativeURL": "/openapi/v3/api/v1" }));
            for (name, version) in groups(kinds) {
                paths
                    .insert(format!("apis/{name}/{version}"), json!({ "serverRelativeURL": format!("/openapi/v3/apis/{name}/{version}") }));
            }
            Some(json!({ "paths": paths }))
        }
        ["openapi", "v3", "api", "v1"] => Some(openapi("", "v1", kinds)),
        ["openapi", "v3", "apis", name, version] => Some(openapi(name, version, kinds)),
        _ => None,
    }
}

/// A description in the older format that describes no kind.
pub(crate) fn openapi_v2() -> Value {
    json!({ "swagger": "2.0", "info": { "title": "Athanor", "version": "v1" }, "paths": {} })
}

fn groups(kinds: &[Arc<Kind>]) -> BTreeSet<(&str, &str)> {
    kinds.iter().filter(|kind| !kind.group.is_empty()).map(|kind| (kind.group.as_str(), kind.version.as_str())).collect()
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    json!({ "name": name, "versions": [version], "preferredVersion": version })
}

fn resources(group: &str, version: &str, kinds: &[Arc<Kind>]) -> Value {
    let mut list = Vec::new();
    for kind in kinds.iter().filter(|kind| kind.group == group && kind.version == version) {
        list.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            "shortNames": kind.short_names, "categories": kind.categories
        }));
        if kind.status {
            list.push(json!({
                "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind,
                "verbs": ["get", "patch", "update"]
            }));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list })
}

fn openapi(group: &str, version: &str, kinds: &[Arc<Kind>]) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in kinds.iter().filter(|kind| kind.group == group && kind.version == version) {
        let gvk = json!({ "group": group, "version": version, "kind": kind.kind });
        let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let parameter = |name: &str| json!({ "name": name, "in": "query", "schema": { "type": "string" } });
        let operation = |action: &str| {
            json!({
                "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk,
                "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
                "responses": { "200": { "description": "OK" } }
            })
        };
        paths.insert(format!("{base}{scope}/{}", kind.plural), json!({ "post": operation("post") }));
        paths.insert(format!("{base}{scope}/{}/{{name}}", kind.plural), json!({ "patch": operation("patch"), "put": operation("put") }));
        let mut schema = kind.schema.clone().unwrap_or_else(|| json!({ "type": "object" }));
        schema["x-kubernetes-group-version-kind"] = json!([gvk]);
        let reversed: Vec<&str> = group.split('.').rev().collect();
        schemas.insert(format!("{}.{version}.{}", reversed.join("."), kind.kind).trim_start_matches('.').to_owned(), schema);
    }
    json!({ "openapi": "3.0.0", "info": { "title": "Athanor", "version": "v1" }, "paths": paths, "components": { "schemas": schemas } })
}
