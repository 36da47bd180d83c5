//! `apply`: objects from files, server-side, as kubectl does it.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use kube::{
    api::{Patch, PatchParams},
    core::Status,
};
use serde_json::Value;

use super::{Global, connect, get, kinds::Kind, message, out};
use crate::yaml;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A YAML or JSON file; - for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// Take fields over that somebody else manages
    #[arg(long)]
    force_conflicts: bool,
}

/// `apply`.
///
/// # Errors
/// A file cannot be read, an object is of no kind that is known, or the API says no.
pub(crate) async fn apply(global: &Global, args: ApplyArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    // One that is refused does not hold up the others, as with kubectl.
    let mut refused = Vec::new();
    for file in &args.filename {
        let objects = match read(file) {
            Ok(objects) => objects,
            Err(error) => {
                refused.push(message(&error));
                continue;
            }
        };
        for object in objects {
            match apply_one(&client, global, object, args.force_conflicts).await {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => refused.push(format!("{}: {}", file.display(), message(&error))),
                // Nobody answers: what comes next would fail alike. What was refused before is told all the same.
                Err(error) => {
                    refused.push(message(&error));
                    bail!(refused.join("\n"));
                }
            }
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(anyhow!(refused.join("\n"))) }
}

/// The objects of a file.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("-f {}: cannot be read", file.display()))?;
    }
    let documents: Vec<Value> = yaml::documents(&file.display().to_string(), &text)?;
    let objects: Vec<Value> = documents.into_iter().flat_map(items).filter(|object| !object.is_null()).collect();
    if objects.is_empty() {
        bail!("-f {}: no object is in it", file.display());
    }
    Ok(objects)
}

/// The objects of a List, as `get -o yaml` prints several; any other is itself.
fn items(mut object: Value) -> Vec<Value> {
    match object.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if object["kind"] == "List" => items,
        Some(other) => {
            object["items"] = other;
            vec![object]
        }
        None => vec![object],
    }
}

/// Whether an object was refused, rather than the API not reached.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<kube::Error>().is_none_or(|error| matches!(error, kube::Error::Api(_)))
}

async fn apply_one(client: &kube::Client, global: &Global, object: Value, force: bool) -> anyhow::Result<()> {
    let (api_version, kind_name) = (text(&object, "/apiVersion")?, text(&object, "/kind")?);
    if kind_name.is_empty() {
        bail!("this is no object of an API: it has no kind; begin it with apiVersion: and kind:");
    }
    let Some(kind) = Kind::of(api_version, kind_name) else {
        bail!("{kind_name:?} of {api_version:?} is no kind that athanorctl applies; use kubectl for it");
    };
    let (name, namespace) = (text(&object, "/metadata/name")?.to_owned(), text(&object, "/metadata/namespace")?.to_owned());
    if name.is_empty() {
        bail!("{kind_name}: metadata.name is missing");
    }
    let global = if namespace.is_empty() { global.clone() } else { Global { namespace, ..global.clone() } };
    let mut params = PatchParams::apply(connect::MANAGER).validation_strict();
    params.force = force;
    match get::api(client, &global, &kind).patch(&name, &params, &Patch::Apply(&object)).await {
        // Another manager's field: a registered Machine's are its agent's until somebody takes them over.
        Err(kube::Error::Api(status)) if is_of_manager(&status) && !force => {
            bail!("{}; --force-conflicts takes the fields over", status.message)
        }
        other => drop(other?),
    }
    out(&format!("{}/{name} applied\n", kind.singular));
    Ok(())
}

/// The text at a place; empty where there is none.
fn text<'a>(object: &'a Value, path: &str) -> anyhow::Result<&'a str> {
    match object.pointer(path) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            let field = path.trim_start_matches('/').replace('/', ".");
            bail!("{field}: {other} is no text; put it in quotes, since YAML reads y, yes, on, no, off and numbers as something else")
        }
    }
}

/// Whether a conflict is about who manages a field, and not about which version was read.
fn is_of_manager(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 409 && causes.into_iter().any(|cause| cause.reason == "FieldManagerConflict")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_what_is_in_it() {
        let objects = yaml::documents::<Value>("f.yaml", "kind: List\nitems: [{kind: A}, {kind: B}]\n---\nkind: C\nitems: []\n").unwrap();
        let kinds: Vec<String> = objects.into_iter().flat_map(items).map(|object| object["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        let other = serde_json::json!({ "kind": "C", "items": 1 });
        assert_eq!(items(other.clone()), [other]);
    }

    #[test]
    fn what_yaml_takes_for_something_else_is_told_as_such() {
        let object = &yaml::documents::<Value>("f.yaml", "kind: Machine\nmetadata: {name: y, namespace: }\n").unwrap()[0];
        assert_eq!((text(object, "/kind").unwrap(), text(object, "/metadata/namespace").unwrap()), ("Machine", ""));
        let said = text(object, "/metadata/name").unwrap_err().to_string();
        assert!(said.starts_with("metadata.name: true is no text; put it in quotes"), "{said}");
    }
}
