//! YAML with the place of every key and value, checked against a JSON schema.

use std::fmt;

use anyhow::bail;
use athanor_plan::nearest;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::yaml;

/// A value and where it stands, counted from 1.
#[derive(Debug)]
pub(crate) struct Node {
    line: u64,
    column: u64,
    tree: Tree,
}

#[derive(Debug)]
enum Tree {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
struct Key {
    line: u64,
    column: u64,
    name: String,
}

/// Parses YAML.
///
/// # Errors
/// It is no YAML; the message has the place.
pub(crate) fn parse(file: &str, text: &str) -> anyhow::Result<Node> {
    if text.trim().is_empty() {
        return Ok(Node { line: 1, column: 1, tree: Tree::Map(Vec::new()) });
    }
    yaml::document(file, text)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), column: spanned.referenced.column(), tree: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push((Key { line: key.referenced.line(), column: key.referenced.column(), name: key.value }, value));
        }
        Ok(Tree::Map(entries))
    }
}

impl Node {
    /// In YAML 1.1, which half of the world's parsers speak, a bare `off` is false; where `off` is a choice, that is what was meant.
    pub(crate) fn mean_off(&mut self, schema: &Value) {
        let is_choice = schema["enum"].as_array().is_some_and(|choices| choices.iter().any(|choice| choice == "off"));
        match &mut self.tree {
            Tree::Scalar(value) if is_choice && *value == false => *value = "off".into(),
            Tree::Scalar(_) => {}
            Tree::List(items) => items.iter_mut().for_each(|item| item.mean_off(&schema["items"])),
            Tree::Map(entries) => {
                for (key, value) in entries {
                    value.mean_off(schema["properties"].get(&key.name).unwrap_or(&schema["additionalProperties"]));
                }
            }
        }
    }

    /// The plain value.
    pub(crate) fn to_json(&self) -> Value {
        match &self.tree {
            Tree::Scalar(value) => value.clone(),
            Tree::List(items) => items.iter().map(Self::to_json).collect(),
            Tree::Map(entries) => {
                let filled = entries.iter().filter(|(_, value)| !matches!(value.tree, Tree::Scalar(Value::Null)));
                Value::Object(filled.map(|(key, value)| (key.name.clone(), value.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// Line and column of the value at a path of keys, and of places in lists.
    pub(crate) fn locate(&self, path: &[&str]) -> (u64, u64) {
        match (path, &self.tree) {
            ([first, rest @ ..], Tree::Map(entries)) => {
                entries.iter().find(|(key, _)| key.name == *first).map_or((self.line, self.column), |(_, value)| value.locate(rest))
            }
            ([first, rest @ ..], Tree::List(items)) => {
                let item = first.parse::<usize>().ok().and_then(|index| items.get(index));
                item.map_or((self.line, self.column), |item| item.locate(rest))
            }
            _ => (self.line, self.column),
        }
    }

    fn shown(&self) -> String {
        match &self.tree {
            Tree::Scalar(value) => value.to_string(),
            Tree::List(_) => "a list".to_owned(),
            Tree::Map(_) => "a map".to_owned(),
        }
    }
}

/// Checks keys, types and choices against a schema; what CEL says comes later, from the API.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub(crate) fn check(file: &str, node: &Node, schema: &Value, path: &str) -> anyhow::Result<()> {
    let place = format!("{file}:{}:{}", node.line, node.column);
    let wanted = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    let fits = match (&node.tree, wanted) {
        // A key with nothing behind it says nothing, unless something must be said there.
        (Tree::Scalar(Value::Null), _) => return check_map(file, &place, &[], schema, path),
        (_, "") => true,
        (Tree::Map(_), "object") | (Tree::List(_), "array") => true,
        (Tree::Scalar(value), "string") => value.is_string(),
        (Tree::Scalar(value), "boolean") => value.is_boolean(),
        (Tree::Scalar(value), "integer") => value.is_i64() || value.is_u64(),
        (Tree::Scalar(value), "number") => value.is_number(),
        _ => false,
    };
    if !fits {
        if let (Tree::Scalar(_), true) = (&node.tree, schema["enum"].is_array()) {
            return check_choice(&place, path, &node.shown(), schema);
        }
        let name = match wanted {
            "object" => "a map",
            "array" => "a list",
            "integer" => "an integer",
            "boolean" => "true or false",
            "number" => "a number",
            _ => "a text; put it in quotes",
        };
        let path = if path.is_empty() { "the configuration" } else { path };
        bail!("{place}: {path}: must be {name}, not {}", node.shown());
    }
    match &node.tree {
        Tree::Scalar(Value::String(text)) => check_choice(&place, path, text, schema),
        Tree::Scalar(value) => {
            let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
            if let (Some(number), Some(least)) = (value.as_f64(), least)
                && number < least
            {
                bail!("{place}: {path}: must be at least {least}, not {value}");
            }
            if let (Some(number), Some(most)) = (value.as_f64(), most)
                && number > most
            {
                bail!("{place}: {path}: must be at most {most}, not {value}");
            }
            Ok(())
        }
        Tree::List(items) => {
            for (index, item) in items.iter().enumerate() {
                check(file, item, &schema["items"], &format!("{path}[{index}]"))?;
            }
            Ok(())
        }
        Tree::Map(entries) => check_map(file, &place, entries, schema, path),
    }
}

fn check_choice(place: &str, path: &str, text: &str, schema: &Value) -> anyhow::Result<()> {
    let choices: Vec<&str> = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if choices.is_empty() || choices.contains(&text) {
        return Ok(());
    }
    bail!("{place}: {path}: {text:?} is not one of {}{}", choices.join(", "), nearest::hint(text, choices.iter().copied()))
}

fn check_map(file: &str, place: &str, entries: &[(Key, Node)], schema: &Value, path: &str) -> anyhow::Result<()> {
    let properties = schema["properties"].as_object();
    for (key, value) in entries {
        let at = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
        let child = properties
            .and_then(|properties| properties.get(&key.name))
            .or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()));
        let Some(child) = child else {
            let names = properties.into_iter().flatten().map(|(name, _)| name.as_str());
            let inside = if path.is_empty() { String::new() } else { format!(" in {path}") };
            bail!("{file}:{}:{}: unknown key {:?}{inside}{}", key.line, key.column, key.name, nearest::hint(&key.name, names));
        };
        check(file, value, child, &at)?;
    }
    let missing = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .find(|name| !entries.iter().any(|(key, _)| key.name == *name));
    if let Some(name) = missing {
        let what = schema["properties"][name]["description"].as_str().unwrap_or_default();
        bail!("{place}: {path}: {name} is missing. {what}");
    }
    Ok(())
}
