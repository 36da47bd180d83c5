//! The rights table as Kubernetes' RBAC: what the chart installs and the tests run with.

use serde_json::{Value, json};

use crate::{
    names::SYSTEM_NAMESPACE,
    rights::{Role, Rule},
};

/// The components that run in a cluster, each with a service account of its own.
const COMPONENTS: [Role; 2] = [Role::Operator, Role::BootAgent];

/// The name of a component's account, roles and bindings.
pub fn name(role: Role) -> String {
    format!("athanor-{}", role.user())
}

/// Accounts, roles and bindings, in the order in which they can be applied.
pub fn all() -> Vec<Value> {
    COMPONENTS.into_iter().flat_map(of).collect()
}

fn of(role: Role) -> Vec<Value> {
    let name = name(role);
    let account = json!({ "kind": "ServiceAccount", "name": name, "namespace": SYSTEM_NAMESPACE });
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": SYSTEM_NAMESPACE }
    })];
    let mut namespaces: Vec<Option<&str>> = role.rules().iter().map(|rule| rule.namespace).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    for namespace in namespaces {
        let rules: Vec<Value> = role.rules().iter().filter(|rule| rule.namespace == namespace).map(rule).collect();
        let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
        let mut metadata = json!({ "name": name });
        if let Some(namespace) = namespace {
            metadata["namespace"] = namespace.into();
        }
        objects.push(json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules }));
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": metadata, "subjects": [account],
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name }
        }));
    }
    objects
}

fn rule(rule: &Rule) -> Value {
    json!({ "apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs })
}

/// All of them as one YAML file.
///
/// # Errors
/// Never for these objects; the serializer's signature says it may.
pub fn yaml() -> Result<String, serde_saphyr::ser_error::Error> {
    crate::generate::documents("crds/src/rights.rs", &all())
}
