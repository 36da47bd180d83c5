#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::string::String;

use super::*;

const DEFAULT: &str = r"\EFI\BOOT\BOOTX64.EFI";
const DEBIAN: &str = r"\EFI\debian\shimx64.efi";

fn node(kind: u8, sub: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 4).unwrap().to_le_bytes();
    [&[kind, sub, length[0], length[1]], data].concat()
}

fn pci(device: u8) -> Vec<u8> {
    [node(2, 1, &[0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0]), node(1, 1, &[0, device])].concat()
}

fn partition(number: u8, sectors: u8, signature: u8) -> Vec<u8> {
    let mut data = vec![number, 0, 0, 0];
    data.extend(2048_u64.to_le_bytes());
    data.extend(u64::from(sectors).to_le_bytes());
    data.extend([signature; 16]);
    data.extend([2, 2]);
    node(MEDIA, HARD_DRIVE, &data)
}

fn option(attributes: u32, path: &[u8], data: &[u8]) -> Vec<u8> {
    let path = [path, &END_ENTIRE].concat();
    let name: Vec<u8> = "debian\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    [&attributes.to_le_bytes()[..], &u16::try_from(path.len()).unwrap().to_le_bytes(), &name, &path, data].concat()
}

#[test]
fn networks_and_what_is_plugged_in_are_left_alone() {
    let on = |more: Vec<u8>| [pci(3), more].concat();
    assert!(!leads_elsewhere(&on(Vec::new())) && !leads_elsewhere(&on(partition(1, 8, 7))));
    // MAC address, USB.
    assert!(leads_elsewhere(&on(node(3, 11, &[0; 33]))) && leads_elsewhere(&on(node(3, 5, &[1, 0]))));
}

/// A candidate's way as a person reads it: the device, then the file.
fn told(candidate: &Candidate) -> (String, u8) {
    let nodes = nodes(&candidate.path);
    let file = nodes.last().unwrap();
    let text: Vec<u16> = file[4..file.len() - 2].chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    (String::from_utf16(&text).unwrap(), nodes[1][5])
}

fn start(order: &[Vec<u8>], volumes: &[Vec<u8>]) -> Vec<(String, u8)> {
    entries(order, volumes, DEFAULT).iter().chain(&defaults(volumes, DEFAULT)).map(told).collect()
}

fn disk(device: u8) -> Vec<u8> {
    [pci(device), partition(1, 9, device), END_ENTIRE.to_vec()].concat()
}

#[test]
fn without_an_entry_each_disk_is_tried_by_its_default_loader() {
    assert_eq!(start(&[], &[disk(3), disk(4)]), [(DEFAULT.to_owned(), 3), (DEFAULT.to_owned(), 4)]);
    assert_eq!(start(&[], &[]), []);
}

#[test]
fn an_entry_for_a_partition_finds_it_though_it_has_grown() {
    let entry = option(ACTIVE, &[partition(1, 7, 4), file_node(DEBIAN)].concat(), b"quiet");
    let found = entries(&[entry], &[disk(3), disk(4)], DEFAULT);
    assert_eq!(told(&found[0]), (DEBIAN.to_owned(), 4));
    assert_eq!(found[0].options, b"quiet");
    assert!(found[0].path.ends_with(&END_ENTIRE));
    assert_eq!(found.len(), 1);
}

#[test]
fn an_entry_for_hardware_means_what_lies_on_it() {
    let made_by_firmware = [option(ACTIVE, &pci(4), &[0x4e, 0xac, 0x08, 0x81])];
    let found = entries(&made_by_firmware, &[disk(3), disk(4)], DEFAULT);
    assert_eq!((told(&found[0]), found[0].options.len()), ((DEFAULT.to_owned(), 4), 0), "its mark is no command line");
    let file = [pci(4), partition(1, 9, 4), file_node(DEBIAN)].concat();
    assert_eq!(start(&[option(ACTIVE, &file, &[])], &[disk(3), disk(4)])[0], (DEBIAN.to_owned(), 4));
}

#[test]
fn entries_that_the_firmware_would_not_boot_or_that_are_no_disks_count_for_nothing() {
    let file = [partition(1, 9, 4), file_node(DEBIAN)].concat();
    let network = [pci(2), node(3, 11, &[0; 33])].concat();
    let application = [node(MEDIA, 7, &[1; 16]), node(MEDIA, 6, &[2; 16])].concat();
    let order = [
        option(0, &file, &[]),
        option(ACTIVE | 0x100, &file, &[]),
        option(ACTIVE, &network, &[]),
        option(ACTIVE, &application, &[]),
        option(ACTIVE, &file_node(DEBIAN), &[]),
    ];
    assert_eq!(start(&order, &[disk(4)]), [(DEFAULT.to_owned(), 4)]);
}

#[test]
fn file_systems_of_the_network_in_memory_and_behind_usb_are_no_disks() {
    let card = [pci(2), node(MESSAGING, 11, &[0; 33]), END_ENTIRE.to_vec()].concat();
    let case = [pci(3), node(MESSAGING, 5, &[1, 0]), partition(1, 9, 3), END_ENTIRE.to_vec()].concat();
    let memory = [node(MEDIA, RAM_DISK, &[0; 34]), END_ENTIRE.to_vec()].concat();
    assert_eq!(start(&[], &[card, memory, case, disk(4)]), [(DEFAULT.to_owned(), 4)]);
}

#[test]
fn what_firmware_wrote_badly_harms_nobody() {
    let good = option(ACTIVE, &[partition(1, 9, 4), file_node(DEBIAN)].concat(), &[1, 2]);
    for cut in 0..good.len() {
        entries(&[good[..cut].to_vec()], &[disk(4)], DEFAULT);
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        entries(&[bad.clone()], &[disk(4), bad], DEFAULT);
    }
    let short = [node(MEDIA, HARD_DRIVE, &[1]), END_ENTIRE.to_vec()].concat();
    assert!(entries(&[option(ACTIVE, &short, &[])], &[short], DEFAULT).is_empty());
}
