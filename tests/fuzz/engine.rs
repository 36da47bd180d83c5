//! Fuzzing on stable Rust: seeds, changed in all the ways that parsers are weak against, for as long as `FUZZ_SECONDS` says (a second without
//! it). What fails is made small and printed, for it is proptest that changes.

use std::time::{Duration, Instant};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseResult, TestRunner},
};

/// Changes of one input, at the most.
const MAX_CHANGES: usize = 12;
/// Inputs between two looks at the clock.
const BATCH: u32 = 64;

/// One change: which, where (as a part of 65,536 of the length), and two numbers for it.
type Change = (u8, u16, u16, u8);

/// What parsers are fond of: zero, one, all ones, and their neighbours.
const INTERESTING: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, 0x20];

fn change(bytes: &mut Vec<u8>, other: &[u8], (kind, place, size, value): Change) {
    let at = bytes.len() * usize::from(place) / 65_536;
    let length = usize::from(size % 32);
    match kind % 8 {
        _ if bytes.is_empty() => bytes.push(value),
        0 => bytes[at] ^= 1 << (value % 8),
        1 => bytes[at] = value,
        2 => bytes[at] = INTERESTING[usize::from(value) % INTERESTING.len()],
        3 => drop(bytes.splice(at..at, std::iter::repeat_n(value, length))),
        4 => drop(bytes.drain(at..(at + length).min(bytes.len()))),
        5 => bytes.truncate(at),
        6 => {
            let piece: Vec<u8> = bytes.iter().copied().skip(usize::from(size) % bytes.len()).take(length).collect();
            drop(bytes.splice(at..at, piece));
        }
        _ => {
            let from = other.len() * usize::from(size) / 65_536;
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

/// Shows a target one changed seed after the other.
pub(crate) fn fuzz(seeds: &[Vec<u8>], target: impl Fn(&[u8]) -> TestCaseResult) {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let until = Instant::now() + Duration::from_secs(seconds);
    let changes = proptest::collection::vec(any::<Change>(), 0..MAX_CHANGES);
    while Instant::now() < until {
        let mut runner = TestRunner::new(Config { cases: BATCH, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&(0..seeds.len(), 0..seeds.len(), changes.clone()), |(seed, other, changes)| {
            let mut bytes = seeds[seed].clone();
            changes.into_iter().for_each(|one| change(&mut bytes, &seeds[other], one));
            target(&bytes)
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
    }
}
