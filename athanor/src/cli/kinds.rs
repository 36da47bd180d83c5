//! The kinds by the names people type.

use anyhow::{Context as _, anyhow, bail};
use athanor_plan::nearest;
use kube::core::{ApiResource, GroupVersionKind};

/// A kind that the CLI knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) namespaced: bool,
    /// What else people call it.
    pub(crate) aliases: &'static [&'static str],
}

const fn ours(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
    aliases: &'static [&'static str],
) -> Kind {
    Kind { kind, group: athanor_crds::GROUP, version: athanor_crds::VERSION, plural, singular, namespaced, aliases }
}

const fn core(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
    aliases: &'static [&'static str],
) -> Kind {
    Kind { kind, group: "", version: "v1", plural, singular, namespaced, aliases }
}

/// Every kind.
pub(crate) const ALL: &[Kind] = &[
    ours("Machine", "machines", "machine", true, &["am", "node", "nodes"]),
    ours("Deployment", "deployments", "deployment", true, &["ad"]),
    ours("BootProfile", "bootprofiles", "bootprofile", true, &["abp", "boot", "boots", "profile", "profiles"]),
    ours("Subnet", "subnets", "subnet", false, &["asn"]),
    ours("MachineInventory", "machineinventories", "machineinventory", true, &["inventory", "inventories"]),
    ours("BootReport", "bootreports", "bootreport", true, &[]),
    ours("Address", "addresses", "address", false, &[]),
    ours("WipeRecord", "wiperecords", "wiperecord", true, &[]),
    core("Secret", "secrets", "secret", true, &[]),
    core("ConfigMap", "configmaps", "configmap", true, &["cm"]),
    core("Namespace", "namespaces", "namespace", false, &["ns"]),
];

impl Kind {
    /// The kind and the name of what KIND NAME means, or KIND/NAME in one word.
    ///
    /// # Errors
    /// No kind is called so, or not exactly one name is given.
    pub(crate) fn with_name(word: &str, name: Option<&str>) -> anyhow::Result<(Self, Option<String>)> {
        let (kind, name) = match (word.split_once('/'), name) {
            (None, name) => (word, name),
            (Some((kind, name)), None) if !name.is_empty() => (kind, Some(name)),
            (Some(_), None) => bail!("{word:?} names no object"),
            (Some(_), Some(_)) => bail!("{word:?}: either KIND NAME or KIND/NAME, not both"),
        };
        Ok((Self::named(kind)?, name.map(str::to_owned)))
    }

    /// Kinds with the names that are meant of each: `machines`, `machines,deployments`, `machine NAME…`, `machine/NAME deployment/NAME`.
    ///
    /// # Errors
    /// As [`Self::with_name`].
    pub(crate) fn with_names(word: &str, names: &[String]) -> anyhow::Result<Vec<(Self, Vec<String>)>> {
        if !word.contains('/') {
            let kinds: Vec<Self> = word.split(',').map(Self::named).collect::<Result<_, _>>()?;
            if let Some(name) = names.iter().find(|name| name.contains('/')) {
                bail!("{name:?}: either KIND NAME… or KIND/NAME…, not both");
            }
            return Ok(kinds.into_iter().map(|kind| (kind, names.to_vec())).collect());
        }
        let mut wanted: Vec<(Self, Vec<String>)> = Vec::new();
        for word in std::iter::once(word).chain(names.iter().map(String::as_str)) {
            let (kind, name) = word.split_once('/').with_context(|| format!("{word:?}: either KIND NAME… or KIND/NAME…, not both"))?;
            let kind = Self::named(kind)?;
            if name.is_empty() {
                bail!("{word:?} names no object");
            }
            match wanted.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, names)) => names.push(name.to_owned()),
                None => wanted.push((kind, vec![name.to_owned()])),
            }
        }
        Ok(wanted)
    }

    /// As [`Self::with_name`], where there has to be one.
    ///
    /// # Errors
    /// As [`Self::with_name`].
    pub(crate) fn and_name(word: &str, name: Option<&str>) -> anyhow::Result<(Self, String)> {
        let (kind, name) = Self::with_name(word, name)?;
        Ok((kind, name.ok_or_else(|| kind.nameless())?))
    }

    /// That a name is missing.
    pub(crate) fn nameless(&self) -> anyhow::Error {
        anyhow!("which {}? Give its name: KIND NAME, or KIND/NAME", self.singular)
    }

    /// The kind that a word names.
    ///
    /// # Errors
    /// No kind is called so; the message has the nearest one.
    pub(crate) fn named(word: &str) -> anyhow::Result<Self> {
        let wanted = word.to_lowercase();
        let found = ALL.iter().find(|kind| kind.plural == wanted || kind.singular == wanted || kind.aliases.contains(&wanted.as_str()));
        let Some(kind) = found else {
            let names = ALL.iter().flat_map(|kind| [kind.plural, kind.singular]);
            let all = || format!("; there are {}", ALL.iter().map(|kind| kind.plural).collect::<Vec<_>>().join(", "));
            let hint = nearest::hint(word, names);
            bail!("there is no kind {word:?}{}", if hint.is_empty() { all() } else { hint });
        };
        Ok(*kind)
    }

    /// The kind of an object in a file.
    pub(crate) fn of(api_version: &str, kind: &str) -> Option<Self> {
        ALL.iter().find(|known| known.kind == kind && known.api_version() == api_version).copied()
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn resource(&self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, self.version, self.kind), self.plural)
    }

    /// The URL of its collection.
    pub(crate) fn path(&self, namespace: &str) -> String {
        if self.namespaced { format!("{}/namespaces/{namespace}/{}", self.base(), self.plural) } else { self.path_everywhere() }
    }

    /// The URL of its collection in all namespaces.
    pub(crate) fn path_everywhere(&self) -> String {
        format!("{}/{}", self.base(), self.plural)
    }

    fn base(&self) -> String {
        if self.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/{}", self.group, self.version) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> String {
        let mut words = line.split(' ').map(str::to_owned);
        let wanted = Kind::with_names(&words.next().unwrap(), &words.collect::<Vec<_>>()).map_err(|error| error.to_string());
        wanted.map_or_else(|error| error, |kinds| kinds.iter().map(|(kind, names)| format!("{}{names:?} ", kind.plural)).collect())
    }

    #[test]
    fn objects_are_named_as_with_kubectl() {
        assert_eq!(asked("am"), "machines[] ");
        assert_eq!(asked("machines,deployments"), "machines[] deployments[] ");
        assert_eq!(asked("machine/a deployment/b machine/c"), r#"machines["a", "c"] deployments["b"] "#);
        assert_eq!(asked("machine a deployment/b"), r#""deployment/b": either KIND NAME… or KIND/NAME…, not both"#);
        assert_eq!(asked("machine/a b"), r#""b": either KIND NAME… or KIND/NAME…, not both"#);
        assert_eq!(asked("machine/"), r#""machine/" names no object"#);
    }
}
