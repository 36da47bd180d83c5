//! The merge patch (RFC 7386) that turns one value into another. Fields that we do not know are in neither, so they stay.

use serde_json::{Map, Value};

/// The patch from `old` to `new`; `None` when they are the same.
pub(crate) fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for (name, value) in new {
        match old.get(name) {
            Some(before) => {
                if let Some(change) = merge_patch(before, value) {
                    patch.insert(name.clone(), change);
                }
            }
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_changed_is_in_the_patch() {
        let old = json!({ "state": "Available", "address": "1.2.3.4", "nested": { "a": 1, "b": 2 }, "list": [1] });
        let new = json!({ "state": "Claimed", "nested": { "a": 1 }, "list": [1, 2] });
        assert_eq!(merge_patch(&old, &new), Some(json!({ "state": "Claimed", "address": null, "nested": { "b": null }, "list": [1, 2] })));
        assert_eq!(merge_patch(&old, &old), None);
    }
}
