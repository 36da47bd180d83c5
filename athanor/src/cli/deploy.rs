//! `deploy`: a Deployment, and with `--wait` the way to it.

use std::process::ExitCode;

use anyhow::bail;
use athanor_crds::{Architecture, BootProfile, Deployment, Machine, conditions, conditions::types};
use clap::Args;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use serde_json::json;

use super::{
    Global, connect,
    create::{DeploymentArgs, ProfileType, deployment_name, deployment_spec, post},
    kinds::Kind,
    out, wait,
};

/// Arguments of `deploy`.
#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    pub(super) deployment: DeploymentArgs,
    /// Without --profile: the only profile of this type and the machine's architecture
    #[arg(long = "type", alias = "deploymentType", value_enum)]
    type_: Option<ProfileType>,
    /// Wait until it runs, and tell what happens
    #[arg(long)]
    wait: bool,
    /// How long --wait waits
    #[arg(long, default_value = "30m", value_parser = wait::duration)]
    timeout: std::time::Duration,
}

/// `deploy`.
///
/// # Errors
/// No profile is meant, or the API says no. With `--wait`, what went wrong is told and the code is not zero.
pub(crate) async fn deploy(global: &Global, args: DeployArgs) -> anyhow::Result<ExitCode> {
    let client = connect::client(global).await?;
    let profile = match (&args.deployment.profile, args.type_) {
        (Some(profile), Some(type_)) => {
            check_type(&client, global, profile, type_).await?;
            None
        }
        (_, None) => None,
        (None, Some(type_)) => Some(only_profile(&client, global, &args.deployment, type_).await?),
    };
    let spec = deployment_spec(&args.deployment, profile)?;
    let name = deployment_name(&args.deployment)?;
    post(&client, global, &Kind::named("deployment")?, &name, json!(spec)).await?;
    if !args.wait {
        out(&format!("deployment/{name} created{}\n", waits(&client, global, &name).await));
        return Ok(ExitCode::SUCCESS);
    }
    out(&format!("deployment/{name} created\n"));
    wait::follow_deployment(&client, global, &name, args.timeout).await
}

/// What a new Deployment waits for, if it says so at once; nobody else tells whoever does not wait for it.
pub(super) async fn waits(client: &Client, global: &Global, name: &str) -> String {
    let trouble = wait::trouble::<Deployment>(client, global, name).await;
    trouble.map(|trouble| format!("; it waits: {trouble}")).unwrap_or_default()
}

/// A profile that is named beside `--type` is of that type. One that is not there yet may come.
async fn check_type(client: &Client, global: &Global, name: &str, type_: ProfileType) -> anyhow::Result<()> {
    let profile = Api::<BootProfile>::namespaced(client.clone(), &global.namespace).get_opt(name).await?;
    match profile.map(|profile| profile.spec.type_name()) {
        Some(is) if is != type_.name() => {
            bail!("--type {}: profile {name} is of type {is}; leave one of the two flags out", type_.name())
        }
        _ => Ok(()),
    }
}

/// The only profile of a type and the machine's architecture; several or none are listed.
async fn only_profile(client: &Client, global: &Global, args: &DeploymentArgs, type_: ProfileType) -> anyhow::Result<String> {
    let profiles: Vec<BootProfile> = Api::namespaced(client.clone(), &global.namespace).list(&ListParams::default()).await?.items;
    let architecture = architecture_of(client, global, args).await?;
    let wanted = type_.name();
    let of_type: Vec<&BootProfile> = profiles.iter().filter(|profile| profile.spec.type_name() == wanted).collect();
    let fitting: Vec<&&BootProfile> =
        of_type.iter().filter(|profile| architecture.is_none_or(|architecture| profile.spec.architecture == architecture)).collect();
    let names = |list: &[&BootProfile]| {
        list.iter().map(|profile| format!("{} ({})", profile.name_any(), profile.spec.architecture)).collect::<Vec<_>>().join(", ")
    };
    match fitting.as_slice() {
        [one] => Ok(one.name_any()),
        [] if of_type.is_empty() => {
            let all: Vec<String> =
                profiles.iter().map(|profile| format!("{} ({})", profile.name_any(), profile.spec.type_name())).collect();
            let known = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            bail!("no profile is of type {wanted}; there are: {known}. Create one with athanorctl create boot --type {wanted}")
        }
        [] => bail!("no {wanted} profile is for this machine's architecture; there are: {}. Give --profile", names(&of_type)),
        _ => bail!("several {wanted} profiles fit: {}. Give --profile", names(&of_type)),
    }
}

async fn architecture_of(client: &Client, global: &Global, args: &DeploymentArgs) -> anyhow::Result<Option<Architecture>> {
    let machines: Vec<Machine> = Api::namespaced(client.clone(), &global.namespace).list(&ListParams::default()).await?.items;
    let meant = machines.iter().find(|machine| {
        let by_mac = args.mac.is_some_and(|mac| machine.spec.interfaces.iter().any(|interface| interface.mac == mac));
        by_mac || (args.machine.is_some() && machine.metadata.name == args.machine)
    });
    Ok(meant.and_then(|machine| machine.spec.architecture))
}

/// Whether a profile says that nothing can run it, and why.
pub(crate) fn unsupported(profile: &BootProfile) -> Option<String> {
    let status = profile.status.as_ref()?;
    let condition = conditions::find(&status.conditions, types::SUPPORTED)?;
    (condition.status == "False").then(|| condition.message.clone())
}
