//! A newcomer becomes a Machine named by its MAC, so that two agents that see it at once cannot create two. Where that name is another
//! Machine's by now, the next one is taken by the same rule.

use std::{collections::HashMap, sync::Arc, time::Duration};

use athanor_crds::{
    Machine, MachineSpec,
    machine::{Interface, SELF_REGISTERED_LABEL, SUBNET_LABEL},
    names,
};
use athanor_dhcp::Newcomer;
use athanor_wire::MacAddr;
use kube::{Api, Client};
use tokio::{sync::mpsc, time::Instant};

use crate::{report::Seen, shared::Shared};

/// How long the API may take for one registration.
const CALL: Duration = Duration::from_secs(5);
/// How soon one that the API did not take is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long one is tried again: whoever is still there after that asks anew.
const PATIENCE: Duration = Duration::from_secs(180);
/// How many wait for an API that is away; a rack row and more.
const WAITING: usize = 1024;

/// A Machine that exists has its plan long before: a newcomer that still asks after this time has another MAC than the Machine of its name.
const NAME_TAKEN: Duration = Duration::from_secs(10);
/// How long that is remembered: firmware gives up sooner.
const NAME_MEMORY: Duration = Duration::from_secs(600);

/// Newcomers that the API has not taken yet, and until when each is tried again.
type Waiting = HashMap<MacAddr, (Newcomer, Instant)>;
/// What came of a registration.
enum Registered {
    /// It is done with.
    Yes,
    /// Its plan is on its way, or its name is another Machine's: the next look tells.
    NameTaken,
}

/// Newcomers whose name some Machine has, and since when that is known.
type Taken = HashMap<MacAddr, Instant>;

pub(super) async fn run(shared: Arc<Shared>, client: Client, mut registrations: mpsc::Receiver<Newcomer>) {
    let (mut waiting, mut taken) = (Waiting::new(), Taken::new());
    loop {
        let next = if waiting.is_empty() {
            registrations.recv().await
        } else {
            tokio::time::timeout(AGAIN, registrations.recv()).await.unwrap_or_default()
        };
        // What else has come is taken in before the API is asked: it may be slow.
        let until = Instant::now() + PATIENCE;
        for newcomer in next.into_iter().chain(std::iter::from_fn(|| registrations.try_recv().ok())) {
            if waiting.len() < WAITING || waiting.contains_key(&newcomer.mac) {
                waiting.insert(newcomer.mac, (newcomer, until));
            }
        }
        taken.retain(|_, since| since.elapsed() < NAME_MEMORY);
        register_all(&shared, &client, &mut waiting, &mut taken).await;
        if registrations.is_closed() {
            return;
        }
    }
}

/// Registers those that wait, until the API does not answer.
async fn register_all(shared: &Shared, client: &Client, waiting: &mut Waiting, taken: &mut Taken) {
    waiting.retain(|_, (_, until)| *until > Instant::now());
    let all: Vec<Newcomer> = waiting.values().map(|(newcomer, _)| newcomer.clone()).collect();
    for newcomer in all {
        match tokio::time::timeout(CALL, register(shared, client, &newcomer, taken)).await {
            Ok(Ok(Registered::Yes)) => drop(waiting.remove(&newcomer.mac)),
            Ok(Ok(Registered::NameTaken)) => {}
            Ok(Err(error)) => {
                // A token that has run out, a slow answer and too many questions are no refusals.
                let refused = matches!(&error, kube::Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 401 | 408 | 429));
                let why = match error {
                    kube::Error::Api(status) => status.message,
                    other => other.to_string(),
                };
                tracing::warn!(mac = %newcomer.mac, why, refused, "newcomer not registered");
                tell(shared, &newcomer, format!("not registered: {why}"));
                if !refused {
                    return;
                }
                waiting.remove(&newcomer.mac);
            }
            Err(_) => {
                tracing::warn!(mac = %newcomer.mac, waited = ?CALL, "newcomer not registered: the API does not answer");
                return;
            }
        }
    }
}

async fn register(shared: &Shared, client: &Client, newcomer: &Newcomer, taken: &mut Taken) -> Result<Registered, kube::Error> {
    let snapshot = shared.snapshot();
    let known = snapshot.by_mac(newcomer.mac).is_some();
    let Some(subnet) = snapshot.subnets().iter().find(|subnet| subnet.name == newcomer.subnet && !known) else {
        return Ok(Registered::Yes);
    };
    let namespace = subnet.spec.newcomers.namespace.clone();
    let machines = Api::<Machine>::namespaced(client.clone(), &namespace);
    // A name is a name: the Machine that has this one may have got another card meanwhile. Then the next name is as good.
    let second = taken.get(&newcomer.mac).is_some_and(|since| since.elapsed() >= NAME_TAKEN);
    let name = names::machine(newcomer.mac) + if second { "-2" } else { "" };
    match machines.create(&super::creation(), &machine(&name, newcomer)).await {
        Ok(_) => tracing::info!(machine = %name, %namespace, subnet = %newcomer.subnet, "newcomer registered"),
        // It is there already, and its plan is on its way; or somebody gave its name to another machine.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            taken.entry(newcomer.mac).or_insert_with(Instant::now);
            let what = format!(
                "Machine {namespace}/{name} exists; if that has another MAC address, this one is registered under another name soon"
            );
            tell(shared, newcomer, what);
            return Ok(if second { Registered::Yes } else { Registered::NameTaken });
        }
        Err(error) => return Err(error),
    }
    Ok(Registered::Yes)
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
    machine.metadata.labels = Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
    machine
}
