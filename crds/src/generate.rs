//! The CustomResourceDefinitions, as `crds/generated/*.yaml` holds them and the embedded API serves them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{Address, BootProfile, BootReport, Deployment, Machine, MachineInventory, Subnet, WipeRecord};

/// Formats that Kubernetes knows; schemars writes others (`uint32`), which an API server warns about.
const KNOWN_FORMATS: [&str; 6] = ["int32", "int64", "float", "double", "date-time", "byte"];

/// The longest text that has no bound of its own in a type we do not own (the fields of `Condition`).
const MAX_TEXT: u64 = 32_768;

/// Every CRD, in the order people meet them.
pub fn all() -> Vec<CustomResourceDefinition> {
    [
        Machine::crd(),
        Deployment::crd(),
        BootProfile::crd(),
        Subnet::crd(),
        MachineInventory::crd(),
        BootReport::crd(),
        Address::crd(),
        WipeRecord::crd(),
    ]
    .into_iter()
    .map(finish)
    .collect()
}

/// One CRD as YAML, with its comment.
///
/// # Errors
/// Never for the types of this crate; the serializer's signature says it may.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser_error::Error> {
    Ok(format!(
        "# Generated from the types in crds/src by `make golden`. Do not edit.\n{}",
        serde_saphyr::to_string(&plain(serde_json::json!(crd)))?
    ))
}

/// Bounds as people and other tools write them: 1, not 1.0.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, plain(value))).collect(),
        Value::Array(list) => list.into_iter().map(plain).collect(),
        Value::Number(number) => match number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15) {
            Some(whole) => Value::from(whole as i64),
            None => Value::Number(number),
        },
        other => other,
    }
}

/// Several objects as one YAML file, with the place that they come from.
///
/// # Errors
/// Never for the objects of this crate; the serializer's signature says it may.
pub fn documents(source: &str, objects: &[Value]) -> Result<String, serde_saphyr::ser_error::Error> {
    let documents: Vec<String> = objects.iter().map(serde_saphyr::to_string).collect::<Result<_, _>>()?;
    Ok(format!("# Generated from {source} by `make golden`. Do not edit.\n{}", documents.join("---\n")))
}

/// A CRD as a template of the chart: upgraded with it, but never taken away, since all objects of its kind would go, too.
///
/// # Errors
/// As [`yaml`].
pub fn template(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser_error::Error> {
    let mut kept = crd.clone();
    kept.metadata.annotations.get_or_insert_default().insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    kept.metadata.labels.get_or_insert_default().insert("app.kubernetes.io/name".to_owned(), "athanor".to_owned());
    let text = yaml(&kept)?.replace("{{", "{{ \"{{\" }}");
    Ok(format!("{{{{- if .Values.crds.install }}}}\n{text}{{{{- end }}}}\n"))
}

/// What the derive macro cannot say: bounds on types of others, no formats that Kubernetes does not know, no null where absence will do.
fn finish(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let Ok(mut value) = serde_json::to_value(&crd) else { return crd };
    if let Some(versions) = value["spec"]["versions"].as_array_mut() {
        for version in versions {
            let schema = &mut version["schema"]["openAPIV3Schema"];
            tidy(schema);
            if crd.spec.names.kind == "Subnet" {
                // Its name is a label's value on newcomers and the key of a label on plans.
                let message = "must be no more than 63 characters";
                schema["x-kubernetes-validations"] = crate::schema::rules(&[("self.metadata.name.size() <= 63", message, "")]);
            }
        }
    }
    serde_json::from_value(value).unwrap_or(crd)
}

fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.get("format").and_then(Value::as_str).is_some_and(|format| !KNOWN_FORMATS.contains(&format)) {
        object.remove("format");
    }
    // kube's clients leave an absent field out; a stored null would only surprise CEL's has().
    object.remove("nullable");
    let free_text = object.get("type") == Some(&json!("string"))
        && !object.contains_key("maxLength")
        && !object.contains_key("enum")
        && object.get("format") != Some(&json!("date-time"));
    if free_text {
        object.insert("maxLength".to_owned(), json!(MAX_TEXT));
    }
    for key in ["properties"] {
        if let Some(children) = object.get_mut(key).and_then(Value::as_object_mut) {
            children.values_mut().for_each(tidy);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = object.get_mut(key) {
            tidy(child);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "goldens are files")]
mod tests {
    use super::*;

    /// Walks a schema and calls `visit` with every node and its path.
    fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
        visit(path, schema);
        if let Some(properties) = schema["properties"].as_object() {
            for (name, child) in properties {
                walk(child, &format!("{path}.{name}"), visit);
            }
        }
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                walk(&schema[key], &format!("{path}[]"), visit);
            }
        }
    }

    #[test]
    fn every_string_list_and_map_has_a_bound() {
        let mut unbounded = Vec::new();
        for crd in all() {
            let name = crd.spec.names.kind.clone();
            let schema = serde_json::to_value(crd.spec.versions[0].schema.as_ref().unwrap()).unwrap();
            walk(&schema["openAPIV3Schema"], &name, &mut |path, node| {
                let bounded = match node["type"].as_str() {
                    Some("string") => node["maxLength"].is_u64() || node["enum"].is_array() || node["format"] == "date-time",
                    Some("array") => node["maxItems"].is_u64(),
                    Some("object") if node["additionalProperties"].is_object() => node["maxProperties"].is_u64(),
                    _ => true,
                };
                let top = path.ends_with(".apiVersion") || path.ends_with(".kind") || path.ends_with(".metadata");
                if !bounded && !top {
                    unbounded.push(path.to_owned());
                }
            });
        }
        assert_eq!(unbounded, Vec::<String>::new());
    }

    #[test]
    fn the_names_are_those_people_know() {
        let shorts: Vec<_> = all()
            .iter()
            .map(|crd| (crd.spec.names.plural.clone(), crd.spec.names.short_names.clone().unwrap_or_default().join(",")))
            .collect();
        assert_eq!(
            shorts.iter().take(4).map(|(plural, short)| (plural.as_str(), short.as_str())).collect::<Vec<_>>(),
            [("machines", "am"), ("deployments", "ad"), ("bootprofiles", "abp"), ("subnets", "asn")]
        );
    }

    /// `ATHANOR_GOLDEN=write cargo test -p athanor-crds golden` (that is `make golden`) writes them anew.
    #[test]
    fn golden_yaml_is_what_the_types_say() {
        let root = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
        let (rbac, policy) = (crate::rbac::yaml().unwrap(), crate::policy::yaml().unwrap());
        let mut files = vec![
            ("crds/generated/rbac/components.yaml".to_owned(), rbac.clone()),
            ("crds/generated/policy/agents.yaml".to_owned(), policy.clone()),
            ("charts/athanor/templates/generated/rbac.yaml".to_owned(), rbac),
            ("charts/athanor/templates/generated/policy.yaml".to_owned(), policy),
        ];
        for crd in all() {
            let name = crd.spec.names.plural.clone();
            files.push((format!("crds/generated/{name}.yaml"), yaml(&crd).unwrap()));
            files.push((format!("charts/athanor/templates/generated/crd-{name}.yaml"), template(&crd).unwrap()));
        }
        for (name, text) in files {
            let file = root.join(name);
            if std::env::var("ATHANOR_GOLDEN").as_deref() == Ok("write") {
                std::fs::write(&file, &text).unwrap();
            }
            let golden = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(golden == text, "{} is not what the types say: run `make golden` and look at the difference", file.display());
        }
    }
}
