//! `wait`, and what `deploy --wait` and `delete --wait` tell while they wait.

use std::{
    fmt,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::bail;
use athanor_crds::{
    BootProfile, Deployment, Machine, MachineState,
    conditions::{self, reasons, types},
    deployment::PENDING,
};
use clap::{Args, builder::NonEmptyStringValueParser};
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Global, connect, deploy, get, kinds::Kind, out};

/// How long the services may take to look at a new object; its creation is told without their word then.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// How often it is looked at.
const SOON: Duration = Duration::from_millis(50);
/// What a Deployment waits for that its creator may not have meant.
const HOLDS_UP: [&str; 11] = [
    reasons::UNREADABLE,
    reasons::UNKNOWN_MACHINE,
    reasons::MACHINE_TAKEN,
    reasons::MACHINE_NOT_FREE,
    reasons::NO_FREE_MACHINE,
    reasons::UNKNOWN_PROFILE,
    reasons::WRONG_ARCHITECTURE,
    reasons::NOT_SUPPORTED,
    reasons::SECRET_UNUSABLE,
    reasons::ADDRESS_CONFLICT,
    reasons::CONTENT_UNAVAILABLE,
];
/// How often an object is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// What: machine, deployment, boot, subnet; or KIND/NAME
    kind: String,
    /// Which
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// For what: ready, deleted, condition=TYPE, state=STATE
    #[arg(long = "for", default_value = "ready", value_name = "WHAT")]
    what: Goal,
    /// How long
    #[arg(long, default_value = "10m", value_parser = duration)]
    timeout: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    Deleted,
    Condition(String),
    State(String),
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.split_once('=')) {
            ("ready", _) => Ok(Self::Condition(types::READY.to_owned())),
            ("deleted", _) => Ok(Self::Deleted),
            (_, Some(("condition", type_))) if !type_.is_empty() => Ok(Self::Condition(type_.to_owned())),
            (_, Some(("state", state))) if !state.is_empty() => known_state(state).map(Self::State),
            _ => Err("write ready, deleted, condition=TYPE or state=STATE".to_owned()),
        }
    }
}

/// A state by its name, in whatever letters: one that does not exist would be waited for until time is up.
fn known_state(state: &str) -> Result<String, String> {
    let known: Vec<String> = MachineState::KNOWN.iter().map(ToString::to_string).chain([PENDING.to_owned()]).collect();
    let found = known.iter().find(|known| known.eq_ignore_ascii_case(state)).cloned();
    found.ok_or_else(|| format!("this version knows no state {state}; it knows {}", known.join(", ")))
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => f.write_str("deleted"),
            Self::Condition(type_) if type_ == types::READY => f.write_str("ready"),
            Self::Condition(what) | Self::State(what) => f.write_str(what),
        }
    }
}

/// `90s`, `10m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write it like 90s, 10m or 2h".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(wrong)
}

/// `wait`.
///
/// # Errors
/// The API says no, or what is waited for makes no sense.
pub(crate) async fn run(global: &Global, args: WaitArgs) -> anyhow::Result<ExitCode> {
    let (kind, name) = Kind::and_name(&args.kind, args.name.as_deref())?;
    let client = connect::client(global).await?;
    let api = get::api(&client, global, &kind);
    let deadline = Instant::now() + args.timeout;
    let mut said = String::new();
    loop {
        let object = api.get_opt(&name).await?.map(serde_json::to_value).transpose()?;
        let (done, now) = judge(&args.what, object.as_ref());
        if done {
            out(&format!("{}/{} {now}\n", kind.singular, name));
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() >= deadline {
            eprintln!("{}/{} is not {} after {} s: {now}", kind.singular, name, args.what, args.timeout.as_secs());
            return Ok(ExitCode::FAILURE);
        }
        if said != now {
            eprintln!("{}/{}: {now}", kind.singular, name);
            said = now;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether it is so far, and how far it is.
fn judge(goal: &Goal, object: Option<&Value>) -> (bool, String) {
    let (type_, object) = match (goal, object) {
        (Goal::Deleted, None) => return (true, "deleted".to_owned()),
        (Goal::Deleted, Some(_)) => return (false, "still there".to_owned()),
        (_, None) => return (false, "does not exist".to_owned()),
        (Goal::State(state), Some(object)) => {
            let is = object["status"]["state"].as_str().unwrap_or("unknown");
            return (is.eq_ignore_ascii_case(state), is.to_owned());
        }
        (Goal::Condition(type_), Some(object)) => (type_, object),
    };
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(type_)));
    let Some(condition) = found else { return (false, format!("has no condition {type_} yet")) };
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    (condition["status"] == "True", format!("{}: {}", text("reason"), text("message")))
}

/// Tells how a Deployment goes until it runs, cannot run, or time is up.
pub(crate) async fn follow_deployment(client: &Client, global: &Global, name: &str, timeout: Duration) -> anyhow::Result<ExitCode> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &global.namespace);
    let profiles: Api<BootProfile> = Api::namespaced(client.clone(), &global.namespace);
    let (start, mut said) = (Instant::now(), String::new());
    loop {
        let Some(deployment) = deployments.get_opt(name).await? else { bail!("deployment/{name} was deleted meanwhile") };
        if let Some(profile) = &deployment.spec.profile.name
            && let Some(why) = profiles.get_opt(profile).await?.as_ref().and_then(deploy::unsupported)
        {
            eprintln!("deployment/{name} will not run: profile {profile}: {why}");
            return Ok(ExitCode::FAILURE);
        }
        let status = deployment.status.clone().unwrap_or_default();
        let ready = conditions::find(&status.conditions, types::READY);
        if let Some(condition) = ready.filter(|condition| condition.status == "True") {
            let seconds = start.elapsed().as_secs();
            let address = status.address.map(|address| format!(" at {address}")).unwrap_or_default();
            out(&format!("  {:<12} {}{address}; took {}m{:02}s\n", "ready", condition.message, seconds / 60, seconds % 60));
            return Ok(ExitCode::SUCCESS);
        }
        let line = match ready {
            Some(condition) => {
                let machine = status.machine.map(|machine| format!("{machine}  ")).unwrap_or_default();
                format!("  {:<12} {machine}{}\n", status.state.unwrap_or_default().to_lowercase(), condition.message)
            }
            None => String::new(),
        };
        if line != said {
            out(&line);
            said = line;
        }
        if start.elapsed() >= timeout {
            let message = ready.map(|condition| condition.message.clone()).unwrap_or_default();
            eprintln!("deployment/{name} does not run after {} s: {message}", timeout.as_secs());
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Tells how a machine is given back until it is free, or somebody else's.
pub(crate) async fn follow_release(
    client: &Client,
    global: &Global,
    deployment: &Deployment,
    machine: &str,
    timeout: Duration,
) -> anyhow::Result<()> {
    let machines: Api<Machine> = Api::namespaced(client.clone(), &global.namespace);
    let (start, mut said) = (Instant::now(), String::new());
    loop {
        let Some(object) = machines.get_opt(machine).await? else { bail!("machine/{machine} was deleted meanwhile") };
        if let Some(claim) = object.spec.claim_ref.as_ref().filter(|claim| Some(&claim.instance_id) != deployment.spec.instance_id.as_ref())
        {
            out(&format!("  {:<12} {machine}  and taken by Deployment {}\n", "released", claim.name));
            return Ok(());
        }
        let status = object.status.clone().unwrap_or_default();
        let message = conditions::find(&status.conditions, types::READY).map(|condition| condition.message.clone()).unwrap_or_default();
        let state = status.state.map(|state| state.to_string().to_lowercase()).unwrap_or_default();
        let line = format!("  {state:<12} {machine}  {message}\n");
        if line != said {
            out(&line);
            said = line;
        }
        if object.spec.claim_ref.is_none() && state != "releasing" {
            return Ok(());
        }
        if start.elapsed() >= timeout {
            bail!("machine/{machine} is not free after {} s: {message}", timeout.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What a new object of a kind may say of itself that its creator should know at once.
pub(super) trait FirstWord {
    /// Its conditions; none until it was looked at.
    fn conditions(&self) -> &[Condition];
    /// Whether this is no verdict yet.
    fn is_early(ready: &Condition) -> bool;
    /// Whether it is fine so far.
    fn is_fine(ready: &Condition) -> bool;
}

impl FirstWord for BootProfile {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
    fn is_early(ready: &Condition) -> bool {
        ready.reason == reasons::CONTENT_UNKNOWN
    }
    fn is_fine(ready: &Condition) -> bool {
        ready.status == "True"
    }
}

impl FirstWord for Deployment {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
    fn is_early(ready: &Condition) -> bool {
        ready.reason == reasons::CLAIMED
    }
    fn is_fine(ready: &Condition) -> bool {
        !HOLDS_UP.contains(&ready.reason.as_str())
    }
}

impl FirstWord for Machine {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
    fn is_early(_: &Condition) -> bool {
        false
    }
    fn is_fine(ready: &Condition) -> bool {
        ![reasons::DUPLICATE_MAC, reasons::ADDRESS_CONFLICT, reasons::NO_ADDRESS].contains(&ready.reason.as_str())
    }
}

/// What stands in the way of an object that was just created, if the services say so at once. It is created, whatever comes of asking.
pub(super) async fn trouble<K>(client: &Client, global: &Global, name: &str) -> Option<String>
where
    K: FirstWord + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + fmt::Debug,
{
    let objects: Api<K> = Api::namespaced(client.clone(), &global.namespace);
    let (start, mut said) = (Instant::now(), None);
    while start.elapsed() < FIRST_WORD {
        let object = objects.get_opt(name).await.ok()??;
        let ready = conditions::find(object.conditions(), types::READY).filter(|ready| !K::is_early(ready));
        // What it names may have been created a moment before it, and not be known yet.
        match ready {
            Some(ready) if K::is_fine(ready) => return None,
            Some(ready) if said.is_some() => return Some(ready.message.clone()),
            ready => said = ready.map(|ready| ready.message.clone()),
        }
        tokio::time::sleep(if said.is_some() { LOOK } else { SOON }).await;
    }
    said
}
