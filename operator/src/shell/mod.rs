//! The thin shell: kube's Controllers call the reconcilers, and everything a reconciler looks at wakes it.

mod agents;
mod cluster;
mod controllers;
mod election;
mod feed;
mod housekeeping;
mod index;
mod own;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::{
    Client, Resource, ResourceExt as _,
    runtime::{Controller, controller::Action},
};

use self::{cluster::KubeCluster, controllers::Feeds};
use crate::{
    AgentSettings, Clock, Ids, Metrics, PortError, bootprofile, deployment, installation::Installation, machine, port::Object, subnet,
};

/// After a conflict the fresh object is a moment away; the pause doubles while it is not.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);
/// The longest pause after conflicts: somebody writes all the time, or the watch is behind.
const LONGEST_AFTER_CONFLICT: Duration = Duration::from_secs(5);
/// After any other error, once; then the pause doubles.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

struct Context {
    cluster: KubeCluster,
    /// How often in a row each object failed, by conflicts or otherwise.
    retries: Mutex<HashMap<String, Failures>>,
    metrics: Metrics,
}

#[derive(Default)]
struct Failures {
    by_conflict: bool,
    count: u32,
}

impl Context {
    fn retries(&self) -> MutexGuard<'_, HashMap<String, Failures>> {
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
        format!("{prefix}-{}", athanor_wire::hex::encode(&Self::bytes::<6>()))
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
    metrics.leads(true);
    let (mut feeds, mut cluster) = (Feeds::new(&client), KubeCluster::new(client.clone()));
    feeds.keep_in(&mut cluster);
    let context = Arc::new(Context { cluster, retries: Mutex::default(), metrics });
    let machines = drive(feeds.machine_controller(), stop.clone(), &context, |key, context| async move {
        Box::pin(machine::reconcile(&key.namespace, &key.name, &context.cluster, &SystemClock, &RandomIds)).await
    });
    let deployments = drive(feeds.deployment_controller(), stop.clone(), &context, |key, context| async move {
        deployment::reconcile(&key.namespace, &key.name, &context.cluster, &SystemClock, &RandomIds).await.map(|()| None)
    });
    let profiles = drive(feeds.profile_controller(), stop.clone(), &context, |key, context| async move {
        bootprofile::reconcile(&key.namespace, &key.name, &context.cluster, &SystemClock).await
    });
    let stopped = stop.clone();
    let subnets = drive(feeds.subnet_controller(), stop, &context, |key, context| async move {
        subnet::reconcile(&key.name, &context.cluster, &SystemClock).await
    });
    let _watching = feeds.start();
    let housekeeping = async {
        tokio::select! {
            () = housekeeping::for_ever(&context.cluster) => {}
            () = stopped => {}
        }
    };
    let first = async {
        // Drawn before anybody needs it: whose a disk is can be told from the first look on.
        if let Err(error) = Installation::load(&context.cluster, &RandomIds).await {
            tracing::warn!(%error, "the installation's key was neither read nor drawn; tried again when it is needed");
        }
        if let Err(error) = machine::sweep(&context.cluster).await {
            tracing::warn!(%error, "plans of machines that are gone were not looked for");
        }
    };
    tokio::join!(machines, deployments, profiles, subnets, housekeeping, first);
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

fn ns(object: &impl Resource) -> String {
    object.meta().namespace.clone().unwrap_or_default()
}

fn retry_key<K: Object>(object: &K) -> String {
    format!("{}/{}/{}", K::kind(&()), ns(object), object.name_any())
}

/// A reconciler's failure: a conflict is everyday and soon over; anything else is said, and tried again with growing pauses.
#[allow(clippy::needless_pass_by_value, reason = "the shape that kube asks for")]
fn retry<K: Object>(object: Arc<K>, error: &PortError, context: Arc<Context>) -> Action {
    let mut retries = context.retries();
    let failures = retries.entry(retry_key(&*object)).or_default();
    let by_conflict = matches!(error, PortError::Conflict(_) | PortError::AlreadyExists(_) | PortError::NotFound(_));
    if failures.by_conflict != by_conflict {
        *failures = Failures { by_conflict, count: 0 };
    }
    let (first, longest) = if by_conflict { (AFTER_CONFLICT, LONGEST_AFTER_CONFLICT) } else { (FIRST_RETRY, LONGEST_RETRY) };
    let pause = (first * 2u32.saturating_pow(failures.count.min(10))).min(longest);
    failures.count += 1;
    if by_conflict {
        tracing::debug!(object = %retry_key(&*object), category = error.category(), %error, ?pause, "somebody else was faster");
        return Action::requeue(pause);
    }
    tracing::warn!(object = %retry_key(&*object), category = error.category(), %error, ?pause, "reconcile failed");
    Action::requeue(pause)
}
