//! What UEFI is given over the network where it is to boot its own disk: a program that starts the disk's loader.
//!
//! Firmware that is offered nothing asks on for minutes, over PXE and HTTP, over IPv4 and IPv6, before its boot order comes to the disk. This
//! program is there at once and does what the firmware would do then:
//!
//! ```text
//!   BootOrder, Boot####  ┐
//!                        ├─ entries(), defaults() ─→ load, start; what cannot be started is followed by the next
//!   file systems on disk ┘
//! ```
//!
//! This library decides; it knows bytes alone and runs anywhere. `main.rs` asks the firmware. Nothing here writes: no disk, no variable. Removable
//! media are never started: a stick that was forgotten in a machine is not its disk. When nothing starts, the firmware goes on as it would have.
//!
//! The bytes are those of UEFI 2.10: load options section 3.1.3, device paths section 10.3.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

use alloc::vec::Vec;

/// A load option that the firmware may start by itself.
const ACTIVE: u32 = 1;
/// What kind of load option it is; zero is one that boots.
const CATEGORY: u32 = 0x1f00;

const MESSAGING: u8 = 3;
/// USB in its three forms, MAC, IPv4, IPv6, VLAN, URI and Wi-Fi (UEFI 2.10 section 10.3.4).
const ELSEWHERE: [u8; 9] = [5, 15, 16, 11, 12, 13, 20, 24, 28];
const MEDIA: u8 = 4;
const RAM_DISK: u8 = 9;
const HARD_DRIVE: u8 = 1;
const FILE_PATH: u8 = 4;
const END: u8 = 0x7f;

/// The end of a device path.
const END_ENTIRE: [u8; 4] = [END, 0xff, 4, 0];

/// Something on a disk that may be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its whole device path, with its end.
    pub path: Vec<u8>,
    /// What it is handed as load options.
    pub options: Vec<u8>,
}

/// One node of a device path, with its header.
type Node<'a> = &'a [u8];

/// The nodes of a device path up to its end, or up to where its lengths make no sense.
fn nodes(mut path: &[u8]) -> Vec<Node<'_>> {
    let mut found = Vec::new();
    while let [kind, _, low, high, ..] = *path {
        let length = usize::from(u16::from_le_bytes([low, high]));
        if kind == END || length < 4 || length > path.len() {
            break;
        }
        let (node, rest) = path.split_at(length);
        found.push(node);
        path = rest;
    }
    found
}

fn is_media(node: Node<'_>, kind: u8) -> bool {
    node.starts_with(&[MEDIA, kind])
}

/// Whether a file system lies on a disk that stays in its machine. A loader that came over the network shows its files as a file system on its
/// network card, firmware may have made one in memory, and what is behind USB may say that it is fixed.
fn is_on_disk(volume: &[Node<'_>]) -> bool {
    !volume.iter().any(|node| is_elsewhere(node) || is_media(node, RAM_DISK))
}

fn is_elsewhere(node: Node<'_>) -> bool {
    node.first() == Some(&MESSAGING) && ELSEWHERE.contains(&node[1])
}

/// Whether a device path leads to a network, or to what is plugged in from outside: nothing of it is a disk of this machine.
pub fn leads_elsewhere(path: &[u8]) -> bool {
    nodes(path).into_iter().any(is_elsewhere)
}

/// Whether two nodes mean one partition: its number, its signature and how that is to be read. Where it begins and ends does not count, since a
/// partition grows.
fn same_partition(one: Node<'_>, other: Node<'_>) -> bool {
    let identity = |node: Node<'_>| Some((node.get(4..8)?.to_vec(), node.get(24..42)?.to_vec()));
    is_media(one, HARD_DRIVE) && is_media(other, HARD_DRIVE) && identity(one).is_some() && identity(one) == identity(other)
}

/// A file's place below a file system, as one node.
fn file_node(name: &str) -> Vec<u8> {
    let text: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let length = u16::try_from(text.len() + 4).unwrap_or(u16::MAX).to_le_bytes();
    [&[MEDIA, FILE_PATH, length[0], length[1]], text.as_slice()].concat()
}

fn whole(volume: &[Node<'_>], file: &[Node<'_>]) -> Vec<u8> {
    volume.iter().chain(file).copied().chain([END_ENTIRE.as_slice()]).collect::<Vec<_>>().concat()
}

/// What a `Boot####` variable says, if the firmware would boot it by itself: where, and what is handed to it.
fn load_option(variable: &[u8]) -> Option<(Vec<Node<'_>>, &[u8])> {
    let (attributes, rest) = variable.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let attributes = u32::from_le_bytes(*attributes);
    if attributes & ACTIVE == 0 || attributes & CATEGORY != 0 {
        return None;
    }
    let name = rest.chunks_exact(2).position(|unit| unit == [0, 0])?;
    let (path, options) = rest.get((name + 1) * 2..)?.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((nodes(path), options))
}

/// What the firmware's boot order names on these file systems, in its order.
///
/// `order` are the `Boot####` variables in the order of `BootOrder`, `volumes` the device paths of file systems, `default` is the name of the loader
/// that firmware looks for (UEFI 2.10 section 3.5.1.1).
pub fn entries(order: &[Vec<u8>], volumes: &[Vec<u8>], default: &str) -> Vec<Candidate> {
    let default = file_node(default);
    let default: Vec<Node<'_>> = Vec::from([default.as_slice()]);
    let volumes = on_disk(volumes);
    let mut found = Vec::new();
    for (place, options) in order.iter().filter_map(|variable| load_option(variable)) {
        let device = place.iter().position(|node| is_media(node, FILE_PATH)).unwrap_or(place.len());
        let (device, file) = place.split_at(device);
        // Applications in the firmware itself, and networks, lie on no volume.
        let is_meant = |volume: &&Vec<Node<'_>>| match device {
            [] => false,
            [partition] if is_media(partition, HARD_DRIVE) => volume.last().is_some_and(|last| same_partition(last, partition)),
            hardware => volume.starts_with(hardware),
        };
        // What stands behind an entry that names no file is the firmware's own mark, not a command line.
        let (file, options) = if file.is_empty() { (default.as_slice(), &[][..]) } else { (file, options) };
        for volume in volumes.iter().filter(is_meant) {
            found.push(Candidate { path: whole(volume, file), options: options.to_vec() });
        }
    }
    found
}

/// The loader for removable media of each file system, which is where an installation without an entry has its own.
pub fn defaults(volumes: &[Vec<u8>], default: &str) -> Vec<Candidate> {
    let default = file_node(default);
    let start = |volume: &Vec<Node<'_>>| Candidate { path: whole(volume, &[&default]), options: Vec::new() };
    on_disk(volumes).iter().map(start).collect()
}

fn on_disk(volumes: &[Vec<u8>]) -> Vec<Vec<Node<'_>>> {
    volumes.iter().map(|volume| nodes(volume)).filter(|volume| is_on_disk(volume)).collect()
}

#[cfg(test)]
mod tests;
