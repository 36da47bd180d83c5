//! Which addresses Machines get comes to rest, in whatever order an API lists its objects.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "other tests use more of it")]
mod memory;

use athanor_crds::{
    Address, Subnet, SubnetSpec,
    machine::AddressClaim,
    subnet::{AddressRange, Mode},
};
use athanor_operator::Cluster as _;
use futures::executor::block_on;
use memory::{Count, Hurry, Memory, settle};

fn subnet(name: &str, cidr: &str, range: Option<(&str, &str)>) -> Subnet {
    let ranges = range.into_iter().map(|(from, to)| AddressRange { from: from.parse().unwrap(), to: to.parse().unwrap() }).collect();
    Subnet::new(name, SubnetSpec { mode: Mode::Dhcp, ranges, ..SubnetSpec::of(cidr.parse().unwrap()) })
}

#[test]
fn a_fixed_address_that_a_narrower_subnet_takes_over_leaves_the_machine_at_rest() {
    for seed in 0..20 {
        let (cluster, ids, clock) = (Memory::new(seed), Count::default(), Hurry::default());
        cluster.put(&subnet("lab", "192.168.10.0/24", Some(("192.168.10.100", "192.168.10.199"))));
        let mut machine = memory::machine(1);
        machine.spec.interfaces[0].addresses = vec![AddressClaim { subnet: None, ip: "192.168.10.50".parse().unwrap() }];
        cluster.put(&machine);
        settle(&cluster, &ids, &clock);
        cluster.put(&subnet("other", "192.168.10.0/25", None));
        settle(&cluster, &ids, &clock);
        let mut addresses: Vec<String> =
            block_on(cluster.list::<Address>(None)).unwrap().iter().map(|address| address.spec.ip.to_string()).collect();
        addresses.sort();
        assert_eq!(addresses, ["192.168.10.100", "192.168.10.50"], "seed {seed}");
    }
}
