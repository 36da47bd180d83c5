//! The kinds that are served: ours, from the generated CRDs, and the few core kinds that we use.

use athanor_crds::{Address, BootProfile, BootReport, Deployment, Machine, MachineInventory, Subnet, WipeRecord};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Secret},
};
use kube::core::cel::{CompiledSchema, compile_schema};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::schema::{self, Patterns};

/// Reads an object as its Rust type, and writes it again without what the type does not know; or tells the field and what is wrong with it.
pub(crate) type Reader = fn(&Value) -> Result<Value, (String, String)>;

fn typed<K: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, (String, String)> {
    let read: K = serde_path_to_error::deserialize(object).map_err(|error| (error.path().to_string(), error.inner().to_string()))?;
    serde_json::to_value(read).map_err(|error| (String::new(), error.to_string()))
}

/// The types of our own kinds.
fn reader(kind: &str) -> Option<Reader> {
    Some(match kind {
        "Machine" => typed::<Machine>,
        "Deployment" => typed::<Deployment>,
        "BootProfile" => typed::<BootProfile>,
        "Subnet" => typed::<Subnet>,
        "MachineInventory" => typed::<MachineInventory>,
        "BootReport" => typed::<BootReport>,
        "Address" => typed::<Address>,
        "WipeRecord" => typed::<WipeRecord>,
        _ => return None,
    })
}

/// A column of `kubectl get`.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) type_: String,
    pub(crate) path: String,
    pub(crate) priority: i64,
    pub(crate) description: String,
}

/// A kind that is served.
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// `openAPIV3Schema`; core kinds have none and are kept as they come.
    pub(crate) schema: Option<Value>,
    pub(crate) rules: Option<CompiledSchema>,
    pub(crate) patterns: Patterns,
    pub(crate) read: Reader,
    pub(crate) status: bool,
    pub(crate) columns: Vec<Column>,
    /// Where its objects are stored; two versions of events share one place.
    pub(crate) storage: String,
}

impl Kind {
    /// `machines.metal.athanor.dev`, as messages name it.
    pub(crate) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `metal.athanor.dev/v1alpha1`
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn is_core(&self) -> bool {
        self.schema.is_none()
    }
}

/// Every kind, ours first.
pub(crate) fn all() -> Vec<Kind> {
    let mut kinds: Vec<Kind> =
        athanor_crds::generate::all().iter().filter_map(|crd| serde_json::to_value(crd).ok()).filter_map(|crd| from_crd(&crd)).collect();
    kinds.extend([
        core("", "v1", "Namespace", "namespaces", &["ns"], false, typed::<Namespace>),
        core("", "v1", "Secret", "secrets", &[], true, typed::<Secret>),
        core("", "v1", "ConfigMap", "configmaps", &["cm"], true, typed::<ConfigMap>),
        core("", "v1", "Event", "events", &["ev"], true, typed::<Event>),
        // Stored as the one above.
        core("events.k8s.io", "v1", "Event", "events", &["ev"], true, typed::<Event>),
        core("coordination.k8s.io", "v1", "Lease", "leases", &[], true, typed::<Lease>),
    ]);
    kinds
}

fn from_crd(crd: &Value) -> Option<Kind> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| value.as_array().map(|list| list.iter().filter_map(text).collect()).unwrap_or_default();
    let (spec, names) = (&crd["spec"], &crd["spec"]["names"]);
    let version = spec["versions"].get(0)?;
    let mut schema = version["schema"]["openAPIV3Schema"].clone();
    // What every object has, so that pruning knows it.
    for (name, kind) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
        schema["properties"][name] = json!({ "type": kind });
    }
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten().filter_map(|column| {
        Some(Column {
            name: text(&column["name"])?,
            type_: text(&column["type"])?,
            path: text(&column["jsonPath"])?,
            priority: column["priority"].as_i64().unwrap_or(0),
            description: text(&column["description"]).unwrap_or_default(),
        })
    });
    let (group, plural) = (text(&spec["group"])?, text(&names["plural"])?);
    Some(Kind {
        storage: format!("{plural}.{group}"),
        version: text(&version["name"])?,
        kind: text(&names["kind"])?,
        singular: text(&names["singular"])?,
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        rules: Some(compile_schema(&schema)),
        patterns: schema::patterns(&schema),
        read: reader(names["kind"].as_str()?)?,
        status: version["subresources"]["status"].is_object(),
        columns: columns.collect(),
        schema: Some(schema),
        group,
        plural,
    })
}

fn core(group: &str, version: &str, kind: &str, plural: &str, short: &[&str], namespaced: bool, read: Reader) -> Kind {
    let column = |name: &str, type_: &str, path: &str| Column {
        name: name.to_owned(),
        type_: type_.to_owned(),
        path: path.to_owned(),
        priority: 0,
        description: String::new(),
    };
    let mut columns = match (kind, group) {
        ("Namespace", _) => vec![column("Status", "string", ".status.phase")],
        ("Secret", _) => vec![column("Type", "string", ".type")],
        ("Lease", _) => vec![column("Holder", "string", ".spec.holderIdentity")],
        ("Event", "") => vec![
            column("Last Seen", "date", ".lastTimestamp"),
            column("Type", "string", ".type"),
            column("Reason", "string", ".reason"),
            column("Object", "reference", ".involvedObject"),
            column("Message", "string", ".message"),
        ],
        _ => vec![],
    };
    columns.push(column("Age", "date", ".metadata.creationTimestamp"));
    Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: short.iter().map(|&name| name.to_owned()).collect(),
        categories: Vec::new(),
        namespaced,
        schema: None,
        rules: None,
        patterns: Patterns::new(),
        read,
        status: kind == "Namespace",
        columns,
        storage: plural.to_owned(),
    }
}
