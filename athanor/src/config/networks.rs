//! What the file's Subnets get wrong about their own addresses, and about each other. The API says it too, without the place in the file.

use std::{collections::BTreeMap, net::IpAddr};

use athanor_crds::SubnetSpec;

/// What is wrong, and where.
pub(super) struct Fault {
    pub(super) path: Vec<String>,
    pub(super) why: String,
}

/// The first fault.
pub(super) fn fault(subnets: &BTreeMap<String, SubnetSpec>) -> Option<Fault> {
    let mut before: Vec<(&String, &SubnetSpec)> = Vec::new();
    for (name, spec) in subnets {
        let within = |field: Vec<String>, why: String| {
            let path = ["subnets".to_owned(), name.clone()].into_iter().chain(field).collect();
            Some(Fault { path, why })
        };
        let cidr = spec.cidr;
        if cidr != cidr.trunc() {
            return within(vec!["cidr".to_owned()], format!("{cidr} has bits set behind its prefix; write {}", cidr.trunc()));
        }
        let place = &spec.newcomers.namespace;
        if !athanor_apiserver::is_name(place) || place.contains('.') {
            let why = format!("{place:?} cannot name a namespace; name one, such as default");
            return within(vec!["newcomers".to_owned(), "namespace".to_owned()], why);
        }
        if let Some((other, theirs)) = before.iter().find(|(_, other)| spec.overlaps(other)).map(|(name, other)| (name, other.cidr)) {
            return within(vec!["cidr".to_owned()], format!("{cidr} overlaps that of {other} ({theirs}); change one of the two"));
        }
        if let Some((field, address)) = addresses(spec).into_iter().find(|(_, address)| !cidr.contains(address)) {
            return within(field, format!("{address} is not inside {cidr}"));
        }
        if let Some((index, range)) = spec.ranges.iter().enumerate().find(|(_, range)| range.from > range.to) {
            let why = format!("{} is behind {}; write the lower address first", range.from, range.to);
            return within(vec!["ranges".to_owned(), index.to_string()], why);
        }
        if let Some(fault) = spec.fault() {
            let (field, why) = fault.split_once(": ").unwrap_or(("", &fault));
            return within(field.split('.').skip(1).map(str::to_owned).collect(), why.to_owned());
        }
        before.push((name, spec));
    }
    None
}

/// Every address that has to be inside the network, and where it stands.
fn addresses(spec: &SubnetSpec) -> Vec<(Vec<String>, IpAddr)> {
    let field = |name: &str, index: usize| vec![name.to_owned(), index.to_string()];
    let ranges = spec.ranges.iter().enumerate().flat_map(|(index, range)| {
        [("from", range.from), ("to", range.to)].map(|(end, address)| {
            let mut path = field("ranges", index);
            path.push(end.to_owned());
            (path, address)
        })
    });
    let gateway = spec.gateway.map(|gateway| (vec!["gateway".to_owned()], gateway));
    let reserved = spec.reserved.iter().enumerate().map(|(index, address)| (field("reserved", index), *address));
    gateway.into_iter().chain(ranges).chain(reserved).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_overlap_or_lie_elsewhere_are_told_with_their_place() {
        let read = |text: &str| serde_saphyr::from_str::<BTreeMap<String, SubnetSpec>>(text).unwrap();
        let told = |text: &str| fault(&read(text)).map(|fault| format!("{}: {}", fault.path.join("."), fault.why));
        assert_eq!(told("a: {cidr: 10.0.0.0/16}\nb: {cidr: 10.0.1.0/24, mode: dhcp}\n"), None);
        assert_eq!(told("a: {cidr: 10.0.0.0/24, gateway: 10.0.0.1}\nb: {cidr: 10.0.1.0/24}\n"), None);
        for (text, says) in [
            (
                "a: {cidr: 10.0.0.0/16, mode: dhcp}\nb: {cidr: 10.0.1.0/24, mode: proxy}\n",
                "subnets.b.cidr: 10.0.1.0/24 overlaps that of a (10.0.0.0/16); change one of the two",
            ),
            ("a: {cidr: 10.0.0.0/24, gateway: 10.0.1.1}\n", "subnets.a.gateway: 10.0.1.1 is not inside 10.0.0.0/24"),
            ("a: {cidr: 10.0.0.0/24, reserved: [10.0.0.4, 10.0.1.1]}\n", "subnets.a.reserved.1: 10.0.1.1 is not inside 10.0.0.0/24"),
            (
                "a: {cidr: 10.0.0.0/24, ranges: [{from: 10.0.0.9, to: 10.0.0.5}]}\n",
                "subnets.a.ranges.0: 10.0.0.9 is behind 10.0.0.5; write the lower address first",
            ),
            ("a: {cidr: 10.0.0.0/24, gateway: 10.0.0.255}\n", "subnets.a.gateway: 10.0.0.255 is the broadcast address of 10.0.0.0/24"),
            (
                "a: {cidr: 10.0.0.0/24, ranges: [{from: 10.0.0.5, to: 10.0.0.9}, {from: 10.0.0.9, to: 10.0.0.12}]}\n",
                "subnets.a.ranges: 10.0.0.5–10.0.0.9 and 10.0.0.9–10.0.0.12 overlap; make one range of them",
            ),
            (
                "a: {cidr: 10.0.0.0/24, newcomers: {namespace: \"\"}}\n",
                "subnets.a.newcomers.namespace: \"\" cannot name a namespace; name one, such as default",
            ),
        ] {
            assert_eq!(told(text).as_deref(), Some(says));
        }
    }
}
