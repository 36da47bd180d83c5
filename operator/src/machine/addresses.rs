//! Which addresses a Machine has: Address objects named by the address, so that the API's uniqueness is the lock.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use athanor_crds::{
    Address, AddressSpec, Deployment, Machine, Subnet, SubnetSpec,
    address::{AddressOwner, DYNAMIC_LABEL, QUARANTINE},
    bootreport::NodeReport,
    conditions::reasons,
    machine::{AddressClaim, InterfaceStatus},
    names,
    subnet::{DEFAULT_LEASE_SECONDS, Mode},
};
use athanor_plan::{
    PlanAddress, PlanInterface,
    address::{self, AddressError},
    identity,
    lifecycle::Obstacle,
};
use athanor_wire::MacAddr;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::World;
use crate::{
    Cluster, PortError,
    term::{self, Term},
};

/// How many addresses of one interface are in quarantine at once: whoever declines more is wrong about it, or somebody speaks in its name.
const MAX_QUARANTINED: usize = 3;

/// In how many Subnets one interface has an address while something may run on its Machine: it is re-plugged, and somebody else may ask in its name.
const MAX_HOMES: usize = 4;

/// How far apart nodes' words may be that speak of one boot: clocks differ, and firmware asks on.
const SEEN_AT_ONCE: SignedDuration = SignedDuration::from_secs(20);

/// How many addresses that others took in the same moment are passed over in one go.
const MAX_RACES: usize = 64;

/// What a Machine got.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses {
    pub(crate) interfaces: Vec<PlanInterface>,
    pub(crate) obstacle: Option<Obstacle>,
}

impl Addresses {
    pub(crate) fn status(&self) -> Vec<InterfaceStatus> {
        let claim = |address: &PlanAddress| AddressClaim { subnet: Some(address.subnet.clone()), ip: address.ip };
        let with_some = self.interfaces.iter().filter(|interface| !interface.addresses.is_empty());
        with_some
            .map(|interface| InterfaceStatus { mac: interface.mac, addresses: interface.addresses.iter().map(claim).collect() })
            .collect()
    }

    pub(crate) fn first(&self) -> Option<String> {
        let boot_first = self.interfaces.iter().filter(|i| i.boot).chain(self.interfaces.iter().filter(|i| !i.boot));
        boot_first.flat_map(|interface| &interface.addresses).next().map(|address| address.ip.to_string())
    }
}

/// An address that an interface shall have.
struct Wish {
    mac: MacAddr,
    subnet: String,
    fixed: Option<std::net::IpAddr>,
}

/// The Subnet where a Machine is at home: where it last asked, else where it registered, else the only one that gives addresses.
pub(crate) fn home(world: &World) -> Option<&(String, SubnetSpec)> {
    told(world).or_else(|| only_one(world))
}

/// The Subnet where a Machine last asked, else where it registered.
fn told(world: &World) -> Option<&(String, SubnetSpec)> {
    let word = |report| Some((at(report), subnet(world, report.subnet.as_deref()?)?));
    let mut words: Vec<_> = world.reports.iter().filter_map(word).collect();
    // A machine that was plugged in elsewhere may be seen by another node there. Nodes on one wire see it at once, tell it when they come to it,
    // and need not agree in which Subnet that is: it stays where it has an address while it is seen there, else where it can have one.
    let newest = words.iter().map(|(at, _)| *at).max();
    words.retain(|(at, _)| newest.is_some_and(|newest| newest.duration_since(*at) < SEEN_AT_ONCE));
    let boots = |mac| world.machine.spec.boot_interfaces().any(|interface| interface.mac == mac);
    let interfaces = world.machine.status.iter().flat_map(|status| &status.interfaces).filter(|interface| boots(interface.mac));
    let has: HashSet<_> = interfaces.flat_map(|interface| &interface.addresses).filter_map(|claim| claim.subnet.as_deref()).collect();
    let best = |(at, (name, spec)): &&(Timestamp, &(String, SubnetSpec))| (has.contains(name.as_str()), spec.mode == Mode::Dhcp, *at);
    let asked = words.iter().rev().max_by_key(best).map(|(_, subnet)| *subnet);
    let registered = world.machine.labels().get(athanor_crds::machine::SUBNET_LABEL).and_then(|name| subnet(world, name));
    asked.or(registered)
}

/// When a Machine asked where a node says; long ago where an older agent does not tell.
fn at(report: &NodeReport) -> Timestamp {
    report.subnet_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0)
}

/// The only Subnet that gives addresses.
fn only_one(world: &World) -> Option<&(String, SubnetSpec)> {
    let mut giving = world.subnets.iter().filter(|(_, spec)| spec.mode == Mode::Dhcp && spec.is_supported() && !spec.ranges.is_empty());
    giving.next().filter(|_| giving.next().is_none())
}

/// Makes sure that a Machine has the addresses it shall have, and no others.
pub(crate) async fn ensure(world: &World, now: Timestamp, cluster: &impl Cluster) -> Result<Addresses, PortError> {
    // Only these concern it; what is free is looked for in a list of its own.
    let itself = Term::BelongsTo(world.machine.namespace().unwrap_or_default(), world.machine.name_any());
    let mut all = cluster.about::<Address>(&term::macs(&world.machine).chain([itself]).collect::<Vec<_>>()).await?;
    // A list has no order: of several addresses that would do, every look must take the same.
    all.sort_by_key(|address| address.spec.ip);
    let declined = heed_declines(world, &mut all, now, cluster).await?;
    let (wishes, mut obstacle) = wishes(world, &all);
    obstacle = declined.or(obstacle);
    let mut interfaces: Vec<PlanInterface> =
        world.machine.spec.interfaces.iter().map(|i| PlanInterface { mac: i.mac, boot: i.boot, addresses: Vec::new() }).collect();
    let mut kept = BTreeSet::new();
    for wish in wishes {
        let granted = match grant(world, &wish, &all, cluster).await? {
            Err(error) => {
                obstacle = obstacle.or(Some(as_obstacle(&error)));
                // What it has it keeps: a machine without any address could not even be told to wait.
                has(world, &wish, &all).next().map(|address| address.spec.ip)
            }
            Ok(ip) => Some(ip),
        };
        if let Some(ip) = granted {
            kept.insert(names::address(ip));
            if let Some(interface) = interfaces.iter_mut().find(|interface| interface.mac == wish.mac) {
                interface.addresses.push(PlanAddress { subnet: wish.subnet, ip });
            }
        }
    }
    // A Subnet that gives none for a while, or is gone, forgets none: a known machine always has the same address.
    let gives = |address: &Address| match subnet(world, &address.spec.subnet) {
        Some((_, spec)) => spec.mode == Mode::Dhcp,
        None => is_in_the_way(address, world),
    };
    for stale in all.iter().filter(|address| owned_by(address, world) && !kept.contains(&address.name_any()) && gives(address)) {
        cluster.delete_read(&**stale).await?;
    }
    Ok(Addresses { interfaces, obstacle })
}

/// What a machine declined is given to nobody for a while, and the machine gets another; unless a person fixed it, who is told.
async fn heed_declines(
    world: &World,
    all: &mut [Arc<Address>],
    now: Timestamp,
    cluster: &impl Cluster,
) -> Result<Option<Obstacle>, PortError> {
    let mut obstacle = None;
    for declined in world.reports.iter().filter_map(|report| report.declined.as_ref()) {
        let (ip, until) = (declined.ip, declined.time.0 + QUARANTINE);
        // One that was given since is not meant.
        let meant = |address: &Address| address.metadata.creation_timestamp.as_ref().is_none_or(|created| created.0 <= declined.time.0);
        let Some(place) = all.iter().position(|address| owned_by(address, world) && address.spec.ip == ip && meant(address)) else {
            continue;
        };
        if until <= now {
            continue;
        }
        let AddressSpec { subnet, mac, fixed, .. } = &all[place].spec;
        let before = all.iter().filter(|address| address.spec.quarantine.is_some() && address.spec.mac == *mac).count();
        if before >= MAX_QUARANTINED {
            let message =
                format!("{mac} declined {ip} after {before} others, and keeps it: does something on the segment answer for every address?");
            obstacle = Some(Obstacle { reason: reasons::ADDRESS_CONFLICT, message });
            continue;
        }
        if *fixed {
            let message = format!(
                "{ip} is fixed, but {mac} declined it: somebody else on the segment uses it. Find that one, or fix another address"
            );
            obstacle = Some(Obstacle { reason: reasons::ADDRESS_CONFLICT, message });
            continue;
        }
        let why = format!(
            "declined by Machine {}/{}: somebody else uses it",
            world.machine.namespace().unwrap_or_default(),
            world.machine.name_any()
        );
        let quarantined = Address::new(&names::address(ip), AddressSpec::quarantined(ip, subnet, *mac, why, Time(until)));
        tracing::warn!(%ip, %mac, "address declined, and given to nobody for an hour");
        cluster.delete_read(&*all[place]).await?;
        match cluster.create(&quarantined).await {
            // Who took it in this moment will decline it, too.
            Ok(_) | Err(PortError::AlreadyExists(_)) => all[place] = Arc::new(quarantined),
            Err(error) => return Err(error),
        }
    }
    Ok(obstacle)
}

fn as_obstacle(error: &AddressError) -> Obstacle {
    let reason = if matches!(error, AddressError::Exhausted(_)) { reasons::NO_ADDRESS } else { reasons::ADDRESS_CONFLICT };
    Obstacle { reason, message: error.to_string() }
}

/// What a person fixed, on the Machine or through its Deployment, and one address at home for each boot interface.
fn wishes(world: &World, all: &[Arc<Address>]) -> (Vec<Wish>, Option<Obstacle>) {
    let (mut wishes, mut obstacle): (Vec<Wish>, _) = (Vec::new(), None);
    let boot = world.machine.spec.boot_interface();
    let by_deployment = world.deployment.iter().flat_map(|deployment| &deployment.spec.addresses);
    let by_machine =
        world.machine.spec.interfaces.iter().flat_map(|interface| interface.addresses.iter().map(move |claim| (interface.mac, claim)));
    let fixed = by_deployment.filter_map(|claim| Some((boot?.mac, claim))).chain(by_machine);
    for (mac, claim) in fixed {
        match address::subnet_of(claim, &world.subnets) {
            // The Deployment's comes first and wins over the Machine's in the same Subnet.
            Ok((subnet, _)) if wishes.iter().any(|wish| wish.mac == mac && wish.subnet == *subnet) => {}
            Ok((subnet, _)) => wishes.push(Wish { mac, subnet: subnet.clone(), fixed: Some(claim.ip) }),
            Err(error) => obstacle = Some(as_obstacle(&error)),
        }
    }
    for boot in world.machine.spec.boot_interfaces() {
        for (subnet, spec) in homes(world, boot.mac, all) {
            if spec.mode == Mode::Dhcp && !wishes.iter().any(|wish| wish.mac == boot.mac && wish.subnet == *subnet) {
                wishes.push(Wish { mac: boot.mac, subnet: subnet.clone(), fixed: None });
            }
        }
    }
    (wishes, obstacle)
}

/// The Subnets where a boot interface is given an address: where the Machine asks. What may run on it keeps the address that it has, whatever is
/// asked elsewhere in its name; but whoever was plugged in elsewhere is not left without an answer.
fn homes<'a>(world: &'a World, mac: MacAddr, all: &[Arc<Address>]) -> Vec<&'a (String, SubnetSpec)> {
    let mut own: Vec<_> = all.iter().filter(|address| owned_by(address, world) && mac == address.spec.mac && !address.spec.fixed).collect();
    own.sort_by_key(|address| address.metadata.creation_timestamp.as_ref().map(|created| created.0));
    let mut given: Vec<&(String, SubnetSpec)> = Vec::new();
    for known in own.iter().filter_map(|address| subnet(world, &address.spec.subnet)) {
        if !given.contains(&known) {
            given.push(known);
        }
    }
    // Where its Subnet is gone, that may come back, if under another name.
    let gone: Vec<_> = own.iter().filter(|address| subnet(world, &address.spec.subnet).is_none()).map(|address| address.spec.ip).collect();
    let back = world.subnets.iter().find(|(_, spec)| gone.iter().any(|ip| spec.may_give(*ip)));
    let asked = told(world);
    let may_run = identity::may_run(&world.machine);
    given.extend(back.filter(|back| may_run && !given.contains(back)));
    if may_run && !given.is_empty() {
        let follows = asked.filter(|asked| given.contains(asked) || given.len() < MAX_HOMES);
        let others = given.into_iter().filter(|known| Some(*known) != follows);
        return follows.into_iter().chain(others).collect();
    }
    // Who never asked keeps what it was given, whatever Subnets come.
    let only = if gone.is_empty() { only_one(world) } else { None };
    let before = given.iter().find(|(_, spec)| spec.mode == Mode::Dhcp).or(given.first()).copied().or(back);
    asked.or(before).or(only).into_iter().collect()
}

/// Whether an address whose Subnet is gone is kept from others for nothing: nobody wants it any more, and nothing runs that may use it.
fn is_in_the_way(address: &Address, world: &World) -> bool {
    let by_machine = world.machine.spec.interfaces.iter().flat_map(|interface| &interface.addresses);
    let mut claims = world.deployment.iter().flat_map(|deployment| &deployment.spec.addresses).chain(by_machine);
    let given_elsewhere = || world.subnets.iter().any(|(_, spec)| spec.mode == Mode::Dhcp && spec.cidr.contains(&address.spec.ip));
    let is_wanted = claims.any(|claim| claim.ip == address.spec.ip);
    world.machine.spec.occupancy.is_none() && !identity::may_run(&world.machine) && !is_wanted && (address.spec.fixed || given_elsewhere())
}

/// A Subnet, if there is one of that name.
fn subnet<'a>(world: &'a World, name: &str) -> Option<&'a (String, SubnetSpec)> {
    world.subnets.iter().find(|(other, _)| other == name)
}

fn owned_by(address: &Address, world: &World) -> bool {
    let owner = address.spec.owner.as_ref();
    owner.is_some_and(|owner| {
        Some(&owner.name) == world.machine.metadata.name.as_ref() && Some(&owner.namespace) == world.machine.metadata.namespace.as_ref()
    })
}

/// Whether a client that is no Machine has it for a while.
fn is_lent(address: &Address) -> bool {
    address.spec.owner.is_none() && address.spec.quarantine.is_none()
}

/// The addresses that a Machine has where it wishes for one.
fn has<'a>(world: &'a World, wish: &'a Wish, all: &'a [Arc<Address>]) -> impl Iterator<Item = &'a Arc<Address>> {
    all.iter().filter(|address| owned_by(address, world) && address.spec.mac == wish.mac && address.spec.subnet == wish.subnet)
}

/// One address: the fixed one, the one it has, or the lowest free one; taken by creating its object.
async fn grant(
    world: &World,
    wish: &Wish,
    all: &[Arc<Address>],
    cluster: &impl Cluster,
) -> Result<Result<std::net::IpAddr, AddressError>, PortError> {
    let Some((_, spec)) = subnet(world, &wish.subnet) else {
        return Ok(Err(AddressError::UnknownSubnet(wish.subnet.clone())));
    };
    // One that was fixed goes when it is fixed no longer: somebody else may want it.
    if wish.fixed.is_none()
        && let Some(has) = has(world, wish, all)
            .find(|address| !address.spec.fixed && spec.may_give(address.spec.ip) && !world.servers.contains(&address.spec.ip))
    {
        return Ok(Ok(has.spec.ip));
    }
    // Its object is the lock, and it has that already.
    if let Some(has) = has(world, wish, all).find(|address| Some(address.spec.ip) == wish.fixed && address.spec.fixed)
        && !world.servers.contains(&has.spec.ip)
    {
        return Ok(Ok(has.spec.ip));
    }
    // Whom of two Machines an address was promised to first does not depend on which one is looked at first.
    if let Some(ip) = wish.fixed
        && !has(world, wish, all).any(|address| address.spec.ip == ip)
        && let Some(older) = identity::first_promised(ip, &world.machine, world.machines.iter().map(AsRef::as_ref))
    {
        let owner = format!("Machine {}/{}", older.namespace().unwrap_or_default(), older.name_any());
        return Ok(Err(AddressError::Taken { ip, owner }));
    }
    if let Some(ip) = wish.fixed.filter(|ip| world.servers.contains(ip)) {
        return Ok(Err(AddressError::Taken { ip, owner: "a server of this Subnet".to_owned() }));
    }
    // What others were given meanwhile is in this list, and nobody else is given anything until this Machine has its own.
    let (_turn, all) = (cluster.turn().await, cluster.list::<Address>(None).await?);
    let mut used: HashSet<_> = all.iter().map(|address| address.spec.ip).chain(world.servers.iter().copied()).collect();
    // What a person fixed on some Machine, or for some Deployment, is not given to another, even while its object does not exist yet.
    let deployments = cluster.about::<Deployment>(&[Term::FixesSome]).await?;
    let machines = cluster.about::<Machine>(&[Term::FixesSome]).await?;
    let by_machine = machines.iter().flat_map(|machine| &machine.spec.interfaces).flat_map(|interface| &interface.addresses);
    let fixed: HashSet<_> =
        deployments.iter().flat_map(|deployment| &deployment.spec.addresses).chain(by_machine).map(|claim| claim.ip).collect();
    used.extend(&fixed);
    // It had one here when the Subnet had another name, or before its Machine was deleted.
    let own = all.iter().filter(|address| address.spec.mac == wish.mac && !address.spec.fixed);
    let may_have = |address: &&Arc<Address>| match owned_by(address, world) {
        true => subnet(world, &address.spec.subnet).is_none(),
        // Unless a person promised it to another one meanwhile.
        false => is_lent(address) && !fixed.contains(&address.spec.ip),
    };
    let had = own.filter(may_have).map(|address| address.spec.ip);
    let had = had.filter(|ip| spec.may_give(*ip) && !world.servers.contains(ip)).min();
    if let Some(ip) = had.filter(|_| wish.fixed.is_none())
        && take(world, wish, ip, cluster).await?.is_none()
    {
        return Ok(Ok(ip));
    }
    for _ in 0..MAX_RACES {
        let Some(ip) = wish.fixed.or_else(|| address::lowest_free(spec, &used)) else {
            return Ok(Err(AddressError::Exhausted(wish.subnet.clone())));
        };
        match take(world, wish, ip, cluster).await? {
            None => return Ok(Ok(ip)),
            Some(owner) if wish.fixed.is_some() => return Ok(Err(AddressError::Taken { ip, owner })),
            Some(_) => used.insert(ip),
        };
    }
    // There may be free ones behind all that others were faster with: it is asked again in a moment.
    Err(PortError::Unavailable(format!("{MAX_RACES} addresses of Subnet {} were taken in this moment", wish.subnet)))
}

/// Creates the Address object; `Some` with its owner when somebody else has it.
async fn take(world: &World, wish: &Wish, ip: std::net::IpAddr, cluster: &impl Cluster) -> Result<Option<String>, PortError> {
    let name = names::address(ip);
    let owner = AddressOwner { namespace: world.machine.namespace().unwrap_or_default(), name: world.machine.name_any() };
    let spec = AddressSpec { fixed: wish.fixed.is_some(), ..AddressSpec::owned(ip, &wish.subnet, wish.mac, owner) };
    let wanted = Address::new(&name, spec);
    match cluster.create(&wanted).await {
        Ok(_) => Ok(None),
        Err(PortError::AlreadyExists(_)) => {
            let Some(existing) = cluster.get::<Address>(None, &name).await? else {
                return Err(PortError::Conflict(format!("address {ip} came and went")));
            };
            let own = owned_by(&existing, world) && existing.spec.mac == wish.mac;
            if own && existing.spec.subnet == wish.subnet {
                return Ok(None);
            }
            // It was lent to the very same interface, before that was a Machine's; or its Subnet had another name.
            if own || (is_lent(&existing) && existing.spec.mac == wish.mac) {
                cluster.delete_read(&existing).await?;
                return cluster.create(&wanted).await.map(|_| None);
            }
            let AddressSpec { owner, mac, quarantine, expires, .. } = existing.spec;
            let owner = owner.map(|owner| format!("Machine {}/{}", owner.namespace, owner.name));
            let until = expires.map(|time| format!(" until {}", time.0.strftime("%H:%M UTC"))).unwrap_or_default();
            Ok(Some(owner.or(quarantine.map(|why| format!("nobody ({why})"))).unwrap_or_else(|| format!("{mac}{until}"))))
        }
        Err(error) => Err(error),
    }
}

/// Gives back every address of a Machine that is gone.
pub(crate) async fn release_all(namespace: &str, name: &str, cluster: &impl Cluster) -> Result<(), PortError> {
    for address in of_machine(namespace, name, cluster).await? {
        cluster.delete_read(&*address).await?;
    }
    Ok(())
}

/// What may run on a Machine that is deleted goes on with its addresses: they are lent to its interfaces for as long as it believes to have them.
pub(crate) async fn leave(machine: &Machine, now: Timestamp, cluster: &impl Cluster) -> Result<(), PortError> {
    let subnets = cluster.list::<Subnet>(None).await?;
    let lasts =
        |name: &str| subnets.iter().find(|known| known.name_any() == name).map_or(DEFAULT_LEASE_SECONDS, |known| known.spec.lease_seconds);
    let lent = |ip: std::net::IpAddr, subnet: &str, mac: MacAddr| {
        let until = Time(now + SignedDuration::from_secs(lasts(subnet).into()));
        let mut lent = Address::new(&names::address(ip), AddressSpec::lent(ip, subnet, mac, until));
        lent.metadata.labels = Some([(DYNAMIC_LABEL.to_owned(), "true".to_owned())].into());
        lent
    };
    // Nobody else is given one in between.
    let _turn = cluster.turn().await;
    let owned = of_machine(&machine.namespace().unwrap_or_default(), &machine.name_any(), cluster).await?;
    let mut left: Vec<Address> = owned.iter().map(|address| lent(address.spec.ip, &address.spec.subnet, address.spec.mac)).collect();
    // What somebody was interrupted at.
    for interface in machine.status.iter().flat_map(|status| &status.interfaces) {
        let lost = interface.addresses.iter().filter(|claim| owned.iter().all(|address| address.spec.ip != claim.ip));
        left.extend(lost.filter_map(|claim| Some(lent(claim.ip, claim.subnet.as_deref()?, interface.mac))));
    }
    for address in &owned {
        cluster.delete_read(&**address).await?;
    }
    for address in &left {
        match cluster.create(address).await {
            // Who took it in this moment has it.
            Ok(_) | Err(PortError::AlreadyExists(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn of_machine(namespace: &str, name: &str, cluster: &impl Cluster) -> Result<Vec<Arc<Address>>, PortError> {
    cluster.about::<Address>(&[Term::BelongsTo(namespace.to_owned(), name.to_owned())]).await
}
