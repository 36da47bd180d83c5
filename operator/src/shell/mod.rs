//! The thin shell: kube's Controllers call the reconcilers, and everything a reconciler looks at wakes it.

mod agents;
mod cluster;
mod election;
mod strangers;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use athanor_crds::{
    Address, BootProfile, BootReport, Deployment, Machine, Subnet,
    conditions::{self, reasons, types},
    names,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{Stream, StreamExt as _, channel::mpsc};
use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::{
        Controller, WatchStreamExt as _,
        controller::{Action, Config},
        reflector::{ObjectRef, Store},
        watcher::{self, Event},
    },
};

use self::cluster::{Feed, KubeCluster, Stores};
use crate::{AgentSettings, Clock, Ids, Metrics, PortError, bootprofile, deployment, machine, port::Object, subnet};

/// How many objects of a kind are reconciled at once. Each waits for the API most of the time; more would only crowd it.
const CONCURRENCY: u16 = 4;
/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// After a conflict the fresh object is a moment away.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);
/// After any other error, once; then the pause doubles.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

struct Context {
    cluster: KubeCluster,
    /// How often in a row each object failed.
    retries: Mutex<HashMap<String, u32>>,
    metrics: Metrics,
}

impl Context {
    fn retries(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine's own clock, to the second: what the API stores.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }
}

/// Ids and tokens from the operating system's randomness.
struct RandomIds;

impl RandomIds {
    fn bytes<const N: usize>() -> [u8; N] {
        let mut bytes = [0; N];
        // Linux' getrandom fails only where the kernel has none at all; without it nothing here would be safe.
        #[allow(clippy::expect_used, reason = "a predictable token is worse than no operator")]
        getrandom::fill(&mut bytes).expect("the operating system has randomness");
        bytes
    }
}

impl Ids for RandomIds {
    fn id(&self, prefix: &str) -> String {
        let hex: String = Self::bytes::<6>().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{prefix}-{hex}")
    }
    fn token(&self) -> String {
        URL_SAFE_NO_PAD.encode(Self::bytes::<12>())
    }
}

/// Waits until this operator leads, under a name of its own, and runs every controller and, with settings, the agents' DaemonSet until `stop` ends or it no longer leads.
///
/// # Errors
/// It no longer leads: the process must end, for nothing that it still does may be trusted. Or the API could not be listed even once.
pub async fn lead(
    client: Client,
    me: String,
    settings: Option<AgentSettings>,
    metrics: Metrics,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), PortError> {
    use futures::FutureExt as _;
    let stop = stop.shared();
    let mut election = election::Election::new(client.clone(), me);
    tokio::select! {
        () = election.win() => {}
        () = stop.clone() => return Ok(()),
    }
    metrics.leads(true);
    let agents = async {
        match &settings {
            Some(settings) => agents::keep(&client, settings).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = run(client.clone(), metrics.clone(), stop) => {
            election.resign().await;
            ended
        }
        () = agents => Err(PortError::Unavailable("the watch of the agents' DaemonSet ended".to_owned())),
        () = election.hold() => Err(PortError::Unavailable("another operator may lead now".to_owned())),
    }
}

/// Runs every controller until `stop` ends.
///
/// # Errors
/// The API could not be listed even once.
pub async fn run(client: Client, metrics: Metrics, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), PortError> {
    use futures::FutureExt as _;
    let stop = stop.shared();
    let (cluster, feeds) = KubeCluster::start(client.clone());
    let stores = cluster.stores();
    let context = Arc::new(Context { cluster, retries: Mutex::default(), metrics });
    let machines = drive(machine_controller(&client, feeds.machines, &stores), stop.clone(), &context, |key, context| async move {
        machine::reconcile(&key.namespace, &key.name, &context.cluster, &SystemClock, &RandomIds).await
    });
    let deployments =
        drive(deployment_controller(&client, feeds.deployments, &stores), stop.clone(), &context, |key, context| async move {
            deployment::reconcile(&key.namespace, &key.name, &context.cluster, &SystemClock, &RandomIds).await.map(|()| None)
        });
    let profiles = profile_controller(&client);
    let profiles = drive(profiles, stop.clone(), &context, |key, context| async move {
        bootprofile::reconcile(&key.namespace, &key.name, &context.cluster, &SystemClock).await.map(|()| None)
    });
    let stopped = stop.clone();
    let subnets = drive(subnet_controller(&client, feeds.subnets, &stores), stop, &context, |key, context| async move {
        subnet::reconcile(&key.name, &context.cluster, &SystemClock).await.map(|()| None)
    });
    let strangers = async {
        tokio::select! {
            () = strangers::prune_for_ever(&context.cluster) => {}
            () = stopped => {}
        }
    };
    let sweep = async {
        if let Err(error) = machine::sweep(&context.cluster).await {
            tracing::warn!(%error, "plans of machines that are gone were not looked for");
        }
    };
    tokio::join!(machines, deployments, profiles, subnets, strangers, sweep);
    Ok(())
}

/// What a reconciler is called for.
struct Key {
    namespace: String,
    name: String,
}

/// Runs one controller: a reconciler's success forgets earlier failures, a failure is tried again by [`retry`].
async fn drive<K, F>(
    controller: Controller<K>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
    context: &Arc<Context>,
    reconcile: impl Fn(Key, Arc<Context>) -> F + Copy,
) where
    K: Object,
    F: Future<Output = Result<Option<Duration>, PortError>> + Send + 'static,
{
    let once = move |object: Arc<K>, context: Arc<Context>| {
        let reconciled = reconcile(Key { namespace: ns(&*object), name: object.name_any() }, context.clone());
        async move {
            let began = Instant::now();
            let reconciled = reconciled.await;
            context.metrics.reconciled(&K::kind(&()), &reconciled, began.elapsed());
            let again = reconciled?;
            context.retries().remove(&retry_key(&*object));
            Ok(again.map_or_else(Action::await_change, Action::requeue))
        }
    };
    controller.graceful_shutdown_on(stop).run(once, retry, context.clone()).for_each(|_| async {}).await;
}

fn config() -> Config {
    Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE)
}

fn ns(object: &impl Resource) -> String {
    object.meta().namespace.clone().unwrap_or_default()
}

/// A Machine looks at its owner, that one's profile, its reports and inventory, the Subnets and the other Machines.
fn machine_controller(client: &Client, feed: Feed<Machine>, stores: &Stores) -> Controller<Machine> {
    let same_name = |name: String, namespace: String| vec![ObjectRef::<Machine>::new(&name).within(&namespace)];
    let (by_profile, profiles_of) = (stores.machines.clone(), stores.deployments.clone());
    let (claims, by_mac, by_address) = (stores.machines.clone(), stores.machines.clone(), stores.machines.clone());
    Controller::for_stream(feed, stores.machines.clone())
        .with_config(config())
        .watches(Api::<BootReport>::all(client.clone()), watcher::Config::default(), move |report| {
            same_name(report.name_any(), ns(&report))
        })
        .watches(Api::<Deployment>::all(client.clone()), watcher::Config::default(), move |deployment| {
            let named = deployment.status.as_ref().and_then(|status| status.machine.clone());
            let owned = claims.state_filter(|machine| {
                let claim = machine.spec.claim_ref.as_ref();
                claim.is_some_and(|claim| claim.name == deployment.name_any() && claim.namespace == ns(&deployment))
            });
            let mut keys: Vec<_> = owned.iter().map(|machine| ObjectRef::from_obj(&**machine)).collect();
            keys.extend(named.map(|name| ObjectRef::new(&name).within(&ns(&deployment))));
            keys
        })
        .watches(Api::<BootProfile>::all(client.clone()), watcher::Config::default(), move |profile| {
            let uses = |deployment: &Deployment| deployment.spec.profile.name == profile.metadata.name && ns(deployment) == ns(&profile);
            let users: Vec<String> = profiles_of.state_filter(uses).iter().map(|deployment| deployment.name_any()).collect();
            let owned = by_profile.state_filter(|machine| machine.spec.claim_ref.as_ref().is_some_and(|claim| users.contains(&claim.name)));
            owned.iter().map(|machine| ObjectRef::from_obj(&**machine)).collect::<Vec<_>>()
        })
        .watches(Api::<Machine>::all(client.clone()), watcher::Config::default(), move |changed| {
            let shares =
                |other: &Machine| other.spec.interfaces.iter().any(|mine| changed.spec.interfaces.iter().any(|i| i.mac == mine.mac));
            let itself = |other: &Machine| other.metadata.name == changed.metadata.name && ns(other) == ns(&changed);
            let others = by_mac.state_filter(|other| shares(other) && !itself(other));
            others.iter().map(|machine| ObjectRef::from_obj(&**machine)).collect::<Vec<_>>()
        })
        .watches(Api::<Address>::all(client.clone()), watcher::Config::default(), move |address| {
            let owner = address.spec.owner.as_ref();
            let owns = |machine: &Machine| owner.is_some_and(|owner| owner.name == machine.name_any() && owner.namespace == ns(machine));
            let concerned = by_address.state_filter(|machine| owns(machine) || waits_for_address(machine));
            concerned.iter().map(|machine| ObjectRef::from_obj(&**machine)).collect::<Vec<_>>()
        })
        .reconcile_all_on(subnet_changes(client))
        .reconcile_on(lost_plans(client))
}

/// Whether an address that somebody gives back may be what a Machine waits for.
fn waits_for_address(machine: &Machine) -> bool {
    let Some(status) = &machine.status else { return false };
    let ready = conditions::find(&status.conditions, types::READY);
    status.address.is_none() || ready.is_some_and(|ready| ready.reason == reasons::NO_ADDRESS || ready.reason == reasons::ADDRESS_CONFLICT)
}

/// The Machines whose plan somebody deleted.
fn lost_plans(client: &Client) -> impl Stream<Item = ObjectRef<Machine>> + Send + 'static + use<> {
    let plans = Api::<Secret>::namespaced(client.clone(), names::PLANS_NAMESPACE);
    watcher::watcher(plans, watcher::Config::default()).default_backoff().filter_map(|event| {
        let gone = match event {
            Ok(Event::Delete(secret)) => machine::planned(&secret),
            _ => None,
        };
        std::future::ready(gone.map(|key| ObjectRef::new(&key.name).within(&key.namespace)))
    })
}

/// Ticks when what a Subnet asks for changes. Its status does not count: it changes with every address that a Machine is given.
fn subnet_changes(client: &Client) -> mpsc::Receiver<()> {
    // One tick that nobody took yet says all that a second one would.
    let (mut ticks, changes) = mpsc::channel(0);
    let subnets = watcher::watcher(Api::<Subnet>::all(client.clone()), watcher::Config::default()).default_backoff();
    tokio::spawn(async move {
        let mut generations: HashMap<String, Option<i64>> = HashMap::new();
        let mut subnets = std::pin::pin!(subnets);
        while let Some(event) = subnets.next().await {
            let news = match event {
                Ok(Event::Apply(subnet) | Event::InitApply(subnet)) => {
                    let generation = subnet.metadata.generation;
                    generations.insert(subnet.name_any(), generation) != Some(generation)
                }
                Ok(Event::Delete(subnet)) => generations.remove(&subnet.name_any()).is_some(),
                // One may have gone while nobody watched.
                Ok(Event::InitDone) => true,
                Ok(Event::Init) | Err(_) => false,
            };
            if news && ticks.try_send(()).is_err_and(|error| error.is_disconnected()) {
                return;
            }
        }
    });
    changes
}

/// A Deployment looks at its profile and, until it has one, at every Machine that becomes free.
fn deployment_controller(client: &Client, feed: Feed<Deployment>, stores: &Stores) -> Controller<Deployment> {
    let (by_machine, by_profile) = (stores.deployments.clone(), stores.deployments.clone());
    Controller::for_stream(feed, stores.deployments.clone())
        .with_config(config())
        .watches(Api::<Machine>::all(client.clone()), watcher::Config::default(), move |machine| {
            let owner = machine.spec.claim_ref.as_ref().map(|claim| claim.name.clone());
            let concerned = by_machine.state_filter(|deployment| {
                let waits = deployment.status.as_ref().is_none_or(|status| status.machine.is_none());
                let was = deployment.status.as_ref().is_some_and(|status| status.machine == machine.metadata.name);
                ns(deployment) == ns(&machine) && (waits || was || Some(deployment.name_any()) == owner)
            });
            concerned.iter().map(|deployment| ObjectRef::from_obj(&**deployment)).collect::<Vec<_>>()
        })
        .watches(Api::<BootProfile>::all(client.clone()), watcher::Config::default(), move |profile| {
            let uses = |deployment: &Deployment| deployment.spec.profile.name == profile.metadata.name && ns(deployment) == ns(&profile);
            by_profile.state_filter(uses).iter().map(|deployment| ObjectRef::from_obj(&**deployment)).collect::<Vec<_>>()
        })
}

/// A profile looks at the other profiles: two may want one prefix.
fn profile_controller(client: &Client) -> Controller<BootProfile> {
    let controller = Controller::new(Api::<BootProfile>::all(client.clone()), watcher::Config::default()).with_config(config());
    let store = controller.store();
    controller.watches(Api::<BootProfile>::all(client.clone()), watcher::Config::default(), move |changed| {
        let others = store.state_filter(|other| other.name_any() != changed.name_any() || ns(other) != ns(&changed));
        others.iter().map(|profile| ObjectRef::from_obj(&**profile)).collect::<Vec<_>>()
    })
}

/// A Subnet looks at the other Subnets, the agents' Leases and its addresses.
fn subnet_controller(client: &Client, feed: Feed<Subnet>, stores: &Stores) -> Controller<Subnet> {
    let every = |store: &Store<Subnet>| store.state().iter().map(|subnet| ObjectRef::from_obj(&**subnet)).collect::<Vec<_>>();
    let (by_lease, by_subnet) = (stores.subnets.clone(), stores.subnets.clone());
    Controller::for_stream(feed, stores.subnets.clone())
        .with_config(config())
        .watches(Api::<Address>::all(client.clone()), watcher::Config::default(), |address| {
            vec![ObjectRef::<Subnet>::new(&address.spec.subnet)]
        })
        .watches(Api::<Lease>::namespaced(client.clone(), names::SYSTEM_NAMESPACE), watcher::Config::default(), move |_| every(&by_lease))
        .watches(Api::<Subnet>::all(client.clone()), watcher::Config::default(), move |_| every(&by_subnet))
}

fn retry_key<K: Object>(object: &K) -> String {
    format!("{}/{}/{}", K::kind(&()), ns(object), object.name_any())
}

/// A reconciler's failure: a conflict is everyday and soon over; anything else is said, and tried again with growing pauses.
#[allow(clippy::needless_pass_by_value, reason = "the shape that kube asks for")]
fn retry<K: Object>(object: Arc<K>, error: &PortError, context: Arc<Context>) -> Action {
    if matches!(error, PortError::Conflict(_) | PortError::AlreadyExists(_) | PortError::NotFound(_)) {
        return Action::requeue(AFTER_CONFLICT);
    }
    let mut retries = context.retries();
    let count = retries.entry(retry_key(&*object)).or_default();
    let pause = (FIRST_RETRY * 2u32.saturating_pow((*count).min(10))).min(LONGEST_RETRY);
    *count += 1;
    tracing::warn!(object = %retry_key(&*object), category = error.category(), %error, ?pause, "reconcile failed");
    Action::requeue(pause)
}
