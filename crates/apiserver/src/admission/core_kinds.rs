//! What Kubernetes checks of the core kinds beyond their shape: the keys of Secrets and ConfigMaps, and what of them never changes.

use serde_json::Value;

use crate::{error::Cause, kinds::Kind};

/// The longest key of a Secret or ConfigMap.
const MAX_KEY: usize = 253;

/// What is wrong with an object of a core kind, all of it; nothing for other kinds.
pub(super) fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    if !(kind.is_core() && matches!(kind.kind.as_str(), "Secret" | "ConfigMap")) {
        return Vec::new();
    }
    let mut causes: Vec<Cause> = ["data", "binaryData"].into_iter().flat_map(|field| check_keys(field, &object[field])).collect();
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
