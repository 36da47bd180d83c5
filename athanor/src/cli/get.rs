//! `get` and `describe`.

use anyhow::bail;
use athanor_crds::{BootReport, MachineInventory};
use athanor_wire::MacAddr;
use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use serde_json::Value;

use super::{Global, connect, explain, hardware, kinds::Kind, lifecycle, out, table};

/// Arguments of `get`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GetArgs {
    /// What: machines, deployments, boot, subnets, …; several with commas; or KIND/NAME
    kind: String,
    /// Which; a machine also by a MAC address
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(super) names: Vec<String>,
    /// How
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
    /// Only those with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(super) selector: Option<String>,
    /// Go on and show every change
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Of every namespace
    #[arg(short = 'A', long, conflicts_with = "names")]
    pub(super) all_namespaces: bool,
}

/// Arguments of `describe`.
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// What: machine, deployment, boot, subnet; or KIND/NAME
    kind: String,
    /// Which; a machine also by a MAC address
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
}

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns
    Table,
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// kind/name
    Name,
}

/// `get`.
///
/// # Errors
/// The API says no.
pub(crate) async fn get(global: &Global, args: GetArgs) -> anyhow::Result<()> {
    let wanted = Kind::with_names(&args.kind, &args.names)?;
    if args.watch && wanted.len() > 1 {
        bail!("--watch shows one kind; give one");
    }
    let client = connect::client(global).await?;
    let mut documents = Vec::new();
    for (index, (kind, names)) in wanted.iter().enumerate() {
        let mut args = GetArgs { names: Vec::new(), ..args.clone() };
        for name in names {
            args.names.push(resolve(&client, global, kind, name).await?);
        }
        if matches!(args.output, Output::Table | Output::Wide) {
            if index > 0 {
                out("\n");
            }
            table::show(&client, global, kind, &args).await?;
        } else {
            documents.extend(self::documents(&client, global, kind, &args).await?);
        }
    }
    let single = matches!(wanted.as_slice(), [(_, names)] if names.len() == 1);
    print(args.output, &documents, single)
}

/// A machine is also called by a MAC address, in any spelling.
pub(super) async fn resolve(client: &Client, global: &Global, kind: &Kind, name: &str) -> anyhow::Result<String> {
    match name.parse::<MacAddr>() {
        // Its own name may look like one.
        Ok(_) if kind.kind == "Machine" => lifecycle::machine_called(client, global, name).await,
        _ => Ok(name.to_owned()),
    }
}

/// The dynamic API of a kind in the chosen namespace.
pub(crate) fn api(client: &Client, global: &Global, kind: &Kind) -> Api<DynamicObject> {
    if kind.namespaced {
        Api::namespaced_with(client.clone(), &global.namespace, &kind.resource())
    } else {
        Api::all_with(client.clone(), &kind.resource())
    }
}

/// Objects by their kind.
type Documents = Vec<(Kind, Value)>;

async fn documents(client: &Client, global: &Global, kind: &Kind, args: &GetArgs) -> anyhow::Result<Documents> {
    let api = if args.all_namespaces { Api::all_with(client.clone(), &kind.resource()) } else { api(client, global, kind) };
    let mut objects = Vec::new();
    if args.names.is_empty() {
        let params = args.selector.as_ref().map_or_else(ListParams::default, |labels| ListParams::default().labels(labels));
        objects.extend(api.list(&params).await?.items);
    }
    for name in &args.names {
        objects.push(api.get(name).await?);
    }
    objects.iter().map(|object| Ok((*kind, complete(kind, object)?))).collect()
}

fn print(output: Output, documents: &Documents, single: bool) -> anyhow::Result<()> {
    let list = || {
        let values: Vec<&Value> = documents.iter().map(|(_, value)| value).collect();
        serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": values })
    };
    let shown = || documents.first().filter(|_| single).map_or_else(list, |(_, value)| value.clone());
    let name = |(kind, value): &(Kind, Value)| format!("{}/{}\n", kind.singular, value["metadata"]["name"].as_str().unwrap_or_default());
    let text = match output {
        Output::Name => documents.iter().map(name).collect(),
        Output::Json => format!("{:#}\n", shown()),
        Output::Yaml => serde_saphyr::to_string(&shown())?,
        Output::Table | Output::Wide => return Ok(()),
    };
    out(&text);
    Ok(())
}

/// Lists leave out what every item has in common.
fn complete(kind: &Kind, object: &DynamicObject) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(object)?;
    value["apiVersion"] = kind.api_version().into();
    value["kind"] = kind.kind.into();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Ok(value)
}

/// `describe`: the object, its conditions as sentences, and for a machine the newest of what it asked.
///
/// # Errors
/// The API says no.
pub(crate) async fn describe(global: &Global, args: DescribeArgs) -> anyhow::Result<()> {
    let (kind, name) = Kind::and_name(&args.kind, args.name.as_deref())?;
    let client = connect::client(global).await?;
    let name = resolve(&client, global, &kind, &name).await?;
    let object = complete(&kind, &api(&client, global, &kind).get(&name).await?)?;
    let mut text = format!("{} {name}\n", kind.kind);
    if let Some(namespace) = object["metadata"]["namespace"].as_str() {
        text.push_str(&format!("namespace  {namespace}\n"));
    }
    text.push_str(&format!("created    {}\n", object["metadata"]["creationTimestamp"].as_str().unwrap_or("-")));
    for part in ["spec", "status"] {
        let mut value = object[part].clone();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("conditions");
        }
        if value.is_object() {
            text.push_str(&format!("\n{part}\n{}", indent(&serde_saphyr::to_string(&value)?)));
        }
    }
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if !conditions.is_empty() {
        text.push_str("\nconditions\n");
    }
    for condition in &conditions {
        let get = |field: &str| condition[field].as_str().unwrap_or_default();
        text.push_str(&format!("  {:<20} {:<6} {:<18} {}\n", get("type"), get("status"), get("reason"), get("message")));
    }
    if kind.kind == "Machine"
        && let Some(inventory) = Api::<MachineInventory>::namespaced(client.clone(), &global.namespace).get_opt(&name).await?
    {
        text.push_str(&format!("\nhardware\n{}", indent(&hardware::shown(&inventory))));
    }
    if kind.kind == "Machine"
        && let Some(report) = Api::<BootReport>::namespaced(client, &global.namespace).get_opt(&name).await?
    {
        text.push_str(&format!("\nboot\n{}", indent(&explain::timeline(&report, 12))));
    }
    out(&text);
    Ok(())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
