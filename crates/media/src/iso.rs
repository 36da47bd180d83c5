//! An ISO image: paths to extents.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use hadris_fs::{DirCursor, ErrorKind, FileType, MountOptions, Name, NodeId, sync::FileSystem};
use hadris_iso::{CacheOptions, sync::IsoFs};

use crate::{
    MediaError,
    device::Device,
    error::{Fault, fault},
};

const SECTOR: u64 = 2048;
/// How many links a path may go through: Linux' own limit.
const MAX_LINKS: u32 = 40;
/// The longest target of a link: Linux' longest path.
const MAX_LINK_TARGET: u64 = 4096;
/// How many entries a search for a better name looks at, so that a mistyped path costs milliseconds.
const MAX_SEARCH: usize = 20_000;

/// How many entries a folder may have: more than any package pool, and a bound on what a damaged length makes of it.
const MAX_ENTRIES: usize = 200_000;

/// A run of bytes in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the image.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Its length in bytes; 0 for a folder.
    pub size: u64,
}

/// A file inside an image: its extents, readable without a lock.
#[derive(Debug, Clone)]
pub struct IsoFile {
    image: Arc<File>,
    size: u64,
    extents: Arc<[Extent]>,
}

impl IsoFile {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the bytes from `offset` on are: the image, the place in it, and how many lie there in one piece. `None` past the end.
    pub fn place(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let mut skipped = 0;
        for extent in self.extents.iter() {
            if offset < skipped + extent.length {
                let inside = offset - skipped;
                return Some((&self.image, extent.offset + inside, extent.length - inside));
            }
            skipped += extent.length;
        }
        None
    }

    /// Fills `buffer` from `offset` on, whole unless the file ends before.
    ///
    /// # Errors
    /// The image cannot be read, or became shorter.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let (mut skipped, mut done) = (0, 0);
        for extent in self.extents.iter() {
            let end = skipped + extent.length;
            let at = offset + done as u64;
            if done < buffer.len() && at < end {
                let inside = at - skipped;
                let room = usize::try_from(extent.length - inside).unwrap_or(usize::MAX).min(buffer.len() - done);
                self.image.read_exact_at(&mut buffer[done..done + room], extent.offset + inside)?;
                done += room;
            }
            skipped = end;
        }
        Ok(done)
    }
}

/// An opened image.
#[derive(Debug)]
pub struct Iso {
    path: PathBuf,
    image: Arc<File>,
    length: u64,
    modified: Option<SystemTime>,
    declared: u64,
    label: Option<String>,
    fs: Mutex<IsoFs<Device>>,
}

impl Iso {
    /// Opens an image.
    ///
    /// # Errors
    /// It is missing, cut off, damaged, or no ISO image.
    pub fn open(path: &Path) -> Result<Self, MediaError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => MediaError::Missing(path.to_owned()),
            _ => MediaError::Io { path: path.to_owned(), source },
        };
        // A pipe would be waited for without end.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(MediaError::NoFile(path.to_owned()));
        }
        let image = Arc::new(File::open(path).map_err(io)?);
        let meta = image.metadata().map_err(io)?;
        let (length, modified) = (meta.len(), meta.modified().ok());
        let named = |fault| name_fault(path, length, "", fault);
        let declared = declared_size(&image, length).map_err(named)?;
        let options = MountOptions::new().read_only();
        let fs =
            IsoFs::mount(Device { file: image.clone(), length }, options).map_err(|error| named(fault(error.into(), declared, length)))?;
        let mut fs = fs.with_cache(CacheOptions::new().with_blocks(64).with_records(256).with_links(4096));
        let declared = u64::from(fs.info().volume_space_size()) * u64::from(fs.info().block_size());
        let mut buffer = [0; 384];
        let label = fs.label(&mut buffer).map_err(|error| named(fault(error, Some(declared), length)))?.map(str::to_owned);
        Ok(Self { path: path.to_owned(), image, length, modified, declared, label, fs: Mutex::new(fs) })
    }

    /// When the image was last changed, where the file system tells.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// The volume's label.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// A file by its path; case matters only where two names differ by nothing else.
    ///
    /// # Errors
    /// It is not there (with the names that are), is a folder, or lies behind the end of a cut image.
    pub fn file(&self, path: &str) -> Result<IsoFile, MediaError> {
        let mut fs = self.lock();
        match self.locate(&mut fs, path) {
            Ok(extents) => {
                let size = extents.iter().map(|extent| extent.length).sum();
                Ok(IsoFile { image: self.image.clone(), size, extents: extents.into() })
            }
            Err(Fault::NotFound) => {
                let hint = self.better_name(&mut fs, path);
                Err(MediaError::NotFound { iso: self.file_name(), wanted: path.trim_start_matches('/').to_owned(), hint })
            }
            Err(fault) => Err(name_fault(&self.path, self.length, path, fault)),
        }
    }

    /// A file that a machine is to boot.
    ///
    /// # Errors
    /// Those of [`Iso::file`], or it is empty.
    pub fn boot_file(&self, path: &str) -> Result<IsoFile, MediaError> {
        let file = self.file(path)?;
        if file.size() == 0 {
            return Err(MediaError::Empty { iso: self.file_name(), wanted: path.trim_start_matches('/').to_owned() });
        }
        Ok(file)
    }

    /// The entries of a folder, in the image's order.
    ///
    /// # Errors
    /// It is not there, or the image is cut or damaged.
    pub fn list(&self, path: &str) -> Result<Vec<Entry>, MediaError> {
        let mut fs = self.lock();
        let named = |fault| name_fault(&self.path, self.length, path, fault);
        let (folder, kind) = self.walk(&mut fs, path).map_err(named)?;
        if kind != FileType::Dir {
            return Err(named(Fault::NotFound));
        }
        self.entries(&mut fs, folder).map(|entries| entries.into_iter().map(|(entry, _)| entry).collect()).map_err(named)
    }

    fn file_name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, IsoFs<Device>> {
        // Only caches are inside: a poisoned lock harms nothing.
        self.fs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, error: hadris_fs::Error<io::Error>) -> Fault {
        fault(error, Some(self.declared), self.length)
    }

    /// The extents of a regular file, all of them inside the image.
    fn locate(&self, fs: &mut IsoFs<Device>, path: &str) -> Result<Vec<Extent>, Fault> {
        let (node, kind) = self.walk(fs, path)?;
        match kind {
            FileType::File => {}
            FileType::Dir => return Err(Fault::IsFolder),
            _ => return Err(Fault::NotFound),
        }
        // Refuses interleaved and multi-volume files, which `extents` does not; reads nothing.
        fs.read(node, u64::MAX, &mut []).map_err(|error| self.fault(error))?;
        let size = fs.stat(node).map_err(|error| self.fault(error))?.len();
        let mut extents: Vec<Extent> = Vec::new();
        let mut position = 0;
        let mut batch = [hadris_fs::Extent::new(0, 0); 64];
        while position < size {
            let count = fs.extents(node, position, &mut batch).map_err(|error| self.fault(error))?;
            if count == 0 {
                return Err(Fault::Corrupt(format!("the extents of {path} do not cover its length")));
            }
            for extent in &batch[..count] {
                if extent.file_offset() != position {
                    return Err(Fault::Corrupt(format!("a gap in the extents of {path}")));
                }
                if extent.end() > self.length {
                    return Err(Fault::Truncated(Some(extent.end())));
                }
                match extents.last_mut() {
                    Some(last) if last.offset + last.length == extent.offset() => last.length += extent.len(),
                    _ => extents.push(Extent { offset: extent.offset(), length: extent.len() }),
                }
                position += extent.len();
            }
        }
        Ok(extents)
    }

    /// Walks a path. Links stay inside: an absolute one begins at the image's root, and `..` stops there.
    fn walk(&self, fs: &mut IsoFs<Device>, path: &str) -> Result<(NodeId, FileType), Fault> {
        let root = (fs.root(), FileType::Dir);
        let mut stack = vec![root];
        let split = |path: &[u8]| path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (mut todo, mut links) = (split(path.as_bytes()), 0);
        while let Some(name) = todo.pop() {
            let (folder, kind) = stack.last().copied().unwrap_or(root);
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ if kind != FileType::Dir => return Err(Fault::NotFound),
                _ => {}
            }
            let node = self.child(fs, folder, &name)?;
            let meta = fs.stat(node).map_err(|error| self.fault(error))?;
            if meta.file_type() != FileType::Symlink {
                stack.push((node, meta.file_type()));
                continue;
            }
            links += 1;
            if links > MAX_LINKS || meta.len() > MAX_LINK_TARGET {
                return Err(Fault::LinkLoop);
            }
            let mut buffer = vec![0; usize::try_from(meta.len()).unwrap_or(0)];
            let target = fs.readlink(node, &mut buffer).map_err(|error| self.fault(error))?;
            if target.first() == Some(&b'/') {
                stack.truncate(1);
            }
            todo.extend(split(target));
        }
        Ok(stack.last().copied().unwrap_or(root))
    }

    /// The exact name first, then the first that differs only by case.
    fn child(&self, fs: &mut IsoFs<Device>, folder: NodeId, name: &[u8]) -> Result<NodeId, Fault> {
        match fs.lookup(folder, Name::new(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.map_err(|error| self.fault(error)),
        }
        let wanted = String::from_utf8_lossy(name).to_lowercase();
        let entries = self.entries(fs, folder)?;
        let found = entries.iter().find(|(entry, _)| entry.name.to_lowercase() == wanted);
        found.map(|(_, node)| *node).ok_or(Fault::NotFound)
    }

    fn entries(&self, fs: &mut IsoFs<Device>, folder: NodeId) -> Result<Vec<(Entry, NodeId)>, Fault> {
        let (mut entries, mut cursor) = (Vec::new(), DirCursor::START);
        while let Some(entry) = fs.readdir(folder, cursor).map_err(|error| self.fault(error))? {
            if entries.len() == MAX_ENTRIES {
                return Err(Fault::Corrupt(format!("a folder with more than {MAX_ENTRIES} entries")));
            }
            let is_folder = entry.file_type().is_dir();
            // hadris lists an entry whose Rock Ridge data lies behind the end of a cut image under its short name, without mode and length.
            let damaged = entry.metadata().permissions().bits() == 0 && entry.metadata().len() == 0 && !is_folder;
            if damaged && self.declared > self.length {
                return Err(Fault::Truncated(Some(self.declared)));
            }
            let size = if is_folder { 0 } else { entry.metadata().len() };
            entries.push((Entry { name: entry.name().to_string(), folder: is_folder, size }, entry.node()));
            cursor = entry.next_cursor();
        }
        Ok(entries)
    }

    /// `; it has install.amd/vmlinuz`: files of the same name elsewhere, else the nearest name beside it.
    fn better_name(&self, fs: &mut IsoFs<Device>, path: &str) -> String {
        let wanted = path.rsplit('/').next().unwrap_or(path).to_lowercase();
        let (mut all, mut same) = (Vec::new(), Vec::new());
        let mut folders = vec![(String::new(), fs.root())];
        // In a damaged image a folder may lie in itself.
        let mut seen = HashSet::from([fs.root()]);
        let mut looked = 0;
        while let Some((prefix, folder)) = folders.pop() {
            for (entry, node) in self.entries(fs, folder).unwrap_or_default() {
                looked += 1;
                let full = format!("{prefix}{}", entry.name);
                if entry.folder {
                    if seen.insert(node) {
                        folders.push((format!("{full}/"), node));
                    }
                } else {
                    // What was asked for and is not there may be a link that leads out.
                    if full == path.trim_matches('/') {
                        continue;
                    }
                    if entry.name.to_lowercase() == wanted {
                        same.push(full.clone());
                    }
                    all.push(full);
                }
            }
            if looked > MAX_SEARCH {
                break;
            }
        }
        same.sort();
        if same.is_empty() {
            return athanor_plan::nearest::hint(path, all.iter().map(String::as_str));
        }
        same.truncate(3);
        format!("; it has {}", same.join(", "))
    }
}

/// The size that the primary volume descriptor declares; `None` when the descriptors themselves are cut off.
fn declared_size(image: &File, length: u64) -> Result<Option<u64>, Fault> {
    for sector in 16..80 {
        let mut buffer = [0; SECTOR as usize];
        let have = usize::try_from(length.saturating_sub(sector * SECTOR).min(SECTOR)).unwrap_or(0);
        image.read_exact_at(&mut buffer[..have], sector * SECTOR).map_err(Fault::Io)?;
        if sector == 16 && (have < 7 || buffer[1..6] != *b"CD001") {
            return Err(Fault::NotIso);
        }
        if have < buffer.len() {
            return Ok(None);
        }
        match buffer[0] {
            1 => {
                let blocks = u32::from_le_bytes([buffer[80], buffer[81], buffer[82], buffer[83]]);
                let size = u16::from_le_bytes([buffer[128], buffer[129]]);
                return Ok(Some(u64::from(blocks) * u64::from(size)));
            }
            255 => break,
            _ => {}
        }
    }
    Ok(Some(0))
}

fn name_fault(path: &Path, have: u64, wanted: &str, fault: Fault) -> MediaError {
    let iso = || path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let path = path.to_owned();
    match fault {
        Fault::NotIso => MediaError::NotIso(path),
        Fault::Truncated(needed) => MediaError::Truncated { path, needed, have },
        Fault::NotFound => MediaError::NotFound { iso: iso(), wanted: wanted.to_owned(), hint: String::new() },
        Fault::IsFolder => MediaError::IsFolder { iso: iso(), wanted: wanted.to_owned() },
        Fault::LinkLoop => MediaError::LinkLoop { iso: iso(), wanted: wanted.to_owned() },
        Fault::Corrupt(what) => MediaError::Corrupt { path, what },
        Fault::Io(source) => MediaError::Io { path, source },
    }
}
