//! A machine: firmware that asks, the machine-agent's engine and guard, a disk, and what runs.

use athanor_machine_agent::{
    engine::{Action, Engine, Event},
    guard::{self, Writing},
};
use athanor_wire::{
    Assignment, Disk, Inventory, MacAddr, Outcome, Step, StepReport, WipeMethod, WipedDisk,
    work::{Marker, Write},
};

/// What is on the one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platter {
    /// Whose it is.
    pub marker: Option<Marker>,
    /// An image is there from its first byte to its last.
    pub whole: bool,
    /// What was there before Athanor.
    pub foreign: bool,
    /// It was booted from.
    pub ran: bool,
}

impl Platter {
    fn contents(&self) -> Option<&'static str> {
        (self.foreign || self.marker.is_some()).then_some("a partition table")
    }
}

/// A machine-agent: an engine, and what it is doing.
#[derive(Debug)]
pub struct Agent {
    /// Its state.
    pub engine: Engine,
    /// Its key.
    pub key: String,
    /// What it asks with.
    pub token: String,
    /// What it does next, and when.
    pub next: (Action, i64),
    /// The step it is at, and for how many ticks still.
    pub doing: Option<(Assignment, u64)>,
}

/// What runs on a machine.
#[derive(Debug)]
pub enum Runs {
    /// Nothing: it is off.
    Off,
    /// Its firmware asks, since when and when next.
    Firmware {
        /// When this boot began.
        since: i64,
        /// When it asks again.
        next: i64,
    },
    /// The machine-agent.
    Agent(Box<Agent>),
    /// A system in memory, which reports with a token.
    Guest {
        /// The attempt's token.
        token: String,
        /// The agent that it reports to.
        server: usize,
        /// It has nothing to report any more.
        told: bool,
        /// When it reports.
        at: i64,
    },
    /// What is on its disk.
    Disk,
}

/// A machine.
#[derive(Debug)]
pub struct Hardware {
    /// Its name in the API.
    pub name: String,
    /// Its card.
    pub mac: MacAddr,
    /// Its disk.
    pub disk: Platter,
    /// What runs on it.
    pub runs: Runs,
}

impl Hardware {
    /// One that is off, with an empty disk or not.
    pub fn new(name: &str, mac: MacAddr, foreign: bool) -> Self {
        Self { name: name.to_owned(), mac, disk: Platter { foreign, ..Platter::default() }, runs: Runs::Off }
    }

    /// Power on, or a restart.
    pub fn restart(&mut self, now: i64) {
        self.runs = Runs::Firmware { since: now, next: now + 5_000_000 };
    }

    /// It boots what is on its disk, if anything is; else its firmware goes round.
    pub fn boot_disk(&mut self, now: i64) {
        self.disk.ran |= self.disk.whole;
        self.runs = if self.disk.whole || self.disk.foreign { Runs::Disk } else { Runs::Firmware { since: now, next: now + 30_000_000 } };
    }

    /// What its agent finds.
    pub fn inventory(&self) -> Inventory {
        Inventory { disks: vec![self.as_found()], ..Inventory::default() }
    }

    fn as_found(&self) -> Disk {
        Disk {
            name: "vda".to_owned(),
            serial: Some(format!("S-{}", self.name)),
            size_bytes: 1 << 30,
            contents: self.disk.contents().map(str::to_owned),
            marker: self.disk.marker.clone(),
            ..Disk::default()
        }
    }

    /// Whether the machine-agent would begin a step.
    ///
    /// # Errors
    /// Its guard says no, and why.
    pub fn allows(&self, step: &Step) -> Result<Writing, String> {
        let found = self.disk.marker.clone();
        match step {
            Step::Write(order) => guard::may_write(order, &content(order), "vda", found.as_ref(), self.disk.contents()),
            Step::Wipe(order) => guard::may_wipe(order, &self.as_found(), found).map(|()| Writing::Write),
            _ => Ok(Writing::Write),
        }
        .map_err(|error| error.to_string())
    }

    /// A step begins: what was there is half gone.
    pub fn begin(&mut self, step: &Step) {
        match step {
            Step::Write(order) => self.disk = Platter { marker: Some(order.marker.clone()), ..Platter::default() },
            Step::Wipe(_) => self.disk.whole = false,
            _ => {}
        }
    }

    /// A step has ended as asked.
    pub fn finish(&mut self, assignment: &Assignment) -> StepReport {
        let begun = StepReport::begun(&assignment.work, assignment.index, assignment.step.name());
        let done = StepReport { outcome: Some(Outcome::Done), ..begun };
        match &assignment.step {
            Step::Write(order) => {
                self.disk.whole = true;
                if let Some(marker) = &mut self.disk.marker {
                    marker.content = content(order);
                }
                StepReport { inventory: Some(self.inventory()), ..done }
            }
            Step::Wipe(_) => {
                self.disk = Platter::default();
                let serial = self.as_found().serial;
                let wiped = WipedDisk {
                    serial,
                    wwn: None,
                    method: WipeMethod::Metadata,
                    sanitize: None,
                    bytes: 32 << 20,
                    sampled: 1024,
                    mismatched: 0,
                };
                StepReport { inventory: Some(self.inventory()), wiped: vec![wiped], ..done }
            }
            _ => StepReport { inventory: Some(self.inventory()), ..done },
        }
    }

    /// A step has ended otherwise.
    pub fn fail(assignment: &Assignment, why: &str) -> StepReport {
        let begun = StepReport::begun(&assignment.work, assignment.index, assignment.step.name());
        StepReport { outcome: Some(Outcome::Failed), message: why.to_owned(), ..begun }
    }
}

fn content(order: &Write) -> String {
    guard::content(&order.checksum, order)
}

impl Agent {
    /// One that has just started.
    pub fn new(servers: usize, key: String, token: String, now: i64) -> Self {
        let mut engine = Engine::new(servers);
        let first = engine.on(Event::Woke);
        Self { engine, key, token, next: (first, now), doing: None }
    }
}
