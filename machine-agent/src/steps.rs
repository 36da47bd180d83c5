//! The steps: what the engine decided is done here, and becomes a report.

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use athanor_wire::{
    Assignment, Disk, Inventory, Outcome, Step, StepReport, WipedDisk,
    work::{Wipe, Write},
};

use crate::{
    AgentError,
    device::{self, Watched},
    engine::Event,
    guard::{self, Writing},
    image::{Http, Image, Progress, lock},
    inventory, marker, root_disk, wipe,
};

/// How often it is told that a step goes on, whether it gets further or not.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(900);
/// The most bytes of a message.
const MAX_MESSAGE: usize = 1024;

/// Whoever is told of progress, and says whether anybody wants to know.
pub type Tell<'a> = &'a (dyn Fn(StepReport) -> Event + Sync);

/// Does one step and says how it went.
pub fn run(assignment: &Assignment, http: &ureq::Agent, tell: Tell<'_>) -> StepReport {
    let blank = StepReport::begun(&assignment.work, assignment.index, assignment.step.name());
    let teller = Teller { tell, last: Mutex::new((Instant::now(), 0)), said: Mutex::new(blank.clone()), over: AtomicBool::new(false) };
    teller.say(blank.clone());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let done = std::thread::scope(|scope| {
        // A disk that zeroes itself for an hour, or a server that is away, must not look like a machine that is dead.
        scope.spawn(|| {
            let stopped = stopped;
            while stopped.recv_timeout(HEARTBEAT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                teller.say(lock(&teller.said).clone());
            }
        });
        let done = perform(assignment, http, &teller, &blank);
        drop(stop);
        done
    });
    match done {
        Ok(report) => StepReport { outcome: Some(Outcome::Done), percent: Some(100), ..report },
        Err(error) => {
            eprintln!("athanor: {} failed: {error}", assignment.step.name());
            let message = with_kernel(&format!("{}: {error}", error.category()));
            StepReport { outcome: Some(Outcome::Failed), message, ..blank }
        }
    }
}

fn perform(assignment: &Assignment, http: &ureq::Agent, teller: &Teller<'_>, blank: &StepReport) -> Result<StepReport, AgentError> {
    match &assignment.step {
        Step::Inventory => Ok(StepReport {
            inventory: Some(inventory::take(Path::new("/"))),
            message: "looked at the hardware".to_owned(),
            ..blank.clone()
        }),
        // What is on the disks now is what the next one must not overwrite unasked.
        Step::Write(order) => write(order, http, teller).map(|message| StepReport {
            message,
            inventory: Some(inventory::take(Path::new("/"))),
            ..blank.clone()
        }),
        Step::Wipe(order) => wipe_all(order, teller).map(|(wiped, missing)| {
            let inventory = Some(inventory::take(Path::new("/")));
            StepReport { message: format!("wiped {} disks", wiped.len()), inventory, wiped, missing, ..blank.clone() }
        }),
        // The engine leaves for these.
        Step::Reboot | Step::PowerOff => Ok(blank.clone()),
    }
}

/// Puts the image on the disk that the hints or its size choose.
fn write(order: &Write, http: &ureq::Agent, teller: &Teller<'_>) -> Result<String, AgentError> {
    let facts = inventory::take(Path::new("/"));
    let fetcher = Http::new(http.clone(), order)?;
    let image = Image::open(order, &fetcher)?;
    let choice = root_disk::choose(&facts.disks, order.hints.as_ref(), image.size().unwrap_or(0).max(marker::MIB))?;
    println!("athanor: writes to {}: {}", choice.name, choice.why);
    let path = Path::new("/dev").join(&choice.name);
    let disk = device::Disk::open(&path).map_err(AgentError::disk(&choice.name, "opening it"))?;
    let marker = marker::read(&disk).map_err(AgentError::disk(&choice.name, "reading its marker"))?;
    let contents = facts.disks.iter().find(|other| other.name == choice.name).and_then(|disk| disk.contents.as_deref());
    if guard::may_write(order, &image.content(), &choice.name, marker.as_ref(), contents)? == Writing::IsThere {
        return Ok(format!("on {}: an earlier attempt wrote it, and nothing is written again", choice.name));
    }
    let began = Instant::now();
    let written = image.write(&Watched::new(&disk, &teller.over), teller)?;
    if let Err(error) = disk.reread_partitions() {
        eprintln!("athanor: {}: its partitions are read at the next boot: {error}", choice.name);
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(format!(
        "{} on {} ({}): {} bytes, {} of them data, read back in {seconds:.1} s",
        written.checksum, choice.name, choice.why, written.size, written.data
    ))
}

/// All disks at once; one that fails is the error, after the others ended.
fn wipe_all(order: &Wipe, teller: &Teller<'_>) -> Result<(Vec<WipedDisk>, Vec<String>), AgentError> {
    let facts = inventory::take(Path::new("/"));
    let disks: Vec<&Disk> = facts.disks.iter().filter(|disk| !disk.can_be_taken_out()).collect();
    if let Some(disk) = disks.iter().find(|disk| disk.read_only) {
        return Err(AgentError::NoDisk(format!("the disk {} cannot be written, so what is on it stays; replace it", disk.name)));
    }
    let missing = missing(&order.expected, &facts);
    if disks.is_empty() && !missing.is_empty() {
        return Err(AgentError::NoDisk(format!("none of its disks is there ({}); is its controller alive?", missing.join(", "))));
    }
    let opened: Vec<(&Disk, device::Disk)> = disks.into_iter().map(|disk| Ok((disk, open(disk)?))).collect::<Result<_, AgentError>>()?;
    // All of them are asked for before the first is touched.
    opened.iter().try_for_each(|(disk, device)| {
        let found = marker::read(device).map_err(AgentError::disk(&disk.name, "reading its marker"))?;
        guard::may_wipe(order, disk, found)
    })?;
    let results: Vec<Result<WipedDisk, AgentError>> = std::thread::scope(|scope| {
        let wipe = |disk: &Disk, device: &device::Disk| {
            wipe::wipe(&Watched::new(device, &teller.over), order.policy, disk.serial.clone(), disk.wwn.clone(), teller)
        };
        let running: Vec<_> = opened.iter().map(|(disk, device)| scope.spawn(move || wipe(disk, device))).collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(AgentError::NoDisk("a thread ended before its disk was wiped".to_owned())))
        };
        running.into_iter().map(ended).collect()
    });
    let wiped = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    if let Some(bad) = wiped.iter().find(|disk| disk.mismatched > 0) {
        let name = bad.serial.as_deref().unwrap_or("without a serial number");
        return Err(AgentError::ReadBack { disk: format!("the disk {name}"), offset: 0 });
    }
    Ok((wiped, missing))
}

fn open(disk: &Disk) -> Result<device::Disk, AgentError> {
    device::Disk::open(&Path::new("/dev").join(&disk.name)).map_err(AgentError::disk(&disk.name, "opening it"))
}

/// Serial numbers that were expected and are not there.
fn missing(expected: &[String], facts: &Inventory) -> Vec<String> {
    let there = |serial: &&String| !facts.disks.iter().any(|disk| disk.serial.as_ref() == Some(*serial));
    expected.iter().filter(there).cloned().collect()
}

/// Tells progress, not more often than somebody wants to read it.
struct Teller<'a> {
    tell: Tell<'a>,
    last: Mutex<(Instant, u64)>,
    /// What was told last.
    said: Mutex<StepReport>,
    /// Whether the work is over, or another agent's: then nobody touches a disk any more.
    over: AtomicBool,
}

impl Teller<'_> {
    fn say(&self, report: StepReport) {
        if matches!((self.tell)(report), Event::Over | Event::Stranger) {
            self.over.store(true, Ordering::Relaxed);
        }
    }
}

impl Progress for Teller<'_> {
    fn at(&self, phase: &'static str, done: u64, of: Option<u64>) {
        let mut last = lock(&self.last);
        let since = last.0.elapsed();
        if since < TELL {
            return;
        }
        let speed = done.saturating_sub(last.1) as f64 / since.as_secs_f64();
        *last = (Instant::now(), done);
        drop(last);
        let percent = of.filter(|of| *of > 0).map(|of| u8::try_from(done.min(of) * 100 / of).unwrap_or(100));
        println!("athanor: {phase} {done} of {}", of.map_or_else(|| "?".to_owned(), |of| of.to_string()));
        let report = {
            let mut said = lock(&self.said);
            (said.phase, said.percent, said.bytes_per_second) = (phase.to_owned(), percent, Some(speed as i64));
            said.clone()
        };
        self.say(report);
    }
}

/// A failure with the kernel's last words: a disk that dies says why there.
fn with_kernel(message: &str) -> String {
    let mut text = message.to_owned();
    for line in kernel_says() {
        if text.len() + line.len() + 3 > MAX_MESSAGE {
            break;
        }
        text.push_str(" | ");
        text.push_str(&line);
    }
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}

/// The kernel's newest messages that are errors, at most three.
fn kernel_says() -> Vec<String> {
    use std::{io::Read as _, os::unix::fs::OpenOptionsExt as _};
    let Ok(mut log) = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") else { return Vec::new() };
    let (mut all, mut buffer) = (Vec::new(), [0; 8192]);
    // A message for each read; `<priority>,…;<text>`.
    while let Ok(read) = log.read(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..read]).into_owned();
        let Some((head, text)) = message.split_once(';') else { continue };
        let level = head.split(',').next().and_then(|level| level.parse::<u32>().ok()).map_or(7, |level| level & 7);
        if level <= 3 {
            all.push(text.lines().next().unwrap_or_default().to_owned());
        }
    }
    all.split_off(all.len().saturating_sub(3))
}
