//! What an operating system reads at its first boot: who its machine is, its users and packages, and what its Deployment's Secrets say.
//!
//! Secrets are read when an attempt is made ready. What they say later reaches a machine with its next installation.

use std::{collections::BTreeMap, fmt::Write as _};

use athanor_crds::{Deployment, DeploymentSpec, Machine, bootprofile::Datasource, conditions::reasons, deployment::SecretSource, names};
use athanor_plan::lifecycle::Obstacle;
use athanor_wire::{
    metadata::{CONFIG_DRIVE, NO_CLOUD},
    work::{Documents, Headers},
};
use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};

use crate::{Cluster, PortError, term::Term};

/// What a Deployment's documents may have together, in bytes. They travel in a plan, which is a Secret and holds 1 MiB; quoted they grow.
const MAX_DOCUMENTS: usize = 256 << 10;
/// Between the parts of user-data; no text of a person has it.
const BOUNDARY: &str = "=-athanor-part-of-user-data-=";

/// What a machine-agent is handed with an image, out of Secrets.
pub(crate) struct Handed {
    pub(crate) documents: Documents,
    pub(crate) headers: Headers,
}

/// What the Secrets say, each text as it stands there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    user_data: Option<String>,
    network_data: Option<String>,
    meta_data: Option<String>,
}

pub(super) fn obstacle(field: &str, says: impl std::fmt::Display) -> Obstacle {
    Obstacle { reason: reasons::SECRET_UNUSABLE, message: format!("{field}: {says}") }
}

/// The fields that name Secrets, and what they name.
fn sources(spec: &DeploymentSpec) -> [(&'static str, &Option<SecretSource>); 3] {
    [("spec.userData", &spec.user_data), ("spec.networkData", &spec.network_data), ("spec.metaData", &spec.meta_data)]
}

/// Reads what a Deployment names.
pub(super) async fn read(deployment: &Deployment, cluster: &impl Cluster) -> Result<Result<Given, Obstacle>, PortError> {
    let (mut given, mut length) = (Given::default(), 0);
    let namespace = deployment.namespace();
    let places = [&mut given.user_data, &mut given.network_data, &mut given.meta_data];
    for ((field, source), place) in sources(&deployment.spec).into_iter().zip(places) {
        let Some(source) = source else { continue };
        let secret = cluster.get::<Secret>(namespace.as_deref(), &source.secret_ref.name).await?;
        let is_bmc = is_of_bmc(namespace.as_deref(), &source.secret_ref.name, cluster).await?;
        let usable = usable(field, &source.secret_ref.name, secret.as_ref(), names::USER_DATA_TYPE, is_bmc);
        let text = match usable.and_then(|secret| text(field, source, secret)) {
            Ok(text) => text,
            Err(obstacle) => return Ok(Err(obstacle)),
        };
        length += text.len();
        if length > MAX_DOCUMENTS {
            let says = format!("the documents have more than {} KiB together; let user-data fetch the rest", MAX_DOCUMENTS >> 10);
            return Ok(Err(obstacle(field, says)));
        }
        *place = Some(text);
    }
    Ok(Ok(given))
}

/// Whether a Secret has the credentials of some Machine's BMC.
pub(super) async fn is_of_bmc(namespace: Option<&str>, name: &str, cluster: &impl Cluster) -> Result<bool, PortError> {
    Ok(!cluster.about::<Machine>(&[of_bmc(namespace, name)]).await?.is_empty())
}

fn of_bmc(namespace: Option<&str>, name: &str) -> Term {
    Term::Credentials(namespace.unwrap_or_default().to_owned(), name.to_owned())
}

/// A Secret that was meant for machines, by its type or a label. Whoever may write Deployments and profiles need not be able to read Secrets.
pub(super) fn usable<'a>(field: &str, name: &str, secret: Option<&'a Secret>, kind: &str, is_bmc: bool) -> Result<&'a Secret, Obstacle> {
    let secret = secret.ok_or_else(|| obstacle(field, format!("there is no Secret {name} in this namespace; create it")))?;
    if secret.type_.as_deref() != Some(kind) && !secret.labels().contains_key(kind) {
        return Err(obstacle(field, format!("Secret {name} is not meant for machines; give it the type {kind}, or the label {kind}")));
    }
    if is_bmc {
        return Err(obstacle(field, format!("Secret {name} has the credentials of a BMC, which no machine is given; name another")));
    }
    Ok(secret)
}

/// The text of a key of a Secret.
fn text(field: &str, source: &SecretSource, secret: &Secret) -> Result<String, Obstacle> {
    let (name, key) = (&source.secret_ref.name, &source.secret_ref.key);
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    let bytes = bytes.ok_or_else(|| obstacle(field, format!("Secret {name} has no key {key}; add it, or name another")))?;
    String::from_utf8(bytes.0.clone()).map_err(|_| obstacle(field, format!("key {key} of Secret {name} is no text in UTF-8")))
}

/// A text that is a mapping in YAML, or in JSON, which is YAML.
fn mapping(field: &str, text: &str) -> Result<Map<String, Value>, Obstacle> {
    match serde_saphyr::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Ok(map),
        // What the parser says may quote the document, which is a secret.
        _ => Err(obstacle(field, "this is no mapping in YAML or JSON; write one")),
    }
}

/// What a Deployment's host is called.
pub(super) fn hostname(deployment: &Deployment) -> String {
    deployment.spec.hostname.clone().unwrap_or_else(|| deployment.name_any())
}

/// Whether a Deployment wants more of its operating system than a name.
pub(super) fn say_something(spec: &DeploymentSpec) -> bool {
    !spec.users.is_empty() || !spec.packages.is_empty() || sources(spec).iter().any(|(_, source)| source.is_some())
}

/// The documents for a file system that cloud-init looks for.
pub(super) fn of(deployment: &Deployment, given: &Given, datasource: Datasource) -> Result<Documents, Obstacle> {
    let instance = deployment.spec.instance_id.clone().unwrap_or_default();
    let host = hostname(deployment);
    let theirs = given.meta_data.as_ref().map(|text| mapping("spec.metaData", text)).transpose()?.unwrap_or_default();
    let user_data = user_data(deployment, &host, given.user_data.as_deref())?;
    // Whoever is installed anew is another instance, whatever its Secret says.
    let meta = |ours: Value, id: &str| {
        let mut meta = ours.as_object().cloned().unwrap_or_default();
        meta.extend(theirs);
        meta.insert(id.to_owned(), json!(instance));
        format!("{}\n", Value::Object(meta))
    };
    let mut files = BTreeMap::new();
    let label = match datasource {
        Datasource::NoCloud => {
            files.insert("meta-data".to_owned(), meta(json!({ "local-hostname": host }), "instance-id"));
            files.insert("user-data".to_owned(), user_data);
            files.extend(given.network_data.clone().map(|text| ("network-config".to_owned(), text)));
            NO_CLOUD
        }
        Datasource::ConfigDrive => {
            let below = |name: &str| format!("openstack/latest/{name}");
            files.insert(below("meta_data.json"), meta(json!({ "hostname": host, "name": host }), "uuid"));
            files.insert(below("user_data"), user_data);
            if let Some(text) = &given.network_data {
                files.insert(below("network_data.json"), format!("{}\n", Value::Object(mapping("spec.networkData", text)?)));
            }
            CONFIG_DRIVE
        }
    };
    Ok(Documents { label: label.to_owned(), files, metadata: None })
}

/// Users and packages of the Deployment, and what its Secret says. JSON is YAML, and quotes itself.
fn user_data(deployment: &Deployment, host: &str, theirs: Option<&str>) -> Result<String, Obstacle> {
    let spec = &deployment.spec;
    let users = spec.users.iter().map(|user| {
        let sudo = if user.sudo { json!("ALL=(ALL) NOPASSWD:ALL") } else { json!(false) };
        json!({ "name": user.name, "ssh_authorized_keys": user.ssh_keys, "sudo": sudo, "shell": "/bin/bash", "lock_passwd": true })
    });
    let mut config = json!({ "hostname": host });
    if !spec.users.is_empty() {
        config["users"] = users.collect();
    }
    if !spec.packages.is_empty() {
        config["packages"] = json!(spec.packages);
    }
    let ours = format!("#cloud-config\n{config}\n");
    let adds = !spec.users.is_empty() || !spec.packages.is_empty();
    match theirs {
        None => Ok(ours),
        // The host's name is in the meta-data, too.
        Some(theirs) if !adds => Ok(theirs.to_owned()),
        Some(theirs) if theirs.starts_with('#') => Ok(both(&ours, theirs)),
        Some(_) => Err(obstacle(
            "spec.userData",
            "spec.users and spec.packages can be added to a text that begins with #, such as #cloud-config; write them into this one",
        )),
    }
}

/// Two texts as cloud-init takes them: parts of one, each known by how it begins.
fn both(ours: &str, theirs: &str) -> String {
    let mut out = format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for part in [ours, theirs] {
        // Lists of both are wanted: a part would else take the place of the one before. Base64, since cloud-init reads other letters wrong.
        let merge = "Merge-Type: list(append)+dict(no_replace,recurse_list)+str()";
        let body = base64::engine::general_purpose::STANDARD.encode(part);
        let _ = write!(
            out,
            "--{BOUNDARY}\nContent-Type: text/plain; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n{merge}\n\n{body}\n"
        );
    }
    let _ = writeln!(out, "--{BOUNDARY}--");
    out
}

#[cfg(test)]
mod tests;
