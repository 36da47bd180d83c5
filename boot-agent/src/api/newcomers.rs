//! A newcomer becomes a Machine named by its MAC, so that two agents that see it at once cannot create two. Where that name is another
//! Machine's by now, the next one is taken by the same rule.

use std::{collections::HashMap, sync::Arc, time::Duration};

use athanor_crds::{
    FINALIZER, Machine, MachineSpec,
    machine::{Interface, SELF_REGISTERED_LABEL, SUBNET_LABEL},
    names,
};
use athanor_dhcp::Newcomer;
use athanor_plan::BootPlan;
use athanor_wire::MacAddr;
use kube::{Api, Client};
use tokio::{sync::mpsc, time::Instant};

use crate::{report::Seen, shared::Shared};

/// How long the API may take for one registration.
const CALL: Duration = Duration::from_secs(5);
/// How soon one that the API did not take is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How soon one whose Machine exists is registered again, should that be gone: in a hall that was switched on at once plans take their time, and asking
/// for each would take the operator's.
const EXISTS_AGAIN: Duration = Duration::from_secs(30);
/// How soon one that the API refused is tried again: a quota is raised, a policy changed.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// How long a name must have been another machine's: its Machine may be about to change hands.
const NAME_TAKEN: Duration = Duration::from_secs(10);
/// How long one is tried again: whoever is still there after that asks anew.
const PATIENCE: Duration = Duration::from_secs(180);
/// How many wait for an API that is away, or for their plan; a hall.
const WAITING: usize = 16_384;

/// A newcomer whose plan has not come.
struct Candidate {
    newcomer: Newcomer,
    /// When it is registered next.
    next: Instant,
    /// Whether it was before.
    asked: bool,
    /// Since when its name is known to be another machine's.
    taken: Option<Instant>,
    /// Until when it is waited for.
    until: Instant,
}

type Waiting = HashMap<MacAddr, Candidate>;

pub(super) async fn run(shared: Arc<Shared>, client: Client, mut registrations: mpsc::Receiver<Newcomer>) {
    let (mut waiting, mut changes) = (Waiting::new(), shared.changes());
    loop {
        let next = tokio::select! {
            next = registrations.recv() => next,
            // Whose plan has come is no newcomer, and is one anew should its Machine be deleted in the next moment.
            _ = changes.changed(), if !waiting.is_empty() => None,
            () = tokio::time::sleep(AGAIN), if !waiting.is_empty() => None,
        };
        // What else has come is taken in before the API is asked: it may be slow.
        let now = Instant::now();
        for newcomer in next.into_iter().chain(std::iter::from_fn(|| registrations.try_recv().ok())) {
            if let Some(candidate) = waiting.get_mut(&newcomer.mac) {
                (candidate.newcomer, candidate.until) = (newcomer, now + PATIENCE);
            } else if waiting.len() < WAITING {
                waiting.insert(newcomer.mac, Candidate { newcomer, next: now, asked: false, taken: None, until: now + PATIENCE });
            }
        }
        register_all(&shared, &client, &mut waiting).await;
        if registrations.is_closed() {
            return;
        }
    }
}

/// Registers those whose turn it is, who never was first, until the API does not answer.
async fn register_all(shared: &Shared, client: &Client, waiting: &mut Waiting) {
    let (snapshot, now) = (shared.snapshot(), Instant::now());
    waiting.retain(|mac, candidate| candidate.until > now && snapshot.by_mac(*mac).is_none());
    let mut due: Vec<(bool, MacAddr)> =
        waiting.iter().filter(|(_, candidate)| candidate.next <= now).map(|(mac, candidate)| (candidate.asked, *mac)).collect();
    due.sort_unstable();
    for (_, mac) in due {
        let Some(candidate) = waiting.get_mut(&mac) else { continue };
        candidate.asked = true;
        match tokio::time::timeout(CALL, register(shared, client, candidate)).await {
            Ok(Ok(again)) => candidate.next = Instant::now() + again,
            Ok(Err(error)) => {
                // A token that has run out, a slow answer and too many questions are no refusals.
                let refused = matches!(&error, kube::Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 401 | 408 | 429));
                let why = match error {
                    kube::Error::Api(status) => status.message,
                    other => other.to_string(),
                };
                tracing::warn!(%mac, why, refused, "newcomer not registered");
                tell(shared, &candidate.newcomer, format!("not registered: {why}"));
                if !refused {
                    return;
                }
                candidate.next = Instant::now() + REFUSED_AGAIN;
            }
            Err(_) => {
                tracing::warn!(%mac, waited = ?CALL, "newcomer not registered: the API does not answer");
                return;
            }
        }
    }
}

/// Creates a newcomer's Machine, unless it is there. Returns how soon it is looked at again if its plan does not come.
async fn register(shared: &Shared, client: &Client, candidate: &mut Candidate) -> Result<Duration, kube::Error> {
    let (snapshot, newcomer) = (shared.snapshot(), &candidate.newcomer);
    let known = snapshot.by_mac(newcomer.mac).is_some();
    let Some(subnet) = snapshot.subnets().iter().find(|subnet| subnet.name == newcomer.subnet && !known) else { return Ok(EXISTS_AGAIN) };
    let namespace = subnet.spec.newcomers.namespace.clone();
    let mut name = names::machine(newcomer.mac);
    // A name is a name: the Machine that has this one may have got another card meanwhile, as its plan tells. Then the next name is as good.
    let is_anothers =
        |plan: &Arc<BootPlan>| plan.machine.name == name && plan.machine.namespace == namespace && !plan.interfaces.is_empty();
    if snapshot.plans().iter().any(is_anothers) {
        let since = *candidate.taken.get_or_insert_with(Instant::now);
        if since.elapsed() < NAME_TAKEN {
            tell(
                shared,
                newcomer,
                format!("Machine {namespace}/{name} has another MAC address; this one is registered under another name soon"),
            );
            return Ok(AGAIN);
        }
        name.push_str("-2");
    } else {
        candidate.taken = None;
    }
    let machines = Api::<Machine>::namespaced(client.clone(), &namespace);
    match machines.create(&super::creation(), &machine(&name, newcomer)).await {
        Ok(_) => {
            tracing::info!(machine = %name, %namespace, subnet = %newcomer.subnet, "newcomer registered");
            shared.reporter.is_new(newcomer.mac);
            Ok(EXISTS_AGAIN)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            tell(shared, newcomer, format!("Machine {namespace}/{name} exists, and no plan with this MAC address has come yet"));
            Ok(NAME_TAKEN)
        }
        Err(error) => Err(error),
    }
}

fn tell(shared: &Shared, newcomer: &Newcomer, answer: String) {
    let (asked, subnet) = ("registration".to_owned(), Some(newcomer.subnet.clone()));
    shared.reporter.saw(newcomer.mac, Seen { protocol: "API", asked, answer, row: None, subnet });
}

fn machine(name: &str, newcomer: &Newcomer) -> Machine {
    let spec = MachineSpec {
        interfaces: vec![Interface { mac: newcomer.mac, boot: true, addresses: Vec::new() }],
        architecture: newcomer.hardware.map(|(architecture, _)| architecture),
        firmware: newcomer.hardware.map(|(_, firmware)| firmware),
        ..MachineSpec::default()
    };
    let mut machine = Machine::new(name, spec);
    let labels = [(SELF_REGISTERED_LABEL, "true"), (SUBNET_LABEL, newcomer.subnet.as_str())];
    // The operator would put it on before anything else.
    machine.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    machine.metadata.labels = Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
    machine
}
