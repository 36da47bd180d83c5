//! `start services`: API, controllers and boot plane in one process, wired exactly as they are wired in a cluster.

mod access;
mod cluster;
mod effect;
mod health;

use std::{
    io::IsTerminal as _,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use athanor_apiserver::{ApiServer, Identity, OpenError, Pki, Tokens};
use athanor_boot_agent::{Options, interfaces};
use athanor_crds::{Subnet, SubnetSpec, rights::Role, subnet::Mode};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

use self::cluster::until;
use self::health::HealthArgs;
pub(crate) use self::{
    access::{admin_kubeconfig, context_name},
    cluster::{AgentArgs, OperatorArgs, agent, operator},
    health::{AskArgs, ask},
};
use crate::config::Config;

/// The label on Subnets that came out of the configuration file: one that leaves the file leaves the API.
const FROM_CONFIG: &str = "metal.athanor.dev/from-config";
/// Who manages them.
const CONFIG_MANAGER: &str = "athanor-config";
/// How long a process that was killed may take to let go of the store.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// How soon the store is tried again: a start must not feel it.
const STORE_AGAIN: Duration = Duration::from_millis(50);

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// A file, a port or the store cannot be had.
pub(crate) async fn start(mut config: Config, file: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let data = &config.data_dir;
    access::keep_private();
    access::allow_many_files();
    access::make_folder(data)?;
    access::refuse_a_lost_store(data)?;
    access::tell_what_is_lost(data);
    let server = open_store(&access::store(data)).await?;
    let installation = access::installation(data)?;
    let pki = Pki::open(&data.join("pki"), &addresses())?;
    let listener = listen(&config).await?;
    // Port 0 is any that is free.
    config.api.listen = listener.local_addr()?;
    let tokens = access::ensure_admin(&config.data_dir, &pki, config.api.listen)?;
    let (stop, stopped) = watch::channel(false);
    let (operator_metrics, agent_metrics) = (athanor_operator::Metrics::default(), athanor_boot_agent::Metrics::default());
    let mut registry = Registry::default();
    operator_metrics.register(&mut registry);
    agent_metrics.register(&mut registry);
    let (is_ready, told) = watch::channel(false);
    health::tell(&HealthArgs::on(config.metrics.listen), registry, told).context("metrics.listen")?;
    let client = |role| Client::new(server.service(Identity { role }), "default");
    let applied = apply_subnets(&client(Role::Admin), &config).await?;

    let api = tokio::spawn(serve_api(server.clone(), listener, pki, tokens, until(stopped.clone())));
    let operator = tokio::spawn(athanor_operator::run(client(Role::Operator), operator_metrics, until(stopped.clone())));
    let options = Options {
        node: config.node.clone().unwrap_or_else(hostname),
        installation,
        installed_by: None,
        data_dir: config.data_dir.clone(),
        media_dirs: config.media_dirs.clone(),
        loader_dirs: config.loader_dirs.clone(),
        ramdisk_dir: Some(config.ramdisk_dir.clone()),
        http_port: config.http.port,
        in_cluster: false,
    };
    let (ready, serving) = oneshot::channel();
    let mut agent = tokio::spawn(athanor_boot_agent::run(options, client(Role::BootAgent), agent_metrics, until(stopped), ready));
    tokio::select! {
        serving = serving => if serving.is_err() { return Err((&mut agent).await?.err().map_or_else(|| anyhow::anyhow!("the boot plane ended"), Into::into)) },
        ended = &mut agent => { ended??; bail!("the boot plane ended"); }
    }
    let _ = is_ready.send(true);
    banner(&config, file, &applied, began);
    wait_for_signal().await?;
    tracing::info!("stopping");
    let _ = stop.send(true);
    // What is under way has a moment; what was acknowledged is on disk.
    let _ = tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(api, operator, agent) }).await;
    Ok(())
}

/// Opens the store. Who was killed a moment ago may hold it for a moment still.
async fn open_store(path: &Path) -> anyhow::Result<Arc<ApiServer>> {
    let until = Instant::now() + STORE_PATIENCE;
    loop {
        match ApiServer::open(path) {
            Err(OpenError::InUse(_)) if Instant::now() < until => tokio::time::sleep(STORE_AGAIN).await,
            opened => return Ok(opened?),
        }
    }
}

async fn serve_api(server: Arc<ApiServer>, listener: TcpListener, pki: Pki, tokens: Tokens, stop: impl Future<Output = ()>) {
    let effect = effect::of_deployments(Client::new(server.service(Identity { role: Role::Operator }), "default"));
    server.serve(listener, &pki, Arc::new(tokens), effect, stop).await;
}

async fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let address = config.api.listen;
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let holder = athanor_boot_agent::holder("tcp", address.port()).map(|holder| format!(" by {holder}")).unwrap_or_default();
            anyhow::anyhow!("cannot serve the API on {address}: port {} is in use{holder}. Stop it, or set api.listen", address.port())
        }
        _ => anyhow::anyhow!("cannot serve the API on {address}: {error}; set api.listen to an address of this machine"),
    })
}

/// The addresses that the server's certificate is for.
fn addresses() -> Vec<IpAddr> {
    let own = interfaces().into_iter().flat_map(|interface| interface.addresses).map(|(ip, _)| IpAddr::V4(ip));
    let mut all: Vec<IpAddr> =
        own.chain([IpAddr::V4(Ipv4Addr::LOCALHOST), "::1".parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase();
    // Objects are named by it.
    if athanor_apiserver::is_name(&name) { name } else { "athanor".to_owned() }
}

/// The Subnets that there are, and what the file took back or away.
struct Applied {
    subnets: Vec<(String, SubnetSpec)>,
    /// Namespaces for newcomers that there were not yet.
    namespaces: Vec<String>,
    /// Names of those that left the file.
    removed: Vec<String>,
    /// Fields that somebody had changed since, in words.
    taken_back: Vec<String>,
}

/// The Subnets of the file become objects; those that the file had before and has no more go.
async fn apply_subnets(client: &Client, config: &Config) -> anyhow::Result<Applied> {
    let namespaces = ensure_namespaces(client, config).await?;
    let api: Api<Subnet> = Api::all(client.clone());
    let mut taken_back = Vec::new();
    for (name, spec) in &config.written {
        let object = json!({
            "apiVersion": athanor_crds::API_VERSION, "kind": "Subnet",
            "metadata": { "name": name, "labels": { FROM_CONFIG: "true" } }, "spec": spec
        });
        let params = PatchParams::apply(CONFIG_MANAGER);
        let applied = match api.patch(name, &params, &Patch::Apply(&object)).await {
            // The file is what its owner reads at the next start; what somebody changed in between is said, not kept.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                taken_back.push(format!("subnets.{name}: the configuration wins over a change since. {}", status.message));
                api.patch(name, &params.force(), &Patch::Apply(&object)).await
            }
            other => other,
        };
        applied.map_err(|error| match error {
            kube::Error::Api(status) => anyhow::anyhow!("subnets.{name}: {}", status.message),
            other => anyhow::Error::from(other),
        })?;
    }
    let ours = api.list(&ListParams::default().labels(FROM_CONFIG)).await?.items;
    let names = ours.into_iter().filter_map(|subnet| subnet.metadata.name);
    let removed: Vec<String> = names.filter(|name| !config.subnets.contains_key(name)).collect();
    for old in &removed {
        api.delete(old, &DeleteParams::default())
            .await
            .with_context(|| format!("subnets.{old}: it left the configuration, but cannot be deleted"))?;
    }
    let all = api.list(&ListParams::default()).await?.items;
    let subnets = all.into_iter().map(|subnet| (subnet.metadata.name.unwrap_or_default(), subnet.spec)).collect();
    Ok(Applied { subnets, namespaces, removed, taken_back })
}

/// Where the file lets newcomers register, they can: whoever writes it need not have kubectl. Returns what was made.
async fn ensure_namespaces(client: &Client, config: &Config) -> anyhow::Result<Vec<String>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let mut made = Vec::new();
    for (name, spec) in &config.subnets {
        let namespace = &spec.newcomers.namespace;
        if api.get_opt(namespace).await?.is_some() {
            continue;
        }
        let object = serde_json::from_value(json!({ "metadata": { "name": namespace } }))?;
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("subnets.{name}.newcomers.namespace: {namespace} cannot be created"))?;
        made.push(namespace.clone());
    }
    Ok(made)
}

/// Names of Subnets that overlap, two by two.
fn overlaps(subnets: &[(String, SubnetSpec)]) -> Vec<(&str, &str)> {
    let pairs = subnets.iter().enumerate().flat_map(|(index, one)| subnets[index + 1..].iter().map(move |other| (one, other)));
    pairs.filter(|(one, other)| one.1.overlaps(&other.1)).map(|(one, other)| (one.0.as_str(), other.0.as_str())).collect()
}

fn banner(config: &Config, file: &Path, applied: &Applied, began: Instant) {
    let mut out = format!("athanor {}\n", env!("CARGO_PKG_VERSION"));
    let elsewhere = config.data_dir != crate::config::default_data_dir();
    let option = if elsewhere { format!(" --config {}", file.display()) } else { String::new() };
    out.push_str(&format!("  api    https://{:<24} athanor kubeconfig{option} > ~/.kube/athanor\n", config.api.listen));
    let served = served(&applied.subnets);
    for (interface, spec, address) in &served {
        let ranges: Vec<String> = spec.ranges.iter().map(|range| format!("{}–{}", range.from, range.to)).collect();
        let pool = if ranges.is_empty() { String::new() } else { format!(", pool {}", ranges.join(" ")) };
        out.push_str(&format!("  dhcp   {:<32} mode {}{pool}\n", format!("{interface} {}", spec.cidr), spec.mode));
        out.push_str(&format!("  tftp   {address}:69\n  http   http://{address}:{}\n", config.http.port));
    }
    let relayed: Vec<&SubnetSpec> = applied.subnets.iter().map(|(_, spec)| spec).filter(|spec| spec.is_served_through_relays()).collect();
    for spec in relayed.iter().filter(|spec| served.iter().all(|(_, other, _)| other != *spec)) {
        out.push_str(&format!("  dhcp   {:<32} mode {}\n", format!("relays {}", spec.cidr), spec.mode));
    }
    out.push_str(&format!("  metrics http://{}/metrics\n", config.metrics.listen));
    for name in &applied.removed {
        out.push_str(&format!("  note   Subnet {name} left the configuration and was removed\n"));
    }
    for made in &applied.namespaces {
        out.push_str(&format!("  note   namespace {made} was created for newcomers\n"));
    }
    for (one, other) in overlaps(&applied.subnets) {
        out.push_str(&format!("  note   Subnets {one} and {other} overlap: change one of the two (athanorctl get subnets)\n"));
    }
    for (name, why) in applied.subnets.iter().filter_map(|(name, spec)| Some((name, unserved(spec)?))) {
        out.push_str(&format!("  note   subnets.{name}: {why}\n"));
    }
    for told in &applied.taken_back {
        out.push_str(&format!("  note   {told}\n"));
    }
    for folder in config.media_dirs.iter().filter(|folder| !folder.exists()) {
        out.push_str(&format!("  note   mediaDirs: {} does not exist yet; put ISOs there\n", folder.display()));
    }
    let next = if served.is_empty() && relayed.is_empty() {
        "No interface of this machine serves a Subnet, so no machine is met: add one to subnets (athanor config detect), or see athanorctl get subnets -o wide"
    } else {
        "Plug a machine in and watch: athanorctl get machines -w"
    };
    out.push_str(&format!("ready in {:.1} s. {next}\n", began.elapsed().as_secs_f64()));
    crate::output::out(&out);
}

/// What keeps a Subnet from being served here, where its own words do: `athanorctl get subnets` tells it, too, to who looks.
fn unserved(spec: &SubnetSpec) -> Option<String> {
    if spec.mode == Mode::Off {
        return None;
    }
    if !spec.is_supported() {
        return Some("this version serves IPv4 only; set mode: off".to_owned());
    }
    let here: Vec<String> = interfaces().into_iter().map(|interface| interface.name).collect();
    let absent: Vec<&str> = spec.interfaces.iter().filter(|name| !here.contains(name)).map(String::as_str).collect();
    (!absent.is_empty()).then(|| format!("interfaces: this machine has no {}, but {}", absent.join(", "), here.join(", ")))
}

/// The interfaces that serve each Subnet, and the address that each answers from.
fn served(subnets: &[(String, SubnetSpec)]) -> Vec<(String, &SubnetSpec, Ipv4Addr)> {
    let mut rows = Vec::new();
    for interface in interfaces().into_iter().filter(|interface| interface.up && interface.mac.is_some()) {
        let Some((first, _)) = interface.addresses.first() else { continue };
        let addresses: Vec<IpAddr> = interface.addresses.iter().map(|(ip, _)| IpAddr::V4(*ip)).collect();
        // The address in the Subnet; for machines behind a relay the first.
        let own = |spec: &SubnetSpec| interface.addresses.iter().map(|(ip, _)| *ip).find(|ip| spec.cidr.contains(&IpAddr::V4(*ip)));
        let here = subnets.iter().map(|(_, spec)| spec).filter(|spec| spec.is_served_on(&interface.name, &addresses));
        rows.extend(here.map(|spec| (interface.name.clone(), spec, own(spec).unwrap_or(*first))));
    }
    rows
}

async fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Logs go to standard error: for people on a terminal, as JSON elsewhere when asked to.
pub(crate) fn start_logging(level: &str, json: bool) -> anyhow::Result<()> {
    use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};
    let filter =
        EnvFilter::try_new(level).with_context(|| format!("--log {level:?} is no level; try info, debug or athanor_boot_agent=debug"))?;
    // kube's client prints a body that it cannot read, and bodies hold Secrets.
    let filter = filter.add_directive("kube_client::client=error".parse()?);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).init();
    } else {
        registry.with(fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_target(false).with_writer(std::io::stderr)).init();
    }
    Ok(())
}

/// Whether a path can be used as a data folder by who we are; for messages.
pub(crate) fn data_dir_of(config: Option<&Path>) -> anyhow::Result<std::path::PathBuf> {
    match config {
        Some(path) => Ok(crate::config::load(path)?.data_dir),
        None => Ok(std::env::var_os("ATHANOR_DATA_DIR").map_or_else(crate::config::default_data_dir, Into::into)),
    }
}
