//! `apply`: objects from files, server-side, as kubectl does it.

use std::{io::Read as _, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use kube::{
    api::{Patch, PatchParams},
    core::Status,
};
use serde_json::Value;

use super::{Global, connect, get, kinds::Kind, out};
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
    for file in &args.filename {
        let mut text = String::new();
        if file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text)?;
        } else {
            text = std::fs::read_to_string(file).with_context(|| format!("-f {}: cannot be read", file.display()))?;
        }
        let documents: Vec<Value> = yaml::documents(&file.display().to_string(), &text)?;
        let objects: Vec<Value> = documents.into_iter().filter(|object| !object.is_null()).collect();
        if objects.is_empty() {
            bail!("-f {}: no object is in it", file.display());
        }
        for object in objects {
            apply_one(&client, global, object, args.force_conflicts).await.with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

async fn apply_one(client: &kube::Client, global: &Global, object: Value, force: bool) -> anyhow::Result<()> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind_name, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let Some(kind) = Kind::of(&api_version, &kind_name) else {
        bail!("{kind_name:?} of {api_version:?} is no kind that athanorctl applies; use kubectl for it");
    };
    if name.is_empty() {
        bail!("{kind_name}: metadata.name is missing");
    }
    let namespace = text("/metadata/namespace");
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

/// Whether a conflict is about who manages a field, and not about which version was read.
fn is_of_manager(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 409 && causes.into_iter().any(|cause| cause.reason == "FieldManagerConflict")
}
