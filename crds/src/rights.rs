//! The one rights table: what each role may do. The embedded API enforces it; the chart's RBAC is generated from it.

/// A set of verbs on a set of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Plural resource names, with `/status` for that subresource.
    pub resources: &'static [&'static str],
    /// Kubernetes verbs.
    pub verbs: &'static [&'static str],
    /// The only namespace it holds in; `None` for all, and for cluster-scoped resources.
    pub namespace: Option<&'static str>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The controllers.
    Operator,
    /// The boot plane.
    BootAgent,
    /// May do everything.
    Admin,
    /// May write what people write, and read the rest.
    Editor,
    /// May read, but no Secrets.
    Viewer,
}

const OURS: &str = crate::GROUP;
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
const PLANS: Option<&str> = Some(crate::names::PLANS_NAMESPACE);
const SYSTEM: Option<&str> = Some(crate::names::SYSTEM_NAMESPACE);

/// Only what it does: a test holds each right against what it is seen to use.
const OPERATOR: &[Rule] = &[
    Rule { group: OURS, resources: &["machines", "deployments"], verbs: &["get", "list", "watch", "patch"], namespace: None },
    Rule { group: OURS, resources: &["bootprofiles"], verbs: READ, namespace: None },
    Rule { group: OURS, resources: &["subnets"], verbs: &["list", "watch"], namespace: None },
    Rule {
        group: OURS,
        resources: &["machines/status", "deployments/status", "bootprofiles/status", "subnets/status"],
        verbs: &["patch"],
        namespace: None,
    },
    Rule { group: OURS, resources: &["addresses"], verbs: &["get", "list", "watch", "create", "delete"], namespace: None },
    Rule {
        group: OURS,
        resources: &["machineinventories"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        namespace: None,
    },
    Rule { group: OURS, resources: &["bootreports"], verbs: &["get", "list", "watch", "delete"], namespace: None },
    Rule { group: "", resources: &["secrets"], verbs: &["get", "list", "watch", "create", "patch", "delete"], namespace: PLANS },
    Rule { group: OURS, resources: &["wiperecords"], verbs: &["create"], namespace: None },
    // Documents for machines, by the names that Deployments have for them: RBAC knows no types of Secrets, so the operator looks at that.
    Rule { group: "", resources: &["secrets"], verbs: &["get"], namespace: None },
    // The installation's key: RBAC cannot bind a creation to a name.
    Rule { group: "", resources: &["secrets"], verbs: &["get", "create"], namespace: SYSTEM },
    Rule { group: "", resources: &["namespaces"], verbs: &["get"], namespace: None },
    Rule { group: "apiextensions.k8s.io", resources: &["customresourcedefinitions"], verbs: &["get"], namespace: None },
    Rule { group: "events.k8s.io", resources: &["events"], verbs: &["create"], namespace: None },
    Rule { group: "coordination.k8s.io", resources: &["leases"], verbs: &["get", "list", "watch", "create", "patch"], namespace: SYSTEM },
    Rule { group: "apps", resources: &["daemonsets"], verbs: &["get", "list", "watch", "create", "patch"], namespace: SYSTEM },
    Rule { group: "apps", resources: &["deployments"], verbs: &["get"], namespace: SYSTEM },
];

/// What it applies, it may also create: a server-side apply of a new object asks for both.
const BOOT_AGENT: &[Rule] = &[
    Rule { group: "", resources: &["secrets"], verbs: &["list", "watch"], namespace: PLANS },
    // It looks for the files of profiles before anybody boots them.
    Rule { group: OURS, resources: &["subnets", "bootprofiles"], verbs: &["list", "watch"], namespace: None },
    Rule { group: OURS, resources: &["machines"], verbs: &["create"], namespace: None },
    Rule { group: OURS, resources: &["addresses"], verbs: &["list", "watch", "create", "patch", "delete"], namespace: None },
    Rule { group: OURS, resources: &["bootreports"], verbs: &["get", "create", "patch"], namespace: None },
    Rule { group: "coordination.k8s.io", resources: &["leases"], verbs: &["create", "patch"], namespace: SYSTEM },
];

const ADMIN: &[Rule] = &[Rule { group: "*", resources: &["*"], verbs: &["*"], namespace: None }];

const EDITOR: &[Rule] = &[
    Rule { group: OURS, resources: &["machines", "deployments", "bootprofiles"], verbs: WRITE, namespace: None },
    Rule { group: OURS, resources: &["*"], verbs: READ, namespace: None },
    Rule { group: "", resources: &["namespaces", "configmaps", "events"], verbs: READ, namespace: None },
    Rule { group: "events.k8s.io", resources: &["events"], verbs: READ, namespace: None },
];

const VIEWER: &[Rule] = &[
    Rule { group: OURS, resources: &["*"], verbs: READ, namespace: None },
    Rule { group: "", resources: &["namespaces", "configmaps", "events"], verbs: READ, namespace: None },
    Rule { group: "events.k8s.io", resources: &["events"], verbs: READ, namespace: None },
];

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Operator, Self::BootAgent, Self::Admin, Self::Editor, Self::Viewer];

    /// What it may do.
    pub fn rules(self) -> &'static [Rule] {
        match self {
            Self::Operator => OPERATOR,
            Self::BootAgent => BOOT_AGENT,
            Self::Admin => ADMIN,
            Self::Editor => EDITOR,
            Self::Viewer => VIEWER,
        }
    }

    /// The user name the embedded API knows it by; the chart's service accounts have the same last part.
    pub fn user(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::BootAgent => "boot-agent",
            Self::Admin => "admin",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }

    /// Whether the role may do `verb` on `resource` (with `/status` where it is one) of `group`, in `namespace` (`None`: cluster-wide).
    pub fn may(self, verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> bool {
        let holds = |list: &[&str], wanted: &str| list.iter().any(|&entry| entry == "*" || entry == wanted);
        self.rules().iter().any(|rule| {
            holds(&[rule.group], group)
                && holds(rule.resources, resource)
                && holds(rule.verbs, verb)
                && rule.namespace.is_none_or(|only| namespace == Some(only))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_read_plans_and_nobodys_secrets_besides() {
        let agent = Role::BootAgent;
        assert!(agent.may("list", "", "secrets", Some("athanor-plans")));
        for (verb, group, resource, namespace) in [
            ("list", "", "secrets", None),
            ("get", "", "secrets", Some("default")),
            ("update", OURS, "machines", Some("default")),
            ("patch", OURS, "machines/status", Some("default")),
            ("delete", OURS, "bootreports", Some("default")),
            ("create", OURS, "deployments", Some("default")),
        ] {
            assert!(!agent.may(verb, group, resource, namespace), "{verb} {resource} in {namespace:?}");
        }
    }

    #[test]
    fn viewers_write_nothing_and_see_no_secret() {
        assert!(Role::Viewer.may("list", OURS, "machines", None));
        assert!(!Role::Viewer.may("patch", OURS, "machines", Some("default")));
        assert!(!Role::Viewer.may("get", "", "secrets", Some("default")));
        assert!(Role::Admin.may("delete", "", "secrets", Some("default")));
    }
}
