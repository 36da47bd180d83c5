//! What clients asked and were answered, kept in memory until it is written into BootReports.

mod agents;
mod guests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use athanor_crds::bootreport::{AgentReport, AttemptReport, BootEvent, Declined, MAX_EVENTS, NodeReport};
use athanor_plan::{BootPlan, Snapshot};
use athanor_wire::{Inventory, MacAddr};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::sync::{Notify, watch};

use crate::text::plain;

/// Events of one client are written at most this often.
const PAUSE: Duration = Duration::from_secs(10);
/// What the operator waits for (a start, a guest's report) is written at most this often.
const URGENT_PAUSE: Duration = Duration::from_secs(1);
/// How long a client that is no machine is kept back: it may be a newcomer whose Machine is on its way.
const STRANGER_WAIT: Duration = Duration::from_secs(5);
/// How many clients are kept; the one that was silent longest goes.
const MAX_CLIENTS: usize = 20_000;
/// Among how many the one that goes is looked for.
const EVICTION_LOOK: usize = 256;
/// How many of them may be strangers, who are no machines and will never be cleaned up after.
const MAX_STRANGERS: usize = 256;
/// How many strangers are written about at once, that is in a second: a flood of random addresses is no reason to fill a disk.
const STRANGERS_AT_ONCE: usize = 4;
/// How long a guest waits for its report to be stored: shorter than the patience of any HTTP client.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// DHCP questions of firmware within this time belong to one boot.
const ONE_BOOT: Duration = Duration::from_secs(60);
/// A loader that is fetched so often within [`LOOP_TIME`], with no script in between, leads nowhere.
const LOOP_FETCHES: usize = 3;
/// How long fetches of a loader are remembered, and how long a client that goes in circles is offered none.
const LOOP_TIME: Duration = Duration::from_secs(60);
/// How often somebody asks the same is written this often, if nothing else is.
const AGAIN_PAUSE: Duration = Duration::from_secs(300);
/// A waiting machine asks every few seconds; that it still does is written this often.
const BOOT_TIME_PAUSE: Duration = Duration::from_secs(60);

/// One question and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) protocol: &'static str,
    pub(crate) asked: String,
    pub(crate) answer: String,
    pub(crate) row: Option<String>,
    pub(crate) subnet: Option<String>,
}

/// What a client fetched out of one tree, one file after the other.
#[derive(Debug, Default)]
struct Tally {
    asked: String,
    files: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Client {
    events: VecDeque<BootEvent>,
    facts: Option<Inventory>,
    subnet: Option<String>,
    /// When its firmware asked there last, or anything on it for the first time.
    subnet_at: Option<Timestamp>,
    last_boot: Option<Timestamp>,
    /// When the firmware that runs now first asked.
    boot_began: Option<Instant>,
    /// A word for that boot.
    boot: Option<String>,
    attempt: AttemptReport,
    agent: Option<AgentReport>,
    declined: Option<Declined>,
    /// When it fetched its loader, since it last fetched a script; the newest [`LOOP_FETCHES`].
    loader_fetches: VecDeque<Instant>,
    chain_loop: Option<Timestamp>,
    files: BTreeSet<String>,
    tally: Tally,
    problems: Vec<String>,
    first: Instant,
    last: Instant,
    written: Option<Instant>,
    /// The API may have what an earlier process of this node wrote of it.
    inherits: bool,
    dirty: bool,
    /// What was due is on its way to the API.
    writing: bool,
    urgent: bool,
}

impl Client {
    fn new(now: Instant) -> Self {
        Self {
            events: VecDeque::new(),
            facts: None,
            subnet: None,
            subnet_at: None,
            last_boot: None,
            boot_began: None,
            boot: None,
            attempt: AttemptReport::default(),
            agent: None,
            declined: None,
            loader_fetches: VecDeque::new(),
            chain_loop: None,
            files: BTreeSet::new(),
            tally: Tally::default(),
            problems: Vec::new(),
            first: now,
            last: now,
            written: None,
            inherits: true,
            dirty: false,
            writing: false,
            urgent: false,
        }
    }

    fn begin(&mut self, attempt: &str) {
        if self.attempt.id != attempt {
            self.attempt = AttemptReport { id: attempt.to_owned(), ..AttemptReport::default() };
            self.files.clear();
        }
    }

    /// Something of it is told nowhere else.
    fn is_wanted(&self) -> bool {
        self.urgent || self.writing || self.attempt.started
    }

    fn goes_in_circles(&self) -> bool {
        self.loader_fetches.len() == LOOP_FETCHES && self.loader_fetches.iter().all(|fetched| fetched.elapsed() < LOOP_TIME)
    }

    /// Firmware asked DHCP: a boot begins, or goes on.
    fn firmware_asked(&mut self, mac: MacAddr) {
        let now = Instant::now();
        if self.boot_began.is_none_or(|began| now.duration_since(began) >= ONE_BOOT) {
            self.boot_began = Some(now);
            self.boot = Some(boot_word(mac));
        }
    }

    fn saw(&mut self, seen: Seen) {
        if seen.subnet.is_some() && self.subnet != seen.subnet {
            self.subnet.clone_from(&seen.subnet);
            self.mark(false);
        }
        // A machine that waits asks the same every few seconds; once is enough to know.
        let seen = Seen { asked: plain(&seen.asked, 256), answer: plain(&seen.answer, 512), ..seen };
        let boot = &self.boot;
        let same = |last: &BootEvent| last.boot == *boot && last.asked == seen.asked && last.answer == seen.answer && last.row == seen.row;
        match self.events.back_mut().filter(|last| same(last)) {
            Some(last) => {
                last.again = Some(last.again.unwrap_or_default().saturating_add(1));
                if self.written.is_some_and(|written| written.elapsed() >= AGAIN_PAUSE) {
                    self.mark(false);
                }
            }
            None => self.push(seen),
        }
    }

    fn push(&mut self, seen: Seen) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        let Seen { protocol, asked, answer, row, .. } = seen;
        let boot = self.boot.clone();
        self.events.push_back(BootEvent { time: MicroTime(now()), protocol: protocol.to_owned(), asked, answer, boot, row, again: None });
        self.mark(false);
    }

    fn mark(&mut self, urgent: bool) {
        self.dirty = true;
        self.urgent |= urgent;
    }

    fn due(&self, now: Instant, known: bool) -> bool {
        if !self.dirty || (!known && now.duration_since(self.first) < STRANGER_WAIT) {
            return false;
        }
        let pause = if self.urgent { URGENT_PAUSE } else { PAUSE };
        self.written.is_none_or(|written| now.duration_since(written) >= pause)
    }
}

/// What all clients asked, by MAC.
pub(crate) struct Reporter {
    /// Since when this process runs.
    born: Timestamp,
    clients: Mutex<HashMap<MacAddr, Client>>,
    wake: Notify,
    /// Counts the reports that the API has taken.
    stored: watch::Sender<u64>,
}

impl Default for Reporter {
    fn default() -> Self {
        Self { born: now(), clients: Mutex::default(), wake: Notify::default(), stored: watch::Sender::default() }
    }
}

/// The report of one client, ready to be written.
pub(crate) struct Due {
    pub(crate) mac: MacAddr,
    /// This process has not written about it before: what an earlier one wrote is to be inherited.
    pub(crate) first: bool,
    /// The operator waits for it.
    pub(crate) urgent: bool,
    pub(crate) report: NodeReport,
}

impl Reporter {
    /// What is known of a client, if anything is.
    fn of<T>(&self, mac: MacAddr, look: impl FnOnce(&Client) -> T) -> Option<T> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&mac).map(look)
    }

    /// What is known of the machine of a plan.
    fn of_plan<T>(&self, plan: &BootPlan, look: impl FnOnce(&Client) -> T) -> Option<T> {
        self.of(boot_mac(plan)?, look)
    }

    fn with<T>(&self, mac: MacAddr, change: impl FnOnce(&mut Client) -> T) -> T {
        let now = Instant::now();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if !clients.contains_key(&mac) && clients.len() >= MAX_CLIENTS {
            // Of some that the map's own order picks; a flood of new addresses must not go over all of them for each.
            let some = clients.iter().take(EVICTION_LOOK);
            let quietest = some.min_by_key(|(_, client)| (client.is_wanted(), client.last)).map(|(mac, _)| *mac);
            quietest.map(|mac| clients.remove(&mac));
        }
        let client = clients.entry(mac).or_insert_with(|| Client::new(now));
        client.last = now;
        let (was_dirty, was_urgent) = (client.dirty, client.urgent);
        let result = change(client);
        let news = (client.dirty && !was_dirty) || (client.urgent && !was_urgent);
        drop(clients);
        if news {
            self.wake.notify_one();
        }
        result
    }

    /// A client asked DHCP, with its firmware or without. Where it asks in a Subnet that it has no address in, the operator waits to hear of it.
    /// Returns the word for the boot that it is in.
    pub(crate) fn saw_dhcp(&self, mac: MacAddr, firmware: bool, seen: Seen, at_home: bool) -> Option<String> {
        self.with(mac, |client| {
            if firmware {
                client.firmware_asked(mac);
            }
            // Firmware's first question in a boot is told in any case, and so is who asks where it has no address and was not before.
            let elsewhere = !at_home && client.subnet != seen.subnet;
            if seen.subnet.is_some() && (firmware || elsewhere) {
                client.subnet_at = Some(now());
            }
            if elsewhere && seen.subnet.is_some() {
                client.mark(true);
            }
            client.saw(seen);
            client.boot.clone()
        })
    }

    /// A client asked something.
    pub(crate) fn saw(&self, mac: MacAddr, seen: Seen) {
        self.with(mac, |client| client.saw(seen));
    }

    /// A file out of a tree was fetched. An installer fetches a thousand of them: together they are one event.
    pub(crate) fn saw_of_tree(&self, mac: MacAddr, tree: &str, path: &str, bytes: u64) {
        self.with(mac, |client| {
            let asked = format!("{}/…", plain(tree, 200));
            let goes_on = client.events.back().is_some_and(|last| last.asked == asked) && client.tally.asked == asked;
            if !goes_on {
                client.tally = Tally { asked: asked.clone(), ..Tally::default() };
            }
            client.tally.files += 1;
            client.tally.bytes += bytes;
            let last = path.trim_start_matches('/').strip_prefix(tree).unwrap_or(path).trim_start_matches('/');
            let answer = format!("{} files, {} bytes; the last is {}", client.tally.files, client.tally.bytes, plain(last, 256));
            match client.events.back_mut().filter(|_| goes_on) {
                Some(event) => {
                    event.answer = answer;
                    client.mark(false);
                }
                None => client.push(Seen { protocol: "HTTP", asked, answer, row: None, subnet: None }),
            }
        });
    }

    /// The word for the boot that a machine is in, as far as its firmware asked here.
    pub(crate) fn boot(&self, mac: MacAddr) -> Option<String> {
        self.of(mac, |client| client.boot.clone()).flatten()
    }

    /// Its Machine was created in this moment: nothing was written of it before.
    pub(crate) fn is_new(&self, mac: MacAddr) {
        self.with(mac, |client| client.inherits = false);
    }

    /// A machine declined an address that is its own: it gets another, as soon as the operator knows.
    pub(crate) fn declined(&self, mac: MacAddr, ip: IpAddr) {
        self.with(mac, |client| {
            client.declined = Some(Declined { ip, time: MicroTime(now()) });
            client.mark(true);
        });
    }

    /// A client fetched the loader that DHCP named, whole.
    pub(crate) fn loader_fetched(&self, mac: MacAddr) {
        self.with(mac, |client| {
            if client.loader_fetches.len() == LOOP_FETCHES {
                client.loader_fetches.pop_front();
            }
            client.loader_fetches.push_back(Instant::now());
            if client.goes_in_circles() {
                client.chain_loop = Some(now());
                client.mark(true);
            }
        });
    }

    /// Whether a client fetches its loader again and again and gets no further.
    pub(crate) fn loops(&self, mac: MacAddr) -> bool {
        self.of(mac, Client::goes_in_circles).unwrap_or_default()
    }

    /// How long ago the firmware of a machine first asked in this boot.
    pub(crate) fn boot_age(&self, plan: &BootPlan) -> Duration {
        let began = self.of_plan(plan, |client| client.boot_began).flatten();
        began.map(|began| began.elapsed()).filter(|age| *age < ONE_BOOT).unwrap_or_default()
    }

    /// A machine fetched its script: its firmware runs now. With the order in it, the attempt has begun.
    pub(crate) fn script(&self, plan: &BootPlan, acting: bool, facts: Option<Inventory>) {
        let Some(mac) = boot_mac(plan) else { return };
        self.with(mac, |client| {
            client.loader_fetches.clear();
            // A loader that loops does not ask DHCP again, and another agent may have answered that.
            if client.boot_began.is_none_or(|began| began.elapsed() >= ONE_BOOT) {
                client.boot_began = Some(Instant::now());
            }
            let now = now();
            let order = plan.order.as_ref().filter(|_| acting);
            let starts = order.is_some_and(|order| client.attempt.id != order.attempt || !client.attempt.started);
            let looped = client.chain_loop > client.last_boot;
            let old = looped || client.last_boot.is_none_or(|last| now.duration_since(last).unsigned_abs() >= BOOT_TIME_PAUSE);
            // A machine that is to be released is free as soon as it asks.
            // So does one whose machine-agent was restarted begin its work anew.
            let waited_for =
                plan.state == athanor_crds::MachineState::Releasing || plan.work.as_ref().is_some_and(|work| work.key.is_some());
            // What its guest said was said of the boot before.
            let again = order.is_some_and(|order| client.attempt.id == order.attempt && client.said().is_some());
            if again {
                // An older agent wrote no time.
                client.attempt.guest_at.get_or_insert(MicroTime(Timestamp::UNIX_EPOCH));
            }
            if old || waited_for || again {
                client.last_boot = Some(now);
                client.mark(waited_for || again);
            }
            match order {
                Some(order) => {
                    client.begin(&order.attempt);
                    client.attempt.started = true;
                    client.attempt.started_at.get_or_insert(MicroTime(now));
                }
                // Its firmware runs, and has nothing to run: what was started before is over, unless that runs from its disk.
                None if plan.order.is_none() => client.begin(plan.metadata.as_ref().map_or("", |metadata| &metadata.attempt)),
                None => {}
            }
            if facts.is_some() && client.facts != facts {
                client.facts = facts;
                client.mark(true);
            }
            if starts {
                client.mark(true);
            }
        });
    }

    /// A file of an order was fetched whole.
    pub(crate) fn served(&self, plan: &BootPlan, file: &str) {
        let (Some(mac), Some(order)) = (boot_mac(plan), &plan.order) else { return };
        self.with(mac, |client| {
            client.begin(&order.attempt);
            client.files.insert(file.to_owned());
            if !client.attempt.served && order.files.keys().all(|name| client.files.contains(name)) {
                client.attempt.served = true;
                client.mark(true);
            }
        });
    }

    /// What of a plan cannot be served here.
    pub(crate) fn problems(&self, plan: &BootPlan, problems: Vec<String>) {
        let Some(mac) = boot_mac(plan) else { return };
        let known = |client: &Client| client.problems == problems;
        let same = self.of(mac, known).unwrap_or(problems.is_empty());
        if !same {
            self.with(mac, |client| {
                client.problems = problems;
                client.mark(true);
            });
        }
    }

    /// Whether something of a plan cannot be served here.
    pub(crate) fn has_problem(&self, plan: &BootPlan) -> bool {
        self.of_plan(plan, |client| !client.problems.is_empty()).unwrap_or_default()
    }

    /// A plan came from the API. Where it does not know what was started on its machine, that is told again: the API's data may have been
    /// restored from an older copy.
    pub(crate) fn reconsider(&self, plan: &BootPlan) {
        let ordered = plan.order.as_ref().map(|order| order.attempt.as_str());
        let unknown = |client: &Client| client.attempt.started && ordered != Some(&client.attempt.id);
        let Some(mac) = boot_mac(plan) else { return };
        if self.of(mac, unknown).unwrap_or_default() {
            self.with(mac, |client| client.mark(true));
        }
    }

    /// Whether a machine has begun an attempt, as far as this agent saw.
    pub(crate) fn has_started(&self, plan: &BootPlan, attempt: &str) -> bool {
        self.of_plan(plan, |client| client.attempt.id == attempt && client.attempt.started).unwrap_or_default()
    }

    /// The attempts that machines have begun, as far as this agent saw.
    pub(crate) fn started(&self) -> BTreeMap<MacAddr, String> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.iter().filter(|(_, client)| client.attempt.started).map(|(mac, client)| (*mac, client.attempt.id.clone())).collect()
    }

    /// Attempts that had begun before this process was started.
    pub(crate) fn resume(&self, started: BTreeMap<MacAddr, String>) {
        for (mac, id) in started {
            self.with(mac, |client| client.attempt = AttemptReport { id, started: true, ..AttemptReport::default() });
        }
    }

    /// Something may be due still.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until something may be due.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The reports that are due now: all that the operator waits for, and at most so many others, those first that were written longest ago. All
    /// that there are when it is the last time.
    pub(crate) fn due(&self, snapshot: &Snapshot, node: &str, calm: usize, last: bool) -> Vec<Due> {
        let now = Instant::now();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        forget_strangers(&mut clients, snapshot);
        let mut due = Vec::new();
        let (mut strangers, mut calmly) = (0, 0);
        let mut ready: Vec<(&MacAddr, &mut Client)> = clients.iter_mut().filter(|(_, client)| client.dirty).collect();
        ready.sort_by_key(|(_, client)| (!client.urgent, client.written));
        for (mac, client) in ready {
            let known = snapshot.by_mac(*mac).is_some();
            if client.due(now, known) || (last && known) {
                let too_many = (!known && strangers >= STRANGERS_AT_ONCE) || (!client.urgent && calmly >= calm && !last);
                if too_many {
                    continue;
                }
                strangers += usize::from(!known);
                calmly += usize::from(!client.urgent);
                let (first, urgent) = (client.inherits, client.urgent);
                client.dirty = false;
                client.writing = true;
                client.urgent = false;
                client.written = Some(now);
                due.push(Due { mac: *mac, first, urgent, report: client.report(node, self.born) });
            }
        }
        due
    }

    /// Takes in what another process of this node wrote, before this one was started or beside it; returns the whole. `current` is the
    /// attempt that the machine's plan orders.
    pub(crate) fn inherit(&self, mac: MacAddr, earlier: NodeReport, current: Option<&str>) -> NodeReport {
        self.with(mac, |client| {
            let known = |event: &BootEvent| client.events.iter().any(|known| known.time == event.time && known.asked == event.asked);
            let mut events: Vec<BootEvent> = earlier.events.into_iter().filter(|event| !known(event)).collect();
            events.extend(client.events.drain(..));
            events.sort_by_key(|event| event.time.0);
            client.events = events.split_off(events.len().saturating_sub(MAX_EVENTS)).into();
            client.facts = client.facts.take().or(earlier.facts);
            if client.subnet.is_none() {
                (client.subnet, client.subnet_at) = (earlier.subnet, earlier.subnet_at.map(|time| time.0));
            }
            client.declined = client.declined.take().or(earlier.declined);
            client.agent = client.agent.take().or(earlier.agent);
            client.chain_loop = client.chain_loop.max(earlier.chain_loop.map(|time| time.0));
            client.last_boot = client.last_boot.max(earlier.last_boot.map(|time| time.0));
            if let Some(attempt) = earlier.attempt
                && (client.attempt.id.is_empty() || client.attempt.id == attempt.id || current == Some(&attempt.id))
            {
                client.begin(&attempt.id);
                client.attempt = AttemptReport { id: attempt.id.clone(), ..std::mem::take(&mut client.attempt) }.with(&attempt);
            }
            client.report(&earlier.node, self.born)
        })
    }

    /// The API has taken what was due.
    pub(crate) fn was_stored(&self, mac: MacAddr) {
        if let Some(client) = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&mac) {
            (client.writing, client.inherits) = (false, false);
        }
        self.stored.send_modify(|count| *count += 1);
    }

    /// Waits until the API has all that is known about the machine of a plan; `false` when that takes too long.
    pub(crate) async fn all_stored(&self, plan: &BootPlan) -> bool {
        let Some(mac) = boot_mac(plan) else { return true };
        let open = || self.of(mac, |client| client.writing || (client.dirty && client.urgent)).unwrap_or_default();
        let mut stored = self.stored.subscribe();
        let waiting = async {
            while open() {
                let _ = stored.changed().await;
            }
        };
        tokio::time::timeout(STORE_PATIENCE, waiting).await.is_ok()
    }

    /// Writing failed: it is due again after its pause.
    pub(crate) fn not_written(&self, mac: MacAddr, urgent: bool) {
        if let Some(client) = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&mac) {
            client.writing = false;
            client.mark(urgent);
        }
    }
}

impl Client {
    fn report(&self, node: &str, born: Timestamp) -> NodeReport {
        NodeReport {
            node: node.to_owned(),
            started_at: Some(MicroTime(born)),
            events: self.events.iter().cloned().collect(),
            subnet: self.subnet.clone(),
            subnet_at: self.subnet_at.map(MicroTime),
            last_boot: self.last_boot.map(MicroTime),
            facts: self.facts.clone(),
            declined: self.declined.clone(),
            agent: self.agent.clone(),
            chain_loop: self.chain_loop.map(MicroTime),
            attempt: Some(self.attempt.clone()).filter(|attempt| !attempt.id.is_empty()),
            problems: self.problems.iter().map(|problem| problem.chars().take(512).collect()).take(16).collect(),
        }
    }
}

/// A word that no other boot has lately: it is for finding things in logs, and proves nothing.
fn boot_word(mac: MacAddr) -> String {
    let mut hasher = DefaultHasher::new();
    (mac, Timestamp::now().as_microsecond()).hash(&mut hasher);
    format!("{:08x}", hasher.finish() & 0xffff_ffff)
}

/// The time, as precise as the API stores it: what comes back from there must be known again.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

fn forget_strangers(clients: &mut HashMap<MacAddr, Client>, snapshot: &Snapshot) {
    let mut strangers: Vec<(Instant, MacAddr)> =
        clients.iter().filter(|(mac, _)| snapshot.by_mac(**mac).is_none()).map(|(mac, client)| (client.last, *mac)).collect();
    if strangers.len() > MAX_STRANGERS {
        strangers.sort_unstable();
        for (_, mac) in strangers.iter().take(strangers.len() - MAX_STRANGERS) {
            clients.remove(mac);
        }
    }
}

/// The MAC that a machine's report is filed under here: that of its boot interface.
fn boot_mac(plan: &BootPlan) -> Option<MacAddr> {
    plan.boot_interface().map(|interface| interface.mac)
}

#[cfg(test)]
mod tests;
