//! What RBAC cannot say about agents, as ValidatingAdmissionPolicies: which part of an object is theirs.
//!
//! An agent is the user of its service account; its node is the one that its token is bound to
//! (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#service-account-private-claims>).

use serde_json::{Value, json};

use crate::{GROUP, VERSION, names::SYSTEM_NAMESPACE, rbac, rights::Role};

const API: &str = "admissionregistration.k8s.io/v1";
/// The node that the asking token is bound to; a token that is bound to none matches no node's name.
const NODE: &str = "'authentication.kubernetes.io/node-name' in request.userInfo.extra ? request.userInfo.extra['authentication.kubernetes.io/node-name'][0] : ''";

struct Policy {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    operations: &'static [&'static str],
    /// What must hold, and what is said where it does not.
    rules: &'static [(&'static str, &'static str)],
}

const POLICIES: [Policy; 4] = [
    Policy {
        name: "athanor-boot-agent-reports",
        group: GROUP,
        version: VERSION,
        resource: "bootreports",
        operations: &["CREATE", "UPDATE"],
        rules: &[
            (
                "!has(object.spec.nodes) || object.spec.nodes.all(part, part.node == variables.node || (request.operation == 'UPDATE' && \
                 has(oldObject.spec.nodes) && oldObject.spec.nodes.exists(old, old == part)))",
                "a boot-agent writes its own node's part of a BootReport and no other",
            ),
            (
                "request.operation == 'CREATE' || !has(oldObject.spec.nodes) || oldObject.spec.nodes.all(old, old.node == variables.node || \
                 (has(object.spec.nodes) && object.spec.nodes.exists(part, part.node == old.node)))",
                "a boot-agent removes no other node's part of a BootReport",
            ),
        ],
    },
    Policy {
        name: "athanor-boot-agent-leases",
        group: "coordination.k8s.io",
        version: "v1",
        resource: "leases",
        operations: &["CREATE", "UPDATE"],
        rules: &[("object.metadata.name == 'agent-' + variables.node", "a boot-agent writes its own Lease, agent-<node>, and no other")],
    },
    Policy {
        name: "athanor-boot-agent-addresses",
        group: GROUP,
        version: VERSION,
        resource: "addresses",
        operations: &["CREATE", "UPDATE", "DELETE"],
        rules: &[
            ("request.operation == 'DELETE' || !has(object.spec.owner)", "a boot-agent gives no address to a Machine"),
            ("request.operation == 'CREATE' || !has(oldObject.spec.owner)", "a boot-agent changes no address of a Machine"),
        ],
    },
    Policy {
        name: "athanor-boot-agent-newcomers",
        group: GROUP,
        version: VERSION,
        resource: "machines",
        operations: &["CREATE"],
        rules: &[(
            "(!has(object.spec.accepted) || !object.spec.accepted) && !has(object.spec.claimRef) && !has(object.spec.bmc)",
            "a boot-agent registers newcomers; it neither accepts nor claims a Machine, and knows no BMC",
        )],
    },
];

/// The policies and their bindings, in the order in which they can be applied.
pub fn all() -> Vec<Value> {
    POLICIES.iter().flat_map(Policy::objects).collect()
}

impl Policy {
    fn objects(&self) -> [Value; 2] {
        let agent = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{}", rbac::name(Role::BootAgent));
        let rules: Vec<Value> = self.rules.iter().map(|(rule, message)| json!({ "expression": rule, "message": message })).collect();
        let policy = json!({
            "apiVersion": API, "kind": "ValidatingAdmissionPolicy", "metadata": { "name": self.name },
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": { "resourceRules": [{
                    "apiGroups": [self.group], "apiVersions": [self.version], "operations": self.operations, "resources": [self.resource]
                }] },
                "matchConditions": [{ "name": "is-a-boot-agent", "expression": format!("request.userInfo.username == '{agent}'") }],
                "variables": [{ "name": "node", "expression": NODE }],
                "validations": rules
            }
        });
        let binding = json!({
            "apiVersion": API, "kind": "ValidatingAdmissionPolicyBinding", "metadata": { "name": self.name },
            "spec": { "policyName": self.name, "validationActions": ["Deny"] }
        });
        [policy, binding]
    }
}

/// All of them as one YAML file.
///
/// # Errors
/// Never for these objects; the serializer's signature says it may.
pub fn yaml() -> Result<String, serde_saphyr::ser_error::Error> {
    crate::generate::documents("crds/src/policy.rs", &all())
}
