//! Which address an interface gets: the one a person fixed, the one it has, or the lowest free one.

use std::{collections::HashSet, net::IpAddr};

use athanor_crds::{SubnetSpec, machine::AddressClaim};

/// Why a fixed address cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It lies in no Subnet, or not in the one it names.
    #[error("{ip} is not inside {}", .subnet.as_ref().map_or_else(|| "any Subnet; add one that holds it".to_owned(), |(name, cidr)| format!("Subnet {name} ({cidr}); choose an address of that network")))]
    Outside {
        /// The address.
        ip: IpAddr,
        /// The Subnet it was to be in.
        subnet: Option<(String, String)>,
    },
    /// The Subnet it names does not exist.
    #[error("Subnet {0} does not exist; create it, or leave out the subnet of the address")]
    UnknownSubnet(String),
    /// It is the network's, the broadcast, the gateway's or a reserved address.
    #[error("{ip} cannot be given in Subnet {subnet}: it is the network's, its broadcast, its gateway's or a reserved address")]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// The Subnet.
        subnet: String,
    },
    /// Somebody else has it.
    #[error("{ip} is already given to {owner}; choose another one")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// No range has a free one.
    #[error("no free address is left in the ranges of Subnet {0}; widen spec.ranges")]
    Exhausted(String),
}

/// The Subnet of a fixed address, by the name it gives or by the CIDR that holds it.
///
/// # Errors
/// The address lies outside, or may not be given there.
pub fn subnet_of<'a>(claim: &AddressClaim, subnets: &'a [(String, SubnetSpec)]) -> Result<&'a (String, SubnetSpec), AddressError> {
    let found = match &claim.subnet {
        Some(name) => subnets.iter().find(|(other, _)| other == name).ok_or_else(|| AddressError::UnknownSubnet(name.clone()))?,
        None => {
            subnets.iter().find(|(_, spec)| spec.cidr.contains(&claim.ip)).ok_or(AddressError::Outside { ip: claim.ip, subnet: None })?
        }
    };
    let (name, spec) = found;
    if !spec.cidr.contains(&claim.ip) {
        return Err(AddressError::Outside { ip: claim.ip, subnet: Some((name.clone(), spec.cidr.to_string())) });
    }
    if !spec.may_give(claim.ip) {
        return Err(AddressError::Reserved { ip: claim.ip, subnet: name.clone() });
    }
    Ok(found)
}

/// The lowest address of the Subnet's ranges that nobody has.
///
/// `used` holds the addresses in use; two operators that choose the same one meet at the Address object, and one of them comes back here.
pub fn lowest_free(spec: &SubnetSpec, used: &HashSet<IpAddr>) -> Option<IpAddr> {
    spec.ranges.iter().find_map(|range| {
        let mut next = Some(range.from);
        while let Some(ip) = next.filter(|ip| range.contains(*ip)) {
            if spec.may_give(ip) && !used.contains(&ip) {
                return Some(ip);
            }
            next = successor(ip);
        }
        None
    })
}

fn successor(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

#[cfg(test)]
mod tests {
    use athanor_crds::subnet::AddressRange;

    use super::*;

    fn lab() -> SubnetSpec {
        let mut spec = SubnetSpec::of("192.168.10.0/24".parse().unwrap());
        spec.gateway = Some(ip("192.168.10.1"));
        spec.reserved = vec![ip("192.168.10.101")];
        spec.ranges = vec![AddressRange { from: ip("192.168.10.100"), to: ip("192.168.10.103") }];
        spec
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_address_is_given_and_reserved_ones_are_not() {
        let mut used = HashSet::new();
        let mut given = Vec::new();
        while let Some(address) = lowest_free(&lab(), &used) {
            used.insert(address);
            given.push(address.to_string());
        }
        assert_eq!(given, ["192.168.10.100", "192.168.10.102", "192.168.10.103"]);
    }

    #[test]
    fn a_range_at_the_very_end_of_the_address_space_ends() {
        let mut spec = SubnetSpec::of("255.255.255.0/24".parse().unwrap());
        spec.ranges = vec![AddressRange { from: ip("255.255.255.254"), to: ip("255.255.255.255") }];
        let used = HashSet::from([ip("255.255.255.254")]);
        assert_eq!(lowest_free(&spec, &used), None);
    }

    #[test]
    fn a_fixed_address_that_cannot_be_had_says_why() {
        let subnets = [("lab".to_owned(), lab())];
        let message = |subnet: Option<&str>, address: &str| {
            let claim = AddressClaim { subnet: subnet.map(str::to_owned), ip: ip(address) };
            subnet_of(&claim, &subnets).map(|(name, _)| name.clone()).unwrap_or_else(|error| error.to_string())
        };
        assert_eq!(message(None, "192.168.10.50"), "lab");
        assert_eq!(message(None, "10.0.0.5"), "10.0.0.5 is not inside any Subnet; add one that holds it");
        assert_eq!(
            message(Some("lab"), "10.0.0.5"),
            "10.0.0.5 is not inside Subnet lab (192.168.10.0/24); choose an address of that network"
        );
        assert_eq!(message(Some("lob"), "10.0.0.5"), "Subnet lob does not exist; create it, or leave out the subnet of the address");
        for edge in ["192.168.10.0", "192.168.10.255", "192.168.10.1", "192.168.10.101"] {
            assert!(message(None, edge).contains("cannot be given in Subnet lab"), "{edge}");
        }
    }
}
