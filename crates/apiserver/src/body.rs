//! Request bodies: JSON, YAML, or the protobuf that kubectl sends for kinds of Kubernetes' own.

use std::fmt;

use http::StatusCode;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

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
        other => Err(unknown(other, "application/json, application/yaml")),
    }
}

/// A content type without its parameters.
pub(crate) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// No body of this type is read here.
pub(crate) fn unknown(content_type: &str, accepted: &str) -> ApiError {
    let message = format!("the body of the request was in an unknown format ({content_type:?}) - accepted media types include: {accepted}");
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
}

/// Reads JSON, or YAML, of which JSON is a part.
///
/// # Errors
/// It is neither.
pub(crate) fn text(body: &[u8]) -> Result<Read> {
    let broken = |why: String| ApiError::bad_request(format!("the body cannot be read: {why}"));
    let mut twice = Vec::new();
    let value = match json(body, &mut twice) {
        Ok(value) => value,
        // YAML with a key twice is refused when it is read.
        Err(_) => {
            twice.clear();
            let text = std::str::from_utf8(body).map_err(|error| broken(error.to_string()))?;
            serde_saphyr::from_str(text).map_err(|error| broken(error.to_string().lines().next().unwrap_or_default().to_owned()))?
        }
    };
    // Who manages what nests deeper than the object, and what is stored must be readable again.
    if depth(&value) > MAX_DEPTH { Err(broken(format!("it nests deeper than {MAX_DEPTH} levels"))) } else { Ok(Read { value, twice }) }
}

fn json(body: &[u8], twice: &mut Vec<String>) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Reader { place: &Place::Root, twice }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Where a value stands. It is written out for what is told only.
enum Place<'a> {
    Root,
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads a value and notes keys that stand twice.
struct Reader<'a> {
    place: &'a Place<'a>,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let place = Place::Key(self.place, &key);
            let value = map.next_value_seed(Reader { place: &place, twice: self.twice })?;
            if fields.contains_key(&key) && self.twice.len() < MAX_TOLD {
                self.twice.push(place.to_string());
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Reader { place: &Place::Index(self.place, items.len()), twice: self.twice })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
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

    #[test]
    fn json_is_read_as_it_always_is() {
        for body in
            ["{\"a\": [1, -1, 2.5, 1e3, 18446744073709551615, true, null, \"\\u00e4\", {}], \"b\": {\"c\": []}}", "[]", "\"x\"", "null"]
        {
            assert_eq!(text(body.as_bytes()).unwrap().value, serde_json::from_str::<Value>(body).unwrap(), "{body}");
        }
    }
}
