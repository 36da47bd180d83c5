//! Everything together, one step after the other, and what must never happen.

pub(crate) mod furniture;
mod people;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use athanor_crds::{Deployment, Machine, conditions::types};
use athanor_machine_agent::{
    engine::{Action, Event},
    guard::Writing,
};
use athanor_operator::{deployment, machine};
use athanor_plan::{Safe, ipxe};
use athanor_wire::{Assignment, GuestOutcome, MacAddr, Step, StepReport};
use futures::executor::block_on;

use crate::{
    Count, Key, Memory, Stored, Virtual,
    hardware::{Agent, Hardware, Runs},
    server::Server,
};

/// How many lines of its story a world remembers.
const STORY: usize = 400;
const SECOND: i64 = 1_000_000;
/// Silence of an agent, three attempts and the pauses between them are over by then, and twice that.
const QUIET: i64 = 1200 * SECOND;
/// Nothing takes so long.
const LONG: i64 = 8 * 3600 * SECOND;

/// How rough a world is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Power is cut, agents restart and lose the API, disks fail, answers are lost.
    pub faults: bool,
    /// The API's data is restored from an older copy now and then.
    pub restores: bool,
}

/// A small data center.
#[derive(Debug)]
pub struct World {
    /// Its API.
    pub api: Memory,
    /// Its time.
    pub clock: Virtual,
    /// Deployments that were released and whose Machine was free again, or that were asked for and came to run.
    pub lives: u64,
    ids: Count,
    servers: Vec<Server>,
    machines: Vec<Hardware>,
    weather: Weather,
    /// When which object is looked at.
    due: BTreeMap<Key, i64>,
    /// Instances whose Deployment somebody deleted on purpose.
    deleted: BTreeSet<String>,
    backup: Option<BTreeMap<Key, Arc<Stored>>>,
    restored: bool,
    named: u64,
    /// When a Machine or a Deployment was last written to.
    changed: i64,
    story: VecDeque<String>,
}

impl World {
    /// So many machines, and nobody wants anything yet.
    pub fn new(seed: u64, machines: u8, weather: Weather) -> Self {
        let api = Memory::new(seed);
        furniture::furnish(&api, machines);
        let hardware = |number: u8| {
            let mac = MacAddr([0x52, 0x54, 0, 0, 0, number]);
            // One in eight has a life before Athanor.
            Hardware::new(&format!("m{number}"), mac, api.dice.roll(8) == 0)
        };
        let machines = (0..machines).map(hardware).collect();
        let servers = ["n1", "n2"].map(Server::new).into();
        let mut world = Self {
            api,
            clock: Virtual::default(),
            lives: 0,
            ids: Count::default(),
            servers,
            machines,
            weather,
            due: BTreeMap::new(),
            deleted: BTreeSet::new(),
            backup: None,
            restored: false,
            named: 0,
            changed: 0,
            story: VecDeque::new(),
        };
        world.look_at_all();
        world
    }

    /// What happened lately, for whoever has to understand a failure.
    pub fn story(&self) -> String {
        self.story.iter().map(|line| format!("{line}\n")).collect()
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        let seconds = (self.clock.micros() - Virtual::default().micros()) / 100_000;
        self.story.push_back(format!("{:>8}.{} {}", seconds / 10, seconds % 10, what()));
    }

    fn luck(&self, one_in: u64) -> bool {
        self.weather.faults && self.api.luck(one_in)
    }

    /// A little time passes, and what is due happens.
    pub fn step(&mut self) {
        let pause = 100 + self.api.dice.roll(1400);
        self.clock.pass(pause);
        self.reconcile();
        for index in 0..self.servers.len() {
            if self.api.dice.roll(2) == 0 {
                self.servers[index].listen(&self.api, &self.clock);
            }
            self.servers[index].flush(&self.api, &self.clock);
        }
        for index in 0..self.machines.len() {
            self.tick(index);
        }
        self.people();
        self.misfortune();
        self.notice();
        self.check();
    }

    /// From now on nothing goes wrong any more, and nobody wants anything new; people still do what they are told. Ends when no Machine and no
    /// Deployment was written to for [`QUIET`]: whoever is stuck by then says so, and says nothing more.
    ///
    /// # Panics
    /// It never comes to rest.
    pub fn settle(&mut self) {
        self.api.set_calm(true);
        self.weather = Weather { faults: false, restores: false };
        self.servers.iter_mut().for_each(|server| server.connected = true);
        self.look_at_all();
        self.changed = self.clock.micros();
        let begun = self.changed;
        while self.clock.micros() - self.changed < QUIET {
            self.step();
            assert!(self.clock.micros() - begun < LONG, "it never comes to rest");
        }
    }

    fn look_at_all(&mut self) {
        let now = self.clock.micros();
        for kind in ["Machine", "Deployment"] {
            for name in self.api.names(kind) {
                self.due.insert((kind.to_owned(), "default".to_owned(), name), now);
            }
        }
    }

    fn soon(&mut self, kind: &str, name: &str) {
        let at = self.clock.micros() + i64::try_from(self.api.dice.roll(1_500_000)).unwrap();
        let due = self.due.entry((kind.to_owned(), "default".to_owned(), name.to_owned())).or_insert(at);
        *due = at.min(*due);
    }

    /// What was written wakes whoever looks at it.
    fn notice(&mut self) {
        let mut written = self.api.take_written();
        written.sort();
        written.dedup();
        for (kind, _, name) in written {
            if ["Machine", "Deployment"].contains(&kind.as_str()) {
                self.changed = self.clock.micros();
            }
            match kind.as_str() {
                "Machine" => {
                    self.soon("Machine", &name);
                    let owner = self.api.find::<Machine>("default", &name).and_then(|machine| machine.spec.claim_ref.clone());
                    let deployments = self.api.all::<Deployment>();
                    for deployment in &deployments {
                        let own = deployment.metadata.name.as_deref().unwrap_or_default();
                        let status = deployment.status.as_ref();
                        let waits = status.is_none_or(|status| status.machine.is_none());
                        let was = status.is_some_and(|status| status.machine.as_deref() == Some(&name));
                        if waits || was || owner.as_ref().is_some_and(|owner| owner.name == own) {
                            self.soon("Deployment", own);
                        }
                    }
                }
                "Deployment" => {
                    self.soon("Deployment", &name);
                    let found =
                        self.api.find::<Deployment>("default", &name).and_then(|deployment| deployment.status.as_ref()?.machine.clone());
                    let machines = self.api.all::<Machine>();
                    let owned = machines.iter().filter(|machine| machine.spec.claim_ref.as_ref().is_some_and(|claim| claim.name == name));
                    let owned: Vec<String> = owned.filter_map(|machine| machine.metadata.name.clone()).chain(found).collect();
                    owned.iter().for_each(|machine| self.soon("Machine", machine));
                }
                "BootReport" | "MachineInventory" => self.soon("Machine", &name),
                _ => {}
            }
        }
    }

    fn reconcile(&mut self) {
        let now = self.clock.micros();
        let due: Vec<Key> = self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.due.remove(&key);
            let again = if key.0 == "Machine" {
                block_on(machine::reconcile("default", &key.2, &self.api, &self.clock, &self.ids))
            } else {
                block_on(deployment::reconcile("default", &key.2, &self.api, &self.clock, &self.ids)).map(|()| None)
            };
            // Sometimes it is delivered twice.
            let again = if self.api.luck(20) { Ok(Some(Duration::ZERO)) } else { again };
            let pause = match again {
                Ok(None) => continue,
                Ok(Some(pause)) => i64::try_from(pause.as_micros()).unwrap(),
                Err(_) => SECOND + i64::try_from(self.api.dice.roll(4_000_000)).unwrap(),
            };
            self.due.entry(key).or_insert(now + pause);
        }
    }

    fn tick(&mut self, index: usize) {
        let now = self.clock.micros();
        match &self.machines[index].runs {
            Runs::Firmware { next, since } if *next <= now => self.firmware(index, *since),
            Runs::Agent(_) => self.agent(index),
            Runs::Guest { told: false, at, .. } if *at <= now => self.guest(index),
            _ => {}
        }
    }

    fn firmware(&mut self, index: usize, since: i64) {
        let now = self.clock.micros();
        let mac = self.machines[index].mac;
        let server = self.api.dice.pick(self.servers.len());
        let asked = self.servers[server].script(mac, &self.clock);
        let machine = &mut self.machines[index];
        let name = machine.name.clone();
        let Some((plan, acting)) = asked else {
            machine.runs = Runs::Firmware { since, next: now + 3 * SECOND };
            return;
        };
        if acting && let Some(order) = &plan.order {
            let token = order.report_token.clone();
            let at = now + 5 * SECOND;
            let agent = plan.work.is_some();
            machine.runs = if agent {
                let key = format!("k-{}", self.api.dice.roll(u64::MAX));
                Runs::Agent(Box::new(Agent::new(2, key, plan.token.clone(), at)))
            } else {
                Runs::Guest { token, server, told: false, at }
            };
            let attempt = order.attempt.clone();
            return self.tell(|| format!("{name} boots {} of {attempt}", if agent { "the machine-agent" } else { "the guest" }));
        }
        let waited = u64::try_from(now - since).unwrap_or_default();
        let leaves = match &plan.safe {
            Safe::LocalDisk { .. } => true,
            Safe::LocalDiskThenWait { .. } => waited >= u64::try_from(ipxe::WAIT_BEFORE_DISK.as_micros()).unwrap(),
            Safe::Wait { .. } => false,
        };
        if leaves {
            machine.boot_disk(now);
            let runs = format!("{:?}", machine.runs);
            self.tell(|| format!("{name} leaves to its disk: {runs}"));
        } else {
            machine.runs = Runs::Firmware { since, next: now + 3 * SECOND };
        }
    }

    fn guest(&mut self, index: usize) {
        let outcome = if self.luck(12) { GuestOutcome::Failure } else { GuestOutcome::Success };
        let (mac, name) = (self.machines[index].mac, self.machines[index].name.clone());
        let Runs::Guest { token, server, .. } = &self.machines[index].runs else { return };
        let stored = self.servers[*server].guest(mac, &token.clone(), outcome, &self.api, &self.clock);
        // Who is told that its attempt is over says nothing more.
        let done = stored != Some(false);
        let again = self.clock.micros() + 5 * SECOND;
        if let Runs::Guest { told, at, .. } = &mut self.machines[index].runs {
            (*told, *at) = (done, again);
        }
        self.tell(|| format!("{name}'s guest reports {outcome:?}: {stored:?}"));
    }

    fn agent(&mut self, index: usize) {
        let Runs::Agent(agent) = &mut self.machines[index].runs else { return };
        if agent.doing.is_some() {
            return self.work(index);
        }
        if agent.next.1 > self.clock.micros() {
            return;
        }
        let (action, at) = std::mem::replace(&mut agent.next, (Action::Pause(Duration::ZERO), i64::MAX));
        agent.next.1 = at;
        let server = agent.engine.server();
        let (token, key, mac) = (agent.token.clone(), agent.key.clone(), self.machines[index].mac);
        let unreachable = self.luck(40);
        let event = match action {
            Action::Pause(_) => Event::Woke,
            Action::Ask(_) | Action::Tell(_) if unreachable => Event::Lost,
            Action::Ask(next) => self.servers[server].next(mac, &token, &key, &next, &self.clock),
            Action::Tell(report) => self.servers[server].tell(mac, &token, &key, *report, &self.api, &self.clock),
            Action::Run(assignment) => return self.begin(index, assignment),
            Action::Leave(step) => {
                let (machine, now) = (&mut self.machines[index], self.clock.micros());
                let name = machine.name.clone();
                if step == Step::PowerOff {
                    machine.runs = Runs::Off
                } else {
                    machine.restart(now)
                }
                return self.tell(|| format!("{name}'s agent leaves: {}", step.name()));
            }
        };
        self.goes_on(index, event);
    }

    /// The engine hears what happened, and says what is next.
    fn goes_on(&mut self, index: usize, event: Event) {
        let now = self.clock.micros();
        let Runs::Agent(agent) = &mut self.machines[index].runs else { return };
        if let Event::Answered(Some(Assignment { token: Some(token), .. })) = &event {
            agent.token.clone_from(token);
        }
        let pause = if event == Event::Answered(None) { SECOND } else { 0 };
        let action = agent.engine.on(event);
        let pause = if let Action::Pause(pause) = &action { i64::try_from(pause.as_micros()).unwrap() } else { pause };
        agent.next = (action, now + pause);
    }

    fn begin(&mut self, index: usize, assignment: Assignment) {
        let name = self.machines[index].name.clone();
        self.tell(|| format!("{name}'s agent begins {} of {}", assignment.step.name(), assignment.work));
        match self.machines[index].allows(&assignment.step) {
            Err(why) => {
                self.tell(|| format!("{name}'s agent refuses: {why}"));
                return self.goes_on(index, Event::Finished(Box::new(Hardware::fail(&assignment, &why))));
            }
            Ok(Writing::IsThere) => {
                self.tell(|| format!("{name}'s agent finds it written"));
                let done = self.machines[index].finish(&assignment);
                return self.goes_on(index, Event::Finished(Box::new(done)));
            }
            Ok(Writing::Write) => {}
        }
        self.may_touch(index, &assignment.step);
        self.machines[index].begin(&assignment.step);
        let ticks = 1 + self.api.dice.roll(12);
        if let Runs::Agent(agent) = &mut self.machines[index].runs {
            agent.doing = Some((assignment, ticks));
        }
    }

    /// A step goes on, is told of, and ends.
    fn work(&mut self, index: usize) {
        let Runs::Agent(agent) = &mut self.machines[index].runs else { return };
        let Some((assignment, left)) = agent.doing.take() else { return };
        let (server, token, key) = (agent.engine.server(), agent.token.clone(), agent.key.clone());
        let (mac, name) = (self.machines[index].mac, self.machines[index].name.clone());
        self.may_touch(index, &assignment.step);
        let begun = StepReport::begun(&assignment.work, assignment.index, assignment.step.name());
        let told = self.servers[server].tell(mac, &token, &key, begun, &self.api, &self.clock);
        let report = if matches!(told, Event::Over | Event::Stranger) {
            Hardware::fail(&assignment, "the work is over")
        } else if self.luck(60) {
            Hardware::fail(&assignment, "the disk says no")
        } else if left > 0 {
            if let Runs::Agent(agent) = &mut self.machines[index].runs {
                agent.doing = Some((assignment, left - 1));
            }
            return;
        } else {
            self.machines[index].finish(&assignment)
        };
        self.tell(|| {
            format!("{name}'s agent ends {} of {}: {:?} {}", assignment.step.name(), assignment.work, report.outcome, report.message)
        });
        self.goes_on(index, Event::Finished(Box::new(report)));
    }
}

fn ready(machine: &Machine) -> String {
    let conditions = machine.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|condition| condition.type_ == types::READY).map(|condition| condition.message.clone()).collect()
}
