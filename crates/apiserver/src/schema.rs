//! The structural schema of a CRD on an object: unknown fields go, defaults come, and what is wrong is named by its path.
//!
//! The subset of OpenAPI v3 is that of Kubernetes' structural schemas as our generated CRDs use it; CEL rules are kube's `cel` feature.

use std::collections::HashMap;

use kube::core::cel::{ErrorKind, Validator};
use regex_lite::Regex;
use serde_json::{Map, Value};

use crate::{error::Cause, kinds::Kind};

/// How deep an object may nest; ours nest to about ten.
const MAX_DEPTH: usize = 64;

/// Removes nulls, and fields that the schema does not know; returns the latter by path.
pub(crate) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(schema, object, "", 0, &mut unknown);
    unknown
}

fn prune_at(schema: &Value, value: &mut Value, path: &str, depth: usize, unknown: &mut Vec<String>) {
    if depth > MAX_DEPTH || schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            let properties = schema["properties"].as_object();
            let additional = &schema["additionalProperties"];
            if properties.is_none() && !additional.is_object() {
                // `metadata`: its shape is Kubernetes' own.
                return;
            }
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in names {
                let at = join(path, &name);
                match properties.and_then(|properties| properties.get(&name)).or(additional.is_object().then_some(additional)) {
                    Some(child) => {
                        if let Some(field) = fields.get_mut(&name) {
                            prune_at(child, field, &at, depth + 1, unknown);
                        }
                    }
                    None => {
                        fields.remove(&name);
                        unknown.push(at);
                    }
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                prune_at(&schema["items"], item, &format!("{path}[{index}]"), depth + 1, unknown);
            }
        }
        _ => {}
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Fills in defaults, also inside of what a default just put there.
pub(crate) fn fill_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, child) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = child.get("default").filter(|_| !fields.contains_key(name)) {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    fill_defaults(child, field);
                }
            }
            if schema["additionalProperties"].is_object() {
                fields.values_mut().for_each(|field| fill_defaults(&schema["additionalProperties"], field));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_defaults(&schema["items"], item)),
        _ => {}
    }
}

/// The patterns of a schema, compiled; all share one table since a schema repeats them.
pub(crate) type Patterns = HashMap<String, Regex>;

/// Compiles every pattern in a schema. One that `regex` cannot read is no pattern: the generated CRDs' tests see to it that there is none.
pub(crate) fn patterns(schema: &Value) -> Patterns {
    let mut all = Patterns::new();
    collect_patterns(schema, &mut all);
    all
}

fn collect_patterns(schema: &Value, all: &mut Patterns) {
    if let Some(pattern) = schema["pattern"].as_str()
        && let Ok(regex) = Regex::new(pattern)
    {
        all.insert(pattern.to_owned(), regex);
    }
    match schema {
        Value::Object(fields) => fields.values().for_each(|field| collect_patterns(field, all)),
        Value::Array(items) => items.iter().for_each(|item| collect_patterns(item, all)),
        _ => {}
    }
}

/// Everything that is wrong with an object: the schema first, and if that holds the CEL rules, against the old object where there is one.
pub(crate) fn validate(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let (Some(schema), Some(rules)) = (&kind.schema, &kind.rules) else { return Vec::new() };
    let mut causes = Vec::new();
    check(schema, object, "", &kind.patterns, &mut causes);
    if !causes.is_empty() {
        return causes;
    }
    let Err(errors) = Validator::new().validate_compiled(rules, object, old) else { return unreadable(kind, object) };
    errors
        .into_iter()
        .map(|error| {
            let value = shown(at_path(object, &error.field_path));
            let message = match error.kind {
                ErrorKind::ValidationFailure => format!("Invalid value: {value}: {}", error.message),
                _ => format!("Invalid value: {value}: the rule {:?} cannot be evaluated: {}", error.rule, error.message),
            };
            let field = if error.field_path.is_empty() { "<nil>".to_owned() } else { error.field_path };
            Cause { reason: "FieldValueInvalid", field, message }
        })
        .collect()
}

/// What is stored is read by our own controllers: one object that they cannot read would keep them from all others.
fn unreadable(kind: &Kind, object: &Value) -> Vec<Cause> {
    let told = |(field, message)| Cause { reason: "FieldValueInvalid", field, message };
    (kind.read)(object).err().map(told).into_iter().collect()
}

/// The value at a path like `spec.interfaces[0].mac`.
fn at_path<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split(['.', '[', ']']).filter(|step| !step.is_empty()).fold(object, |value, step| match value {
        Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)).unwrap_or(&Value::Null),
        other => &other[step],
    })
}

/// A value as messages show it: scalars as they are, the rest by its type.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "\"object\"".to_owned(),
        Value::Array(_) => "\"array\"".to_owned(),
        scalar => scalar.to_string().chars().take(120).collect(),
    }
}

fn check(schema: &Value, value: &Value, path: &str, patterns: &Patterns, causes: &mut Vec<Cause>) {
    let mut invalid = |message: String| {
        causes.push(Cause {
            reason: "FieldValueInvalid",
            field: path.to_owned(),
            message: format!("Invalid value: {}: {message}", shown(value)),
        });
    };
    let int_or_string = schema["x-kubernetes-int-or-string"] == true && (value.is_i64() || value.is_string());
    if let Some(wanted) = schema["type"].as_str()
        && !int_or_string
        && !has_type(wanted, value)
    {
        // In the words of kube-apiserver, so that people find them.
        let is = type_name(value);
        let off = *value == false && schema["enum"].as_array().is_some_and(|choices| choices.iter().any(|choice| choice == "off"));
        // YAML 1.1 again.
        let hint = if off { "; write \"off\" in quotes, without them it is false" } else { "" };
        let message = format!("Invalid value: {is:?}: {path} in body must be of type {wanted}: {is:?}{hint}");
        causes.push(Cause { reason: "FieldValueTypeInvalid", field: path.to_owned(), message });
        return;
    }
    if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
        let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let near = value.as_str().map(|text| other_case(text, allowed)).unwrap_or_default();
        causes.push(Cause {
            reason: "FieldValueNotSupported",
            field: path.to_owned(),
            message: format!("Unsupported value: {}: supported values: {}{near}", shown(value), names.join(", ")),
        });
        return;
    }
    match value {
        Value::String(text) => check_text(schema, text, patterns, &mut invalid),
        Value::Number(number) => check_number(schema, number.as_f64().unwrap_or(f64::NAN), &mut invalid),
        Value::Array(items) => {
            if let Some(most) = schema["maxItems"].as_u64().filter(|most| items.len() as u64 > *most) {
                invalid(format!("must have at most {most} items"));
            }
            if let Some(least) = schema["minItems"].as_u64().filter(|least| (items.len() as u64) < *least) {
                invalid(format!("must have at least {least} items"));
            }
            check_unique(schema, items, path, causes);
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), patterns, causes);
            }
        }
        Value::Object(fields) => check_fields(schema, fields, path, patterns, causes),
        _ => {}
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(wanted: &str, value: &Value) -> bool {
    match wanted {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn other_case(text: &str, allowed: &[Value]) -> String {
    let same = allowed.iter().filter_map(Value::as_str).find(|name| name.eq_ignore_ascii_case(text));
    same.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

fn check_text(schema: &Value, text: &str, patterns: &Patterns, invalid: &mut impl FnMut(String)) {
    let length = text.chars().count() as u64;
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        invalid(format!("may not be more than {most} characters"));
    }
    if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
        invalid(format!("should be at least {least} characters long"));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && patterns.get(pattern).is_some_and(|regex| !regex.is_match(text))
    {
        invalid(format!("should match '{pattern}'"));
    }
    if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        invalid("must be a time like 2026-01-31T12:00:00Z".to_owned());
    }
}

fn check_number(schema: &Value, number: f64, invalid: &mut impl FnMut(String)) {
    if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
        invalid(format!("should be greater than or equal to {least}"));
    }
    if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
        invalid(format!("should be less than or equal to {most}"));
    }
}

fn check_fields(schema: &Value, fields: &Map<String, Value>, path: &str, patterns: &Patterns, causes: &mut Vec<Cause>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            causes.push(Cause { reason: "FieldValueRequired", field: join(path, name), message: "Required value".to_owned() });
        }
    }
    if let Some(most) = schema["maxProperties"].as_u64().filter(|most| fields.len() as u64 > *most) {
        let message = format!("Too many: {}: must have at most {most} entries", fields.len());
        causes.push(Cause { reason: "FieldValueTooMany", field: path.to_owned(), message });
    }
    for (name, field) in fields {
        let child = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
        if child.is_object() {
            check(child, field, &join(path, name), patterns, causes);
        }
    }
}

/// Items of list-maps and sets that stand twice: merged one by one, the last of them would win without a word.
pub(crate) fn duplicates(schema: &Value, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    find_duplicates(schema, value, "", &mut causes);
    causes
}

fn find_duplicates(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Array(items) => {
            check_unique(schema, items, path, causes);
            for (index, item) in items.iter().enumerate() {
                find_duplicates(&schema["items"], item, &format!("{path}[{index}]"), causes);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                find_duplicates(schema["properties"].get(name).unwrap_or(&Value::Null), field, &join(path, name), causes);
            }
        }
        _ => {}
    }
}

/// A list-map holds each key once, a set each value.
fn check_unique(schema: &Value, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let keys: Option<Vec<&str>> = match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => schema["x-kubernetes-list-map-keys"].as_array().map(|keys| keys.iter().filter_map(Value::as_str).collect()),
        Some("set") => Some(Vec::new()),
        _ => None,
    };
    let Some(keys) = keys else { return };
    let mut seen: Vec<Value> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let key = if keys.is_empty() { item.clone() } else { keys.iter().map(|key| (String::from(*key), item[*key].clone())).collect() };
        if seen.contains(&key) {
            causes.push(Cause {
                reason: "FieldValueDuplicate",
                field: format!("{path}[{index}]"),
                message: format!("Duplicate value: {key}"),
            });
        }
        seen.push(key);
    }
}
