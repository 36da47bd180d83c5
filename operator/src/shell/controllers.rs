//! What wakes which reconciler. Every kind is watched once; its feed tells all controllers that look at it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use athanor_crds::{
    Address, BootProfile, BootReport, Deployment, Machine, MachineInventory, Subnet,
    conditions::{self, reasons},
    names,
};
use athanor_wire::agent;
use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        Controller,
        controller::Config,
        reflector::{ObjectRef, Store},
    },
};
use tokio::{task::JoinSet, time::Instant};

use super::{
    cluster::KubeCluster,
    feed::{Feed, Kept},
    ns,
};
use crate::{
    alive,
    port::Object,
    term::{self, Term},
};

/// How many objects of a kind are reconciled at once. Each waits for the API most of the time: with some milliseconds a call, that many keep it
/// busy, and more would only crowd it.
const CONCURRENCY: u16 = 16;
/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// For how long addresses that change are gathered before their Subnet is looked at.
const GATHER: Duration = Duration::from_secs(1);

fn config() -> Config {
    Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE)
}

/// The watches that controllers share.
pub(super) struct Feeds {
    machines: Feed<Machine>,
    deployments: Feed<Deployment>,
    profiles: Feed<BootProfile>,
    subnets: Feed<Subnet>,
    addresses: Feed<Address>,
    inventories: Feed<MachineInventory>,
    reports: Feed<BootReport>,
    plans: Feed<Secret>,
    leases: Feed<Lease>,
}

type Keys<K> = Vec<ObjectRef<K>>;

fn keys<K: Object>(objects: &[Arc<K>]) -> Keys<K> {
    objects.iter().map(|object| ObjectRef::from_obj(&**object)).collect()
}

impl Feeds {
    pub(super) fn new(client: &Client) -> Self {
        let client = || client.clone();
        Self {
            machines: Feed::of(Api::all(client())),
            deployments: Feed::of(Api::all(client())),
            profiles: Feed::of(Api::all(client())),
            subnets: Feed::of(Api::all(client())),
            addresses: Feed::of(Api::all(client())),
            inventories: Feed::of(Api::all(client())),
            reports: Feed::of(Api::all(client())).without(history),
            plans: Feed::of(Api::namespaced(client(), names::PLANS_NAMESPACE)),
            leases: Feed::of(Api::namespaced(client(), names::SYSTEM_NAMESPACE)),
        }
    }

    /// What reconcilers look at comes from these watches.
    pub(super) fn keep_in(&self, cluster: &mut KubeCluster) {
        cluster.keep(&self.machines);
        cluster.keep(&self.deployments);
        cluster.keep(&self.profiles);
        cluster.keep(&self.subnets);
        cluster.keep(&self.addresses);
        cluster.keep(&self.inventories);
        cluster.keep(&self.reports);
        cluster.keep(&self.plans);
        cluster.keep(&self.leases);
    }

    /// Watches until what is returned is dropped.
    pub(super) fn start(self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.machines.run());
        tasks.spawn(self.deployments.run());
        tasks.spawn(self.profiles.run());
        tasks.spawn(self.subnets.run());
        tasks.spawn(self.addresses.run());
        tasks.spawn(self.inventories.run());
        tasks.spawn(self.reports.run());
        tasks.spawn(self.plans.run());
        tasks.spawn(self.leases.run());
        tasks
    }

    /// A Machine looks at its owner, that one's profile, its reports, the Subnets, the addresses and the other Machines.
    pub(super) fn machine_controller(&mut self) -> Controller<Machine> {
        let (machines, deployments, addresses) = (self.machines.store(), self.deployments.store(), self.addresses.store());
        let (by_profile, by_address) = (machines.clone(), machines.clone());
        let (by_deployment, by_machine) = (self.machines.kept(), self.machines.kept());
        Controller::for_shared_stream(self.machines.changes(), machines)
            .with_config(config())
            .watches_shared_stream(self.reports.changes(), |report| [ObjectRef::<Machine>::new(&report.name_any()).within(&ns(&*report))])
            .watches_shared_stream(self.deployments.changes(), move |deployment| of_deployment(&by_deployment, &deployment))
            .watches_shared_stream(self.profiles.changes(), move |profile| of_profile(&by_profile, &deployments, &profile))
            .watches_shared_stream(self.machines.changes(), move |changed| {
                let itself = ObjectRef::from_obj(&*changed);
                // Who no longer shares an address with it may have waited for just that; who is deleted asks for no IP address any more.
                let going = changed.metadata.deletion_timestamp.is_some() || by_machine.one(&itself).is_none();
                let waits = going.then_some(Term::Stuck(reasons::ADDRESS_CONFLICT));
                let shares = term::macs(&changed).chain([Term::Stuck(reasons::DUPLICATE_MAC)]);
                let others = by_machine.keys_about(&shares.chain(waits).collect::<Vec<_>>());
                others.into_iter().filter(move |other| *other != itself)
            })
            .watches_shared_stream(self.addresses.changes(), move |address| {
                let owner = address.spec.owner.as_ref().map(|owner| ObjectRef::new(&owner.name).within(&owner.namespace));
                // One that is given away helps nobody else: a fleet that comes at once must not look at all of itself for each address.
                let given_back = addresses.get(&ObjectRef::from_obj(&*address)).is_none();
                let waiting = if given_back { keys(&by_address.state_filter(waits_for_address)) } else { Vec::new() };
                owner.into_iter().chain(waiting)
            })
            .reconcile_all_on(self.subnet_changes())
            .watches_shared_stream(self.inventories.changes(), |known| [ObjectRef::<Machine>::new(&known.name_any()).within(&ns(&*known))])
            // Somebody may have deleted or changed it.
            .watches_shared_stream(self.plans.changes(), |plan| {
                names::planned(&plan.name_any()).map(|(namespace, machine)| ObjectRef::<Machine>::new(machine).within(namespace))
            })
    }

    /// Ticks when what a Subnet asks for changes. The rest of its status does not count: it changes with every address that a Machine is given.
    fn subnet_changes(&mut self) -> impl Stream<Item = ()> + Send + 'static + use<> {
        let store = self.subnets.store();
        let mut known = HashMap::new();
        self.subnets.changes().filter_map(move |subnet| {
            // A ramdisk that has come is what machines may wait for.
            let ramdisk = |subnet: &Subnet| subnet.status.as_ref().is_some_and(|status| status.servers.iter().any(|server| server.ramdisk));
            let key = ObjectRef::from_obj(&*subnet);
            let now = store.get(&key).map(|subnet| (subnet.metadata.generation, ramdisk(&subnet)));
            std::future::ready(is_news(&mut known, key, now).then_some(()))
        })
    }

    /// A Deployment looks at its profile and, until it has one, at every Machine that becomes free.
    pub(super) fn deployment_controller(&mut self) -> Controller<Deployment> {
        let deployments = self.deployments.store();
        let (by_machine, by_profile) = (self.deployments.kept(), deployments.clone());
        Controller::for_shared_stream(self.deployments.changes(), deployments)
            .with_config(config())
            .watches_shared_stream(self.machines.changes(), move |machine| {
                let namespace = ns(&*machine);
                let owner = machine.spec.claim_ref.as_ref().map(|claim| ObjectRef::new(&claim.name).within(&namespace));
                // Those that have it or had it, and those without one that it may help.
                let terms = [Term::Concerns(namespace.clone(), machine.name_any()), Term::WaitsIn(namespace.clone())];
                let terms: Vec<Term> = term::macs(&machine).chain(terms).collect();
                let mut those = by_machine.keys_about(&terms);
                those.retain(|deployment| deployment.namespace.as_deref() == Some(&namespace));
                those.extend(owner.filter(|owner| !those.contains(owner)));
                those
            })
            .watches_shared_stream(self.profiles.changes(), move |profile| {
                keys(&by_profile.state_filter(|deployment| uses(deployment, &profile)))
            })
    }

    /// A profile looks at the other profiles, since two may want one prefix, and at what agents say of its files.
    pub(super) fn profile_controller(&mut self) -> Controller<BootProfile> {
        let profiles = self.profiles.store();
        Controller::for_shared_stream(self.profiles.changes(), profiles)
            .with_config(config())
            .reconcile_all_on(self.prefix_changes())
            .reconcile_all_on(self.media_changes())
    }

    /// Ticks when a profile comes, goes or asks for something else.
    fn prefix_changes(&mut self) -> impl Stream<Item = ()> + Send + 'static + use<> {
        let store = self.profiles.store();
        let mut known = HashMap::new();
        self.profiles.changes().filter_map(move |profile| {
            let key = ObjectRef::from_obj(&*profile);
            let now = store.get(&key).map(|known| known.metadata.generation);
            // One that is gone may have been seen by others before it was told of.
            let gone = now.is_none();
            std::future::ready((is_news(&mut known, key, now) || gone).then_some(()))
        })
    }

    /// Ticks when an agent says something else about the files of profiles, begins or ends to serve, or is back after its Lease was over; not with
    /// each renewal of it.
    fn media_changes(&mut self) -> impl Stream<Item = ()> + Send + 'static + use<> {
        let store = self.leases.store();
        let (mut known, mut renewed) = (HashMap::new(), HashMap::new());
        self.leases.changes().filter_map(move |lease| {
            let key = ObjectRef::from_obj(&*lease);
            let now = store.get(&key).map(|known| (known.annotations().get(agent::MEDIA_ANNOTATION).cloned(), alive::serves(&known)));
            let before = renewed.insert(key.clone(), alive::until(&lease));
            let was_over = before.flatten().zip(alive::renewed(&lease)).is_some_and(|(over, renewed)| over < renewed);
            std::future::ready((is_news(&mut known, key, now) || was_over).then_some(()))
        })
    }

    /// A Subnet looks at the other Subnets, the agents' Leases and its addresses.
    pub(super) fn subnet_controller(&mut self) -> Controller<Subnet> {
        let subnets = self.subnets.store();
        let (by_lease, by_subnet) = (subnets.clone(), subnets.clone());
        Controller::for_shared_stream(self.subnets.changes(), subnets)
            .with_config(config())
            .reconcile_on(gathered(self.addresses.changes()))
            .watches_shared_stream(self.subnets.changes(), move |_| keys(&by_subnet.state()))
            .watches_shared_stream(self.leases.changes(), move |_| keys(&by_lease.state()))
    }
}

/// Whether what counts of an object is another now; none where it is gone.
fn is_news<K: Object, T: PartialEq>(known: &mut HashMap<ObjectRef<K>, T>, key: ObjectRef<K>, now: Option<T>) -> bool {
    match now {
        Some(now) if known.get(&key) == Some(&now) => false,
        Some(now) => {
            known.insert(key, now);
            true
        }
        None => known.remove(&key).is_some(),
    }
}

/// The Subnets of addresses that changed. How many are in use is a number for people, and a hall takes a hundred in a second.
fn gathered(changes: impl Stream<Item = Arc<Address>> + Send + Unpin + 'static) -> impl Stream<Item = ObjectRef<Subnet>> + Send + 'static {
    let rounds = stream::unfold(changes, |mut changes| async move {
        let mut subnets = BTreeSet::from([changes.next().await?.spec.subnet.clone()]);
        let end = Instant::now() + GATHER;
        while let Ok(Some(more)) = tokio::time::timeout_at(end, changes.next()).await {
            subnets.insert(more.spec.subnet.clone());
        }
        Some((subnets, changes))
    });
    rounds.flat_map(|subnets| stream::iter(subnets).map(|subnet| ObjectRef::new(&subnet)))
}

/// The Machine that a Deployment owns, by what either of the two says.
fn of_deployment(machines: &Kept<Machine>, deployment: &Deployment) -> Vec<ObjectRef<Machine>> {
    let mut owned = machines.keys_about(&[Term::BelongsTo(ns(deployment), deployment.name_any())]);
    let named = deployment.status.as_ref().and_then(|status| status.machine.as_ref());
    owned.extend(named.map(|name| ObjectRef::new(name).within(&ns(deployment))));
    owned
}

/// The Machines of all Deployments that use a profile.
fn of_profile(machines: &Store<Machine>, deployments: &Store<Deployment>, profile: &BootProfile) -> Keys<Machine> {
    let users = deployments.state_filter(|deployment| uses(deployment, profile));
    let users: Vec<String> = users.iter().map(|deployment| deployment.name_any()).collect();
    keys(&machines.state_filter(|machine| machine.spec.claim_ref.as_ref().is_some_and(|claim| users.contains(&claim.name))))
}

fn uses(deployment: &Deployment, profile: &BootProfile) -> bool {
    deployment.spec.profile.name == profile.metadata.name && ns(deployment) == ns(profile)
}

/// Whether an address that somebody gives back may be what a Machine waits for.
fn waits_for_address(machine: &Machine) -> bool {
    let Some(status) = &machine.status else { return false };
    let list = &status.conditions;
    status.address.is_none()
        || conditions::is_ready_for(list, reasons::NO_ADDRESS)
        || conditions::is_ready_for(list, reasons::ADDRESS_CONFLICT)
}

/// What was asked and answered is for people, who read it in the API: all that housekeeping wants to know is when that was last.
fn history(report: &mut BootReport) {
    for node in &mut report.spec.nodes {
        node.events.drain(..node.events.len().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use athanor_crds::AddressSpec;

    use super::*;

    #[tokio::test]
    async fn of_addresses_that_change_together_each_subnet_is_looked_at_once() {
        let address = |last: u8, subnet: &str| {
            let ip = std::net::Ipv4Addr::new(10, 0, 0, last).into();
            let owner = athanor_crds::address::AddressOwner { namespace: "default".to_owned(), name: format!("m{last}") };
            let mac = "52:54:00:00:00:01".parse().unwrap();
            Arc::new(Address::new(&names::address(ip), AddressSpec::owned(ip, subnet, mac, owner)))
        };
        let later = stream::once(async move {
            tokio::time::sleep(GATHER * 2).await;
            address(4, "lab")
        });
        let changes = stream::iter([address(1, "lab"), address(2, "hall"), address(3, "lab")]).chain(later);
        let looked_at: Vec<String> = gathered(changes.boxed()).map(|subnet| subnet.name).collect().await;
        assert_eq!(looked_at, ["hall", "lab", "lab"]);
    }
}
