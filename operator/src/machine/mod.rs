//! The Machine controller: addresses, lifecycle, boot plan, status.

mod addresses;
mod documents;
mod headers;
mod metadata;
mod plan;
mod status;
mod work;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use athanor_crds::{
    Address, BootProfile, BootProfileSpec, BootReport, Deployment, Machine, MachineInventory, Subnet, SubnetSpec,
    bootprofile::{Architecture, Datasource},
    bootreport::{AgentReport, AttemptReport, NodeReport},
    conditions::reasons,
    machine::{Attempt, Occupancy, OccupancyState, SELF_REGISTERED_LABEL, WipePolicy},
    subnet::Accept,
};
use athanor_plan::{
    AgentWork, BootPlan, Purpose,
    boot_plan::WORK_PREFIX,
    claim, identity,
    lifecycle::{self, Act, Decision, Facts, Left, Obstacle},
    support,
};
use athanor_wire::{Inventory, StepReport};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use self::documents::Handed;
use crate::{
    Clock, Cluster, Ids, PortError, finalizer, installation,
    port::Live,
    term::{self, Indexed as _, Term},
};

/// How soon Secrets that could not be used are read again: nobody watches all Secrets of a cluster for the few that are named.
const SECRETS_AGAIN: Duration = Duration::from_secs(30);
/// How soon an address that could not be had is asked for again: not everything that frees one is an event for who waits.
const ADDRESS_AGAIN: Duration = Duration::from_secs(60);
/// When what the API had and what was known differed: it changes in this moment.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How many instances are remembered whose disks nobody wiped: more than a machine's disks can hold, as a rule.
const MAX_RELEASED: usize = 8;

/// Everything that a decision about a Machine looks at.
pub(crate) struct World {
    pub(crate) machine: Machine,
    /// Those that have one of its MAC addresses, or of the addresses that are fixed for it; itself among them.
    pub(crate) machines: Vec<Arc<Machine>>,
    pub(crate) subnets: Vec<(String, SubnetSpec)>,
    /// The addresses that our own servers answer from.
    pub(crate) servers: BTreeSet<IpAddr>,
    pub(crate) deployment: Option<Deployment>,
    pub(crate) profile: Option<Result<(String, BootProfileSpec), Obstacle>>,
    /// What its operating system is to read; of an image while that is not written yet.
    pub(crate) documents: Option<Result<Handed, Obstacle>>,
    pub(crate) reports: Vec<NodeReport>,
    pub(crate) inventory: Option<MachineInventory>,
    /// Those of the same hardware, as far as they say.
    pub(crate) inventories: Vec<Arc<MachineInventory>>,
    /// The plan as it is stored.
    pub(crate) plan: Option<(Secret, Option<BootPlan>)>,
    /// Subnets on which a server has the machine-agent's ramdisk.
    pub(crate) ramdisks: BTreeSet<String>,
    /// The installation's id, where a disk says whose it is.
    pub(crate) installation: Option<String>,
}

impl World {
    /// The machine-agent's work that the plan holds.
    pub(crate) fn work(&self) -> Option<&AgentWork> {
        self.plan.as_ref()?.1.as_ref()?.work.as_ref()
    }

    /// Whether its Deployment is an image for its disk.
    fn is_image(&self) -> bool {
        matches!(&self.profile, Some(Ok((_, profile))) if profile.image.is_some())
    }

    /// Whether it registered itself where nobody has to accept newcomers.
    fn is_accepted_by_subnet(&self) -> bool {
        self.machine.labels().contains_key(SELF_REGISTERED_LABEL)
            && addresses::home(self).is_some_and(|(_, subnet)| subnet.newcomers.accept == Accept::Always)
    }

    /// Whether this Machine can be given the machine-agent.
    pub(crate) fn has_ramdisk(&self) -> bool {
        // The ramdisk is built for one architecture.
        let fits = self.machine.spec.architecture.is_none_or(|architecture| architecture == Architecture::Amd64);
        fits && addresses::home(self).is_some_and(|(name, _)| self.ramdisks.contains(name))
    }
}

/// Brings one Machine closer to what is wanted. Returns when to look again, if nothing happens before.
///
/// # Errors
/// A call failed; the caller tries again later.
pub async fn reconcile(
    namespace: &str,
    name: &str,
    cluster: &impl Cluster,
    clock: &impl Clock,
    ids: &impl Ids,
) -> Result<Option<Duration>, PortError> {
    let Some(machine) = find(namespace, name, cluster).await? else {
        return forget(namespace, name, cluster).await.map(|()| None);
    };
    if machine.metadata.deletion_timestamp.is_some() {
        if identity::may_run(&machine) {
            addresses::leave(&machine, clock.now(), cluster).await?;
        }
        forget(namespace, name, cluster).await?;
        return finalizer::take_off(&machine, cluster).await.map(|()| None);
    }
    match bring(machine, false, cluster, clock, ids).await {
        Ok(Brought::Closer(again)) => Ok(again),
        // What is known is old, or is not enough.
        Ok(Brought::NotSure) | Err(PortError::Conflict(_)) => {
            let live = cluster.get::<Machine>(Some(namespace), name).await?;
            let Some(machine) = live.filter(|machine| machine.metadata.deletion_timestamp.is_none()) else { return Ok(Some(LOOK_AGAIN)) };
            match bring(machine, true, &Live(cluster), clock, ids).await? {
                Brought::Closer(again) => Ok(again),
                Brought::NotSure => Ok(Some(LOOK_AGAIN)),
            }
        }
        Err(error) => Err(error),
    }
}

/// What a look at a Machine came to.
enum Brought {
    /// It is closer to what is wanted. When to look again, if nothing happens before.
    Closer(Option<Duration>),
    /// What follows from what is known cannot be taken back: it is to be decided on what the API has now.
    NotSure,
}

async fn bring(machine: Machine, sure: bool, cluster: &impl Cluster, clock: &impl Clock, ids: &impl Ids) -> Result<Brought, PortError> {
    let machine = if finalizer::is_on(&machine) {
        machine
    } else {
        cluster.patch(&machine, json!({ "metadata": { "finalizers": finalizer::added(&machine) } })).await?
    };
    let mut world = dereference(machine, cluster).await?;
    record_inventory(&mut world, cluster).await?;
    if let Some(known) = &world.inventory {
        world.inventories = cluster.about(&known.terms()).await?;
    }
    let addresses = addresses::ensure(&world, clock.now(), cluster).await?;
    let mut decision = decide(&world, addresses.obstacle.clone(), clock);
    if !sure && decision.act.as_ref().is_some_and(Act::is_final) {
        return Ok(Brought::NotSure);
    }
    if decision.work == Some(Purpose::Clean) && decision.frees() {
        work::record(&world, cluster, ids).await?;
    }
    let issued = apply(&mut world, &decision, cluster, clock, ids).await?;
    // Later attempts say first how the one before ended.
    if matches!(decision.act, Some(Act::Accept | Act::Issue(1))) {
        decision = at_once(&mut world, issued.as_ref(), addresses.obstacle.clone(), clock).unwrap_or(decision);
    }
    let work = work::of(&world, &decision, cluster, clock, ids).await?;
    let mut obstacle = plan::write(&world, &decision, work, &addresses, cluster, ids).await?;
    if let Some(problem) = unservable(&world).filter(|_| decision.order && obstacle.is_none()) {
        if decision.ready {
            // What runs from memory runs on.
            decision.message.push_str(&format!("; it could not boot again: {}", problem.message));
        } else {
            obstacle = Some(problem);
        }
    }
    let again = decision.again.or(addresses.obstacle.as_ref().map(|_| ADDRESS_AGAIN));
    let again = again.or(matches!(world.documents, Some(Err(_))).then_some(SECRETS_AGAIN));
    status::write(&world, &decision, &addresses, obstacle, issued, cluster, clock).await?;
    Ok(Brought::Closer(again))
}

/// The Machine as it is known. That it is gone, or about to be, is asked of the API itself: what is forgotten then is lost.
async fn find(namespace: &str, name: &str, cluster: &impl Cluster) -> Result<Option<Machine>, PortError> {
    match cluster.look::<Machine>(Some(namespace), name).await? {
        Some(known) if known.metadata.deletion_timestamp.is_none() => Ok(Some(Machine::clone(&known))),
        _ => cluster.get::<Machine>(Some(namespace), name).await,
    }
}

async fn dereference(machine: Machine, cluster: &impl Cluster) -> Result<World, PortError> {
    let namespace = machine.namespace().unwrap_or_default();
    let name = machine.name_any();
    let all = cluster.list::<Subnet>(None).await?;
    let mut subnets: Vec<(String, SubnetSpec)> = all.iter().map(|subnet| (subnet.name_any(), subnet.spec.clone())).collect();
    // A list has no order: where two Subnets fit, every look must take the same, and that is the narrower one.
    subnets.sort_by(|(a, one), (b, other)| other.cidr.prefix_len().cmp(&one.cidr.prefix_len()).then_with(|| a.cmp(b)));
    let servers = all.iter().filter_map(|subnet| subnet.status.as_ref()).flat_map(|status| &status.servers);
    let servers = servers.flat_map(|server| std::iter::once(&server.address).chain(&server.other_addresses));
    let servers = servers.filter_map(|address| address.parse().ok()).collect();
    let deployment = match &machine.spec.claim_ref {
        Some(claim) => {
            let found = cluster.look::<Deployment>(Some(&claim.namespace), &claim.name).await?;
            // A Deployment of the same name that is another instance owns nothing here.
            found.filter(|deployment| claim::owns(deployment, &machine)).map(|deployment| Deployment::clone(&deployment))
        }
        None => None,
    };
    let profile = match &deployment {
        Some(deployment) => Some(profile_of(deployment, cluster).await?),
        None => None,
    };
    let with_ramdisk =
        |subnet: &&Arc<Subnet>| subnet.status.as_ref().is_some_and(|status| status.servers.iter().any(|server| server.ramdisk));
    let ramdisks = all.iter().filter(with_ramdisk).map(|subnet| subnet.name_any()).collect();
    let report = cluster.look::<BootReport>(Some(&namespace), &name).await?;
    let inventory = cluster.look::<MachineInventory>(Some(&namespace), &name).await?;
    let marked = inventory.iter().flat_map(|known| &known.spec.facts.disks).any(|disk| disk.marker.is_some());
    // What is claimed was looked at before.
    let installation = if marked && machine.spec.claim_ref.is_none() { installation::known_id(cluster).await? } else { None };
    let promised = deployment.iter().flat_map(|deployment| &deployment.spec.addresses);
    let promised = promised.chain(machine.spec.interfaces.iter().flat_map(|interface| &interface.addresses)).map(|claim| claim.ip);
    let terms: Vec<Term> = term::macs(&machine).chain(promised.map(Term::Fixes)).collect();
    let mut machines = cluster.about::<Machine>(&terms).await?;
    if !machines.iter().any(|known| known.name_any() == name && known.namespace().as_ref() == Some(&namespace)) {
        // What was read may be newer than what is found by it.
        machines.push(Arc::new(machine.clone()));
    }
    let plan = plan::stored(&namespace, &name, cluster).await?;
    let work = plan.as_ref().and_then(|(_, plan)| plan.as_ref()?.work.as_ref());
    // Who writes has its documents.
    let has_them = work.is_some_and(|work| work.purpose == Purpose::Provision && work.key.is_some());
    let documents = match &deployment {
        Some(deployment) if !has_them => documents_of(&machine, deployment, profile.as_ref(), cluster).await?,
        _ => None,
    };
    // A Secret that is gone takes nothing away from what runs.
    let runs = machine.spec.occupancy.as_ref().is_some_and(|occupancy| occupancy.state == OccupancyState::Provisioned);
    let has_some = plan.as_ref().is_some_and(|(_, plan)| plan.as_ref().is_some_and(|plan| plan.metadata.is_some()));
    let documents = documents.filter(|documents| documents.is_ok() || !runs || !has_some);
    Ok(World {
        documents,
        machines,
        inventories: Vec::new(),
        reports: report.map(|report| report.spec.nodes.clone()).unwrap_or_default(),
        machine,
        subnets,
        servers,
        deployment,
        profile,
        inventory: inventory.map(|known| MachineInventory::clone(&known)),
        plan,
        ramdisks,
        installation,
    })
}

/// The documents for what is still to be written, or boots from memory. What was written, or is to be wiped, needs none, and their Secrets may be
/// gone.
async fn documents_of(
    machine: &Machine,
    deployment: &Deployment,
    profile: Option<&Result<(String, BootProfileSpec), Obstacle>>,
    cluster: &impl Cluster,
) -> Result<Option<Result<Handed, Obstacle>>, PortError> {
    let state = machine.spec.occupancy.as_ref().map(|occupancy| occupancy.state);
    let Some(Ok((_, profile))) = profile else { return Ok(None) };
    let datasource = match (&profile.image, state) {
        (_, Some(OccupancyState::ReleaseRequested)) | (Some(_), Some(OccupancyState::Provisioned)) => return Ok(None),
        (Some(image), _) => image.datasource,
        // What runs from memory reads them at each boot.
        (None, _) => Datasource::NoCloud,
    };
    let given = documents::read(deployment, cluster).await?;
    let headers = headers::read(profile, deployment.namespace().as_deref(), cluster).await?;
    let documents = given.and_then(|given| documents::of(deployment, &given, datasource));
    Ok(Some(documents.and_then(|documents| Ok(Handed { documents, headers: headers? }))))
}

/// The profile of a Deployment, by name or written in place.
pub(crate) async fn profile_of(
    deployment: &Deployment,
    cluster: &impl Cluster,
) -> Result<Result<(String, BootProfileSpec), Obstacle>, PortError> {
    let reference = &deployment.spec.profile;
    if let Some(inline) = &reference.inline {
        return Ok(Ok((deployment.name_any(), (**inline).clone())));
    }
    let name = reference.name.clone().unwrap_or_default();
    let found = cluster.look::<BootProfile>(deployment.namespace().as_deref(), &name).await?;
    let unknown = || Obstacle {
        reason: reasons::UNKNOWN_PROFILE,
        message: format!("spec.profile.name: there is no BootProfile {name} in this namespace; create it, or name another"),
    };
    Ok(found.map(|profile| (name.clone(), profile.spec.clone())).ok_or_else(unknown))
}

/// Firmware's facts become the inventory; a machine-agent's, which know more, are not overwritten.
async fn record_inventory(world: &mut World, cluster: &impl Cluster) -> Result<(), PortError> {
    let by_agent = work::inventory(world);
    let source = if by_agent.is_some() { "agent" } else { "firmware" };
    let Some(facts) = by_agent.or_else(|| world.reports.iter().find_map(|report| report.facts.clone())) else { return Ok(()) };
    let machine = &world.machine;
    match &world.inventory {
        Some(known) if source == "agent" => {
            if known.spec.source != source || known.spec.facts != facts {
                let before = serde_json::to_value(&known.spec.facts).unwrap_or_default();
                let mut patch = serde_json::to_value(&facts).unwrap_or_default();
                // A merge patch forgets what it is told to forget.
                for key in before.as_object().into_iter().flat_map(|before| before.keys()) {
                    if patch.get(key).is_none() {
                        patch[key] = Value::Null;
                    }
                }
                world.inventory = Some(cluster.patch(known, json!({ "spec": { "source": source, "facts": patch } })).await?);
            }
        }
        Some(known) if known.spec.source == "agent" => {}
        Some(known) => {
            let facts = merged(&known.spec.facts, facts);
            if facts == known.spec.facts {
                return Ok(());
            }
            let patch = json!({ "spec": { "source": "firmware", "facts": facts } });
            world.inventory = Some(cluster.patch(known, patch).await?);
        }
        None => {
            let spec = athanor_crds::inventory::MachineInventorySpec { source: source.to_owned(), facts };
            let mut inventory = MachineInventory::new(&machine.name_any(), spec);
            inventory.metadata.namespace = machine.namespace();
            inventory.metadata.owner_references = machine.controller_owner_ref(&()).map(|owner| vec![owner]);
            world.inventory = Some(cluster.create(&inventory).await?);
        }
    }
    Ok(())
}

/// What becomes of the spec when a claim ends. Where something is left, what the machine-agent saw of disks before counts no more.
pub(crate) async fn end_claim(left: Left, inventory: Option<&MachineInventory>, cluster: &impl Cluster) -> Result<Value, PortError> {
    if let Some(known) = inventory.filter(|known| known.spec.source == "agent" && matches!(left, Left::Unknown | Left::Kept)) {
        cluster.patch(known, json!({ "spec": { "source": "firmware" } })).await?;
    }
    Ok(claim::given_back(left))
}

/// What was known, with what firmware says anew.
fn merged(known: &Inventory, new: Inventory) -> Inventory {
    Inventory {
        vendor: new.vendor.or_else(|| known.vendor.clone()),
        product: new.product.or_else(|| known.product.clone()),
        serial: new.serial.or_else(|| known.serial.clone()),
        uuid: new.uuid.or_else(|| known.uuid.clone()),
        ..known.clone()
    }
}

fn decide(world: &World, no_address: Option<Obstacle>, clock: &impl Clock) -> Decision {
    let machine = &world.machine;
    let mac_owner = machine.spec.interfaces.iter().find_map(|interface| {
        let owner = identity::owner_of(interface.mac, world.machines.iter().map(AsRef::as_ref))?;
        let itself = owner.metadata.name == machine.metadata.name && owner.metadata.namespace == machine.metadata.namespace;
        (!itself).then(|| format!("{}/{}", owner.namespace().unwrap_or_default(), owner.name_any()))
    });
    let possible_duplicate = world
        .inventory
        .as_ref()
        .and_then(|mine| identity::possible_duplicate(mine, world.inventories.iter().map(AsRef::as_ref)))
        .map(kube::ResourceExt::name_any);
    let attempt_id = machine.spec.occupancy.as_ref().map(|occupancy| occupancy.attempt.clone()).unwrap_or_default();
    let by_agent = world.inventory.as_ref().filter(|known| known.spec.source == "agent").map(|known| &known.spec.facts);
    let facts = Facts {
        deployment: world.deployment.as_ref(),
        runnable: world.profile.as_ref().map(|profile| runnable(world, profile.as_ref())),
        now: clock.now().as_microsecond(),
        mac_owner,
        possible_duplicate,
        no_address,
        attempt: attempt_report(&world.reports, &attempt_id),
        unknown_occupant: unknown_occupant(machine, &world.reports),
        last_boot: last_boot(&world.reports),
        ramdisk: world.has_ramdisk(),
        by_agent: world.is_image(),
        live: matches!(&world.profile, Some(Ok((_, profile))) if profile.live.is_some()),
        inspected: by_agent.map(work::data),
        installation: world.installation.clone(),
        work: work::seen(world),
        accepted_by_subnet: world.is_accepted_by_subnet(),
        while_unaccepted: addresses::home(world).map(|(_, subnet)| subnet.newcomers.while_unaccepted).unwrap_or_default(),
    };
    lifecycle::decide(machine, &facts)
}

/// What was accepted or issued is looked at at once, unless that leads to the next act: it is one plan and one status then, and not two.
fn at_once(world: &mut World, issued: Option<&Attempt>, no_address: Option<Obstacle>, clock: &impl Clock) -> Option<Decision> {
    let stored = world.machine.status.clone();
    if let Some(attempt) = issued {
        world.machine.status.get_or_insert_default().attempt = Some(attempt.clone());
    }
    let decision = decide(world, no_address, clock);
    world.machine.status = stored;
    Some(decision).filter(|decision| decision.act.is_none())
}

fn runnable(world: &World, profile: Result<&(String, BootProfileSpec), &Obstacle>) -> Result<athanor_crds::bootprofile::Success, Obstacle> {
    let (name, profile) = profile.map_err(Clone::clone)?;
    let machine = &world.machine;
    let support = support::of(profile);
    if !support.supported {
        return Err(Obstacle { reason: support.reason, message: format!("profile {name}: {}", support.message) });
    }
    if let Some(has) = machine.spec.architecture.filter(|has| *has != profile.architecture) {
        let message =
            format!("profile {name} is for {}, but the Machine is {has}; choose another profile or Machine", profile.architecture);
        return Err(Obstacle { reason: reasons::WRONG_ARCHITECTURE, message });
    }
    if let Some(Err(obstacle)) = &world.documents {
        return Err(obstacle.clone());
    }
    Ok(profile.success)
}

/// A file of the order that an agent cannot serve. The order stays: the agent goes on looking, and the machine asks again.
fn unservable(world: &World) -> Option<Obstacle> {
    let problem = world.reports.iter().find_map(|report| report.problems.first())?;
    let (profile, _) = world.profile.as_ref()?.as_ref().ok()?;
    Some(Obstacle { reason: reasons::CONTENT_UNAVAILABLE, message: format!("profile {profile}: {problem}") })
}

/// When the firmware last asked for a script, on whatever node.
fn last_boot(reports: &[NodeReport]) -> Option<i64> {
    reports.iter().filter_map(|report| report.last_boot.as_ref()).map(|time| time.0.as_microsecond()).max()
}

/// The attempt that agents saw begin on a Machine that has none, unless its firmware asked again since. It happens when the API's data is
/// restored from a copy: what agents saw is newer.
fn unknown_occupant(machine: &Machine, reports: &[NodeReport]) -> Option<String> {
    let asked = last_boot(reports);
    let since = |attempt: &AttemptReport| attempt.started_at.as_ref().map(|time| time.0.as_microsecond());
    let attempts = reports.iter().filter_map(|report| report.attempt.as_ref()).filter(|_| machine.spec.occupancy.is_none());
    // A machine-agent that looks, waits or cleans occupies nothing.
    let attempts = attempts.filter(|attempt| !attempt.id.starts_with(WORK_PREFIX));
    // What a machine-agent wrote to its disk runs from there.
    let agents = reports.iter().filter_map(|report| report.agent.as_ref()).filter(|_| machine.spec.occupancy.is_none());
    let wrote = |agent: &&AgentReport| {
        let done = agent.steps.iter().any(StepReport::is_done);
        !agent.work.starts_with(WORK_PREFIX) && done && agent.told.as_ref().is_some_and(|told| Some(told.0.as_microsecond()) >= asked)
    };
    let written = agents.filter(wrote).map(|agent| agent.work.clone());
    attempts
        .filter(|attempt| since(attempt).is_some_and(|since| Some(since) >= asked))
        .map(|attempt| attempt.id.clone())
        .chain(written)
        .next()
}

/// What all nodes together saw of an attempt.
fn attempt_report(reports: &[NodeReport], id: &str) -> Option<AttemptReport> {
    let of_it = reports.iter().filter_map(|report| report.attempt.as_ref()).filter(|attempt| attempt.id == id);
    of_it.cloned().reduce(|all, report| all.with(&report))
}

/// Writes what the decision says into the Machine's spec, against the version that was decided on. Returns the attempt it issued.
async fn apply(
    world: &mut World,
    decision: &Decision,
    cluster: &impl Cluster,
    clock: &impl Clock,
    ids: &impl Ids,
) -> Result<Option<Attempt>, PortError> {
    let Some(act) = &decision.act else { return Ok(None) };
    if let Act::Free(left) = act
        && let Some(noted) = note_release(&world.machine, *left, cluster).await?
    {
        world.machine = noted;
    }
    let (spec, now) = (&world.machine.spec, Time(clock.now()));
    let (patch, issued) = match act {
        Act::Free(left) => (end_claim(*left, world.inventory.as_ref(), cluster).await?, None),
        Act::Accept => (json!({ "accepted": true }), None),
        Act::Advance(state) => {
            // What is about to be written is to be wiped, as strictly as anybody says by now.
            let starts = world.is_image() && *state == OccupancyState::Started;
            let wipe = |before: Option<WipePolicy>| if starts { before.max(Some(work::wipe_policy(world))) } else { before };
            let occupancy = spec.occupancy.clone().map(|occupancy| Occupancy {
                state: *state,
                since: Some(now),
                ever_started: true,
                wipe: wipe(occupancy.wipe),
                ..occupancy
            });
            (json!({ "occupancy": occupancy }), None)
        }
        Act::Issue(number) => {
            let attempt = Attempt { id: ids.id("a"), number: *number, issued: now.clone() };
            let instance_id = spec.claim_ref.as_ref().map(|claim| claim.instance_id.clone()).unwrap_or_default();
            let ever_started = spec.occupancy.as_ref().is_some_and(|occupancy| occupancy.ever_started);
            let (attempt_id, state) = (attempt.id.clone(), OccupancyState::Issued);
            let written = spec.occupancy.as_ref().and_then(|occupancy| occupancy.wipe);
            let wipe = if world.is_image() { written.max(Some(work::wipe_policy(world))) } else { written };
            let since = Some(now);
            let occupancy = Occupancy { instance_id, attempt: attempt_id, state, ever_started, wipe, retain: false, since };
            (json!({ "occupancy": occupancy }), Some(attempt))
        }
    };
    world.machine = cluster.patch(&world.machine, json!({ "spec": patch })).await?;
    tracing::info!(machine = %world.machine.name_any(), namespace = world.machine.namespace(), ?act, reason = decision.reason, "machine goes on");
    Ok(issued)
}

/// What a claim leaves on the disks is known before it ends: nobody could tell afterwards. Returns the Machine if that was news.
pub(crate) async fn note_release(machine: &Machine, left: Left, cluster: &impl Cluster) -> Result<Option<Machine>, PortError> {
    let mut released = machine.status.as_ref().map(|status| status.released.clone()).unwrap_or_default();
    let before = released.clone();
    match (left, &machine.spec.occupancy) {
        (Left::Wiped | Left::Kept, _) => released.clear(),
        (Left::Unknown, Some(occupancy)) if occupancy.wipe.is_some() && !released.contains(&occupancy.instance_id) => {
            released.push(occupancy.instance_id.clone());
            released.drain(..released.len().saturating_sub(MAX_RELEASED));
        }
        _ => {}
    }
    if released == before {
        return Ok(None);
    }
    cluster.patch_status(machine, json!({ "status": { "released": released } })).await.map(Some)
}

/// The Machine is gone: so are its plan, its addresses, and what is known about it.
async fn forget(namespace: &str, name: &str, cluster: &impl Cluster) -> Result<(), PortError> {
    plan::forget(namespace, name, cluster).await?;
    addresses::release_all(namespace, name, cluster).await?;
    cluster.delete::<BootReport>(Some(namespace), name).await?;
    cluster.delete::<MachineInventory>(Some(namespace), name).await
}

/// Forgets Machines that went without their finalizer: somebody took it off by hand, or restored half a backup.
///
/// # Errors
/// A call failed.
pub async fn sweep(cluster: &impl Cluster) -> Result<(), PortError> {
    let machines = cluster.list::<Machine>(None).await?;
    let key = |machine: &Arc<Machine>| (machine.namespace().unwrap_or_default(), machine.name_any());
    let known: BTreeSet<(String, String)> = machines.iter().map(key).collect();
    let planned = plan::machines(cluster).await?;
    let addressed = cluster.list::<Address>(None).await?;
    let addressed = addressed.iter().filter_map(|address| address.spec.owner.clone()).map(|owner| (owner.namespace, owner.name));
    let orphans: BTreeSet<(String, String)> = planned.into_iter().chain(addressed).filter(|key| !known.contains(key)).collect();
    for (namespace, name) in orphans {
        // The lists may be old, and the Machine a new one.
        match cluster.get::<Machine>(Some(&namespace), &name).await {
            Ok(None) => {
                tracing::warn!(machine = %name, %namespace, "plan of a machine that is gone; forgotten");
                forget(&namespace, &name, cluster).await?;
            }
            Ok(Some(_)) | Err(PortError::Unreadable(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
