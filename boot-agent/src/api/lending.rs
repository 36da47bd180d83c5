//! Addresses for clients that are no machines: an object each, created before the client is answered.

use std::{collections::BTreeMap, net::Ipv4Addr, pin::pin, sync::Arc, time::Duration};

use athanor_crds::{
    Address, AddressSpec,
    address::{DYNAMIC_LABEL, QUARANTINE},
    names,
};
use athanor_dhcp::Wish;
use athanor_plan::{Snapshot, snapshot::NamedSubnet};
use athanor_wire::MacAddr;
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use super::{BEFORE_LISTS, broke_off};
use crate::{arp, lent::candidates, report::Seen, shared::Shared};

/// How many clients are served at once: each may wait half a second for the wire.
const AT_ONCE: usize = 32;
/// How long the API may take for one object.
const CALL: Duration = Duration::from_secs(5);
/// How many addresses in a row may be somebody's: where more are, something answers for all of them, and a range is not given up for that.
const MAX_USED: usize = 2;

/// What a client needs to be written.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// It wants an address, or its own for longer; with the interface on whose wire it is, which can be asked who uses one.
    Lend(Wish, Option<String>),
    /// It gives it back.
    Return(MacAddr, Ipv4Addr),
    /// It found somebody else there.
    Declined(MacAddr, Ipv4Addr, String),
}

/// Keeps what is known of dynamic addresses in step with the API, also when that begins another history.
pub(super) async fn watch(shared: Arc<Shared>, client: Client) {
    let mut anew = shared.lists_anew();
    loop {
        tokio::select! {
            () = watch_one_history(&shared, client.clone()) => {}
            _ = anew.changed() => {}
        }
        tokio::time::sleep(BEFORE_LISTS).await;
        anew.mark_unchanged();
    }
}

/// Until its connection breaks.
async fn watch_one_history(shared: &Shared, client: Client) {
    let api = Api::<DeserializeGuard<Address>>::all(client);
    let ours = watcher::Config::default().labels(&format!("{DYNAMIC_LABEL}=true"));
    let mut events = pin!(watcher(api, ours).default_backoff());
    let mut listed: BTreeMap<std::net::IpAddr, AddressSpec> = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(address)) => listed.extend(address.0.ok().map(|address| (address.spec.ip, address.spec))),
            Ok(Event::InitDone) => shared.lent.replace(std::mem::take(&mut listed).values()),
            Ok(Event::Apply(address)) => address.0.iter().for_each(|address| shared.lent.store(&address.spec)),
            Ok(Event::Delete(address)) => address.0.iter().for_each(|address| shared.lent.forget(address.spec.ip)),
            Err(error) => {
                tracing::warn!(%error, "watch of addresses interrupted");
                if broke_off(&error) {
                    return;
                }
            }
        }
    }
}

/// Carries orders out, for ever.
pub(super) async fn run(shared: Arc<Shared>, client: Client, mut orders: mpsc::Receiver<Order>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    // What is not listed yet would be lent again.
    shared.lent.listed().await;
    while let Some(order) = orders.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (shared, api) = (shared.clone(), Api::<Address>::all(client.clone()));
        tokio::spawn(async move {
            let _place = place;
            let who = match &order {
                Order::Lend(wish, _) => wish.mac,
                Order::Return(mac, _) | Order::Declined(mac, ..) => *mac,
            };
            // One thing after the other for each client, who asks again where this one is lost.
            let Some(_turn) = shared.lent.turn(who) else { return };
            let why = match tokio::time::timeout(CALL, carry_out(&shared, &api, order)).await {
                Ok(Ok(())) => return,
                Ok(Err(kube::Error::Api(status))) => status.message.clone(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API does not answer".to_owned(),
            };
            tracing::warn!(mac = %who, why, "lease not stored");
            let (asked, answer) = ("lease".to_owned(), format!("not stored: {why}"));
            shared.reporter.saw(who, Seen { protocol: "API", asked, answer, row: None, subnet: None });
        });
    }
}

async fn carry_out(shared: &Arc<Shared>, api: &Api<Address>, order: Order) -> Result<(), kube::Error> {
    match order {
        Order::Lend(wish, wire) => lend(shared, api, &wish, wire).await,
        Order::Return(_, ip) => remove(api, ip).await,
        Order::Declined(mac, ip, subnet) => {
            remove(api, ip).await?;
            quarantine(api, ip, &subnet, mac, format!("declined by {mac}: somebody else uses it")).await
        }
    }
}

async fn quarantine(api: &Api<Address>, ip: Ipv4Addr, subnet: &str, mac: MacAddr, why: String) -> Result<(), kube::Error> {
    tracing::warn!(%ip, %mac, why, "address given to nobody for an hour");
    create(api, AddressSpec::quarantined(ip.into(), subnet, mac, why, Time(Timestamp::now() + QUARANTINE))).await.map(|_| ())
}

/// Removes the object, if it is there.
async fn remove(api: &Api<Address>, ip: Ipv4Addr) -> Result<(), kube::Error> {
    match api.delete(&names::address(ip.into()), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Creates the object; `false` where somebody was faster.
async fn create(api: &Api<Address>, spec: AddressSpec) -> Result<bool, kube::Error> {
    let mut address = Address::new(&names::address(spec.ip), spec);
    address.metadata.labels = Some([(DYNAMIC_LABEL.to_owned(), "true".to_owned())].into());
    match api.create(&super::creation(), &address).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn lend(shared: &Arc<Shared>, api: &Api<Address>, wish: &Wish, wire: Option<String>) -> Result<(), kube::Error> {
    let snapshot = shared.snapshot();
    let Some(subnet) = snapshot.subnets().iter().find(|subnet| subnet.name == wish.subnet) else { return Ok(()) };
    let now = Timestamp::now();
    let until = Time(now + SignedDuration::from_secs(subnet.spec.lease_seconds.into()));
    let (own, fallen): (Vec<_>, Vec<_>) = shared
        .lent
        .of(wish.mac, now)
        .into_iter()
        .filter(|lease| lease.subnet == wish.subnet)
        .partition(|lease| lease.may_stand(&subnet.spec));
    // A range has become smaller, or the address was reserved: it gets another.
    for lease in fallen {
        remove(api, lease.ip).await?;
        shared.lent.forget(lease.ip.into());
    }
    let own = own.into_iter().next();
    if let Some(own) = own.filter(|own| wish.ip.is_none_or(|ip| ip == own.ip)) {
        let longer = json!({ "spec": { "expires": until } });
        match api.patch(&names::address(own.ip.into()), &PatchParams::default(), &Patch::Merge(&longer)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(|_| ()),
        }
    }
    let mut used = 0;
    for ip in free(shared, &snapshot, subnet, wish) {
        if let Some(user) = used_by(shared, &wire, ip, wish.mac).await {
            used += 1;
            if used > MAX_USED {
                break;
            }
            let why = format!("{user} answers for it, and nobody gave it to it");
            quarantine(api, ip, &subnet.name, user, why).await?;
            continue;
        }
        if create(api, AddressSpec::lent(ip.into(), &subnet.name, wish.mac, until.clone())).await?
            || shared.lent.comes_to(wish.mac, ip).await
        {
            return Ok(());
        }
    }
    let (asked, answer) = ("lease".to_owned(), format!("no free address in the ranges of Subnet {}; add a range", subnet.name));
    shared.reporter.saw(wish.mac, Seen { protocol: "API", asked, answer, row: None, subnet: None });
    Ok(())
}

fn free(shared: &Shared, snapshot: &Snapshot, subnet: &NamedSubnet, wish: &Wish) -> Vec<Ipv4Addr> {
    let own = crate::interfaces().into_iter().flat_map(|interface| interface.addresses).map(|(ip, _)| ip).collect::<Vec<_>>();
    let taken = |ip: Ipv4Addr| shared.lent.is_used(ip) || snapshot.mac_of(ip.into()).is_some();
    candidates(&subnet.spec, wish.mac, wish.ip, |ip| taken(ip) || own.contains(&ip) || subnet.is_served_from(ip))
}

/// Who uses an address unasked, where the wire can be asked.
async fn used_by(shared: &Shared, wire: &Option<String>, ip: Ipv4Addr, client: MacAddr) -> Option<MacAddr> {
    let interface = wire.clone()?;
    let found = shared.on_disk(move || arp::user_of(&interface, ip, client)).await?;
    found.unwrap_or_else(|error| {
        tracing::warn!(%ip, %error, "nobody could be asked whether somebody uses the address");
        None
    })
}
