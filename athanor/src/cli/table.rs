//! Tables, once and while they change. They are the API's own, so they are those of kubectl.

use std::{collections::HashMap, time::Duration};

use futures::{AsyncBufReadExt as _, StreamExt as _};
use kube::{Client, core::Status};
use serde_json::Value;

use super::{
    Global, connect,
    get::{GetArgs, Output},
    kinds::Kind,
    out,
};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// How long one watch lasts.
const WATCH: Duration = Duration::from_secs(290);
/// How long its end may take.
const GRACE: Duration = Duration::from_secs(10);
/// How soon an API that went away is asked again, and a watch that ended is begun anew.
const AGAIN: Duration = Duration::from_secs(1);

/// What is shown, and where it is asked for.
struct Wanted<'a> {
    client: &'a Client,
    base: String,
    args: &'a GetArgs,
}

/// Prints the table of a kind, and with `--watch` every change of it until somebody ends that.
pub(super) async fn show(client: &Client, global: &Global, kind: &Kind, args: &GetArgs) -> anyhow::Result<()> {
    let base = if args.all_namespaces { kind.path_everywhere() } else { kind.path(&global.namespace) };
    let wanted = Wanted { client, base, args };
    let all = if args.names.is_empty() { wanted.list().await? } else { wanted.named().await? };
    let mut printer = Printer::new(&all, args.output == Output::Wide, args.all_namespaces && kind.namespaced);
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
    if args.watch { wanted.follow(printer, &all).await } else { Ok(()) }
}

/// The version of each object when it was last shown.
type Shown = HashMap<String, Value>;

impl Wanted<'_> {
    async fn table(&self, path: &str) -> kube::Result<Value> {
        self.client.request(request(path)?).await
    }

    /// The whole collection.
    async fn list(&self) -> kube::Result<Value> {
        self.table(&format!("{}?{}", self.base, self.query(&[]))).await
    }

    /// The objects that are named, as one table.
    async fn named(&self) -> kube::Result<Value> {
        let mut all = Value::Null;
        for name in &self.args.names {
            let table = self.table(&format!("{}/{name}", self.base)).await?;
            match all["rows"].as_array_mut() {
                Some(rows) => rows.extend(table["rows"].as_array().cloned().unwrap_or_default()),
                None => all = table,
            }
        }
        Ok(all)
    }

    fn query(&self, more: &[(&str, &str)]) -> String {
        let labels = self.args.selector.iter().map(|labels| ("labelSelector", labels.as_str()));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(labels.chain(more.iter().copied())).finish()
    }

    /// Prints what changes after a list. A server that is started anew is watched again; only what is refused ends it.
    async fn follow(&self, mut printer: Printer, first: &Value) -> anyhow::Result<()> {
        let mut shown: Shown = rows(first).map(|row| (key(row), version(row))).collect();
        let mut told = false;
        loop {
            // From the list's own version: one object's is older than what a server remembers.
            let ended = match self.list().await {
                Ok(all) => {
                    self.print(&all, &mut printer, &mut shown);
                    self.changes(&all, &mut printer, &mut shown).await
                }
                Err(error) => Err(error),
            };
            match ended.map_err(passing) {
                Ok(()) => told = false,
                Err(why) => {
                    let why = why?;
                    if !std::mem::replace(&mut told, true) {
                        eprintln!("{why}; watching on when it answers");
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Prints changes until the watch ends.
    async fn changes(&self, all: &Value, printer: &mut Printer, shown: &mut Shown) -> kube::Result<()> {
        let (after, seconds) = (all["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned(), WATCH.as_secs().to_string());
        let query = self.query(&[("watch", "true"), ("resourceVersion", &after), ("timeoutSeconds", &seconds)]);
        let mut lines = Box::pin(self.client.request_stream(request(&format!("{}?{query}", self.base))?).await?.lines());
        // A server that lost its power ends nothing.
        while let Ok(Some(line)) = tokio::time::timeout(WATCH + GRACE, lines.next()).await {
            let event: Value = serde_json::from_str(&line.map_err(kube::Error::ReadEvents)?).map_err(kube::Error::SerdeError)?;
            match event["type"].as_str() {
                Some("ERROR") => return Err(refusal(&event["object"])),
                Some("DELETED") => {
                    for row in rows(&event["object"]).filter(|row| self.is_meant(row)) {
                        shown.remove(&key(row));
                        out(&printer.rows(&[row]));
                    }
                }
                _ => self.print(&event["object"], printer, shown),
            }
        }
        Ok(())
    }

    /// Prints what of a table was not shown yet.
    fn print(&self, table: &Value, printer: &mut Printer, shown: &mut Shown) {
        let news: Vec<&Value> =
            rows(table).filter(|row| self.is_meant(row) && shown.insert(key(row), version(row)) != Some(version(row))).collect();
        out(&printer.rows(&news));
    }

    fn is_meant(&self, row: &Value) -> bool {
        self.args.names.is_empty() || self.args.names.iter().any(|name| row["object"]["metadata"]["name"] == name.as_str())
    }
}

fn request(path: &str) -> kube::Result<http::Request<Vec<u8>>> {
    http::Request::get(path).header("accept", TABLE).body(Vec::new()).map_err(kube::Error::HttpError)
}

/// The error in a watch.
fn refusal(status: &Value) -> kube::Error {
    serde_json::from_value::<Status>(status.clone()).map_or_else(kube::Error::SerdeError, |status| kube::Error::Api(Box::new(status)))
}

/// Why the API does not answer now, in words; what it refuses is an error.
fn passing(error: kube::Error) -> anyhow::Result<String> {
    match error {
        // Too old a version to watch from, too many questions, or a server that is not well: it is listed anew.
        kube::Error::Api(status) if matches!(status.code, 410 | 429 | 500..) => Ok(status.message.clone()),
        kube::Error::Api(status) => Err(kube::Error::Api(status).into()),
        other => Ok(connect::explain(&other)),
    }
}

fn rows(table: &Value) -> impl Iterator<Item = &Value> {
    table["rows"].as_array().into_iter().flatten()
}

/// Which object a row is of.
fn key(row: &Value) -> String {
    let metadata = &row["object"]["metadata"];
    format!("{}/{}", metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default())
}

/// Which state of the object a row shows.
fn version(row: &Value) -> Value {
    row["object"]["metadata"]["resourceVersion"].clone()
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
        let body = self.cells(&rows(table).collect::<Vec<_>>());
        let header = self.line(&self.headers.clone());
        header + &body.iter().map(|row| self.line(row)).collect::<String>()
    }

    fn rows(&mut self, rows: &[&Value]) -> String {
        let body = self.cells(rows);
        body.iter().map(|row| self.line(row)).collect()
    }

    fn cells(&mut self, rows: &[&Value]) -> Vec<Vec<String>> {
        let text = |value: &Value| match value {
            Value::String(text) if text.is_empty() => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let place = |row: &Value| self.everywhere.then(|| text(&row["object"]["metadata"]["namespace"]));
        let cells = |row: &&Value| place(row).into_iter().chain(self.shown.iter().map(|&index| text(&row["cells"][index]))).collect();
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
