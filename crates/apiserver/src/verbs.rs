//! The verbs on objects. Each write is one transaction of the store: what it read cannot have changed when it writes.

use std::ops::ControlFlow;

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    admission::{self, Unknown},
    error::{ApiError, Cause, Result},
    events, patch,
    path::Target,
    selector::Selector,
    ssa::{self, Writer},
    store::{Key, Outcome, Store, decode},
};

/// Namespaces that cannot be deleted: the system's own, and where people begin.
const KEPT_NAMESPACES: [&str; 3] = ["default", athanor_crds::names::SYSTEM_NAMESPACE, athanor_crds::names::PLANS_NAMESPACE];

/// What a write was asked with.
pub(crate) struct WriteOptions<'a> {
    pub(crate) manager: &'a str,
    pub(crate) force: bool,
    pub(crate) dry_run: bool,
    pub(crate) unknown: Unknown,
    pub(crate) now: String,
}

/// How an object is changed by PATCH.
pub(crate) enum Patch {
    Merge(Value),
    Json(Value),
    Strategic(Value),
    Apply(Value),
}

/// What a delete insists on, and whether it is only tried.
#[derive(Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

/// An answer: the object, the HTTP status, warnings.
pub(crate) struct Written {
    pub(crate) object: Value,
    pub(crate) code: StatusCode,
    pub(crate) warnings: Vec<String>,
}

fn key(target: &Target, name: &str) -> Key {
    let namespace = target.namespace.clone().unwrap_or_default();
    Key { storage: target.kind.storage.clone(), namespace, name: name.to_owned() }
}

/// Trying only: the decision is made and then thrown away.
fn rehearse(outcome: Outcome, dry_run: bool) -> Outcome {
    match outcome {
        Outcome::Put(object) | Outcome::Remove(object) if dry_run => Outcome::Keep(object),
        other => other,
    }
}

pub(crate) fn get(store: &Store, target: &Target, name: &str) -> Result<Value> {
    let object = store.get(&key(target, name))?.ok_or_else(|| ApiError::not_found(&target.kind, name))?;
    Ok(events::from_stored(&target.kind, object))
}

/// Shows every object that a selector takes; returns their revision.
pub(crate) fn each(store: &Store, target: &Target, selector: &Selector, mut visit: impl FnMut(Value)) -> Result<u64> {
    store.scan(&target.kind.storage, target.namespace.as_deref(), None, |_, bytes| {
        let object = events::from_stored(&target.kind, decode(bytes)?);
        if selector.matches(&object) {
            visit(object);
        }
        Ok(ControlFlow::Continue(()))
    })
}

pub(crate) fn create(store: &Store, target: &Target, mut object: Value, options: &WriteOptions<'_>) -> Result<Written> {
    let kind = &target.kind;
    let name = admission::identify(target, &mut object)?;
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
        return Err(ApiError::bad_request("metadata.resourceVersion should not be set on objects to be created"));
    }
    check_namespace(store, target)?;
    let mut object = events::to_stored(kind, object);
    if kind.status
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("status");
    }
    let warnings = admission::shape(kind, &mut object, options.unknown)?;
    admission::validate(kind, &name, &object, None)?;
    admission::new_metadata(kind, &mut object, &options.now);
    finish_core(target, &mut object);
    let writer = Writer { manager: options.manager, status: false, force: false, now: &options.now };
    ssa::record_update(kind, None, &mut object, &writer);
    let object = store.update(&key(target, &name), |existing| match existing {
        Some(existing) if existing["metadata"]["deletionTimestamp"].is_string() => {
            let mut error = ApiError::already_exists(kind, &name);
            error.message = format!("object is being deleted: {}", error.message);
            Err(error)
        }
        Some(_) => Err(ApiError::already_exists(kind, &name)),
        None => Ok(rehearse(Outcome::Put(object), options.dry_run)),
    })?;
    if events::is_event(kind) {
        forget_old_events(store)?;
    }
    Ok(Written { object: events::from_stored(kind, object), code: StatusCode::CREATED, warnings })
}

/// What the server adds to kinds of its own.
fn finish_core(target: &Target, object: &mut Value) {
    match (target.kind.kind.as_str(), target.kind.group.as_str()) {
        ("Namespace", "") => object["status"] = json!({ "phase": "Active" }),
        ("Secret", "") => {
            encode_texts(target, object);
            if let Some(fields) = object.as_object_mut() {
                fields.entry("type").or_insert_with(|| "Opaque".into());
            }
        }
        _ => {}
    }
}

/// A Secret's `stringData` is only for writing: it becomes `data`.
fn encode_texts(target: &Target, object: &mut Value) {
    use base64::Engine as _;
    if !is_secret(target) {
        return;
    }
    let texts = object.as_object_mut().and_then(|fields| fields.remove("stringData"));
    for (name, text) in texts.iter().filter_map(Value::as_object).flatten() {
        object["data"][name] = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default()).into();
    }
}

/// A change that does not name a Secret's type leaves it.
fn keep_type(target: &Target, live: &Value, new: &mut Value) {
    if is_secret(target) && new["type"].is_null() {
        new["type"] = live["type"].clone();
    }
}

fn is_secret(target: &Target) -> bool {
    target.kind.kind == "Secret" && target.kind.is_core()
}

fn check_namespace(store: &Store, target: &Target) -> Result<()> {
    let Some(namespace) = &target.namespace else { return Ok(()) };
    let found = store.get(&Key { storage: "namespaces".to_owned(), namespace: String::new(), name: namespace.clone() })?;
    match found {
        None => {
            let message = format!("namespaces {namespace:?} not found; create it with kubectl create namespace {namespace}");
            Err(ApiError::new(StatusCode::NOT_FOUND, "NotFound", message))
        }
        Some(namespace_object) if namespace_object["metadata"]["deletionTimestamp"].is_string() => {
            let message = format!("unable to create new content in namespace {namespace} because it is being terminated");
            Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message))
        }
        Some(_) => Ok(()),
    }
}

fn forget_old_events(store: &Store) -> Result<()> {
    let many = store.count("events")?;
    if many <= events::MAX_EVENTS {
        return Ok(());
    }
    let mut all: Vec<(u64, Key)> = Vec::with_capacity(many);
    store.scan("events", None, None, |_, bytes| {
        let event = decode(bytes)?;
        let text = |field: &str| event["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = Key { storage: "events".to_owned(), namespace: text("namespace"), name: text("name") };
        all.push((text("resourceVersion").parse().unwrap_or(0), key));
        Ok(ControlFlow::Continue(()))
    })?;
    all.sort_unstable_by_key(|(revision, _)| *revision);
    // A batch at once, so that not every new event looks at all the others.
    for (_, key) in all.iter().take(many - events::MAX_EVENTS + events::FORGET) {
        store.update(key, |object| Ok(object.map_or(Outcome::Keep(Value::Null), |object| Outcome::Remove(object.clone()))))?;
    }
    Ok(())
}

pub(crate) fn replace(store: &Store, target: &Target, name: &str, object: Value, options: &WriteOptions<'_>) -> Result<Written> {
    let versioned = object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty());
    change(store, target, name, options, |_| {
        // Only the oldest of Kubernetes' own kinds may be replaced blindly.
        if !versioned && !matches!(target.kind.group.as_str(), "" | "events.k8s.io") {
            let cause = Cause {
                reason: "FieldValueInvalid",
                field: "metadata.resourceVersion".to_owned(),
                message: "Invalid value: 0: must be specified for an update".to_owned(),
            };
            return Err(ApiError::invalid(&target.kind, name, &[cause]));
        }
        Ok(object)
    })
}

pub(crate) fn patch(store: &Store, target: &Target, name: &str, patch: Patch, options: &WriteOptions<'_>) -> Result<Written> {
    let kind = &target.kind;
    match patch {
        Patch::Apply(config) => apply(store, target, name, config, options),
        Patch::Strategic(_) if !kind.is_core() => {
            let message = "the body of the request was in an unknown format - accepted media types include: \
                           application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message))
        }
        Patch::Merge(body) => {
            let body = events::to_stored(kind, body);
            change(store, target, name, options, |live| Ok(patch::merge(live, &body)))
        }
        Patch::Strategic(body) => {
            let body = events::to_stored(kind, body);
            change(store, target, name, options, |live| Ok(patch::strategic(live, &body)))
        }
        Patch::Json(body) => change(store, target, name, options, |live| patch::json(live, body)),
    }
}

/// A write to an object that exists. A patch may leave out the `resourceVersion`; what it says is a precondition.
fn change(
    store: &Store,
    target: &Target,
    name: &str,
    options: &WriteOptions<'_>,
    make: impl FnOnce(&Value) -> Result<Value>,
) -> Result<Written> {
    let kind = &target.kind;
    let mut warnings = Vec::new();
    let object = store.update(&key(target, name), |live| {
        let live = live.ok_or_else(|| ApiError::not_found(kind, name))?;
        let mut new = events::from_stored(kind, make(live)?);
        admission::identify(target, &mut new)?;
        let mut new = events::to_stored(kind, new);
        check_preconditions(target, name, live, &new)?;
        check_finalizers(target, name, live, &new)?;
        warnings = admission::shape(kind, &mut new, options.unknown)?;
        encode_texts(target, &mut new);
        admission::carry_metadata(kind, live, &mut new, target.status);
        keep_type(target, live, &mut new);
        admission::validate(kind, name, &new, Some(live))?;
        if !new["metadata"]["managedFields"].is_array() {
            new["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
        }
        if ssa::without_managers(&new) == ssa::without_managers(live)
            && new["metadata"]["managedFields"] == live["metadata"]["managedFields"]
        {
            return Ok(Outcome::Keep(live.clone()));
        }
        let writer = Writer { manager: options.manager, status: target.status, force: false, now: &options.now };
        ssa::record_update(kind, Some(live), &mut new, &writer);
        Ok(rehearse(put_or_remove(new), options.dry_run))
    })?;
    settle_namespace(store, target, &object)?;
    Ok(Written { object: events::from_stored(kind, object), code: StatusCode::OK, warnings })
}

fn check_preconditions(target: &Target, name: &str, live: &Value, new: &Value) -> Result<()> {
    for (field, why) in [
        ("resourceVersion", "the object has been modified; please apply your changes to the latest version and try again"),
        ("uid", "the object was deleted and created again; please apply your changes to the new one"),
    ] {
        let (said, is) = (new["metadata"][field].as_str().unwrap_or_default(), &live["metadata"][field]);
        if !said.is_empty() && is != said {
            return Err(ApiError::conflict(&target.kind, name, why));
        }
    }
    Ok(())
}

/// An object that waits for deletion gets no new finalizers.
fn check_finalizers(target: &Target, name: &str, live: &Value, new: &Value) -> Result<()> {
    let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let (before, after) = (list(live), list(new));
    let added: Vec<&Value> = after.iter().filter(|finalizer| !before.contains(finalizer)).collect();
    if target.status || live["metadata"]["deletionTimestamp"].is_null() || added.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = added.iter().map(ToString::to_string).collect();
    let cause = Cause {
        reason: "FieldValueForbidden",
        field: "metadata.finalizers".to_owned(),
        message: format!(
            "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {}",
            names.join(", ")
        ),
    };
    Err(ApiError::invalid(&target.kind, name, &[cause]))
}

/// An object that waits for deletion goes with its last finalizer.
fn put_or_remove(object: Value) -> Outcome {
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
    if object["metadata"]["deletionTimestamp"].is_string() && !held { Outcome::Remove(object) } else { Outcome::Put(object) }
}

fn apply(store: &Store, target: &Target, name: &str, mut config: Value, options: &WriteOptions<'_>) -> Result<Written> {
    let kind = &target.kind;
    admission::identify(target, &mut config)?;
    if config["metadata"]["managedFields"].is_array() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let mut config = events::to_stored(kind, config);
    if let Some(fields) = config.as_object_mut() {
        if target.status {
            fields.retain(|field, _| matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
            let only_identity = json!({ "name": name, "namespace": fields["metadata"]["namespace"] });
            fields.insert("metadata".to_owned(), only_identity);
        } else if kind.status {
            fields.remove("status");
        }
    }
    let mut shaped = config.clone();
    let warnings = admission::shape(kind, &mut shaped, options.unknown)?;
    // The configuration is pruned but not defaulted: a default is nobody's wish.
    match &kind.schema {
        Some(structure) => {
            drop(crate::schema::prune(structure, &mut config));
            let twice = crate::schema::duplicates(structure, &config);
            if !twice.is_empty() {
                return Err(ApiError::invalid(kind, name, &twice));
            }
        }
        None => config = shaped,
    }
    encode_texts(target, &mut config);
    let writer = Writer { manager: options.manager, status: target.status, force: options.force, now: &options.now };
    if store.get(&key(target, name))?.is_none() && !target.status {
        check_namespace(store, target)?;
    }
    let mut code = StatusCode::OK;
    let object = store.update(&key(target, name), |live| {
        let Some(live) = live else {
            if target.status {
                return Err(ApiError::not_found(kind, name));
            }
            code = StatusCode::CREATED;
            return create_applied(target, name, &config, &writer).map(|outcome| rehearse(outcome, options.dry_run));
        };
        check_preconditions(target, name, live, &config)?;
        let mut new = ssa::apply(kind, live, &config, &writer)?;
        if let Some(structure) = &kind.schema {
            crate::schema::fill_defaults(structure, &mut new);
        }
        admission::carry_metadata(kind, live, &mut new, target.status);
        keep_type(target, live, &mut new);
        check_finalizers(target, name, live, &new)?;
        admission::validate(kind, name, &new, Some(live))?;
        if ssa::without_managers(&new) == ssa::without_managers(live)
            && new["metadata"]["managedFields"] == live["metadata"]["managedFields"]
        {
            return Ok(Outcome::Keep(live.clone()));
        }
        Ok(rehearse(put_or_remove(new), options.dry_run))
    })?;
    settle_namespace(store, target, &object)?;
    Ok(Written { object: events::from_stored(kind, object), code, warnings })
}

fn create_applied(target: &Target, name: &str, config: &Value, writer: &Writer<'_>) -> Result<Outcome> {
    let kind = &target.kind;
    let bare = json!({ "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {} });
    let mut new = ssa::apply(kind, &bare, config, writer)?;
    if let Some(structure) = &kind.schema {
        crate::schema::fill_defaults(structure, &mut new);
    }
    admission::validate(kind, name, &new, None)?;
    let managers = new["metadata"]["managedFields"].clone();
    admission::new_metadata(kind, &mut new, writer.now);
    new["metadata"]["managedFields"] = managers;
    finish_core(target, &mut new);
    Ok(Outcome::Put(new))
}

pub(crate) fn delete(store: &Store, target: &Target, name: &str, options: &DeleteOptions, now: &str) -> Result<Value> {
    let kind = &target.kind;
    let is_namespace = kind.storage == "namespaces";
    if is_namespace && KEPT_NAMESPACES.contains(&name) {
        let message = format!("namespaces {name:?} is forbidden: this namespace may not be deleted");
        return Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message));
    }
    let object = store.update(&key(target, name), |live| {
        let live = live.ok_or_else(|| ApiError::not_found(kind, name))?;
        for (wanted, field) in [(&options.uid, "uid"), (&options.resource_version, "resourceVersion")] {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| live["metadata"][field] != wanted.as_str()) {
                let why = format!("the {field} in the precondition ({wanted}) is not the object's ({})", live["metadata"][field]);
                return Err(ApiError::conflict(kind, name, &why));
            }
        }
        let mut marked = live.clone();
        if live["metadata"]["deletionTimestamp"].is_null() {
            marked["metadata"]["deletionTimestamp"] = now.into();
            marked["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            admission::next_generation(kind, live, &mut marked);
        }
        if is_namespace {
            marked["status"]["phase"] = "Terminating".into();
            return Ok(rehearse(Outcome::Put(marked), options.dry_run));
        }
        Ok(rehearse(put_or_remove(marked), options.dry_run))
    })?;
    if is_namespace && !options.dry_run {
        empty_namespace(store, name, now)?;
    }
    settle_namespace(store, target, &object)?;
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if held || is_namespace {
        return Ok(events::from_stored(kind, object));
    }
    Ok(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": { "name": name, "group": kind.group, "kind": kind.plural, "uid": object["metadata"]["uid"] }
    }))
}

/// Deletes everything in a namespace; what has finalizers goes when they are done.
fn empty_namespace(store: &Store, namespace: &str, now: &str) -> Result<()> {
    for key in store.keys_in(namespace)? {
        store.update(&key, |live| {
            let Some(live) = live else { return Ok(Outcome::Keep(Value::Null)) };
            let mut marked = live.clone();
            if live["metadata"]["deletionTimestamp"].is_null() {
                marked["metadata"]["deletionTimestamp"] = now.into();
                marked["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            }
            Ok(put_or_remove(marked))
        })?;
    }
    finish_namespace(store, namespace)
}

/// After an object went: a namespace that waits for its last object goes, too.
fn settle_namespace(store: &Store, target: &Target, object: &Value) -> Result<()> {
    match &target.namespace {
        Some(namespace) if object["metadata"]["deletionTimestamp"].is_string() => finish_namespace(store, namespace),
        _ => Ok(()),
    }
}

fn finish_namespace(store: &Store, namespace: &str) -> Result<()> {
    let key = Key { storage: "namespaces".to_owned(), namespace: String::new(), name: namespace.to_owned() };
    let terminating = store.get(&key)?.is_some_and(|object| object["metadata"]["deletionTimestamp"].is_string());
    if terminating && store.keys_in(namespace)?.is_empty() {
        store.update(&key, |live| Ok(live.map_or(Outcome::Keep(Value::Null), |live| Outcome::Remove(live.clone()))))?;
    }
    Ok(())
}
