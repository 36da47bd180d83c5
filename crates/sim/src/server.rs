//! A boot-agent, as far as machines and the API see it: a snapshot that may be old, and news that are not told yet.

use std::{collections::BTreeMap, sync::Arc};

use athanor_crds::{
    BootReport, BootReportSpec, MachineState,
    bootreport::{AgentReport, AttemptReport, NodeReport},
    names,
};
use athanor_machine_agent::engine::Event;
use athanor_plan::{
    BootPlan,
    agent::{self, Reply},
    boot_plan::WORK_PREFIX,
};
use athanor_wire::{GuestOutcome, GuestReport, MacAddr, StepReport, work::Next};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::MicroTime};

use crate::{Memory, Virtual};

/// How old the last sign of life of the API may be for something new to be started, in microseconds: the boot-agent's own limit.
const FRESH: i64 = 30_000_000;
/// How often what the operator waits for is written at most; and what nobody waits for.
const URGENT: i64 = 1_000_000;
const CALM: i64 = 10_000_000;
/// How often it is told that firmware that waits asks on.
const SAME_BOOT: i64 = 60_000_000;

/// What is known of one machine, and not told yet.
#[derive(Debug, Clone, Default)]
struct Client {
    last_boot: Option<i64>,
    attempt: AttemptReport,
    agent: Option<AgentReport>,
    dirty: bool,
    urgent: bool,
    written: Option<i64>,
}

impl Client {
    fn mark(&mut self, urgent: bool) {
        self.dirty = true;
        self.urgent |= urgent;
    }

    fn begin(&mut self, attempt: &str) {
        if self.attempt.id != attempt {
            self.attempt = AttemptReport { id: attempt.to_owned(), ..AttemptReport::default() };
        }
    }

    fn report(&self, node: &str) -> NodeReport {
        NodeReport {
            node: node.to_owned(),
            last_boot: self.last_boot.map(micro),
            attempt: Some(self.attempt.clone()).filter(|attempt| !attempt.id.is_empty()),
            agent: self.agent.clone(),
            ..NodeReport::default()
        }
    }

    fn inherit(&mut self, earlier: NodeReport, current: Option<&str>) {
        self.agent = self.agent.take().or(earlier.agent);
        self.last_boot = self.last_boot.max(earlier.last_boot.map(|time| time.0.as_microsecond()));
        if let Some(attempt) = earlier.attempt
            && (self.attempt.id.is_empty() || self.attempt.id == attempt.id || current == Some(&attempt.id))
        {
            self.begin(&attempt.id);
            self.attempt = AttemptReport { id: attempt.id.clone(), ..std::mem::take(&mut self.attempt) }.with(&attempt);
        }
    }
}

fn micro(micros: i64) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(micros).unwrap())
}

/// A boot-agent of one node.
#[derive(Debug)]
pub struct Server {
    /// Its node.
    pub node: String,
    /// Whether it reaches the API.
    pub connected: bool,
    plans: BTreeMap<MacAddr, BootPlan>,
    clients: BTreeMap<MacAddr, Client>,
    heard: Option<i64>,
    /// The API's revision when it listened last.
    seen: u64,
}

impl Server {
    /// One that knows nothing yet.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), connected: true, plans: BTreeMap::new(), clients: BTreeMap::new(), heard: None, seen: 0 }
    }

    /// It is started anew: it has the plans and the attempts that it kept beside itself, and what it had not told is lost.
    pub fn restart(&mut self) {
        (self.heard, self.seen) = (None, 0);
        for client in self.clients.values_mut() {
            let attempt = std::mem::take(&mut client.attempt);
            *client = Client::default();
            if attempt.started {
                client.attempt = AttemptReport { id: attempt.id, started: true, ..AttemptReport::default() };
            }
        }
    }

    /// Hears from the API, if it reaches it. What was started and is not in a plan is told again.
    pub fn listen(&mut self, api: &Memory, clock: &Virtual) {
        if !self.connected {
            return;
        }
        self.heard = Some(clock.micros());
        if self.seen == api.revision() {
            return;
        }
        self.seen = api.revision();
        let read = |secret: &Arc<Secret>| serde_json::from_slice(&secret.data.as_ref()?.get(names::PLAN_SECRET_KEY)?.0).ok();
        let secrets = api.all::<Secret>();
        let plans: Vec<BootPlan> =
            secrets.iter().filter(|secret| secret.type_.as_deref() == Some(names::PLAN_SECRET_TYPE)).filter_map(read).collect();
        let plans: BTreeMap<MacAddr, BootPlan> = plans.into_iter().filter_map(|plan| Some((plan.boot_interface()?.mac, plan))).collect();
        for (mac, plan) in plans.iter().filter(|(mac, plan)| self.plans.get(mac) != Some(plan)) {
            let ordered = plan.order.as_ref().map(|order| order.attempt.as_str());
            let unknown = |client: &&mut Client| client.attempt.started && ordered != Some(&client.attempt.id);
            self.clients.get_mut(mac).filter(unknown).into_iter().for_each(|client| client.mark(true));
        }
        self.plans = plans;
    }

    /// The API's data went back: its lists are read anew.
    pub fn list_anew(&mut self) {
        self.plans.clear();
        self.seen = 0;
    }

    fn is_fresh(&self, clock: &Virtual) -> bool {
        self.heard.is_some_and(|heard| clock.micros() - heard < FRESH)
    }

    /// Firmware asks for its script; whether it is given its order.
    pub fn script(&mut self, mac: MacAddr, clock: &Virtual) -> Option<(BootPlan, bool)> {
        let plan = self.plans.get(&mac)?.clone();
        let (now, fresh) = (clock.micros(), self.is_fresh(clock));
        let client = self.clients.entry(mac).or_default();
        let begun = matches!(plan.state, MachineState::Provisioning | MachineState::Provisioned)
            || plan.order.as_ref().is_some_and(|order| client.attempt.id == order.attempt && client.attempt.started);
        let order = plan.order.as_ref().filter(|_| fresh || begun);
        let starts = order.is_some_and(|order| client.attempt.id != order.attempt || !client.attempt.started);
        let waited_for = plan.state == MachineState::Releasing || plan.work.as_ref().is_some_and(|work| work.key.is_some());
        let again = order.is_some_and(|order| client.attempt.id == order.attempt && client.attempt.guest_since(client.last_boot).is_some());
        if waited_for || again || client.last_boot.is_none_or(|last| now - last >= SAME_BOOT) {
            client.last_boot = Some(now);
            client.mark(waited_for || again);
        }
        match order {
            Some(order) => {
                client.begin(&order.attempt);
                client.attempt.started = true;
                client.attempt.started_at.get_or_insert(micro(now));
            }
            None if plan.order.is_none() => client.begin(""),
            None => {}
        }
        if starts {
            client.mark(true);
        }
        let acting = order.is_some();
        Some((plan, acting))
    }

    /// A machine-agent asks for a step.
    pub fn next(&mut self, mac: MacAddr, token: &str, key: &str, next: &Next, clock: &Virtual) -> Event {
        let fresh = self.is_fresh(clock);
        let Some(plan) = self.named(mac, token) else { return if fresh { Event::Unknown } else { Event::Lost } };
        match agent::reply(&plan, "http://sim", token, key, next, fresh) {
            Reply::Do(assignment) => Event::Answered(Some(*assignment)),
            Reply::Nothing => Event::Answered(None),
            Reply::Unbound => {
                self.asked(mac, &plan, key, clock);
                Event::Answered(None)
            }
            Reply::Stranger => {
                self.asked(mac, &plan, key, clock);
                Event::Stranger
            }
        }
    }

    fn named(&self, mac: MacAddr, token: &str) -> Option<BootPlan> {
        let plan = self.plans.get(&mac)?;
        (plan.token == token || plan.previous_token.as_deref() == Some(token)).then(|| plan.clone())
    }

    fn asked(&mut self, mac: MacAddr, plan: &BootPlan, key: &str, clock: &Virtual) {
        let Some(work) = &plan.work else { return };
        let client = self.clients.entry(mac).or_default();
        if AgentReport::asked(&mut client.agent, &work.work.id, work.key.is_some(), key, micro(clock.micros())) {
            client.mark(true);
        }
    }

    /// A machine-agent tells how a step goes. The end of one is acknowledged when the API has it.
    pub fn tell(&mut self, mac: MacAddr, token: &str, key: &str, report: StepReport, api: &Memory, clock: &Virtual) -> Event {
        let fresh = self.is_fresh(clock);
        let Some(plan) = self.named(mac, token) else { return if fresh { Event::Unknown } else { Event::Lost } };
        if !fresh {
            return Event::Lost;
        }
        let Some(work) = plan.work.as_ref().filter(|work| work.work.id == report.work) else { return Event::Over };
        if work.key.as_deref() != Some(key) {
            self.asked(mac, &plan, key, clock);
            return if work.key.is_some() { Event::Stranger } else { Event::Lost };
        }
        let ended = report.outcome.is_some();
        self.told(mac, key, report, clock);
        let stored = !ended || (self.connected && self.write(mac, api, clock));
        if stored { Event::Stored } else { Event::Lost }
    }

    fn told(&mut self, mac: MacAddr, key: &str, report: StepReport, clock: &Virtual) {
        let client = self.clients.entry(mac).or_default();
        let ended = report.outcome.is_some();
        let over = ended && report.work.starts_with(WORK_PREFIX);
        if client.agent.get_or_insert_default().told(key, report, micro(clock.micros())) {
            client.mark(ended);
        }
        if over {
            client.begin("");
        }
    }

    /// A guest reports with its attempt's token; whether that is stored. `None`: its attempt is over.
    pub fn guest(&mut self, mac: MacAddr, token: &str, outcome: GuestOutcome, api: &Memory, clock: &Virtual) -> Option<bool> {
        let order = self.plans.get(&mac).and_then(|plan| plan.order.as_ref()).filter(|order| order.report_token == token);
        let Some(order) = order.map(|order| order.attempt.clone()) else { return (!self.is_fresh(clock)).then_some(false) };
        let client = self.clients.entry(mac).or_default();
        client.begin(&order);
        if client.attempt.guest_since(client.last_boot).is_none() {
            client.attempt.guest = Some(GuestReport { outcome, message: "it says so".to_owned() });
            client.attempt.guest_at = Some(micro(clock.micros()));
            client.mark(true);
        }
        Some(self.connected && self.write(mac, api, clock))
    }

    /// Writes what is due.
    pub fn flush(&mut self, api: &Memory, clock: &Virtual) {
        if !self.connected {
            return;
        }
        let now = clock.micros();
        let due = |client: &Client| {
            let pause = if client.urgent { URGENT } else { CALM };
            client.dirty && client.written.is_none_or(|written| now - written >= pause)
        };
        let macs: Vec<MacAddr> =
            self.clients.iter().filter(|(mac, client)| due(client) && self.plans.contains_key(mac)).map(|(mac, _)| *mac).collect();
        for mac in macs {
            self.write(mac, api, clock);
        }
    }

    fn write(&mut self, mac: MacAddr, api: &Memory, clock: &Virtual) -> bool {
        let Some(plan) = self.plans.get(&mac) else { return false };
        let (namespace, name) = (plan.machine.namespace.clone(), plan.machine.name.clone());
        let current = plan.order.as_ref().map(|order| order.attempt.clone());
        let client = self.clients.entry(mac).or_default();
        if !client.dirty {
            return true;
        }
        if api.luck(8) {
            return false;
        }
        let stored = api.find::<BootReport>(&namespace, &name);
        let mut stored = stored.map(|stored| BootReport::clone(&stored)).unwrap_or_else(|| {
            let mut report = BootReport::new(&name, BootReportSpec::default());
            report.metadata.namespace = Some(namespace.clone());
            report
        });
        let at = stored.spec.nodes.iter().position(|part| part.node == self.node);
        if client.written.is_none()
            && let Some(at) = at
        {
            client.inherit(stored.spec.nodes[at].clone(), current.as_deref());
        }
        let part = client.report(&self.node);
        match at {
            Some(at) => stored.spec.nodes[at] = part,
            None => stored.spec.nodes.push(part),
        }
        api.put(&stored);
        client.written = Some(clock.micros());
        // The answer was lost: it is written again.
        if api.luck(12) {
            return false;
        }
        (client.dirty, client.urgent) = (false, false);
        true
    }
}
