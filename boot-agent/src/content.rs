//! Where the bytes of a name come from. One tree for TFTP and HTTP, so that both always answer alike.
//!
//! ```text
//!   b/<token>/boot.ipxe     the machine's script, from DHCP          b/<token>/f/<name>   a file of its order
//!   b/<token>/poll          the same, asked again while it waits     <prefix>/<path>      the tree of its order's media
//!   l/<file>, <file>        loaders                                  <serial>/<file>      a Raspberry Pi's files
//!   grub/…, pxelinux.cfg/…, uboot/…                                  what other loaders are told (athanor_plan::config)
//! ```

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path, sync::Arc, time::SystemTime};

use athanor_media::{IsoFile, MediaError};
use athanor_plan::{
    BootPlan, Snapshot, Source,
    config::{self, Asked, Step, Who},
    ipxe::{self, Part},
    loader::{LOCAL_DISK, LOCAL_DISK_ARM64, NO_LOADER, NO_LOADER_TEXT},
};
use athanor_wire::{MacAddr, fnv};
use bytes::Bytes;

use crate::shared::Shared;

/// Bytes at an offset, wherever they are.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Memory(Bytes),
    File(Arc<File>, u64),
    Iso(IsoFile),
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
            Self::Iso(file) => file.size(),
        }
    }

    /// Fills the buffer from `offset` on, whole unless the content ends before.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => {
                let rest = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                let length = rest.len().min(buffer.len());
                buffer[..length].copy_from_slice(&rest[..length]);
                Ok(length)
            }
            Self::File(file, size) => {
                let length = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
                file.read_exact_at(&mut buffer[..length], offset)?;
                Ok(length)
            }
            Self::Iso(file) => file.read_at(offset, buffer),
        }
    }
}

impl Content {
    /// What is in memory from `offset` on, up to a whole buffer; `None` where somebody would have to wait for a disk.
    pub(crate) fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Memory(_) => self.read_at(offset, buffer).map(Some),
            Self::File(file, _) => athanor_sys::read_cached(file, offset, buffer),
            Self::Iso(file) => {
                let Some((image, place, length)) = file.place(offset) else { return Ok(Some(0)) };
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
                athanor_sys::read_cached(image, place, &mut buffer[..length])
            }
        }
    }
}

/// What a name stands for.
pub(crate) struct Found {
    pub(crate) content: Content,
    /// Changes whenever the bytes may have.
    pub(crate) etag: String,
    /// The machine it belongs to, and the name in its order, if it is part of one.
    pub(crate) plan: Option<Arc<BootPlan>>,
    pub(crate) file: Option<String>,
    /// The prefix of the tree that it is in, if it is in one.
    pub(crate) tree: Option<String>,
    /// The script was rendered with the order in it.
    pub(crate) acting: bool,
    pub(crate) script: bool,
}

/// Why a name stands for nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Missing {
    #[error("no such file")]
    NotFound,
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("this server has no ramdisk: make ramdisk, or name its folder as ramdiskDir")]
    NoRamdisk,
    #[error("the disk or share that it is on does not answer")]
    Hangs,
}

impl Missing {
    /// It is not there, rather than there and unreadable: a path that media do not hold is as absent as any other.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            Self::NotFound => true,
            Self::Media(error) => error.category() == "not-found",
            Self::Io(_) | Self::NoRamdisk | Self::Hangs => false,
        }
    }

    /// What a client is told: anybody on the wire may ask, and where files lie is for the administrator, who finds it with `explain`.
    pub(crate) fn to_client(&self) -> String {
        match self {
            Self::Media(error) if !self.is_absent() => {
                format!("it is there, but cannot be served ({}); athanorctl explain says why", error.category())
            }
            Self::Io(_) => "it is there, but cannot be read; the agent's log says why".to_owned(),
            Self::NotFound | Self::Media(_) | Self::NoRamdisk | Self::Hangs => self.to_string(),
        }
    }
}

/// The machine and the file of its order that a name is of; nothing is opened.
pub(crate) fn order_file<'a>(snapshot: &'a Snapshot, path: &'a str) -> Option<(&'a Arc<BootPlan>, &'a str, &'a Source)> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let ["b", token, "f", name] = segments[..] else { return None };
    let plan = snapshot.by_token(token).filter(|plan| plan.token == token)?;
    let source = plan.order.as_ref()?.files.get(name)?;
    Some((plan, name, source))
}

/// Who asks for a name, and how it reaches us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// The machine, where it is known by its address.
    pub(crate) mac: Option<MacAddr>,
    /// The agent's own address and HTTP port as the client sees it: `192.168.10.1:7481`.
    pub(crate) agent: &'a str,
}

/// A machine's script or configuration, if the name is that of one; it is made here and now, and waits for no disk.
pub(crate) fn script(shared: &Shared, snapshot: &Snapshot, asker: Asker<'_>, path: &str) -> Option<Result<Found, Missing>> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if let ["b", token, "boot.ipxe" | "poll"] = segments[..] {
        return Some(snapshot.by_token(token).ok_or(Missing::NotFound).map(|plan| render(shared, snapshot, plan, asker.agent)));
    }
    // A tree that somebody serves under such a name is what is meant.
    let asked = Asked::of(path).filter(|_| !is_in_tree(snapshot, path))?;
    let text = match asked.file {
        config::File::GrubLoop => config::grub::first().into_bytes(),
        config::File::UBootLoop => config::uboot::first(),
        _ => return Some(configure(shared, snapshot, asker, asked)),
    };
    Some(Ok(plain_text(text)))
}

/// What a machine does next, in the words of its loader.
fn configure(shared: &Shared, snapshot: &Snapshot, asker: Asker<'_>, asked: Asked) -> Result<Found, Missing> {
    let mac = match asked.who {
        Who::Asking => asker.mac.ok_or(Missing::NotFound)?,
        Who::Mac(mac) => mac,
    };
    let plan = snapshot.by_mac(mac).ok_or(Missing::NotFound)?;
    // Whoever names a machine is not that machine. Its order is told to who has its address; where another server gives addresses, nobody knows
    // better.
    let itself = asker.mac.is_some_and(|asks| plan.interface(asks).is_some());
    let unknown = asker.mac.is_none() && snapshot.gives_no_addresses();
    if !itself && asker.mac.is_some() {
        return Err(Missing::NotFound);
    }
    let told = itself || unknown;
    let part = if told { part(shared, plan) } else { Part::Safe };
    let step = Step::of(plan, part, mac, asker.agent, &snapshot.servers(asker.agent), shared.reporter.boot_age(plan));
    let text = match (asked.file, &step) {
        (config::File::Grub, _) => config::grub::step(&step).into_bytes(),
        (config::File::Pxelinux, _) => config::pxelinux::file(&step, mac).into_bytes(),
        (config::File::UBoot, _) => config::uboot::step(&step),
        (config::File::RaspberryConfig, Step::Boot(boot)) => config::raspberry::config(boot).into_bytes(),
        (config::File::RaspberryCommandLine, Step::Boot(boot)) => config::raspberry::command_line(boot).into_bytes(),
        // Its firmware cannot be told to wait; it asks again by itself.
        (config::File::RaspberryConfig | config::File::RaspberryCommandLine, _) => return Err(Missing::NotFound),
        // These are the same for everybody, and were answered before.
        (config::File::GrubLoop | config::File::UBootLoop, _) => return Err(Missing::NotFound),
    };
    // One that goes on with iPXE is told its order there.
    let acting = matches!(step, Step::Boot(_));
    Ok(Found { plan: told.then(|| plan.clone()), acting, script: told, ..plain_text(text) })
}

fn plain_text(text: Vec<u8>) -> Found {
    in_memory(Bytes::from(text))
}

fn in_memory(bytes: Bytes) -> Found {
    let etag = format!("{:x}", fnv(&bytes));
    plain(Content::Memory(bytes), etag)
}

/// What is served though it lies in no folder.
fn own_loader(name: &str) -> Option<&'static [u8]> {
    Some(match name {
        LOCAL_DISK => include_bytes!(concat!(env!("OUT_DIR"), "/local-disk.efi")),
        LOCAL_DISK_ARM64 => include_bytes!(concat!(env!("OUT_DIR"), "/local-disk-arm64.efi")),
        NO_LOADER => NO_LOADER_TEXT.as_bytes(),
        _ => return None,
    })
}

/// Looks a file up on one snapshot; `asks` is who wants it, where that is known. Waits for disks.
pub(crate) fn file(shared: &Shared, snapshot: &Snapshot, asks: Option<MacAddr>, path: &str) -> Result<Found, Missing> {
    let path = path.trim_start_matches('/');
    // shim joins its own place and the next loader's name with two slashes.
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["b", _, "f", _] => {
            let (plan, name, source) = order_file(snapshot, path).ok_or(Missing::NotFound)?;
            let found = open(shared, source, "")?;
            Ok(Found { plan: Some(plan.clone()), file: Some(name.to_owned()), ..found })
        }
        ["l", name] | [name] if let Some(ours) = own_loader(name) => Ok(in_memory(Bytes::from_static(ours))),
        ["l", file] | [file] => loader(shared, file),
        [serial, file] if is_serial(serial) && !is_in_tree(snapshot, path) => raspberry(shared, snapshot, asks, file),
        _ => tree(shared, snapshot, asks, path),
    }
}

/// The part of a plan that may be told now.
fn part(shared: &Shared, plan: &BootPlan) -> Part {
    match (shared.may_act(plan), plan.order.is_some() && shared.reporter.has_problem(plan)) {
        // Every name that a script tells resolves.
        (true, true) => Part::NoFiles,
        (true, false) => Part::Order,
        (false, _) => Part::Safe,
    }
}

fn render(shared: &Shared, snapshot: &Snapshot, plan: &Arc<BootPlan>, agent: &str) -> Found {
    let part = part(shared, plan);
    let server = format!("http://{agent}");
    let (base, report, servers) = (format!("{server}/b/{}", plan.token), format!("{server}/v1/report"), snapshot.servers(agent));
    let place = ipxe::Place { base: &base, report: &report, server: &server, servers: &servers };
    let text = ipxe::script(plan, part, &place, shared.reporter.boot_age(plan));
    let acting = part == Part::Order && plan.order.is_some();
    Found { plan: Some(plan.clone()), acting, script: true, ..plain_text(text.into_bytes()) }
}

/// Whether a name lies below the prefix of some order's media.
fn is_in_tree(snapshot: &Snapshot, path: &str) -> bool {
    let trees = snapshot.plans().iter().filter_map(|plan| plan.order.as_ref()).flat_map(|order| order.trees.keys());
    let path = path.trim_start_matches('/');
    trees.into_iter().any(|prefix| path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/')))
}

/// A Raspberry Pi's firmware asks below its serial number.
fn is_serial(name: &str) -> bool {
    name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a Raspberry Pi asks for: a file of its order, else firmware out of the loaders' folder.
fn raspberry(shared: &Shared, snapshot: &Snapshot, asks: Option<MacAddr>, name: &str) -> Result<Found, Missing> {
    let plan = asks.and_then(|mac| snapshot.by_mac(mac)).filter(|plan| shared.may_act(plan));
    let Some((plan, source)) = plan.and_then(|plan| Some((plan, plan.order.as_ref()?.files.get(name)?))) else {
        return loader(shared, name);
    };
    Ok(Found { plan: Some(plan.clone()), file: Some(name.to_owned()), ..open(shared, source, "")? })
}

/// A file of the machine-agent's ramdisk.
fn ramdisk(shared: &Shared, name: &str) -> Result<Found, Missing> {
    let folder = shared.options.ramdisk_dir.as_ref().ok_or(Missing::NoRamdisk)?;
    let file = File::open(folder.join(name)).map_err(|_| Missing::NoRamdisk)?;
    let meta = file.metadata()?;
    Ok(plain(Content::File(Arc::new(file), meta.len()), stamp(meta.len(), meta.modified().ok())))
}

fn loader(shared: &Shared, name: &str) -> Result<Found, Missing> {
    let loaders = shared.loaders();
    let place = loaders.file(name).ok_or(Missing::NotFound)?;
    let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Missing::NotFound } else { error.into() };
    let file = File::open(place).map_err(gone)?;
    let meta = file.metadata()?;
    Ok(plain(Content::File(Arc::new(file), meta.len()), stamp(meta.len(), meta.modified().ok())))
}

/// A file below the prefix of some order's media; only while that order stands. Where several have the prefix, the asking machine's own
/// counts, and of two prefixes the longer.
fn tree(shared: &Shared, snapshot: &Snapshot, asks: Option<MacAddr>, path: &str) -> Result<Found, Missing> {
    let mut found: Option<((bool, &str), &Source, &str)> = None;
    for plan in snapshot.plans() {
        let own = asks.is_some_and(|mac| plan.interface(mac).is_some());
        for (prefix, source) in plan.order.iter().flat_map(|order| &order.trees) {
            let member = path.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('/'));
            let better = |(theirs, longest): (bool, &str)| (own, prefix.len()) > (theirs, longest.len());
            if let Some(member) = member.filter(|_| found.as_ref().is_none_or(|(best, ..)| better(*best))) {
                found = Some(((own, prefix), source, member));
            }
        }
    }
    let ((_, prefix), source, member) = found.ok_or(Missing::NotFound)?;
    Ok(Found { tree: Some(prefix.to_owned()), ..open(shared, source, member)? })
}

pub(crate) fn open(shared: &Shared, source: &Source, below: &str) -> Result<Found, Missing> {
    let (path, member) = match source {
        Source::Iso { path, member } => (path, member),
        Source::Ramdisk { file } => return ramdisk(shared, file),
    };
    let iso = shared.library.iso(Path::new(path))?;
    let member = if below.is_empty() { member.clone() } else { format!("{member}/{below}") };
    let file = iso.file(&member)?;
    let etag = format!("{}-{:x}", stamp(file.size(), iso.modified()), fnv(format!("{path}\0{member}").as_bytes()));
    Ok(plain(Content::Iso(file), etag))
}

fn plain(content: Content, etag: String) -> Found {
    Found { content, etag, plan: None, file: None, tree: None, acting: false, script: false }
}

fn stamp(length: u64, modified: Option<SystemTime>) -> String {
    let seconds = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0, |since| since.as_nanos());
    format!("{length:x}-{seconds:x}")
}

/// The files that cannot be served, in words: what `status` says before a machine stands still over it.
pub(crate) fn problems<'a>(shared: &Shared, files: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    let mut all: Vec<String> = files.into_iter().filter_map(|file| problem(shared, file).err().map(|error| error.to_string())).collect();
    all.sort();
    all.dedup();
    all
}

fn problem(shared: &Shared, file: &Source) -> Result<(), Missing> {
    match file {
        Source::Iso { path, member } if member.is_empty() => Ok(shared.library.iso(Path::new(path)).map(drop)?),
        Source::Iso { path, member } => Ok(shared.library.iso(Path::new(path))?.boot_file(member).map(drop)?),
        Source::Ramdisk { .. } => open(shared, file, "").map(drop),
    }
}
