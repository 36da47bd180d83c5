//! The API's client: fills it, changes something and looks when that is served, accepts newcomers.

use std::{
    collections::HashSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use athanor_crds::{BootProfile, Deployment, Machine, MachineState, Subnet, names};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};

use super::SERVER;

/// How many calls are under way at once, as a pipeline would have it.
const AT_ONCE: usize = 32;
/// When a change that is not served is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// When nothing was written to Machines or Deployments for so long, what is waited for does not come.
const SILENCE: Duration = Duration::from_secs(60);
/// How often it is looked: the measure cannot be finer.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let client = Client::try_default().await?;
        match *args {
            ["fill", machines] => fill(&client, machines.parse()?).await,
            ["change", machines, changes] => change(&client, machines.parse()?, changes.parse()?).await,
            ["accept", newcomers] => accept(&client, newcomers.parse()?).await,
            _ => bail!("fill, change or accept"),
        }
    })
}

fn object<K: DeserializeOwned>(kind: &str, name: &str, spec: &Value) -> anyhow::Result<K> {
    let object = json!({ "apiVersion": athanor_crds::API_VERSION, "kind": kind, "metadata": { "name": name }, "spec": spec });
    Ok(serde_json::from_value(object)?)
}

async fn fill(client: &Client, count: usize) -> anyhow::Result<()> {
    let params = PostParams::default();
    let newcomers = json!({ "perMinute": 10_000, "total": 100_000, "whileUnaccepted": "Wait" });
    let spec = json!({
        "cidr": "10.64.0.0/15", "mode": "dhcp", "ranges": [{ "from": "10.64.1.0", "to": "10.65.254.255" }], "newcomers": newcomers
    });
    Api::<Subnet>::all(client.clone()).create(&params, &object("Subnet", "fleet", &spec)?).await?;
    let profiles: Api<BootProfile> = Api::namespaced(client.clone(), "default");
    for name in ["one", "two"] {
        let spec = json!({ "kernel": format!("http://{SERVER}/{name}"), "live": {} });
        profiles.create(&params, &object("BootProfile", name, &spec)?).await?;
    }
    let (machines, deployments): (Api<Machine>, Api<Deployment>) =
        (Api::namespaced(client.clone(), "default"), Api::namespaced(client.clone(), "default"));
    let began = Instant::now();
    let create = async {
        stream::iter(0..count)
            .map(|number| {
                let (machines, deployments, params) = (&machines, &deployments, &params);
                async move {
                    let mac = format!("52:54:0a:{:02x}:{:02x}:{:02x}", number >> 16 & 0xff, number >> 8 & 0xff, number & 0xff);
                    let spec = json!({ "accepted": true, "architecture": "amd64", "interfaces": [{ "mac": mac, "boot": true }] });
                    let mut machine: Machine = object("Machine", &format!("m{number}"), &spec)?;
                    machine.labels_mut().insert(athanor_crds::machine::SUBNET_LABEL.to_owned(), "fleet".to_owned());
                    machines.create(params, &machine).await?;
                    let spec = json!({ "machine": { "name": format!("m{number}") }, "profile": { "name": "one" } });
                    deployments.create(params, &object("Deployment", &format!("d{number}"), &spec)?).await?;
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        anyhow::Ok(began.elapsed())
    };
    let planned = async {
        let mut changes = pin!(watcher(deployments.clone(), watcher::Config::default()).default_backoff().applied_objects());
        let mut claimed = HashSet::new();
        while claimed.len() < count {
            let next = tokio::time::timeout(SILENCE, changes.next()).await;
            let Ok(Some(changed)) = next else { bail!("{} of {count} have a plan, and nothing happens", claimed.len()) };
            if let Ok(deployment) = changed
                && deployment.status.as_ref().is_some_and(|status| status.conditions.iter().any(|c| c.reason == "WaitingForBoot"))
            {
                claimed.insert(deployment.name_any());
            }
        }
        anyhow::Ok(began.elapsed())
    };
    let (created, planned) = tokio::try_join!(create, planned)?;
    println!("created {}\nplanned {}", created.as_secs_f64(), planned.as_secs_f64());
    Ok(())
}

/// Changes one Deployment after the other, all over the fleet.
async fn change(client: &Client, count: usize, changes: usize) -> anyhow::Result<()> {
    let (plans, deployments): (Api<Secret>, Api<Deployment>) =
        (Api::namespaced(client.clone(), names::PLANS_NAMESPACE), Api::namespaced(client.clone(), "default"));
    let mut took = Vec::new();
    for sample in 0..changes {
        // A prime step goes all over the fleet.
        let number = sample * 7919 % count;
        let plan = plans.get(&names::plan_secret("default", &format!("m{number}"))).await?;
        let bytes = plan.data.as_ref().and_then(|data| data.get(names::PLAN_SECRET_KEY)).context("a plan without a plan")?;
        let token = serde_json::from_slice::<Value>(&bytes.0)?["token"].as_str().context("a plan without a token")?.to_owned();
        let before = etag(&token)?;
        let began = Instant::now();
        let patch = json!({ "spec": { "profile": { "name": "two" } } });
        deployments.patch(&format!("d{number}"), &PatchParams::default(), &Patch::Merge(patch)).await?;
        while etag(&token)? == before {
            anyhow::ensure!(began.elapsed() < PATIENCE, "a change was not served within {} s", PATIENCE.as_secs());
            tokio::time::sleep(LOOK).await;
        }
        took.push(began.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    println!("p50 {}\np99 {}", at(50), at(99));
    Ok(())
}

/// What a machine's script is now. HEAD is no boot.
fn etag(token: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((SERVER, 7481))?;
    stream.write_all(format!("HEAD /b/{token}/boot.ipxe HTTP/1.1\r\nhost: {SERVER}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let found = text.lines().find_map(|line| line.strip_prefix("etag: "));
    Ok(found.with_context(|| format!("no script: {text}"))?.to_owned())
}

/// Accepts every newcomer whose inventory is known, until so many are free.
async fn accept(client: &Client, count: usize) -> anyhow::Result<()> {
    let machines: Api<Machine> = Api::namespaced(client.clone(), "default");
    let selector = format!("{}=true", athanor_crds::machine::SELF_REGISTERED_LABEL);
    let config = watcher::Config::default().labels(&selector);
    let mut changes = pin!(watcher(machines.clone(), config).default_backoff().applied_objects());
    let (mut accepted, mut free, mut began) = (HashSet::new(), HashSet::new(), None);
    while free.len() < count {
        let next = tokio::time::timeout(SILENCE, changes.next()).await;
        let Ok(Some(changed)) = next else { bail!("{} of {count} newcomers are free, and nothing happens", free.len()) };
        let Ok(machine) = changed else { continue };
        let (name, status) = (machine.name_any(), machine.status.clone().unwrap_or_default());
        began.get_or_insert_with(Instant::now);
        let known = status.hardware.is_some_and(|hardware| hardware.serial.is_some());
        if !machine.spec.accepted && known && accepted.insert(name.clone()) {
            let (machines, name) = (machines.clone(), name.clone());
            tokio::spawn(async move {
                let patch = Patch::Merge(json!({ "spec": { "accepted": true } }));
                if let Err(error) = machines.patch(&name, &PatchParams::default(), &patch).await {
                    eprintln!("{name} is not accepted: {error}");
                }
            });
        }
        if known_and_free(&machine) {
            free.insert(name);
        }
    }
    // The first was seen a moment after it asked, which is what the aim can bear.
    println!("enrolled {}", began.map_or(0.0, |began| began.elapsed().as_secs_f64()));
    Ok(())
}

fn known_and_free(machine: &Machine) -> bool {
    let status = machine.status.as_ref();
    status
        .is_some_and(|status| status.state == Some(MachineState::Available) && status.hardware.as_ref().is_some_and(|h| h.serial.is_some()))
}
