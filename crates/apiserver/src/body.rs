//! Request bodies: JSON, YAML, or the protobuf that kubectl sends for kinds of Kubernetes' own.

use std::{collections::HashSet, fmt};

use http::StatusCode;
use serde::de::{DeserializeSeed, Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::{
    error::{ApiError, Result},
    protobuf,
};

/// How deep an object may nest; ours nest to about ten.
const MAX_DEPTH: usize = 40;
/// How many keys that stand twice are named.
const MAX_TOLD: usize = 16;

/// A body that was read.
pub(crate) struct Read {
    pub(crate) value: Value,
    /// Paths of keys that one object had twice; the last one counts, as everywhere in JSON.
    pub(crate) twice: Vec<String>,
}

/// Reads the body of a request that is no patch.
///
/// # Errors
/// It is of another type, or not what its type says.
pub(crate) fn object(content_type: &str, body: &[u8]) -> Result<Read> {
    match essence(content_type) {
        protobuf::CONTENT_TYPE => Ok(Read { value: protobuf::object(body)?, twice: Vec::new() }),
        "" | "application/json" | "application/yaml" => text(body),
        other => Err(unknown(format!(
            "the body of the request was in an unknown format ({other:?}) - accepted media types include: application/json, application/yaml"
        ))),
    }
}

/// The kinds of patches that there are.
pub(crate) const PATCHES: [&str; 4] = [
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Reads the body of a patch.
///
/// # Errors
/// It is of another type, which is said before anything is read: clients that know several try the next one then.
pub(crate) fn patch(content_type: &str, body: &[u8]) -> Result<Read> {
    let kind = essence(content_type);
    if !PATCHES.contains(&kind) {
        let list = PATCHES.join(", ");
        return Err(unknown(format!("the body of the request was in an unknown format ({kind:?}) - accepted media types include: {list}")));
    }
    text(body)
}

/// A content type without its parameters.
pub(crate) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// No body of this type is read here.
fn unknown(message: String) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
}

/// Reads JSON, or YAML, of which JSON is a part.
///
/// # Errors
/// It is neither.
fn text(body: &[u8]) -> Result<Read> {
    let broken = |why: String| ApiError::bad_request(format!("the body cannot be read: {why}"));
    let value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(_) => {
            let text = std::str::from_utf8(body).map_err(|error| broken(error.to_string()))?;
            serde_saphyr::from_str(text).map_err(|error| broken(error.to_string().lines().next().unwrap_or_default().to_owned()))?
        }
    };
    // Who manages what nests deeper than the object, and what is stored must be readable again.
    if depth(&value) > MAX_DEPTH {
        return Err(broken(format!("it nests deeper than {MAX_DEPTH} levels")));
    }
    let mut twice = Vec::new();
    // YAML with a key twice is refused when it is read.
    let _ = serde_json::Deserializer::from_slice(body).deserialize_any(Keys { path: "", twice: &mut twice });
    Ok(Read { value, twice })
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Looks for keys that stand twice.
struct Keys<'a> {
    path: &'a str,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            map.next_value_seed(Keys { path: &path, twice: self.twice })?;
            if !seen.insert(key) && self.twice.len() < MAX_TOLD {
                self.twice.push(path);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        let mut index = 0;
        while seq.next_element_seed(Keys { path: &format!("{}[{index}]", self.path), twice: self.twice })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_found_wherever_it_is() {
        let read = text(br#"{"spec": {"a": 1, "list": [{"x": null}, {"x": 1, "x": 2.5}], "a": "b"}, "spec": true}"#).unwrap();
        assert_eq!(read.twice, ["spec.list[1].x", "spec.a", "spec"]);
        assert!(text(br#"{"a": {"b": 1}, "c": {"b": 1}}"#).unwrap().twice.is_empty());
        assert!(text(b"a: 1\na: 2\n").is_err());
        assert_eq!(object("text/plain", b"{}").err().unwrap().code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
