//! What an operating system may ask for while it runs: a tree of names below its token, as NoCloud, OpenStack's config drive and EC2 have it.
//!
//! ```text
//!   meta-data  user-data  network-config  vendor-data       NoCloud   ┐ as they were handed over
//!   openstack/latest/…                                      OpenStack ┘
//!   latest/meta-data/…  latest/user-data                    EC2's, for whoever asks in its words; a date does for `latest`
//! ```

use std::{collections::BTreeSet, fmt};

use athanor_wire::{
    metadata::{self, NO_CLOUD, RELEASE, Service},
    work::Documents,
};
use serde::{Deserialize, Serialize};

use crate::boot_plan::BootPlan;

/// What belongs to one instance of a Deployment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The instance.
    pub instance: String,
    /// Its attempt, which a word of its guest is about.
    pub attempt: String,
    /// Names all this in URLs, for as long as the instance lasts.
    pub token: String,
    /// Whether the boot script tells the token. Then it is no secret: whoever has the MAC address is given that script.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_script: bool,
    /// With what its release hook asks, where it has one: other users of its system see what that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Whether it is to restart, since it was released.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// Its host name.
    pub hostname: String,
    /// SSH public keys of its users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What cloud-init is to read.
    pub documents: Documents,
}

/// Tokens and documents stay out of logs.
impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata").field("instance", &self.instance).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl Metadata {
    /// Its token, where the boot script tells it.
    pub fn told_by_script(&self) -> Option<String> {
        self.in_script.then(|| self.token.clone())
    }

    /// Its documents for an operating system that asks, and reports to, `servers`: `http://192.168.10.1:7481`, and others behind commas.
    pub fn documents_at(&self, servers: &str) -> Documents {
        let at = |token: &String| servers.split(',').map(|server| metadata::url(server, token)).collect::<Vec<_>>();
        let hook = self.hook.iter().flat_map(at).map(|url| url + RELEASE).collect();
        Documents { metadata: Some(Service { urls: at(&self.token), hook }), ..self.documents.clone() }
    }

    /// What a name below its token stands for; `None` where it stands for nothing. A folder is a list of names.
    pub fn text(&self, path: &str, plan: &BootPlan, servers: &str) -> Option<String> {
        let path = path.trim_matches('/');
        let mut files = self.documents_at(servers).all_files();
        if let Some(text) = files.remove(path) {
            return Some(text);
        }
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let user_data = if self.documents.label == NO_CLOUD { "user-data" } else { "openstack/latest/user_data" };
        match segments.as_slice() {
            [] => Some(lines(files.keys().map(String::as_str).chain(["latest/"]))),
            [version] if is_version(version) => Some(lines(["meta-data/", "user-data"])),
            [version, "user-data"] if is_version(version) => files.remove(user_data),
            [version, "meta-data", name @ ..] if is_version(version) => self.item(name, plan),
            _ => {
                let below: BTreeSet<&str> =
                    files.keys().filter_map(|name| name.strip_prefix(path)?.strip_prefix('/')?.split('/').next()).collect();
                (!below.is_empty()).then(|| lines(below))
            }
        }
    }

    /// A piece of EC2's meta-data.
    fn item(&self, name: &[&str], plan: &BootPlan) -> Option<String> {
        let interface = plan.boot_interface();
        let address = || Some(interface?.addresses.first()?.ip.to_string());
        let key = |index: &str| index.parse::<usize>().ok().and_then(|index| self.keys.get(index));
        match name {
            [] => {
                let keys = (!self.keys.is_empty()).then_some("public-keys/");
                let address = address().map(|_| "local-ipv4");
                let always = ["hostname", "instance-id", "local-hostname"];
                Some(lines(always.into_iter().chain(address).chain(interface.map(|_| "mac")).chain(keys)))
            }
            ["hostname" | "local-hostname"] => Some(self.hostname.clone()),
            ["instance-id"] => Some(self.instance.clone()),
            ["local-ipv4"] => address(),
            ["mac"] => Some(interface?.mac.to_string()),
            ["public-keys"] if !self.keys.is_empty() => Some(lines((0..self.keys.len()).map(|index| format!("{index}=key-{index}")))),
            ["public-keys", index] => key(index).map(|_| "openssh-key".to_owned()),
            ["public-keys", index, "openssh-key"] => key(index).cloned(),
            _ => None,
        }
    }
}

/// EC2 names its versions by date; all of them are the same here.
fn is_version(name: &str) -> bool {
    let is_date = name.len() == 10
        && name.bytes().enumerate().all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    is_date || name == "latest" || name == "1.0"
}

fn lines<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| name.as_ref().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use athanor_crds::{MachineState, machine::LocalBoot};
    use athanor_wire::metadata::CONFIG_DRIVE;

    use super::*;
    use crate::boot_plan::{FORMAT, MachineKey, PlanAddress, PlanInterface, Safe};

    fn plan() -> BootPlan {
        let address = PlanAddress { subnet: "rack-1".into(), ip: "192.168.10.100".parse().unwrap() };
        BootPlan {
            format: FORMAT,
            machine: MachineKey { namespace: "default".into(), name: "m1".into() },
            state: MachineState::Provisioned,
            token: "t-1".into(),
            previous_token: None,
            interfaces: vec![PlanInterface { mac: "52:54:00:aa:00:01".parse().unwrap(), boot: true, addresses: vec![address] }],
            hostname: None,
            local_boot: LocalBoot::default(),
            loader: None,
            safe: Safe::LocalDisk { reason: "Provisioned".into() },
            order: None,
            work: None,
            metadata: None,
            wake: false,
        }
    }

    fn web_1(label: &str, files: &[(&str, &str)]) -> Metadata {
        Metadata {
            instance: "i-1".into(),
            attempt: "a-1".into(),
            token: "m-1".into(),
            in_script: false,
            hook: None,
            released: false,
            hostname: "web-1".into(),
            keys: vec!["ssh-ed25519 AAAA ada".into(), "ssh-rsa BBBB grace".into()],
            documents: Documents {
                label: label.into(),
                files: files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
                metadata: None,
            },
        }
    }

    #[test]
    fn each_name_stands_for_what_cloud_init_expects() {
        let no_cloud = web_1(NO_CLOUD, &[("meta-data", "{}"), ("user-data", "#cloud-config\n")]);
        let drive = web_1(CONFIG_DRIVE, &[("openstack/latest/meta_data.json", "{}"), ("openstack/latest/user_data", "#!/bin/sh\n")]);
        let unknown = BootPlan { interfaces: Vec::new(), ..plan() };
        for (of, path, text) in [
            (&no_cloud, "meta-data", Some("{}")),
            (&no_cloud, "/user-data", Some("#cloud-config\n")),
            (&no_cloud, "network-config", None),
            (&no_cloud, "", Some("meta-data\nuser-data\nvendor-data\nlatest/")),
            (&drive, "openstack/latest/user_data", Some("#!/bin/sh\n")),
            (&drive, "user-data", None),
            (&drive, "openstack", Some("latest")),
            (&drive, "openstack/latest/", Some("meta_data.json\nuser_data\nvendor_data.json")),
            (&no_cloud, "openstack", None),
            (&drive, "2009-04-04/user-data", Some("#!/bin/sh\n")),
            (&no_cloud, "latest/", Some("meta-data/\nuser-data")),
            (&no_cloud, "latest/user-data", Some("#cloud-config\n")),
            (&no_cloud, "1.0/meta-data/", Some("hostname\ninstance-id\nlocal-hostname\nlocal-ipv4\nmac\npublic-keys/")),
            (&no_cloud, "2021-03-23/meta-data/instance-id", Some("i-1")),
            (&no_cloud, "latest/meta-data/local-hostname", Some("web-1")),
            (&no_cloud, "latest/meta-data/local-ipv4", Some("192.168.10.100")),
            (&no_cloud, "latest/meta-data/mac", Some("52:54:00:aa:00:01")),
            (&no_cloud, "latest/meta-data/public-keys/", Some("0=key-0\n1=key-1")),
            (&no_cloud, "latest/meta-data/public-keys/1/", Some("openssh-key")),
            (&no_cloud, "latest/meta-data/public-keys/1/openssh-key", Some("ssh-rsa BBBB grace")),
            (&no_cloud, "latest/meta-data/public-keys/2/openssh-key", None),
            (&no_cloud, "latest/meta-data/ami-id", None),
            (&no_cloud, "../meta-data", None),
            (&no_cloud, "2021-3-23/user-data", None),
        ] {
            assert_eq!(of.text(path, &plan(), "http://192.168.10.1:7481").as_deref(), text, "{path}");
        }
        let keyless = Metadata { keys: Vec::new(), ..no_cloud };
        assert_eq!(keyless.text("latest/meta-data", &unknown, "").as_deref(), Some("hostname\ninstance-id\nlocal-hostname"));
        assert_eq!(keyless.text("latest/meta-data/public-keys", &unknown, ""), None);
    }
}
