//! What all servers of an agent share: the snapshot, the images, the reports, the verdicts about other DHCP servers.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use athanor_crds::MachineState;
use athanor_dhcp::Newcomer;
use athanor_media::Library;
use athanor_plan::{BootPlan, Loaders, Snapshot};
use athanor_wire::agent::Media;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    api::{Order, Profiles},
    authority::Verdicts,
    handover::UnderWay,
    interface::Duty,
    lent::Lent,
    metrics::Metrics,
    options::Options,
    overhear::Overheard,
    report::Reporter,
};

/// How old the last sign of life of the API may be for an agent to start something new on a machine.
const FRESH: Duration = Duration::from_secs(30);
/// The API has not answered yet.
const NEVER: u64 = u64::MAX;
/// How many threads may wait for disks at once, of the 512 that the runtime has.
const DISK_WAITERS: usize = 128;
/// How many more may look at images that nobody waits for.
const LOOKERS: usize = 32;
/// How long a disk may take to answer: a share that fails over needs about half a minute.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
/// How long it is told that newcomers were turned away: the minute that the limit counts.
const LIMIT_TOLD: Duration = Duration::from_secs(60);
/// How many newcomers may wait for registration; the limits of their Subnets are far below.
const NEWCOMERS: usize = 1024;

/// How many leases may wait to be written; whoever is one too many asks again.
const LENDINGS: usize = 1024;

/// What the tasks of the API module take from the servers.
pub(crate) struct Orders {
    pub(crate) newcomers: mpsc::Receiver<Newcomer>,
    pub(crate) lending: mpsc::Receiver<Order>,
}

/// What came of a look at an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look<T> {
    /// It was looked at.
    Done(T),
    /// The disk or share that it is on does not answer.
    Hangs,
    /// There was no place in time: nothing is known that was not known before.
    Postponed,
}

/// An image that is looked at.
#[derive(Default)]
struct Image {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The last look has not come back.
    hangs: AtomicBool,
}

/// What all servers of an agent share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) library: Library,
    loaders: watch::Sender<Arc<Loaders>>,
    pub(crate) reporter: Reporter,
    pub(crate) metrics: Metrics,
    pub(crate) authority: Verdicts,
    pub(crate) rivals: Arc<Overheard>,
    pub(crate) newcomers: mpsc::Sender<Newcomer>,
    /// What clients that are no machines have, and what is to be written about it.
    pub(crate) lent: Lent,
    pub(crate) lending: mpsc::Sender<Order>,
    /// Transfers that are not to be cut off.
    pub(crate) under_way: UnderWay,
    /// Who may wait for a disk. A share that hangs keeps threads waiting, and the API needs some, too.
    disks: Arc<Semaphore>,
    /// Who may look at images that nobody waits for.
    lookers: Arc<Semaphore>,
    /// Whose turn it is to look at an image.
    images: Mutex<HashMap<String, Arc<Image>>>,
    snapshot: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    duties: watch::Sender<Vec<Duty>>,
    /// None until they were listed once.
    profiles: watch::Sender<Option<Profiles>>,
    /// None until they were looked for once.
    media: watch::Sender<Option<Media>>,
    closing: watch::Sender<bool>,
    list_anew: watch::Sender<u64>,
    /// Which limit newcomers of a Subnet met last, and when.
    limited: Mutex<HashMap<String, (Instant, String)>>,
    born: Instant,
    /// Milliseconds since `born` at which the API last answered; [`NEVER`] before the first time.
    contact: AtomicU64,
}

impl Shared {
    pub(crate) fn new(options: Options, loaders: Loaders, metrics: Metrics) -> (Arc<Self>, Orders) {
        let (newcomers, registrations) = mpsc::channel(NEWCOMERS);
        let (lending, lendings) = mpsc::channel(LENDINGS);
        let loaders = Arc::new(loaders);
        let shared = Self {
            library: Library::new(options.media_dirs.clone()),
            authority: Verdicts::load(&options.data_dir),
            rivals: Arc::default(),
            options,
            reporter: Reporter::default(),
            metrics,
            newcomers,
            lent: Lent::default(),
            lending,
            under_way: UnderWay::default(),
            closing: watch::Sender::new(false),
            list_anew: watch::Sender::new(0),
            limited: Mutex::default(),
            disks: Arc::new(Semaphore::new(DISK_WAITERS)),
            lookers: Arc::new(Semaphore::new(LOOKERS)),
            images: Mutex::default(),
            snapshot: ArcSwap::from_pointee(Snapshot::new(Vec::new(), Vec::new(), loaders.clone())),
            loaders: watch::Sender::new(loaders),
            changed: watch::Sender::new(0),
            duties: watch::Sender::default(),
            profiles: watch::Sender::default(),
            media: watch::Sender::default(),
            born: Instant::now(),
            contact: AtomicU64::new(NEVER),
        };
        (Arc::new(shared), Orders { newcomers: registrations, lending: lendings })
    }

    /// Everything that is known now. Hold it while answering: all that an answer names is on it.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Swaps in what was watched.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.metrics.knows(snapshot.plans().len());
        self.snapshot.store(Arc::new(snapshot));
        self.changed.send_modify(|count| *count += 1);
    }

    /// Whether a name is that of a loader that DHCP names.
    pub(crate) fn begins_chain(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        self.loaders().begins_with(path.strip_prefix("l/").unwrap_or(path))
    }

    /// The loaders that there are now.
    pub(crate) fn loaders(&self) -> Arc<Loaders> {
        self.loaders.borrow().clone()
    }

    /// Other loaders are there now.
    pub(crate) fn found_loaders(&self, loaders: Loaders) {
        self.loaders.send_if_modified(|known| {
            let news = **known != loaders;
            if news {
                *known = Arc::new(loaders);
            }
            news
        });
    }

    /// Wakes when there are other loaders.
    pub(crate) fn loader_changes(&self) -> watch::Receiver<Arc<Loaders>> {
        self.loaders.subscribe()
    }

    /// Wakes at every swap.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells what the interfaces have to serve.
    pub(crate) fn assign(&self, duties: &[Duty]) {
        renew(&self.duties, duties.to_vec());
    }

    /// What the interfaces have to serve; wakes when it changes.
    pub(crate) fn duties(&self) -> watch::Receiver<Vec<Duty>> {
        self.duties.subscribe()
    }

    /// These profiles have files to be looked for.
    pub(crate) fn knows_profiles(&self, profiles: &Profiles) {
        renew(&self.profiles, Some(profiles.clone()));
    }

    /// The profiles that have files, once they were listed; wakes when they change.
    pub(crate) fn profiles(&self) -> watch::Receiver<Option<Profiles>> {
        self.profiles.subscribe()
    }

    /// What was found when their files were looked for; returns whether that is news.
    pub(crate) fn looked_for(&self, media: Media) -> bool {
        renew(&self.media, Some(media))
    }

    /// What was found of the profiles' files, once they were looked for; wakes when it changes.
    pub(crate) fn media(&self) -> watch::Receiver<Option<Media>> {
        self.media.subscribe()
    }

    /// Whether a server is one of ours: another agent, or this one by another interface, is no other server.
    pub(crate) fn is_ours(&self, server: Ipv4Addr) -> bool {
        self.duties.borrow().iter().any(|duty| duty.link.addresses.contains(&server)) || self.snapshot().is_ours(server)
    }

    /// Runs what may wait for a disk where it holds up nobody else; `None` when the disks do not answer.
    pub(crate) async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let place = tokio::time::timeout(DISK_PATIENCE, self.disks.clone().acquire_owned()).await.ok()?.ok()?;
        let working = tokio::task::spawn_blocking(move || {
            // Given back by the thread itself: a caller that gives up frees no thread.
            let _place = place;
            work()
        });
        tokio::time::timeout(DISK_PATIENCE, working).await.ok()?.ok()
    }

    /// Looks at an image that nobody waits for, one look at a time: one that hangs keeps one thread, however often it is looked for, and none of
    /// those who serve.
    pub(crate) async fn on_image<T: Send + 'static>(&self, path: &str, work: impl FnOnce() -> T + Send + 'static) -> Look<T> {
        let image = {
            let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            images.retain(|_, image| Arc::strong_count(image) > 1);
            images.entry(path.to_owned()).or_default().clone()
        };
        if image.hangs.load(Ordering::Relaxed) {
            return Look::Hangs;
        }
        let places = tokio::time::timeout(DISK_PATIENCE, async {
            (image.turn.clone().lock_owned().await, self.lookers.clone().acquire_owned().await)
        });
        let Ok((turn, Ok(place))) = places.await else { return Look::Postponed };
        let inside = image.clone();
        let working = tokio::task::spawn_blocking(move || {
            let _given_back = (turn, place);
            let found = work();
            inside.hangs.store(false, Ordering::Relaxed);
            found
        });
        match tokio::time::timeout(DISK_PATIENCE, working).await {
            Ok(Ok(found)) => Look::Done(found),
            Ok(Err(_)) => Look::Postponed,
            Err(_) => {
                image.hangs.store(true, Ordering::Relaxed);
                Look::Hangs
            }
        }
    }

    /// The API answered.
    pub(crate) fn heard_from_api(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.contact.store(now, Ordering::Relaxed);
        self.metrics.heard_from_api();
    }

    /// A newcomer of a Subnet was turned away.
    pub(crate) fn turned_away(&self, subnet: &str, why: &str) {
        self.limited.lock().unwrap_or_else(PoisonError::into_inner).insert(subnet.to_owned(), (Instant::now(), why.to_owned()));
    }

    /// By which limit newcomers of a Subnet were turned away lately.
    pub(crate) fn limited(&self, subnet: &str) -> Option<String> {
        let limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        limited.get(subnet).filter(|(when, _)| when.elapsed() < LIMIT_TOLD).map(|(_, why)| why.clone())
    }

    /// The API's data may be those of an older copy now: then its watches tell nothing until they are begun anew.
    pub(crate) fn list_anew(&self, why: &str) {
        tracing::warn!(why, "listing everything anew");
        self.list_anew.send_modify(|times| *times += 1);
    }

    /// Wakes whenever everything is to be listed anew.
    pub(crate) fn lists_anew(&self) -> watch::Receiver<u64> {
        self.list_anew.subscribe()
    }

    /// Whether the API was heard of lately.
    pub(crate) fn is_fresh(&self) -> bool {
        self.silence().is_some_and(|silence| silence < FRESH)
    }

    /// How long the API has said nothing; `None` when it never did.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let heard = Some(self.contact.load(Ordering::Relaxed)).filter(|heard| *heard != NEVER);
        heard.map(|heard| self.born.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// From now on another agent answers what comes anew.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Ends when [`close`](Self::close) was called.
    pub(crate) async fn closed(&self) {
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Whether a machine may be given its order: what we know is fresh, or it has begun already and is let finish.
    pub(crate) fn may_act(&self, plan: &BootPlan) -> bool {
        if self.is_fresh() {
            return true;
        }
        // Begun as the operator knew when the API still answered, whichever agent it began with; or as we saw ourselves.
        matches!(plan.state, MachineState::Provisioning | MachineState::Provisioned)
            || plan.order.as_ref().is_some_and(|order| self.reporter.has_started(plan, &order.attempt))
    }
}

/// Tells what is new, and nothing where it is not; returns which.
fn renew<T: PartialEq>(place: &watch::Sender<T>, new: T) -> bool {
    place.send_if_modified(|current| {
        let news = *current != new;
        *current = new;
        news
    })
}
