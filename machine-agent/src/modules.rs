//! Kernel modules: which ones a device wants, and what they need first. The ramdisk's index is plain text, so that this is a table's work.
//!
//! ```text
//!   /modules/alias    <pattern> <module>          as modules.alias has it
//!   /modules/needs    <module> <module> …         a module and those it needs, in the order they are loaded
//!   /modules/first    <module>                    those that no device asks for
//! ```

use std::{collections::BTreeMap, path::Path};

use crate::AgentError;

/// Where the ramdisk has them.
pub const FOLDER: &str = "/modules";

/// What the ramdisk knows of its modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    aliases: Vec<(String, String)>,
    needs: BTreeMap<String, Vec<String>>,
    /// Modules that are loaded whatever devices there are.
    pub first: Vec<String>,
}

impl Index {
    /// Reads the three files.
    pub fn parse(alias: &str, needs: &str, first: &str) -> Self {
        let words =
            |text: &str| text.lines().map(|line| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>();
        let pair = |words: Vec<String>| <[String; 2]>::try_from(words).ok().map(|[pattern, module]| (pattern, module));
        let rest = |mut words: Vec<String>| (!words.is_empty()).then(|| (words.remove(0), words));
        Self {
            aliases: words(alias).into_iter().filter_map(pair).collect(),
            needs: words(needs).into_iter().filter_map(rest).collect(),
            first: words(first).into_iter().flatten().collect(),
        }
    }

    /// The modules that a device's alias asks for.
    pub fn wanted<'a>(&'a self, alias: &'a str) -> impl Iterator<Item = &'a str> {
        self.aliases.iter().filter(move |(pattern, _)| matches(pattern.as_bytes(), alias.as_bytes())).map(|(_, module)| module.as_str())
    }

    /// A module and all it needs, in the order they are loaded.
    pub fn chain<'a>(&'a self, module: &'a str) -> impl Iterator<Item = &'a str> {
        self.needs.get(module).into_iter().flatten().map(String::as_str).chain([module])
    }
}

/// Shell patterns as `modules.alias` has them: `*`, `?`, and `[…]`, which stands for one character.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'[') if let Some(length) = pattern[p..].iter().position(|byte| *byte == b']') => {
                if one_of(&pattern[p + 1..p + length], text[t]) {
                    (p, t) = (p + length + 1, t + 1);
                } else if !back(&mut star, &mut p, &mut t) {
                    return false;
                }
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ if !back(&mut star, &mut p, &mut t) => return false,
            _ => {}
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The last star takes one character more.
fn back(star: &mut Option<(usize, usize)>, p: &mut usize, t: &mut usize) -> bool {
    let Some((at, taken)) = star else { return false };
    *taken += 1;
    (*p, *t) = (*at + 1, *taken);
    true
}

fn one_of(set: &[u8], byte: u8) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set.get(at + 1) == Some(&b'-') && at + 2 < set.len() {
            if (set[at]..=set[at + 2]).contains(&byte) {
                return true;
            }
            at += 3;
        } else {
            if set[at] == byte {
                return true;
            }
            at += 1;
        }
    }
    false
}

/// Loads a module with all it needs; one that is there already is no error.
///
/// # Errors
/// The kernel would not.
pub fn load(index: &Index, module: &str, loaded: &mut std::collections::BTreeSet<String>) -> Result<(), AgentError> {
    for name in index.chain(module) {
        if !loaded.insert(name.to_owned()) {
            continue;
        }
        let failed = |source: std::io::Error| AgentError::System { what: format!("loading the module {name}"), source };
        let file = std::fs::File::open(Path::new(FOLDER).join(format!("{name}.ko"))).map_err(failed)?;
        match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
            // What is there already, and what this machine has no use for.
            Ok(()) | Err(nix::errno::Errno::EEXIST | nix::errno::Errno::ENODEV) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    Ok(())
}

/// Loads what the devices that are there ask for, until no new one shows up. Returns what could not be loaded.
pub fn load_all(index: &Index) -> Vec<AgentError> {
    let (mut loaded, mut errors) = (std::collections::BTreeSet::new(), Vec::new());
    for module in &index.first {
        errors.extend(load(index, module, &mut loaded).err());
    }
    let mut seen = std::collections::BTreeSet::new();
    // A controller's driver brings up devices that ask for drivers of their own.
    loop {
        let new: Vec<String> = aliases(Path::new("/sys/devices"), 0).into_iter().filter(|alias| seen.insert(alias.clone())).collect();
        if new.is_empty() {
            return errors;
        }
        for alias in new {
            let wanted: Vec<&str> = index.wanted(&alias).collect();
            for module in wanted {
                if !loaded.contains(module) {
                    errors.extend(load(index, module, &mut loaded).err());
                }
            }
        }
    }
}

/// Folders below `/sys/devices` are no deeper.
const MAX_DEPTH: usize = 24;

fn aliases(folder: &Path, depth: usize) -> Vec<String> {
    let mut all = Vec::new();
    if let Ok(alias) = std::fs::read_to_string(folder.join("modalias")) {
        all.push(alias.trim().to_owned());
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        all.extend(aliases(&entry.path(), depth + 1));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_its_driver_and_what_that_needs() {
        let index = Index::parse(
            "virtio:d00000001v* virtio_net\npci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\npci:v*d*sv*sd*bc01sc06i01* ahci\nof:N*T*Cfoo[A-Z0-9]bar x\n",
            "virtio_net net_failover failover\nahci libahci libata scsi_mod\n",
            "sd_mod\n",
        );
        assert_eq!(index.wanted("virtio:d00000001v00001AF4").collect::<Vec<_>>(), ["virtio_net"]);
        assert_eq!(index.wanted("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01").collect::<Vec<_>>(), ["ahci"]);
        assert_eq!(index.wanted("of:N1T2CfooZbar").collect::<Vec<_>>(), ["x"]);
        assert_eq!(index.wanted("of:N1T2Cfoo_bar").count(), 0);
        assert_eq!(index.chain("virtio_net").collect::<Vec<_>>(), ["net_failover", "failover", "virtio_net"]);
        assert_eq!(index.first, ["sd_mod"]);
    }

    #[test]
    fn patterns_end_where_they_should() {
        for (pattern, text, fits) in
            [("a*c", "abc", true), ("a*c", "abd", false), ("*", "", true), ("a?", "a", false), ("a*b*c", "aXbYbZc", true)]
        {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
