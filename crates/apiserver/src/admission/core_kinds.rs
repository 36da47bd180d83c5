//! What Kubernetes checks of the core kinds beyond their shape: the keys of Secrets and ConfigMaps, and what of them never changes.

use serde_json::Value;

use crate::{error::Cause, kinds::Kind};

/// The longest key of a Secret or ConfigMap.
const MAX_KEY: usize = 253;

/// The most that one may hold.
const MAX_SIZE: usize = 1 << 20;

/// What is wrong with an object of a core kind, all of it; nothing for other kinds.
pub(super) fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    if !(kind.is_core() && matches!(kind.kind.as_str(), "Secret" | "ConfigMap")) {
        return Vec::new();
    }
    let mut causes: Vec<Cause> = ["data", "binaryData"].into_iter().flat_map(|field| check_keys(field, &object[field])).collect();
    causes.extend(check_size(object));
    if kind.kind == "Secret" {
        // What was stored without them before stays changeable.
        let before = old.map(check_type).unwrap_or_default();
        causes.extend(check_type(object).into_iter().filter(|cause| !before.contains(cause)));
    }
    if let Some(old) = old {
        causes.extend(check_change(object, old));
    }
    causes
}

fn check_keys(field: &str, data: &Value) -> Vec<Cause> {
    let fine = |key: &str| {
        let letters = key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        !key.is_empty() && key.len() <= MAX_KEY && letters && key != "." && !key.starts_with("..")
    };
    let wrong = data.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| !fine(key));
    wrong
        .map(|key| {
            let message = format!("Invalid value: {key:?}: a key is at most {MAX_KEY} letters, digits, '-', '_' or '.'");
            Cause { reason: "FieldValueInvalid", field: format!("{field}[{key}]"), message }
        })
        .collect()
}

/// The keys that a Secret of a type is there for: one of each group. Other types hold whatever their users agree on.
fn required_keys(secret_type: &str) -> &'static [&'static [&'static str]] {
    match secret_type {
        "kubernetes.io/tls" => &[&["tls.crt"], &["tls.key"]],
        "kubernetes.io/ssh-auth" => &[&["ssh-privatekey"]],
        "kubernetes.io/basic-auth" => &[&["username", "password"]],
        "kubernetes.io/dockerconfigjson" => &[&[".dockerconfigjson"]],
        "kubernetes.io/dockercfg" => &[&[".dockercfg"]],
        _ => &[],
    }
}

fn check_type(object: &Value) -> Vec<Cause> {
    let has = |key: &&str| ["data", "stringData"].iter().any(|field| object[field].get(*key).is_some());
    let missing = required_keys(object["type"].as_str().unwrap_or_default()).iter().filter(|keys| !keys.iter().any(has));
    missing
        .map(|keys| {
            let field = keys.iter().map(|key| format!("data[{key}]")).collect::<Vec<_>>().join(" or ");
            let message = format!("Required value: a Secret of type {} has it", object["type"]);
            Cause { reason: "FieldValueRequired", field, message }
        })
        .collect()
}

/// Both together, in bytes, as Kubernetes has it: what is accepted here can be moved there.
fn check_size(object: &Value) -> Option<Cause> {
    let values = |field: &str| object[field].as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str());
    let binary = if object["kind"] == "Secret" { "data" } else { "binaryData" };
    let text = if object["kind"] == "Secret" { "stringData" } else { "data" };
    let length = values(binary).map(|value| value.len() / 4 * 3).sum::<usize>() + values(text).map(str::len).sum::<usize>();
    (length > MAX_SIZE).then(|| {
        let message = format!("Too long: may not be more than {MAX_SIZE} bytes");
        Cause { reason: "FieldValueTooLong", field: "data".to_owned(), message }
    })
}

fn check_change(object: &Value, old: &Value) -> Vec<Cause> {
    let forbidden =
        |field: &str, message: &str| Cause { reason: "FieldValueForbidden", field: field.to_owned(), message: message.to_owned() };
    let mut causes = Vec::new();
    if old["type"] != object["type"] {
        let message = format!("Invalid value: {}: field is immutable; delete the Secret and create it anew", object["type"]);
        causes.push(Cause { reason: "FieldValueInvalid", field: "type".to_owned(), message });
    }
    if old["immutable"] == true {
        if object["immutable"] != true {
            causes.push(forbidden("immutable", "Forbidden: field is immutable when `immutable` is set"));
        }
        for field in ["data", "binaryData"] {
            if old[field] != object[field] {
                causes.push(forbidden(field, "Forbidden: field is immutable when `immutable` is set"));
            }
        }
    }
    causes
}
