//! The configuration file: what `start services` reads and `config detect` writes.

mod detect;
mod networks;
mod tree;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, bail};
use athanor_crds::SubnetSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::detect::{DetectArgs, detect};

/// A configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    /// Where everything is kept.
    #[serde(default = "default_data_dir")]
    pub(crate) data_dir: PathBuf,
    /// The name of this node; the host's name without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// The only folders that ISOs are read from.
    #[serde(default)]
    pub(crate) media_dirs: Vec<PathBuf>,
    /// Folders with loaders; the first that has a file wins.
    #[serde(default = "default_loader_dirs")]
    pub(crate) loader_dirs: Vec<PathBuf>,
    /// The folder with the machine-agent's ramdisk, as `make ramdisk` builds it.
    #[serde(default = "default_ramdisk_dir")]
    pub(crate) ramdisk_dir: PathBuf,
    /// The API.
    #[serde(default)]
    pub(crate) api: Api,
    /// Boot HTTP.
    #[serde(default)]
    pub(crate) http: Http,
    /// Metrics.
    #[serde(default)]
    pub(crate) metrics: Metrics,
    /// Subnets by name, applied as field manager `athanor-config`.
    #[serde(default)]
    #[schemars(schema_with = "subnets_schema")]
    pub(crate) subnets: BTreeMap<String, SubnetSpec>,
    /// The Subnets as the file has them, without what is filled in by default: a default is nobody's wish, and is nobody's field.
    #[serde(skip)]
    pub(crate) written: BTreeMap<String, Value>,
}

/// The API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Api {
    /// Where it listens.
    #[serde(default = "default_api")]
    pub(crate) listen: SocketAddr,
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: default_api() }
    }
}

/// Boot HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Http {
    /// Its port.
    #[serde(default = "default_http_port")]
    #[schemars(range(min = 1))]
    pub(crate) port: u16,
}

/// Metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metrics {
    /// Where Prometheus and others read them: `/metrics`, `/livez`, `/readyz`.
    #[serde(default = "default_metrics")]
    pub(crate) listen: SocketAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: default_metrics() }
    }
}

fn default_metrics() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7483))
}

impl Default for Http {
    fn default() -> Self {
        Self { port: default_http_port() }
    }
}

fn default_api() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7480))
}

pub(crate) fn default_http_port() -> u16 {
    7481
}

pub(crate) fn default_loader_dirs() -> Vec<PathBuf> {
    [default_data_dir().join("loaders"), PathBuf::from("/usr/lib/ipxe"), PathBuf::from("/boot")].into()
}

pub(crate) fn default_ramdisk_dir() -> PathBuf {
    default_data_dir().join("ramdisk")
}

/// `/var/lib/athanor` for root, the XDG state folder for others.
pub(crate) fn default_data_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/athanor");
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from).join(".local/state");
    state.unwrap_or_else(home).join("athanor")
}

/// The Subnet's schema is that of the API: one source for both.
fn subnets_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let crd = athanor_crds::generate::all().into_iter().find(|crd| crd.spec.names.kind == "Subnet");
    let schema = crd.and_then(|crd| serde_json::to_value(crd).ok()).unwrap_or_default();
    let spec = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
    schemars::json_schema!({ "type": "object", "additionalProperties": spec })
}

/// Reads a configuration. What is wrong is told with the file's name, line and column.
///
/// # Errors
/// The file cannot be read, is no YAML, or has a key or value that means nothing.
pub(crate) fn load(path: &std::path::Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}; `athanor config detect > athanor.yaml` writes one", path.display()))?;
    parse(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy(), &text)
}

fn parse(file: &str, text: &str) -> anyhow::Result<Config> {
    let mut tree = tree::parse(file, text)?;
    let mut schema = serde_json::to_value(schemars::schema_for!(Config))?;
    inline(&mut schema);
    tree.mean_off(&schema);
    tree::check(file, &tree, &schema, "")?;
    let json = tree.to_json();
    let place = |path: &[&str]| {
        let (line, column) = tree.locate(path);
        format!("{file}:{line}:{column}")
    };
    let written = json["subnets"].as_object().into_iter().flatten().map(|(name, spec)| (name.clone(), spec.clone())).collect();
    let mut config: Config = match serde_path_to_error::deserialize(json) {
        Ok(config) => config,
        Err(error) => {
            let path = error.path().to_string();
            let steps: Vec<&str> = path.split(['.', '[', ']']).filter(|step| !step.is_empty()).collect();
            let what = match error.inner().to_string().as_str() {
                "invalid socket address syntax" => "must be an address and a port, like 127.0.0.1:7480".to_owned(),
                "invalid IP address syntax" if path.ends_with(".cidr") => athanor_crds::subnet::NO_CIDR.to_owned(),
                "invalid IP address syntax" => "must be an IP address, like 192.168.10.7".to_owned(),
                other => other.to_owned(),
            };
            bail!("{}: {path}: {what}", place(&steps));
        }
    };
    config.written = written;
    if let Some((field, other)) = shared_port(&config) {
        let place = place(&field.split('.').collect::<Vec<_>>());
        bail!("{place}: {field}: {other} has this port already; choose another");
    }
    if let Some(node) = config.node.as_ref().filter(|node| !athanor_apiserver::is_name(node)) {
        bail!("{}: node: {node:?} cannot name a node; use lower-case letters, digits, '-' and '.', such as cellar-1", place(&["node"]));
    }
    if config.data_dir.as_os_str().is_empty() {
        bail!("{}: dataDir: is empty; name a folder, or leave it out for {}", place(&["dataDir"]), default_data_dir().display());
    }
    if let Some((index, folder)) = config.media_dirs.iter().enumerate().find(|(_, folder)| folder.exists() && !folder.is_dir()) {
        let place = place(&["mediaDirs", &index.to_string()]);
        bail!("{place}: mediaDirs: {} is no folder; name the one that the ISOs are in", folder.display());
    }
    for name in config.subnets.keys() {
        if !athanor_apiserver::is_name(name) {
            let place = place(&["subnets", name]);
            bail!("{place}: subnets: {name:?} cannot name a Subnet; use lower-case letters, digits, '-' and '.', such as rack-1");
        }
    }
    if let Some(fault) = networks::fault(&config.subnets) {
        let steps: Vec<&str> = fault.path.iter().map(String::as_str).collect();
        bail!("{}: {}: {}", place(&steps), fault.path.join("."), fault.why);
    }
    Ok(config)
}

/// Two services that would listen on one port: the second's field, and the first's. Port 0 is any that is free.
fn shared_port(config: &Config) -> Option<(&'static str, &'static str)> {
    let http = SocketAddr::from(([0, 0, 0, 0], config.http.port));
    let all = [("http.port", http), ("api.listen", config.api.listen), ("metrics.listen", config.metrics.listen)];
    let meet = |one: SocketAddr, other: SocketAddr| {
        one.port() != 0
            && one.port() == other.port()
            && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
    };
    all.iter()
        .enumerate()
        .find_map(|(index, (field, at))| all[..index].iter().find(|(_, other)| meet(*at, *other)).map(|(other, _)| (*field, *other)))
}

/// Puts the definitions that schemars refers to in their places.
fn inline(schema: &mut Value) {
    let definitions = schema["$defs"].take();
    fn walk(value: &mut Value, definitions: &Value) {
        if let Some(name) = value["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
            *value = definitions[name].clone();
        }
        match value {
            Value::Object(fields) => fields.values_mut().for_each(|field| walk(field, definitions)),
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, definitions)),
            _ => {}
        }
    }
    walk(schema, &definitions);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "mediaDirs: [/srv/iso]\nsubnets:\n  lab:\n    cidr: 192.168.10.0/24\n    mode: dhcp\n    gateway: 192.168.10.1\n    ranges: [{from: 192.168.10.100, to: 192.168.10.199}]\n";

    #[test]
    fn a_subnet_in_the_file_is_a_subnet_of_the_api() {
        let config = parse("athanor.yaml", GOOD).unwrap();
        assert_eq!(config.subnets["lab"].ranges.len(), 1);
        assert_eq!(config.api.listen.port(), 7480);
        assert_eq!(config.written["lab"].as_object().unwrap().len(), 4, "{:?}", config.written);
        let off = parse("athanor.yaml", &GOOD.replace("mode: dhcp", "mode: off")).unwrap();
        assert_eq!(off.subnets["lab"].mode, athanor_crds::subnet::Mode::Off);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_the_nearest_right_key() {
        let message = |text: &str| parse("athanor.yaml", text).unwrap_err().to_string();
        let typo = GOOD.replace("gateway", "gatway");
        assert_eq!(message(&typo), "athanor.yaml:6:5: unknown key \"gatway\" in subnets.lab; did you mean \"gateway\"?");
        assert_eq!(message("mediadirs: []\n"), "athanor.yaml:1:1: unknown key \"mediadirs\"; did you mean \"mediaDirs\"?");
        assert_eq!(message("http: {port: http}\n"), "athanor.yaml:1:14: http.port: must be an integer, not \"http\"");
        assert_eq!(message("http: {port: 99999}\n"), "athanor.yaml:1:14: http.port: must be at most 65535, not 99999");
        assert_eq!(
            message("metrics: {listen: 127.0.0.1:7480}\n"),
            "athanor.yaml:1:19: metrics.listen: api.listen has this port already; choose another"
        );
        assert_eq!(
            message("metrics: {listen: 127.0.0.1:7481}\n"),
            "athanor.yaml:1:19: metrics.listen: http.port has this port already; choose another"
        );
        assert_eq!(message("http: {port: 0}\n"), "athanor.yaml:1:14: http.port: must be at least 1, not 0");
        assert_eq!(message("api: {listen: foo}\n"), "athanor.yaml:1:15: api.listen: must be an address and a port, like 127.0.0.1:7480");
        assert_eq!(message("subnets: []\n"), "athanor.yaml:1:10: subnets: must be a map, not a list");
        let mode = GOOD.replace("mode: dhcp", "mode: DHCP");
        assert_eq!(message(&mode), "athanor.yaml:5:11: subnets.lab.mode: \"DHCP\" is not one of dhcp, proxy, off; did you mean \"dhcp\"?");
        let cidr = GOOD.replace("10.0/24", "10.7/24");
        assert_eq!(
            message(&cidr),
            "athanor.yaml:4:11: subnets.lab.cidr: 192.168.10.7/24 has bits set behind its prefix; write 192.168.10.0/24"
        );
        assert!(message("subnets:\n  lab: {mode: dhcp}\n").starts_with("athanor.yaml:2:8: subnets.lab: cidr is missing"));
        assert!(
            message("subnets:\n  La b: {cidr: 10.0.0.0/24}\n").contains(":2:9: subnets: \"La b\" cannot name a Subnet; use lower-case")
        );
        let accept = GOOD.to_owned() + "    newcomers: {accept: true}\n";
        assert_eq!(message(&accept), "athanor.yaml:8:25: subnets.lab.newcomers.accept: \"true\" is not one of manual, always");
        assert!(message("node: A b\n").starts_with("athanor.yaml:1:7: node: \"A b\" cannot name a node"));
        assert!(message("dataDir: \"\"\n").starts_with("athanor.yaml:1:10: dataDir: is empty; name a folder"));
        let range = GOOD.replace("10.199", "11.199");
        assert_eq!(message(&range), "athanor.yaml:7:41: subnets.lab.ranges.0.to: 192.168.11.199 is not inside 192.168.10.0/24");
        let cidr = GOOD.replace("10.0/24", "10.0/33");
        assert_eq!(
            message(&cidr),
            "athanor.yaml:4:11: subnets.lab.cidr: must be a network, like 192.168.10.0/24; a prefix has 0 to 32 bits, or 128 with IPv6"
        );
        assert_eq!(
            message("mediaDirs: [/tmp, /etc/passwd]\n"),
            "athanor.yaml:1:19: mediaDirs: /etc/passwd is no folder; name the one that the ISOs are in"
        );
        assert!(message("subnets: {lab: }\n").contains("subnets.lab: cidr is missing"));
        assert!(parse("athanor.yaml", "subnets:\nhttp:\n").is_ok());
        assert!(message("subnets: {lab: [}\n").starts_with("athanor.yaml:1:"));
    }
}
