//! What happens to an object on its way into the store: identity, pruning, defaults, validation, generation.

mod core_kinds;
mod metadata;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use crate::{
    error::{ApiError, Cause, Result},
    kinds::Kind,
    path::Target,
    schema,
};

/// How strict unknown fields are taken (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    Ignore,
    Warn,
    Strict,
}

/// The longest object name (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// The longest name of a namespace (RFC 1123 label).
const MAX_LABEL: usize = 63;
/// Random letters behind a `generateName`, as Kubernetes draws them.
const GENERATED: usize = 5;

/// Checks that an object is of its URL's kind and fills in namespace and, for `generateName`, the name.
pub(crate) fn identify(target: &Target, object: &mut Value) -> Result<String> {
    let kind = &target.kind;
    let Some(fields) = object.as_object_mut() else { return Err(ApiError::bad_request("the body is no object")) };
    for (field, wanted) in [("apiVersion", kind.api_version()), ("kind", kind.kind.clone())] {
        match fields.get(field).and_then(Value::as_str) {
            Some(given) if given != wanted => {
                return Err(ApiError::bad_request(format!("{field} is {given:?}, but the URL is for {wanted:?}")));
            }
            Some(_) => {}
            None => {
                fields.insert(field.to_owned(), wanted.into());
            }
        }
    }
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else { return Err(ApiError::bad_request("metadata: must be an object")) };
    identify_namespace(target, metadata)?;
    ObjectMeta::deserialize(&Value::Object(metadata.clone())).map_err(|error| ApiError::bad_request(format!("metadata: {error}")))?;
    let text = |metadata: &Map<String, Value>, field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (given, generate) = (text(metadata, "name"), text(metadata, "generateName"));
    let name = match (&target.name, given.is_empty(), generate.is_empty()) {
        (Some(name), true, _) => name.clone(),
        (Some(name), false, _) if *name != given => {
            return Err(ApiError::bad_request(format!("metadata.name is {given:?}, but the URL says {name:?}")));
        }
        (_, false, _) => given,
        (None, true, false) => format!("{generate}{}", random_suffix()),
        (None, true, true) => return Err(required(kind, "metadata.name", "name or generateName is required")),
    };
    check_name(kind, &name)?;
    metadata.insert("name".to_owned(), name.clone().into());
    Ok(name)
}

fn identify_namespace(target: &Target, metadata: &mut Map<String, Value>) -> Result<()> {
    match (&target.namespace, metadata.get("namespace").and_then(Value::as_str)) {
        (Some(namespace), Some(given)) if given != namespace => {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request: {given:?} is not {namespace:?}"
            )));
        }
        (Some(namespace), _) => {
            metadata.insert("namespace".to_owned(), namespace.clone().into());
        }
        (None, _) => {
            metadata.remove("namespace");
        }
    }
    Ok(())
}

fn required(kind: &Kind, field: &str, message: &str) -> ApiError {
    let cause = Cause { reason: "FieldValueRequired", field: field.to_owned(), message: format!("Required value: {message}") };
    ApiError::invalid(kind, "", &[cause])
}

/// A name of a DNS subdomain (RFC 1123).
/// Whether something may be the name of an object: lower-case letters, digits, `-` and `.`, at most [`MAX_NAME`] of them.
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && is_subdomain(text)
}

fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let edges = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(edges) && part.ends_with(edges) && part.chars().all(|c| edges(c) || c == '-')
    };
    text.split('.').all(part)
}

fn check_name(kind: &Kind, name: &str) -> Result<()> {
    if kind.storage == "namespaces" && (name.len() > MAX_LABEL || name.contains('.')) {
        let message = format!("Invalid value: {name:?}: a namespace's name is one label of at most {MAX_LABEL} characters, without '.'");
        return Err(ApiError::invalid(kind, name, &[Cause { reason: "FieldValueInvalid", field: "metadata.name".to_owned(), message }]));
    }
    if is_name(name) {
        return Ok(());
    }
    let message = format!(
        "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    );
    Err(ApiError::invalid(kind, name, &[Cause { reason: "FieldValueInvalid", field: "metadata.name".to_owned(), message }]))
}

fn random_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let bytes = uuid::Uuid::new_v4().into_bytes();
    bytes.iter().take(GENERATED).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

/// Prunes and defaults. Returns warnings about unknown fields.
///
/// # Errors
/// Unknown fields, when they are taken strictly.
pub(crate) fn shape(kind: &Kind, object: &mut Value, unknown: Unknown) -> Result<Vec<String>> {
    let Some(structure) = &kind.schema else {
        *object = (kind.read)(object).map_err(|(field, error)| {
            ApiError::bad_request(format!("{0} in version {1:?} cannot be handled as a {0}: {field}: {error}", kind.kind, kind.version))
        })?;
        return Ok(Vec::new());
    };
    let pruned = schema::prune(structure, object);
    if unknown == Unknown::Strict && !pruned.is_empty() {
        let list: Vec<String> = pruned.iter().map(|path| format!("unknown field \"{path}\"{}", nearest(structure, path))).collect();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {} ({name})",
            kind.kind,
            kind.version,
            kind.kind,
            list.join(", ")
        )));
    }
    schema::fill_defaults(structure, object);
    Ok(if unknown == Unknown::Warn { pruned.iter().map(|path| format!("unknown field \"{path}\"")).collect() } else { Vec::new() })
}

/// `, did you mean "gateway"?` for a field that was not known.
fn nearest(structure: &Value, path: &str) -> String {
    let steps: Vec<&str> = path.split('.').collect();
    let Some((last, parents)) = steps.split_last() else { return String::new() };
    let folder = parents.iter().fold(structure, |schema, step| {
        let name = step.split('[').next().unwrap_or(step);
        let child = &schema["properties"][name];
        if step.contains('[') { &child["items"] } else { child }
    });
    let names = folder["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    athanor_plan::nearest::hint(last, names)
}

/// Validates against schema and rules.
///
/// # Errors
/// 422 with every cause.
pub(crate) fn validate(kind: &Kind, name: &str, object: &Value, old: Option<&Value>) -> Result<()> {
    let mut causes = schema::validate(kind, object, old);
    // What was stored before a rule was there is not held up by it while nobody touches it: its finalizers go, its status is written.
    if old.is_some_and(|old| old["spec"] == object["spec"]) {
        causes.retain(|cause| !cause.field.starts_with("spec"));
    }
    causes.extend(metadata::check(object));
    causes.extend(core_kinds::check(kind, object, old));
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, &causes)) }
}

/// A new object: what the server writes into its metadata.
pub(crate) fn new_metadata(kind: &Kind, object: &mut Value, now: &str) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation"] {
            metadata.remove(field);
        }
        metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
        metadata.insert("creationTimestamp".to_owned(), now.into());
    }
    next_generation(kind, &Value::Null, object);
}

/// Custom kinds count the changes of what people want; the core kinds that we have do not.
pub(crate) fn next_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if !kind.is_core() {
        new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
    }
}

/// A changed object: what clients may not change, and the generation.
pub(crate) fn carry_metadata(kind: &Kind, old: &Value, new: &mut Value, status: bool) {
    if status {
        // Only the status goes through this door.
        let (status, managers) = (new["status"].take(), new["metadata"]["managedFields"].take());
        *new = old.clone();
        new["status"] = status;
        if !managers.is_null() {
            new["metadata"]["managedFields"] = managers;
        }
        if new["status"].is_null()
            && let Some(fields) = new.as_object_mut()
        {
            fields.remove("status");
        }
        return;
    }
    if kind.status {
        set_or_remove(new, "status", &old["status"]);
    }
    let kept = [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "namespace",
        "name",
        "resourceVersion",
    ];
    for field in kept {
        set_or_remove(&mut new["metadata"], field, &old["metadata"][field]);
    }
    let body = |object: &Value| -> Map<String, Value> {
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(name, _)| *name != "metadata" && *name != "status").map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    if body(old) != body(new) {
        next_generation(kind, old, new);
    }
}

fn set_or_remove(object: &mut Value, field: &str, value: &Value) {
    if let Some(fields) = object.as_object_mut() {
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.to_owned(), value.clone());
        }
    }
}
