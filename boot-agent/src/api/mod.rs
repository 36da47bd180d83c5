//! The one module that knows Kubernetes: plans, Subnets and profiles in, newcomers, BootReports and a Lease out.

mod lease;
mod lending;
mod media;
mod newcomers;
mod reports;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use athanor_crds::{BootProfile, Subnet, names};
use athanor_plan::{BootPlan, Snapshot, Source, boot_plan::FORMAT, snapshot::NamedSubnet};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt as _,
    api::PostParams,
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use tokio::sync::oneshot;

pub(crate) use lending::Order;
pub(crate) use media::Profiles;

use crate::{
    content, handover, http,
    kept::{self, Kept},
    link, loaders,
    metrics::Metrics,
    options::{AgentError, Options},
    port,
    shared::{Look, Shared},
};

/// Who wrote what agents create, for whoever applies the same field later.
const MANAGER: &str = "athanor-boot-agent";

/// A creation in the agents' name.
fn creation() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// Changes that come together become one snapshot.
const GATHER: Duration = Duration::from_millis(5);
/// How long they are gathered while there is always another: what came first is waited for.
const GATHER_AT_MOST: Duration = Duration::from_millis(50);
/// How often the files of orders are looked at. A look costs microseconds while an image stays the same.
const CONTENT_LOOK: Duration = Duration::from_secs(5);
/// Of how many orders at once: one image on a share that hangs holds up few others.
const CONTENT_AT_ONCE: usize = 16;
/// How long is waited before everything is listed anew: connections that break, break together.
const BEFORE_LISTS: Duration = Duration::from_secs(1);
/// How long the first lists may take where an earlier agent kept what it knew.
const FIRST_LISTS_KEPT: Duration = Duration::from_secs(5);
/// How long they may take otherwise.
const FIRST_LISTS: Duration = Duration::from_secs(30);

#[allow(clippy::large_enum_variant, reason = "one at a time, and gone at once")]
enum Change {
    Plan(Event<Secret>),
    /// One that cannot be read, as another version may have stored it, keeps nobody from the others.
    Subnet(Event<DeserializeGuard<Subnet>>),
    Profile(Event<DeserializeGuard<BootProfile>>),
}

/// What is known so far; it becomes a snapshot when the lists of plans and Subnets are whole. No machine waits for a profile: its plan has all of it.
#[derive(Default)]
struct World {
    plans: BTreeMap<String, Arc<BootPlan>>,
    subnets: BTreeMap<String, NamedSubnet>,
    profiles: Profiles,
    incoming_plans: BTreeMap<String, Arc<BootPlan>>,
    incoming_subnets: BTreeMap<String, NamedSubnet>,
    incoming_profiles: Profiles,
    /// A plan or a Subnet is another one than in the last snapshot.
    is_news: bool,
    plans_listed: bool,
    subnets_listed: bool,
    /// A connection broke: everything is to be listed anew.
    broke_off: bool,
}

/// Whether nobody answered: the API may be started anew with other data. One that refuses has the data that it had.
fn broke_off(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) if !matches!(error, kube::Error::Api(_)))
}

/// Runs an agent until `stop` ends. `ready` learns when it serves, or why it cannot.
///
/// # Errors
/// The API cannot be watched, or a port cannot be had.
pub async fn run(
    options: Options,
    client: Client,
    metrics: Metrics,
    stop: impl Future<Output = ()> + Send,
    ready: oneshot::Sender<()>,
) -> Result<(), AgentError> {
    let inventory = loaders::scan(&options.loader_dirs);
    loaders::tell(&inventory, &options.loader_dirs);
    let listener = port::tcp("HTTP", options.http_port, options.in_cluster)?;
    let kept = options.in_cluster.then(|| kept::load(&options.data_dir, &options.installation)).flatten();
    let (shared, orders) = Shared::new(options, inventory, metrics);
    let mut tasks = tokio::task::JoinSet::new();
    let (listed, first) = oneshot::channel();
    // Before anything is watched: what comes from the API stands, however late it comes.
    let kept = kept.map(|kept| take_kept(&shared, kept));
    tasks.spawn(watch(shared.clone(), client.clone(), listed));
    tasks.spawn(newcomers::run(shared.clone(), client.clone(), orders.newcomers));
    tasks.spawn(lending::watch(shared.clone(), client.clone()));
    tasks.spawn(lending::run(shared.clone(), client.clone(), orders.lending));
    tasks.spawn(reports::run(shared.clone(), client.clone()));
    let patience = if kept.is_some() { FIRST_LISTS_KEPT } else { FIRST_LISTS };
    match (tokio::time::timeout(patience, first).await, kept) {
        (Ok(Ok(())), _) => {}
        (_, Some(machines)) => {
            tracing::warn!(machines, "the API does not answer; serving what an earlier agent kept, and starting nothing new");
        }
        _ => return Err(AgentError::Api(format!("no list of plans and Subnets came in {} s", FIRST_LISTS.as_secs()))),
    }
    let (started, links) = oneshot::channel();
    tasks.spawn(link::run(shared.clone(), started));
    tasks.spawn(http::run(shared.clone(), listener));
    tasks.spawn(lease::run(shared.clone(), client.clone()));
    if shared.options.in_cluster {
        tasks.spawn(kept::keep(shared.clone()));
    }
    tasks.spawn(watch_content(shared.clone()));
    tasks.spawn(media::look(shared.clone()));
    tasks.spawn(loaders::watch(shared.clone()));
    links.await.map_err(|_| AgentError::Api("the interfaces were not looked at".to_owned()))??;
    let _ = ready.send(());
    stop.await;
    if shared.options.in_cluster {
        handover::drain(&shared).await;
        reports::flush(&shared, &client).await;
    }
    tasks.shutdown().await;
    Ok(())
}

/// Takes over what an earlier agent knew, to serve it until the API answers; returns how many machines that are.
fn take_kept(shared: &Shared, kept: Kept) -> usize {
    let machines = kept.plans.len();
    shared.reporter.resume(kept.started);
    shared.publish(Snapshot::new(kept.subnets, kept.plans, shared.loaders()));
    machines
}

/// Looks again and again whether every file of every order can be served: images come, go and change without telling anybody.
async fn watch_content(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(CONTENT_LOOK).await;
        let snapshot = shared.snapshot();
        let ordered = stream::iter(snapshot.plans().iter().filter(|plan| plan.order.is_some()));
        ordered.for_each_concurrent(CONTENT_AT_ONCE, |plan| check_content(&shared, plan)).await;
    }
}

async fn check_content(shared: &Arc<Shared>, plan: &Arc<BootPlan>) {
    let inside = shared.clone();
    let files: Vec<Source> = plan.order.iter().flat_map(|order| order.files.values()).cloned().collect();
    let image = image(&files);
    let found = match &image {
        Some(path) => shared.on_image(path, move || content::problems(&inside, &files)).await,
        None => Look::Done(Vec::new()),
    };
    match found {
        Look::Done(problems) => shared.reporter.problems(plan, problems),
        Look::Hangs => shared.reporter.problems(plan, vec![content::Missing::Hangs.to_string()]),
        Look::Postponed => {}
    }
}

/// The image that files are in, which is one for all of an order or profile; the machine-agent's ramdisk counts as one.
fn image(files: &[Source]) -> Option<String> {
    files.first().map(|source| match source {
        Source::Iso { path, .. } => path.clone(),
        Source::Ramdisk { .. } => "the ramdisk".to_owned(),
    })
}

/// Watches plans, Subnets and profiles for ever. What was known is served on while everything is listed anew.
async fn watch(shared: Arc<Shared>, client: Client, listed: oneshot::Sender<()>) {
    let (mut listed, mut anew, mut world) = (Some(listed), shared.lists_anew(), World::default());
    loop {
        tokio::select! {
            () = watch_one_history(&shared, client.clone(), &mut world, &mut listed) => {}
            _ = anew.changed() => {}
        }
        tokio::time::sleep(BEFORE_LISTS).await;
        anew.mark_unchanged();
    }
}

/// Swaps in a snapshot after each change, until the connection breaks.
async fn watch_one_history(shared: &Arc<Shared>, client: Client, world: &mut World, listed: &mut Option<oneshot::Sender<()>>) {
    let plans = watcher(Api::<Secret>::namespaced(client.clone(), names::PLANS_NAMESPACE), watcher::Config::default()).default_backoff();
    let subnets = watcher(Api::<DeserializeGuard<Subnet>>::all(client.clone()), watcher::Config::default()).default_backoff();
    let profiles = watcher(Api::<DeserializeGuard<BootProfile>>::all(client), watcher::Config::default()).default_backoff();
    let mut changes = stream::select_all([
        plans.map(|event| event.map(Change::Plan)).boxed(),
        subnets.map(|event| event.map(Change::Subnet)).boxed(),
        profiles.map(|event| event.map(Change::Profile)).boxed(),
    ]);
    // Of all changes since the last snapshot: one list may be whole long before the other.
    let mut touched = BTreeSet::new();
    let mut loaders = shared.loader_changes();
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(change) => touched.extend(world.take(shared, change)),
                None => return,
            },
            _ = loaders.changed() => world.is_news = true,
        }
        let since = Instant::now();
        while since.elapsed() < GATHER_AT_MOST
            && let Ok(Some(more)) = tokio::time::timeout(GATHER, changes.next()).await
        {
            touched.extend(world.take(shared, more));
        }
        let broke_off = std::mem::take(&mut world.broke_off);
        if !(world.plans_listed && world.subnets_listed) {
            if broke_off {
                return;
            }
            continue;
        }
        if std::mem::take(&mut world.is_news) {
            shared.publish(Snapshot::new(
                world.subnets.values().cloned().collect(),
                world.plans.values().cloned().collect(),
                shared.loaders(),
            ));
        }
        if let Some(listed) = listed.take() {
            let _ = listed.send(());
        }
        for name in std::mem::take(&mut touched) {
            if let Some(plan) = world.plans.get(&name) {
                shared.reporter.reconsider(plan);
                // Whether every file of the plan is there is known before a machine asks for it.
                let (shared, plan) = (shared.clone(), plan.clone());
                tokio::spawn(async move { check_content(&shared, &plan).await });
            }
        }
        if broke_off {
            return;
        }
    }
}

impl World {
    /// Takes one change in; returns the plans it touched.
    fn take(&mut self, shared: &Shared, change: Result<Change, watcher::Error>) -> Vec<String> {
        let change = match change {
            Ok(change) => change,
            Err(error) => {
                tracing::warn!(%error, "watch interrupted; serving on from memory");
                self.broke_off |= broke_off(&error);
                return Vec::new();
            }
        };
        // A list that is about to be asked for is no answer yet.
        if !matches!(change, Change::Plan(Event::Init) | Change::Subnet(Event::Init) | Change::Profile(Event::Init)) {
            shared.heard_from_api();
        }
        self.is_news |= !matches!(change, Change::Profile(_));
        match change {
            Change::Plan(Event::Apply(secret)) => {
                let name = secret.name_any();
                match read(&secret) {
                    Some(plan) => self.plans.insert(name.clone(), plan),
                    None => self.plans.remove(&name),
                };
                return vec![name];
            }
            Change::Plan(Event::Delete(secret)) => drop(self.plans.remove(&secret.name_any())),
            Change::Plan(Event::Init) => self.incoming_plans.clear(),
            Change::Plan(Event::InitApply(secret)) => {
                if let Some(plan) = read(&secret) {
                    self.incoming_plans.insert(secret.name_any(), plan);
                }
            }
            Change::Plan(Event::InitDone) => {
                self.plans = std::mem::take(&mut self.incoming_plans);
                self.plans_listed = true;
                return self.plans.keys().cloned().collect();
            }
            Change::Subnet(Event::Apply(subnet)) => {
                let subnet = known(subnet, &self.subnets, &shared.options.node);
                self.subnets.extend(subnet.map(|subnet| (subnet.name.clone(), subnet)));
            }
            Change::Subnet(Event::Delete(subnet)) => drop(self.subnets.remove(&subnet.name_any())),
            Change::Subnet(Event::Init) => self.incoming_subnets.clear(),
            Change::Subnet(Event::InitApply(subnet)) => {
                let subnet = known(subnet, &self.subnets, &shared.options.node);
                self.incoming_subnets.extend(subnet.map(|subnet| (subnet.name.clone(), subnet)));
            }
            Change::Subnet(Event::InitDone) => {
                self.subnets = std::mem::take(&mut self.incoming_subnets);
                self.subnets_listed = true;
            }
            Change::Profile(event) => self.take_profile(shared, event),
        }
        Vec::new()
    }
}

impl World {
    fn take_profile(&mut self, shared: &Shared, event: Event<DeserializeGuard<BootProfile>>) {
        match event {
            Event::Apply(profile) => self.profiles.extend([media::files(&profile)]),
            Event::Delete(profile) => drop(self.profiles.remove(&media::files(&profile).0)),
            Event::Init => return self.incoming_profiles.clear(),
            Event::InitApply(profile) => return self.incoming_profiles.extend([media::files(&profile)]),
            Event::InitDone => self.profiles = std::mem::take(&mut self.incoming_profiles),
        }
        self.profiles.retain(|_, files| !files.is_empty());
        shared.knows_profiles(&self.profiles);
    }
}

/// A Subnet as it is served: as the API has it, or as it was where that cannot be read.
fn known(subnet: DeserializeGuard<Subnet>, before: &BTreeMap<String, NamedSubnet>, node: &str) -> Option<NamedSubnet> {
    let name = subnet.name_any();
    match subnet.0 {
        Ok(subnet) => {
            // Our own other interfaces are on other wires.
            let others = || subnet.status.iter().flat_map(|status| &status.servers).filter(|server| server.node != node);
            let servers = others().filter_map(|server| server.address.parse().ok()).collect();
            let other_addresses = others().flat_map(|server| &server.other_addresses).filter_map(|one| one.parse().ok()).collect();
            Some(NamedSubnet { name, spec: subnet.spec, servers, other_addresses })
        }
        Err(error) => {
            tracing::warn!(subnet = name, %error, "Subnet cannot be read; served as before, if at all");
            before.get(&name).cloned()
        }
    }
}

pub(crate) fn read(secret: &Secret) -> Option<Arc<BootPlan>> {
    let bytes = &secret.data.as_ref()?.get(names::PLAN_SECRET_KEY)?.0;
    match serde_json::from_slice::<BootPlan>(bytes) {
        Ok(plan) if plan.format == FORMAT => Some(Arc::new(plan)),
        Ok(plan) => {
            tracing::warn!(secret = %secret.name_any(), format = plan.format, "plan of an unknown format; upgrade this agent");
            None
        }
        Err(error) => {
            tracing::warn!(secret = %secret.name_any(), %error, "plan cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sibling_is_known_by_each_of_its_addresses_and_ranked_by_the_first() {
        let server = |node: &str, address: &str, other: &str| serde_json::json!({ "node": node, "interface": "eth0", "address": address, "otherAddresses": [other], "authority": "Alone" });
        let subnet = serde_json::json!({
            "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "Subnet", "metadata": { "name": "lab" },
            "spec": { "cidr": "192.168.10.0/24", "mode": "dhcp" },
            "status": { "servers": [server("a", "192.168.10.1", "10.1.0.1"), server("b", "192.168.10.2", "10.1.0.2")] },
        });
        let lab = known(serde_json::from_value(subnet).unwrap(), &BTreeMap::new(), "a").unwrap();
        assert_eq!(lab.servers, ["192.168.10.2".parse::<std::net::Ipv4Addr>().unwrap()]);
        let ours = ["192.168.10.1", "10.1.0.1", "192.168.10.2", "10.1.0.2"].map(|address| lab.is_served_from(address.parse().unwrap()));
        assert_eq!(ours, [false, false, true, true]);
    }

    #[test]
    fn a_subnet_that_cannot_be_read_is_served_as_it_was() {
        let subnet = |cidr: serde_json::Value| {
            let subnet = serde_json::json!({
                "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "Subnet", "metadata": { "name": "lab" },
                "spec": { "cidr": cidr, "mode": "dhcp" },
            });
            serde_json::from_value(subnet).unwrap()
        };
        let lab = known(subnet("192.168.10.0/24".into()), &BTreeMap::new(), "a").unwrap();
        let before = BTreeMap::from([("lab".to_owned(), lab)]);
        let spec = before["lab"].spec.clone();
        assert_eq!(known(subnet(7.into()), &before, "a").unwrap().spec, spec);
        assert!(known(subnet(7.into()), &BTreeMap::new(), "a").is_none());
    }
}
