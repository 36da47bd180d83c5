//! The parts of metadata that clients write: labels, annotations, finalizers, by Kubernetes' rules for their names.

use serde_json::Value;

use crate::error::Cause;

/// The longest name in a label's or annotation's key, and the longest value of a label.
const MAX_PART: usize = 63;
/// The longest prefix of a key.
const MAX_PREFIX: usize = 253;

/// What is wrong, all of it.
pub(super) fn check(object: &Value) -> Vec<Cause> {
    let metadata = &object["metadata"];
    let mut causes = Vec::new();
    for field in ["labels", "annotations"] {
        match &metadata[field] {
            Value::Null => {}
            Value::Object(map) => {
                for (key, value) in map {
                    causes.extend(check_entry(field, key, value));
                }
            }
            _ => causes.push(invalid(field, "must be a map of texts".to_owned())),
        }
    }
    match &metadata["finalizers"] {
        Value::Null => {}
        Value::Array(list) if list.iter().all(|name| name.as_str().is_some_and(|name| name.contains('/') || name == "orphan")) => {}
        _ => causes.push(invalid("finalizers", "every finalizer needs a domain, like example.com/name".to_owned())),
    }
    causes
}

fn invalid(field: &str, message: String) -> Cause {
    Cause { reason: "FieldValueInvalid", field: format!("metadata.{field}"), message }
}

fn check_entry(field: &str, key: &str, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if !is_qualified_name(key) {
        let message = format!(
            "Invalid value: {key:?}: a key is a name of at most {MAX_PART} letters, digits, '-', '_' or '.' that begins and ends with a letter or digit, \
             and may have a DNS subdomain and '/' before it, like example.com/rack"
        );
        causes.push(invalid(field, message));
    }
    match value.as_str() {
        None => causes.push(invalid(field, format!("Invalid value: {value} of {key:?}: must be a text; put it in quotes"))),
        Some(text) if field == "labels" && !text.is_empty() && !is_part(text) => {
            let message = format!(
                "Invalid value: {text:?} of {key:?}: at most {MAX_PART} letters, digits, '-', '_' or '.', with a letter or digit at both ends"
            );
            causes.push(invalid(field, message));
        }
        Some(_) => {}
    }
    causes
}

fn is_qualified_name(key: &str) -> bool {
    match key.rsplit_once('/') {
        Some((prefix, name)) => prefix.len() <= MAX_PREFIX && super::is_subdomain(prefix) && is_part(name),
        None => is_part(key),
    }
}

fn is_part(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inside = |c: char| edge(c) || matches!(c, '-' | '_' | '.');
    text.len() <= MAX_PART && text.starts_with(edge) && text.ends_with(edge) && text.chars().all(inside)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_taken_as_kubernetes_takes_them() {
        let wrong = |labels: Value| check(&json!({ "metadata": { "labels": labels } })).len();
        for fine in
            [json!({ "rack": "a3" }), json!({ "example.com/rack": "" }), json!({ "a_b.C-1": "x_Y.z" }), json!({ "a": "x".repeat(63) })]
        {
            assert_eq!(wrong(fine.clone()), 0, "{fine}");
        }
        for bad in [
            json!({ "": "x" }),
            json!({ "a b": "x" }),
            json!({ "-a": "x" }),
            json!({ "/a": "x" }),
            json!({ "Example.com/a": "x" }),
            json!({ "a/b/c": "x" }),
            json!({ "a": "-x" }),
            json!({ "a": "x".repeat(64) }),
            json!({ "a": 1 }),
        ] {
            assert_eq!(wrong(bad.clone()), 1, "{bad}");
        }
        let annotation = json!({ "metadata": { "annotations": { "example.com/note": "any text, \u{2603} too" } } });
        assert_eq!(check(&annotation).len(), 0);
    }
}
