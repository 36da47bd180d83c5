//! `get` and `describe`. Tables are the API's own, so they are those of kubectl.

use anyhow::{Context as _, bail};
use athanor_crds::{BootReport, MachineInventory};
use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use serde_json::Value;

use super::{Global, connect, explain, hardware, kinds::Kind, lifecycle, out};

/// Arguments of `get`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GetArgs {
    /// What: machines, deployments, boot, subnets, …; several with commas; or KIND/NAME
    kind: String,
    /// Which; a machine also by a MAC address
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    /// How
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Only those with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Go on and show every change
    #[arg(short, long)]
    watch: bool,
    /// Of every namespace
    #[arg(short = 'A', long, conflicts_with = "names")]
    all_namespaces: bool,
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
    let wanted = wanted(&args)?;
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
            table(&client, global, kind, &args).await?;
        } else {
            documents.extend(self::documents(&client, global, kind, &args).await?);
        }
    }
    let single = matches!(wanted.as_slice(), [(_, names)] if names.len() == 1);
    print(args.output, &documents, single)
}

/// Kinds with the names that are asked for of each: `machines`, `machines,deployments`, `machine NAME…`, `machine/NAME deployment/NAME`.
fn wanted(args: &GetArgs) -> anyhow::Result<Vec<(Kind, Vec<String>)>> {
    if !args.kind.contains('/') {
        let kinds: Vec<Kind> = args.kind.split(',').map(Kind::named).collect::<Result<_, _>>()?;
        if let Some(name) = args.names.iter().find(|name| name.contains('/')) {
            bail!("{name:?}: either KIND NAME… or KIND/NAME…, not both");
        }
        return Ok(kinds.into_iter().map(|kind| (kind, args.names.clone())).collect());
    }
    let mut wanted: Vec<(Kind, Vec<String>)> = Vec::new();
    for word in std::iter::once(&args.kind).chain(&args.names) {
        let (kind, name) = word.split_once('/').with_context(|| format!("{word:?}: either KIND NAME… or KIND/NAME…, not both"))?;
        let kind = Kind::named(kind)?;
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

/// A machine is also called by a MAC address, in any spelling.
async fn resolve(client: &Client, global: &Global, kind: &Kind, name: &str) -> anyhow::Result<String> {
    match name.parse() {
        Ok(mac) if kind.kind == "Machine" => lifecycle::machine_with(client, global, mac).await,
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

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn table(client: &Client, global: &Global, kind: &Kind, args: &GetArgs) -> anyhow::Result<()> {
    let wide = args.output == Output::Wide;
    let base = if args.all_namespaces { kind.path_everywhere() } else { kind.path(&global.namespace) };
    let query = |more: &[(&str, &str)]| {
        let labels = args.selector.iter().map(|labels| ("labelSelector", labels.as_str()));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(labels.chain(more.iter().copied())).finish()
    };
    let paths = if args.names.is_empty() {
        vec![format!("{base}?{}", query(&[]))]
    } else {
        args.names.iter().map(|name| format!("{base}/{name}")).collect()
    };
    let mut all: Option<Value> = None;
    for path in paths {
        let request = http::Request::get(path).header("accept", TABLE).body(Vec::new())?;
        let table: Value = client.request(request).await?;
        match &mut all {
            None => all = Some(table),
            Some(all) => {
                if let (Some(rows), Some(more)) = (all["rows"].as_array_mut(), table["rows"].as_array()) {
                    rows.extend(more.iter().cloned());
                }
            }
        }
    }
    let all = all.context("nothing was asked for")?;
    let mut printer = Printer::new(&all, wide, args.all_namespaces && kind.namespaced);
    if all["rows"].as_array().is_none_or(Vec::is_empty) && !args.watch {
        let place = match (kind.namespaced, args.all_namespaces) {
            (false, _) => String::new(),
            (true, true) => " in any namespace".to_owned(),
            (true, false) => format!(" in namespace {}", global.namespace),
        };
        eprintln!("no {}{place}", kind.plural);
        return Ok(());
    }
    out(&printer.print(&all));
    if !args.watch {
        return Ok(());
    }
    let after = all["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let request = http::Request::get(format!("{base}?{}", query(&[("watch", "true"), ("resourceVersion", &after)])))
        .header("accept", TABLE)
        .body(Vec::new())?;
    let mut lines = Box::pin(client.request_stream(request).await?.lines());
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        let named = |row: &Value| args.names.is_empty() || args.names.iter().any(|name| row["cells"][0] == name.as_str());
        if event["object"]["rows"].as_array().is_some_and(|rows| rows.iter().any(named)) {
            out(&printer.rows(&event["object"]));
        }
    }
    Ok(())
}

/// Columns as wide as their widest cell.
struct Printer {
    /// Each line begins with the object's namespace.
    everywhere: bool,
    shown: Vec<usize>,
    headers: Vec<String>,
    widths: Vec<usize>,
}

impl Printer {
    fn new(table: &Value, wide: bool, everywhere: bool) -> Self {
        let columns = table["columnDefinitions"].as_array().cloned().unwrap_or_default();
        let shown: Vec<usize> = (0..columns.len()).filter(|&index| wide || columns[index]["priority"] == 0).collect();
        let names = shown.iter().map(|&index| columns[index]["name"].as_str().unwrap_or_default().to_uppercase());
        let headers: Vec<String> = everywhere.then(|| "NAMESPACE".to_owned()).into_iter().chain(names).collect();
        let widths = headers.iter().map(|header| header.chars().count()).collect();
        Self { everywhere, shown, headers, widths }
    }

    fn print(&mut self, table: &Value) -> String {
        let body = self.cells(table);
        let header = self.line(&self.headers.clone());
        header + &body.iter().map(|row| self.line(row)).collect::<String>()
    }

    fn rows(&mut self, table: &Value) -> String {
        let body = self.cells(table);
        body.iter().map(|row| self.line(row)).collect()
    }

    fn cells(&mut self, table: &Value) -> Vec<Vec<String>> {
        let rows = table["rows"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| match value {
            Value::String(text) if text.is_empty() => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let place = |row: &Value| self.everywhere.then(|| text(&row["object"]["metadata"]["namespace"]));
        let cells = |row: &Value| place(row).into_iter().chain(self.shown.iter().map(|&index| text(&row["cells"][index]))).collect();
        let body: Vec<Vec<String>> = rows.iter().map(cells).collect();
        for row in &body {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        body
    }

    fn line(&self, cells: &[String]) -> String {
        let padded: Vec<String> = cells.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    }
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        get: GetArgs,
    }

    fn asked(line: &str) -> String {
        let line = Line::parse_from(std::iter::once("get").chain(line.split(' ')));
        let wanted = wanted(&line.get).map_err(|error| error.to_string());
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
