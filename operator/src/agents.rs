//! The boot-agents as a DaemonSet: what a node runs, and with which rights.
//!
//! An agent has the node's network (boot protocols are broadcasts), two capabilities (ports below 1024, packets to clients without an
//! address), a root file system that it cannot write, and no other privilege.

use std::collections::BTreeMap;

use athanor_crds::{names::SYSTEM_NAMESPACE, rbac, rights::Role};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
        core::v1::{
            Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction, HostPathVolumeSource, LocalObjectReference,
            ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
            SecurityContext, Toleration, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use serde::{Deserialize, Serialize};

/// The DaemonSet's name, in the system's namespace.
pub const NAME: &str = "athanor-boot-agent";
/// Where an agent keeps what it knows: the host's tmpfs, which is empty after the node's own boot.
const STATE: &str = "/run/athanor";
/// Where an agent tells its health; in the pod alone, for two agents may have the node's network for a moment.
const HEALTH_SOCKET: &str = "/tmp/health.sock";
/// How long a node's agent may take to end: its transfers have a minute, its last reports five seconds.
const GRACE_SECONDS: i64 = 75;

/// How agents run. The chart writes it; the operator reads it at its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentSettings {
    /// The image, by digest or tag.
    pub image: String,
    /// When it is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// Secrets of the system's namespace with which it is pulled.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
    /// The nodes that serve.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that do not keep agents away.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// Processor time and memory.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// How important it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Folders of the node with ISOs.
    #[serde(default)]
    pub media_dirs: Vec<String>,
    /// Folders of the node with loaders, before those of the image.
    #[serde(default)]
    pub loader_dirs: Vec<String>,
    /// The port of boot HTTP.
    #[serde(default = "default_http_port")]
    pub http_port: u16,
    /// The port of health and metrics.
    #[serde(default = "default_health_port")]
    pub health_port: u16,
    /// What is logged.
    #[serde(default = "default_log")]
    pub log: String,
}

fn default_http_port() -> u16 {
    7481
}
fn default_health_port() -> u16 {
    7483
}
fn default_log() -> String {
    "info".to_owned()
}

/// The DaemonSet. `owner` is the operator's own Deployment: when that is uninstalled, the agents go, too.
pub fn daemonset(settings: &AgentSettings, installation: &str, owner: Option<OwnerReference>) -> DaemonSet {
    let labels: BTreeMap<String, String> = [("app.kubernetes.io/name", "athanor"), ("app.kubernetes.io/component", "boot-agent")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(SYSTEM_NAMESPACE.to_owned()),
        labels: Some(labels.clone()),
        owner_references: owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    // The next agent of a node answers before the one before it ends.
    let rolling = RollingUpdateDaemonSet { max_surge: Some(IntOrString::Int(1)), max_unavailable: Some(IntOrString::Int(0)) };
    let spec = DaemonSetSpec {
        selector: LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() },
        update_strategy: Some(DaemonSetUpdateStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(rolling) }),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
            spec: Some(pod(settings, installation, owner.as_ref())),
        },
        ..DaemonSetSpec::default()
    };
    DaemonSet { metadata, spec, status: None }
}

fn pod(settings: &AgentSettings, installation: &str, owner: Option<&OwnerReference>) -> PodSpec {
    let host = |name: String, path: &str, kind: &str| Volume {
        name,
        host_path: Some(HostPathVolumeSource { path: path.to_owned(), type_: Some(kind.to_owned()) }),
        ..Volume::default()
    };
    let memory = EmptyDirVolumeSource {
        medium: Some("Memory".to_owned()),
        size_limit: Some(Quantity("1Mi".to_owned())),
        ..EmptyDirVolumeSource::default()
    };
    let mut volumes = vec![
        host("state".to_owned(), STATE, "DirectoryOrCreate"),
        Volume { name: "tmp".to_owned(), empty_dir: Some(memory), ..Volume::default() },
    ];
    volumes.extend(folders(settings).map(|(name, path)| host(name, path, "DirectoryOrCreate")));
    PodSpec {
        host_network: Some(true),
        dns_policy: Some("ClusterFirstWithHostNet".to_owned()),
        service_account_name: Some(rbac::name(Role::BootAgent)),
        node_selector: Some(settings.node_selector.clone()).filter(|selector| !selector.is_empty()),
        tolerations: Some(settings.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
        priority_class_name: settings.priority_class_name.clone(),
        image_pull_secrets: Some(settings.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect())
            .filter(|secrets: &Vec<_>| !secrets.is_empty()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(settings, installation, owner)],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// The node's folders that an agent reads, and the names of their volumes.
fn folders(settings: &AgentSettings) -> impl Iterator<Item = (String, &String)> {
    fn named<'a>(kind: &'static str, list: &'a [String]) -> impl Iterator<Item = (String, &'a String)> {
        list.iter().enumerate().map(move |(index, path)| (format!("{kind}-{index}"), path))
    }
    named("media", &settings.media_dirs).chain(named("loaders", &settings.loader_dirs))
}

fn environment(settings: &AgentSettings, installation: &str, owner: Option<&OwnerReference>) -> Vec<EnvVar> {
    let value = |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() };
    let node = EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: "spec.nodeName".to_owned(), ..ObjectFieldSelector::default() }),
        ..EnvVarSource::default()
    };
    let mut all = vec![
        EnvVar { name: "ATHANOR_NODE".to_owned(), value_from: Some(node), ..EnvVar::default() },
        value("ATHANOR_INSTALLATION", installation),
        value("ATHANOR_LOG", &settings.log),
        value("ATHANOR_HEALTH_SOCKET", HEALTH_SOCKET),
        value("ATHANOR_HEALTH_LISTEN", &format!("0.0.0.0:{}", settings.health_port)),
    ];
    all.extend(owner.map(|owner| value("ATHANOR_INSTALLED_BY", &format!("{}/{}", owner.name, owner.uid))));
    all
}

fn container(settings: &AgentSettings, installation: &str, owner: Option<&OwnerReference>) -> Container {
    let mut args: Vec<String> = ["start", "agent", "--log-json", "--data-dir", STATE].map(str::to_owned).to_vec();
    args.push(format!("--http-port={}", settings.http_port));
    args.extend(settings.media_dirs.iter().map(|folder| format!("--media-dir={folder}")));
    args.extend(settings.loader_dirs.iter().map(|folder| format!("--loader-dir={folder}")));
    if !settings.loader_dirs.is_empty() {
        args.push("--loader-dir=/usr/lib/ipxe".to_owned());
    }
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("state", STATE, false), mount("tmp", "/tmp", false)];
    mounts.extend(folders(settings).map(|(name, path)| mount(&name, path, true)));
    let probe = |live: bool| {
        let mut command = vec!["/usr/bin/athanor".to_owned(), "health".to_owned()];
        command.extend(live.then(|| "--live".to_owned()));
        Probe {
            exec: Some(ExecAction { command: Some(command) }),
            period_seconds: Some(if live { 20 } else { 2 }),
            timeout_seconds: Some(5),
            failure_threshold: Some(3),
            ..Probe::default()
        }
    };
    Container {
        name: "boot-agent".to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: settings.image_pull_policy.clone(),
        args: Some(args),
        env: Some(environment(settings, installation, owner)),
        resources: Some(settings.resources.clone()),
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: Some(vec!["NET_BIND_SERVICE".to_owned(), "NET_RAW".to_owned()]),
            }),
            ..SecurityContext::default()
        }),
        readiness_probe: Some(probe(false)),
        liveness_probe: Some(probe(true)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> AgentSettings {
        serde_json::from_str(r#"{"image": "example.org/athanor@sha256:0", "mediaDirs": ["/srv/iso"], "nodeSelector": {"rack": "a"}}"#)
            .unwrap()
    }

    #[test]
    fn an_agent_has_two_capabilities_and_no_port_that_keeps_its_successor_out() {
        insta::assert_yaml_snapshot!(daemonset(&settings(), "lab", None));
    }

    #[test]
    fn a_setting_that_nobody_knows_is_no_setting() {
        let error = serde_json::from_str::<AgentSettings>(r#"{"image": "a", "nodeSelektor": {}}"#).unwrap_err();
        assert!(error.to_string().contains("nodeSelektor"), "{error}");
    }
}
