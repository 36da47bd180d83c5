//! Tables, once and while they change. They are the API's own, so they are those of kubectl.

use std::{collections::HashMap, time::Duration};

use futures::{AsyncBufReadExt as _, StreamExt as _};
use kube::Client;
use serde_json::Value;

use super::{
    Global, connect,
    get::{GetArgs, Output},
    kinds::Kind,
    out,
};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// How soon an API that went away is asked again.
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
    let all = wanted.list().await?;
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
    if args.watch { wanted.follow(printer, all).await } else { Ok(()) }
}

impl Wanted<'_> {
    fn query(&self, more: &[(&str, &str)]) -> String {
        let labels = self.args.selector.iter().map(|labels| ("labelSelector", labels.as_str()));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(labels.chain(more.iter().copied())).finish()
    }

    /// All that is wanted, as one table.
    async fn list(&self) -> kube::Result<Value> {
        let paths = if self.args.names.is_empty() {
            vec![format!("{}?{}", self.base, self.query(&[]))]
        } else {
            self.args.names.iter().map(|name| format!("{}/{name}", self.base)).collect()
        };
        let mut all = Value::Null;
        for path in paths {
            let request = http::Request::get(path).header("accept", TABLE).body(Vec::new()).map_err(kube::Error::HttpError)?;
            let table: Value = self.client.request(request).await?;
            match all["rows"].as_array_mut() {
                Some(rows) => rows.extend(table["rows"].as_array().cloned().unwrap_or_default()),
                None => all = table,
            }
        }
        Ok(all)
    }

    /// Prints what changes after a list. A server that is started anew is watched again; only what is refused ends it.
    async fn follow(&self, mut printer: Printer, mut all: Value) -> anyhow::Result<()> {
        loop {
            let mut shown: HashMap<String, Value> = rows(&all).map(|row| (key(row), row["cells"].clone())).collect();
            let why = match self.changes(&all, &mut printer, &mut shown).await {
                Ok(()) => None,
                Err(error) => Some(passing(error)?),
            };
            let mut told = false;
            all = loop {
                match self.list().await.map_err(passing) {
                    Ok(all) => break all,
                    Err(refused_or_gone) => {
                        let gone = refused_or_gone?;
                        if !std::mem::replace(&mut told, true) {
                            eprintln!("{}; watching on when it answers", why.as_ref().unwrap_or(&gone));
                        }
                    }
                }
                tokio::time::sleep(AGAIN).await;
            };
            let news: Vec<Value> = rows(&all).filter(|row| shown.get(&key(row)) != Some(&row["cells"])).cloned().collect();
            out(&printer.rows(&serde_json::json!({ "rows": news })));
        }
    }

    /// Prints changes until the watch ends.
    async fn changes(&self, all: &Value, printer: &mut Printer, shown: &mut HashMap<String, Value>) -> kube::Result<()> {
        let after = all["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let path = format!("{}?{}", self.base, self.query(&[("watch", "true"), ("resourceVersion", &after)]));
        let request = http::Request::get(path).header("accept", TABLE).body(Vec::new()).map_err(kube::Error::HttpError)?;
        let mut lines = Box::pin(self.client.request_stream(request).await?.lines());
        while let Some(line) = lines.next().await {
            let line = line.map_err(kube::Error::ReadEvents)?;
            let event: Value = serde_json::from_str(&line).map_err(kube::Error::SerdeError)?;
            let named = |row: &&Value| self.args.names.is_empty() || self.args.names.iter().any(|name| row["cells"][0] == name.as_str());
            let news: Vec<Value> = rows(&event["object"]).filter(named).cloned().collect();
            shown.extend(news.iter().map(|row| (key(row), row["cells"].clone())));
            out(&printer.rows(&serde_json::json!({ "rows": news })));
        }
        Ok(())
    }
}

/// Why the API does not answer, in words; what it refuses is an error.
fn passing(error: kube::Error) -> anyhow::Result<String> {
    match error {
        // Too old a version to watch from: it is listed anew.
        kube::Error::Api(status) if status.code != 410 => Err(kube::Error::Api(status).into()),
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
