//! Ten thousand lives of machines, under everything that goes wrong. A seed that fails tells its story and replays:
//! `LIFE_SEED=n cargo test -p athanor-sim --test lifecycles`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::sync::atomic::{AtomicU64, Ordering};

use athanor_sim::{World, world::Weather};

/// One world, from its beginning until it has come to rest. Returns how many lives were lived in it.
fn play(seed: u64, steps: u32, weather: Weather) -> u64 {
    let mut world = World::new(seed, 4, weather);
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..steps {
            world.step();
        }
        world.settle();
        world.all_is_said();
    }));
    if std::env::var_os("LIFE_STORY").is_some() {
        eprintln!("{}", world.story());
    }
    if lived.is_err() {
        panic!("seed {seed}:\n{}", world.story());
    }
    world.lives
}

fn replays() -> bool {
    std::env::var_os("LIFE_SEED").is_some()
}

fn lives(of: std::ops::Range<u64>, steps: u32, weather: Weather) -> u64 {
    if let Some(seed) = std::env::var("LIFE_SEED").ok().and_then(|text| text.parse().ok()) {
        return play(seed, steps, weather);
    }
    let (next, lived) = (AtomicU64::new(of.start), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= of.end {
                    return;
                }
                lived.fetch_add(play(seed, steps, weather), Ordering::Relaxed);
            }
        };
        [(); 2].map(|()| scope.spawn(work)).into_iter().for_each(|thread| thread.join().unwrap());
    });
    lived.into_inner()
}

#[test]
fn whatever_goes_wrong_no_disk_is_lost_and_every_machine_says_where_it_is() {
    let lived = lives(0..160, 2000, Weather { faults: true, restores: false });
    println!("{lived} lives");
    assert!(lived > 6000 || replays(), "only {lived} lives: nobody wants anything any more");
}

#[test]
fn data_of_the_api_that_went_back_costs_nobody_a_disk() {
    let lived = lives(1000..1110, 2000, Weather { faults: true, restores: true });
    println!("{lived} lives");
    assert!(lived > 4000 || replays(), "only {lived} lives: nobody wants anything any more");
}
