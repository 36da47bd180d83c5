//! Small helpers for the parts of a schema that Rust types cannot say: CEL rules, list kinds and bounds.

use serde_json::{Value, json};

/// A text without control characters: it is sent to machines, or written out for people, as one line.
pub(crate) const ONE_LINE: &str = r"^[^\x00-\x1f\x7f]+$";
/// The loader chains that there may be, by name.
pub const LOADERS: [&str; 5] = ["grub", "ipxe", "ipxe-native", "pxelinux", "shim"];
/// The longest name of an object, by Kubernetes' DNS subdomain rule.
pub(crate) const NAME: u32 = 253;

/// `x-kubernetes-validations` from (rule, message, field path relative to the schema; empty for none).
pub(crate) fn rules(rules: &[(&str, &str, &str)]) -> Value {
    rules
        .iter()
        .map(|(rule, message, field)| {
            let mut object = json!({ "rule": rule, "message": message });
            if !field.is_empty() {
                object["fieldPath"] = json!(field);
            }
            object
        })
        .collect()
}

/// A map of short strings: parameters, labels.
pub(crate) fn string_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 1024 }
    })
}

/// A text with no blank and no control character, as host names and paths of loaders are.
pub(crate) fn hostname(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    })
}

/// An IPv4 or IPv6 address, by a CEL rule that the embedded API and kube-apiserver (1.31 and later) evaluate alike.
pub(crate) fn ip(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string", "maxLength": 45,
        "x-kubernetes-validations": rules(&[("isIP(self)", "must be an IPv4 or IPv6 address, like 192.168.10.100", "")])
    })
}

/// A list of at most sixteen addresses of servers.
pub(crate) fn servers(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let server = json!({
        "type": "string", "maxLength": 45,
        "x-kubernetes-validations": rules(&[
            ("isIP(self)", "must be an IPv4 or IPv6 address, like 192.168.10.100", ""),
            ("!isIP(self) || ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast()",
             "must be the address of one server: no multicast, broadcast, loopback or unspecified address", ""),
        ])
    });
    schemars::json_schema!({ "type": "array", "maxItems": 16, "items": server })
}

/// The name of a loader chain.
pub(crate) fn loader(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": LOADERS })
}

/// Conditions as a list-map by type.
pub(crate) fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    let items = <Condition as schemars::JsonSchema>::json_schema(generator);
    schemars::json_schema!({
        "type": "array", "maxItems": 16, "items": items,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]
    })
}

/// A list of at most 256 addresses that are never given.
pub(crate) fn reserved(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "array", "maxItems": 256, "items": ip(generator) })
}
