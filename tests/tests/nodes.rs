//! Athanor on a real cluster: the chart, the image, two nodes that serve one segment, and what happens to them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use athanor_tests::{Rack, cluster::Cluster};

#[test]
fn experiment() {
    let rack = Rack::up().unwrap();
    let cluster = Cluster::up(&rack, 2).unwrap();
    cluster.install(&[]).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(30));
    eprintln!("{}", cluster.story());
}
