//! How objects are named. Names are made, never parsed: identity is in the spec.

use std::net::IpAddr;

use athanor_wire::MacAddr;

/// The namespace of the system's own objects.
pub const SYSTEM_NAMESPACE: &str = "athanor-system";
/// The namespace that holds boot plans and nothing else.
pub const PLANS_NAMESPACE: &str = "athanor-plans";
/// Where newcomers register unless their Subnet says otherwise.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The type of the Secrets that carry boot plans.
pub const PLAN_SECRET_TYPE: &str = "metal.athanor.dev/boot-plan";
/// The key below which such a Secret holds the plan.
pub const PLAN_SECRET_KEY: &str = "plan";
/// The type of Secrets that machines may be given, and the label of others that are meant for them.
pub const USER_DATA_TYPE: &str = "metal.athanor.dev/user-data";
/// The type, or a label, of Secrets that are handed to machines as headers for the server of their image.
pub const HTTP_HEADERS_TYPE: &str = "metal.athanor.dev/http-headers";
/// Plans carry one label per subnet: this prefix and the subnet's name.
pub const SUBNET_LABEL_PREFIX: &str = "subnet.metal.athanor.dev/";

/// The Machine a newcomer becomes: two agents that see it at once name it alike, so only one can create it.
pub fn machine(mac: MacAddr) -> String {
    format!("m-{}", mac.to_hex())
}

/// The Secret that carries a Machine's boot plan.
pub fn plan_secret(namespace: &str, machine: &str) -> String {
    format!("{namespace}.{machine}")
}

/// The namespace and the name of the Machine whose boot plan a Secret of that name carries: no namespace has a dot in it.
pub fn planned(secret: &str) -> Option<(&str, &str)> {
    secret.split_once('.')
}

/// The BootReport of a client that is no Machine.
pub fn stranger_report(mac: MacAddr) -> String {
    format!("client-{}", mac.to_hex())
}

/// The Address object of an address: whoever creates it owns the address.
pub fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => format!("v4-{}", v4.to_string().replace('.', "-")),
        IpAddr::V6(v6) => {
            let groups: Vec<String> = v6.segments().iter().map(|group| format!("{group:04x}")).collect();
            format!("v6-{}", groups.join("-"))
        }
    }
}

/// The Secret with the installation's key, in [`SYSTEM_NAMESPACE`].
pub const INSTALLATION_SECRET: &str = "athanor-installation";
/// The key in it with the seed of the Ed25519 key, 32 bytes.
pub const INSTALLATION_SEED: &str = "seed";
/// The key in it with the public key, in hexadecimal.
pub const INSTALLATION_PUBLIC: &str = "public";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_name_however_it_is_written() {
        assert_eq!(address("192.168.10.100".parse().unwrap()), "v4-192-168-10-100");
        assert_eq!(address("fd00::1".parse().unwrap()), address("fd00:0:0::0:1".parse().unwrap()));
        assert_eq!(address("fd00::1".parse().unwrap()), "v6-fd00-0000-0000-0000-0000-0000-0000-0001");
    }
}
