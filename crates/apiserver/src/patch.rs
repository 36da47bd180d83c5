//! Merge patch, JSON patch, and strategic merge patch for the core kinds.

use serde_json::{Map, Value};

use crate::error::{ApiError, Result};

/// RFC 7386.
pub(crate) fn merge(live: &Value, patch: &Value) -> Value {
    let mut out = live.clone();
    json_patch::merge(&mut out, patch);
    out
}

/// RFC 6902.
pub(crate) fn json(live: &Value, patch: Value) -> Result<Value> {
    let invalid =
        |why: String| ApiError::new(http::StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("the patch cannot be applied: {why}"));
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(|error| invalid(error.to_string()))?;
    let mut out = live.clone();
    json_patch::patch(&mut out, &patch).map_err(|error| invalid(error.to_string()))?;
    Ok(out)
}

/// Strategic merge patch. The core kinds that are served have two lists that merge: `finalizers`, a set, and `ownerReferences`, by uid.
pub(crate) fn strategic(live: &Value, patch: &Value) -> Value {
    match (live, patch) {
        (Value::Object(old), Value::Object(new)) => {
            if new.get("$patch").is_some_and(|directive| directive == "replace") {
                return Value::Object(new.iter().filter(|(name, _)| !name.starts_with('$')).map(|(n, v)| (n.clone(), v.clone())).collect());
            }
            let mut out = old.clone();
            for (name, value) in new {
                strategic_field(&mut out, name, value);
            }
            Value::Object(out)
        }
        _ => patch.clone(),
    }
}

fn strategic_field(out: &mut Map<String, Value>, name: &str, value: &Value) {
    if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
        if let (Some(Value::Array(old)), Value::Array(gone)) = (out.get_mut(list), value) {
            old.retain(|item| !gone.contains(item));
        }
        return;
    }
    if name.starts_with('$') {
        return;
    }
    match (name, out.get(name), value) {
        (_, _, Value::Null) => {
            out.remove(name);
        }
        ("finalizers", Some(Value::Array(old)), Value::Array(new)) => {
            let mut all = old.clone();
            all.extend(new.iter().filter(|item| !old.contains(item)).cloned());
            out.insert(name.to_owned(), Value::Array(all));
        }
        ("ownerReferences", Some(Value::Array(old)), Value::Array(new)) => {
            let mut all = old.clone();
            for item in new {
                all.retain(|other| other["uid"] != item["uid"]);
                if item["$patch"] != "delete" {
                    all.push(item.clone());
                }
            }
            out.insert(name.to_owned(), Value::Array(all));
        }
        (_, Some(old), _) => {
            let merged = strategic(old, value);
            out.insert(name.to_owned(), merged);
        }
        (_, None, _) => {
            // Nulls and directives of a new object mean nothing.
            out.insert(name.to_owned(), strategic(&Value::Object(Map::new()), value));
        }
    }
}
