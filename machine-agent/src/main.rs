//! `/init` of the ramdisk.

use std::{ffi::CStr, fs, path::Path, time::Duration};

use athanor_machine_agent::{
    AgentError, command_line,
    engine::{Action, Engine, Event},
    modules::{self, Index},
    net, steps, talk,
};
use athanor_wire::Step;
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

/// How long the machine waits before it tries the network again.
const NETWORK_AGAIN: Duration = Duration::from_secs(5);
/// How long somebody in front of the screen may read why it restarts.
const LAST_WORDS: Duration = Duration::from_secs(10);

fn main() {
    if std::process::id() != 1 {
        eprintln!("machine-agent is the first program of Athanor's ramdisk and does nothing elsewhere");
        std::process::exit(2);
    }
    let error = match live() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // The first program must not end: the kernel would stop. Somebody reads the screen, and firmware asks again.
    eprintln!("athanor: {error}; restarting");
    std::thread::sleep(LAST_WORDS);
    leave(&Step::Reboot);
    loop {
        std::thread::park();
    }
}

enum Never {}

fn live() -> Result<Never, AgentError> {
    for (kind, place) in [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev")] {
        mounted(kind, place)?;
    }
    println!("athanor: machine-agent {}", env!("CARGO_PKG_VERSION"));
    let read = |name: &str| fs::read_to_string(Path::new(modules::FOLDER).join(name)).unwrap_or_default();
    let index = Index::parse(&read("alias"), &read("needs"), &read("first"));
    let orders = command_line::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    if orders.servers.is_empty() || orders.token.is_empty() {
        let source = std::io::Error::other("athanor.servers= and athanor.token= are missing on the kernel's command line");
        return Err(AgentError::System { what: "finding its server".to_owned(), source });
    }
    let leases = loop {
        // Cards behind USB show up later than this program.
        for error in modules::load_all(&index) {
            eprintln!("athanor: {error}");
        }
        let leases = net::bring_up(orders.boot_mac.as_deref());
        if !leases.is_empty() {
            break leases;
        }
        std::thread::sleep(NETWORK_AGAIN);
    };
    let names = net::Names::new(leases.iter().flat_map(|lease| lease.dns.clone()).collect());
    let http = talk::agent(names);
    let talk = talk::Talk::new(http.clone(), orders.servers.clone(), orders.token)?;
    let mut engine = Engine::new(orders.servers.len());
    let mut event = Event::Woke;
    loop {
        event = match engine.on(event) {
            Action::Ask(next) => talk.ask(engine.server(), &next),
            Action::Tell(report) => talk.tell(engine.server(), &report),
            Action::Pause(pause) => {
                std::thread::sleep(pause);
                Event::Woke
            }
            Action::Run(assignment) => {
                println!("athanor: {} {}", assignment.step.name(), assignment.work);
                let server = engine.server();
                Event::Finished(Box::new(steps::run(&assignment, &http, &|report| talk.tell(server, &report))))
            }
            Action::Leave(step) => {
                leave(&step);
                Event::Lost
            }
        };
    }
}

fn mounted(kind: &'static CStr, place: &'static CStr) -> Result<(), AgentError> {
    let failed = |source: std::io::Error| AgentError::System { what: format!("mounting {}", place.to_string_lossy()), source };
    fs::create_dir_all(place.to_string_lossy().as_ref()).map_err(failed)?;
    match mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&CStr>) {
        // The kernel has done it already.
        Ok(()) | Err(nix::errno::Errno::EBUSY) => Ok(()),
        Err(error) => Err(failed(error.into())),
    }
}

/// Restarts, or powers off. Nothing is mounted that could lose anything.
fn leave(step: &Step) {
    nix::unistd::sync();
    println!("athanor: {}", step.name());
    let how = if *step == Step::PowerOff { RebootMode::RB_POWER_OFF } else { RebootMode::RB_AUTOBOOT };
    let Err(error) = reboot(how);
    eprintln!("athanor: the kernel would not: {error}");
}
