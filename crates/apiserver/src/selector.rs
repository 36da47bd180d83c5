//! Label and field selectors.

use serde_json::{Map, Value};

use crate::{
    error::{ApiError, Result},
    kinds::Kind,
};

#[derive(Debug, Clone)]
enum Requirement {
    Equals(String, String),
    NotEquals(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Requirement {
    fn key(&self) -> &String {
        match self {
            Self::Equals(key, _)
            | Self::NotEquals(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::Missing(key) => key,
        }
    }
}

impl Requirement {
    fn values(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::Equals(_, value) | Self::NotEquals(_, value) => std::slice::from_ref(value),
            Self::In(_, values) | Self::NotIn(_, values) => values.as_slice(),
            Self::Exists(_) | Self::Missing(_) => &[],
        }
        .iter()
    }
}

/// What a list or watch is narrowed to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl Selector {
    pub(crate) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self> {
        let labels = split(labels.unwrap_or_default()).iter().map(|text| requirement(text)).collect::<Result<_>>()?;
        // As Kubernetes has it, an empty term is a mistake among labels only.
        let fields = split(fields.unwrap_or_default());
        let fields = fields.iter().filter(|text| !text.is_empty()).map(|text| requirement(text)).collect::<Result<_>>()?;
        Ok(Self { labels, fields })
    }

    /// Checks that objects of a kind can be chosen by these fields: a field that no object has would quietly choose none.
    pub(crate) fn check_fields(&self, kind: &Kind) -> Result<()> {
        let fits = |field: &&String| {
            let own = match (kind.kind.as_str(), field.as_str()) {
                ("Event", "reason" | "type" | "reportingComponent" | "reportingController") | ("Secret", "type") => true,
                ("Event", field) => field.starts_with("involvedObject.") || field.starts_with("regarding."),
                _ => false,
            };
            own || matches!(field.as_str(), "metadata.name" | "metadata.namespace")
        };
        match self.fields.iter().map(Requirement::key).find(|field| !fits(field)) {
            None => Ok(()),
            Some(field) => {
                let message = format!("field label not supported: {field}; metadata.name and metadata.namespace are, and labels (-l)");
                Err(ApiError::bad_request(message))
            }
        }
    }

    /// Whether nothing is left out.
    pub(crate) fn takes_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let none = Map::new();
        let labels = object["metadata"]["labels"].as_object().unwrap_or(&none);
        let label = |key: &str| labels.get(key).and_then(Value::as_str);
        let field = |path: &str| {
            let pointer = format!("/{}", path.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str)
        };
        self.labels.iter().all(|requirement| holds(requirement, label))
            && self.fields.iter().all(|requirement| holds_field(requirement, field))
    }
}

fn holds<'a>(requirement: &Requirement, value: impl Fn(&str) -> Option<&'a str>) -> bool {
    match requirement {
        Requirement::Equals(key, wanted) => value(key) == Some(wanted),
        Requirement::NotEquals(key, wanted) => value(key) != Some(wanted),
        Requirement::In(key, list) => value(key).is_some_and(|value| list.iter().any(|entry| entry == value)),
        Requirement::NotIn(key, list) => !value(key).is_some_and(|value| list.iter().any(|entry| entry == value)),
        Requirement::Exists(key) => value(key).is_some(),
        Requirement::Missing(key) => value(key).is_none(),
    }
}

/// An absent field equals the empty text.
fn holds_field<'a>(requirement: &Requirement, value: impl Fn(&str) -> Option<&'a str>) -> bool {
    match requirement {
        Requirement::Equals(key, wanted) => value(key).unwrap_or_default() == wanted,
        Requirement::NotEquals(key, wanted) => value(key).unwrap_or_default() != wanted,
        other => holds(other, value),
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut current, mut depth) = (Vec::new(), String::new(), 0);
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut current));
                continue;
            }
            _ => {}
        }
        current.push(c);
    }
    parts.push(current);
    let parts: Vec<String> = parts.into_iter().map(|part| part.trim().to_owned()).collect();
    if parts.len() == 1 && parts[0].is_empty() { Vec::new() } else { parts }
}

fn requirement(text: &str) -> Result<Requirement> {
    let pair = |separator: &str| text.split_once(separator).map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    let list = |word: &str| -> Option<(String, Vec<String>)> {
        let (key, rest) = text.split_once(word)?;
        let values = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some((key.trim().to_owned(), values.split(',').map(|value| value.trim().to_owned()).collect()))
    };
    let parsed = if let Some((key, values)) = list(" notin ") {
        Requirement::NotIn(key, values)
    } else if let Some((key, values)) = list(" in ") {
        Requirement::In(key, values)
    } else if let Some((key, value)) = pair("!=") {
        Requirement::NotEquals(key, value)
    } else if let Some((key, value)) = pair("==").or_else(|| pair("=")) {
        Requirement::Equals(key, value)
    } else if let Some(key) = text.strip_prefix('!') {
        Requirement::Missing(key.trim().to_owned())
    } else {
        Requirement::Exists(text.to_owned())
    };
    // What cannot be a key or a value must not be taken for a wish that everything, or nothing, fulfils: it may be a deletion's.
    if is_word(parsed.key()) && !parsed.key().is_empty() && parsed.values().all(|value| is_word(value)) {
        return Ok(parsed);
    }
    Err(ApiError::bad_request(format!("unable to parse the selector {text:?}; write it like app=web,rack in (a,b),!spare")))
}

/// Letters as keys, values and names of fields have them.
fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_mean_what_kubernetes_means_by_them() {
        let object = json!({ "metadata": { "name": "m1", "labels": { "rack": "a3", "spare": "" } } });
        let label = |text: &str| Selector::parse(Some(text), None).unwrap().matches(&object);
        for text in ["rack=a3", "rack==a3", "rack!=b", "rack in (a3, a4)", "rack notin (b)", "spare", "!other", "rack=a3,spare", ""] {
            assert!(label(text), "{text}");
        }
        for text in ["rack=b", "rack!=a3", "rack in (b)", "!rack", "other", "rack=a3,other=x"] {
            assert!(!label(text), "{text}");
        }
        assert!(Selector::parse(None, Some("metadata.name=m1")).unwrap().matches(&object));
        assert!(!Selector::parse(None, Some("metadata.name!=m1")).unwrap().matches(&object));
        assert!(Selector::parse(Some(" "), Some("metadata.name=m1,")).unwrap().matches(&object));
        for wrong in ["a b c", "!", "=", "a!=b=c", "a=b=c", "a>1", "(a=b)", "é=1", "=a", "rack in a", "a==b,,", "a=b,", ",a"] {
            assert!(Selector::parse(Some(wrong), None).is_err(), "{wrong}");
        }
    }
}
