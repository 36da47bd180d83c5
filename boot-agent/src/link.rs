//! The server sets of interfaces that a Subnet serves: they come and go with addresses and Subnets.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{
    AgentError, authority, dhcp,
    interface::{self, Duty},
    overhear,
    shared::Shared,
    tftp, wake,
};

/// How often interfaces are looked at, besides whenever a Subnet changes: an address that comes later is served within this time.
const LOOK: Duration = Duration::from_secs(5);

struct Running {
    duty: Duty,
    _tasks: JoinSet<()>,
}

/// How soon ports are asked for again after a server set was taken down: its sockets close a moment later.
const AGAIN: Duration = Duration::from_millis(200);

/// Keeps a server set on every interface that has a duty. The first problem with a socket at the start is an error; later ones are tried
/// again with the next look.
pub(crate) async fn run(shared: Arc<Shared>, started: tokio::sync::oneshot::Sender<Result<(), AgentError>>) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut changes = shared.changes();
    let mut started = Some(started);
    let mut told: HashMap<String, String> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let wanted = interface::duties(&shared.snapshot());
        shared.assign(&wanted);
        // A bridge changes its own MAC when a port is added; that is no reason to stop serving.
        let before = running.len();
        running.retain(|_, set| wanted.iter().any(|duty| duty.link == set.duty.link && duty.subnets == set.duty.subnets));
        let look = if running.len() < before { AGAIN } else { LOOK };
        let mut problem = None;
        let mut problems = HashMap::new();
        for duty in wanted {
            if running.contains_key(&duty.link.interface) {
                continue;
            }
            match start(&shared, &duty) {
                Ok(tasks) => {
                    tracing::info!(interface = %duty.link.interface, subnets = ?duty.subnets, "serving");
                    running.insert(duty.link.interface.clone(), Running { duty, _tasks: tasks });
                }
                Err(error) => {
                    // The same trouble is told once, and not while our own sockets close.
                    let text = error.to_string();
                    if look == LOOK && told.get(&duty.link.interface) != Some(&text) {
                        tracing::error!(category = error.category(), %error, "interface not served");
                    }
                    problems.insert(duty.link.interface, text);
                    problem = Some(error);
                }
            }
        }
        told = problems;
        shared.authority.keep_only(running.keys());
        if let Some(started) = started.take() {
            let _ = started.send(problem.map_or(Ok(()), Err));
        }
        let _ = tokio::time::timeout(look, changes.changed()).await;
    }
}

fn start(shared: &Arc<Shared>, duty: &Duty) -> Result<JoinSet<()>, AgentError> {
    let mut tasks = JoinSet::new();
    dhcp::start(shared, duty, &mut tasks)?;
    tftp::start(shared, duty, &mut tasks)?;
    tasks.spawn(authority::keep_current(shared.clone(), duty.clone()));
    tasks.spawn(overhear::run(shared.clone(), duty.clone()));
    tasks.spawn(wake::run(shared.clone(), duty.clone()));
    Ok(tasks)
}
