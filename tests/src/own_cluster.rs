//! A cluster of one's own, by its kubeconfig, instead of a control plane of the test's. Tests share it one after the other; each finds it without
//! Athanor and leaves it so.
//!
//! ```text
//!   rack: 127.0.0.1:6443 ── passage ── a Unix socket ── passage ── the API server, from where the kubeconfig is right
//! ```

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use athanor_crds::names;
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use crate::{Rack, plane, rack::Process, tools, wait_for};

/// Where the rack's programs find it.
const HERE: &str = "127.0.0.1:6443";
/// The label, with its value, of namespaces and Nodes that the tests made: without it they are somebody's.
pub(crate) const MADE_BY_TESTS: (&str, &str) = ("metal.athanor.dev/made-by", "tests");
/// What a person's cluster may take to let a passage through.
const OPEN: Duration = Duration::from_secs(10);

/// Who has the cluster now, and the way to it.
pub(crate) struct OwnCluster {
    /// The way to it as a cluster of a kubeconfig.
    pub(crate) cluster: Value,
    kubeconfig: PathBuf,
    _ways: [Process; 2],
    // The last to go.
    _turn: File,
}

impl OwnCluster {
    /// Waits for its turn and opens a way from the rack; `from` is the rack in which the kubeconfig is right, if it is not the host.
    pub(crate) fn open(rack: &Rack, kubeconfig: &Path, from: Option<&Rack>) -> anyhow::Result<Self> {
        let turn = File::create(crate::guest::cache()?.join("own-cluster.lock"))?;
        turn.lock()?;
        let (mut config, server) = redirected(kubeconfig)?;
        let folder = rack.file("plane");
        fs::create_dir_all(&folder)?;
        let (socket, program) = (folder.join("passage"), tools::built("passage", "`make build` first")?);
        // Of one that was here before.
        let _ = fs::remove_file(&socket);
        let start = |mut command: Command, from: &str, to: &str| -> anyhow::Result<Process> {
            Ok(Process(command.args([from, to]).stdin(Stdio::null()).spawn()?))
        };
        let socket = socket.to_str().context("the rack's folder is no text")?;
        let outside = from.map_or_else(|| on_host(&program), |rack| rack.command(&program));
        let ways = [start(outside, socket, &server)?, start(rack.command(&program), HERE, socket)?];
        let file = folder.join("admin.kubeconfig");
        fs::write(&file, config.to_string())?;
        let cluster = config["clusters"][0]["cluster"].take();
        let this = Self { cluster, kubeconfig: file, _ways: ways, _turn: turn };
        wait_for(&format!("an answer from {server}"), OPEN, || this.kubectl(rack, "get --raw /readyz").map_err(|error| error.to_string()))?;
        this.refuse_somebodys(rack)?;
        this.remove_ours(rack)?;
        Ok(this)
    }

    /// The admin's kubeconfig, as it is right in the rack.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn kubectl(&self, rack: &Rack, line: &str) -> anyhow::Result<String> {
        plane::kubectl(rack, &self.kubeconfig, line, None)
    }

    fn refuse_somebodys(&self, rack: &Rack) -> anyhow::Result<()> {
        let crd = self.kubectl(rack, "get crd machines.metal.athanor.dev --ignore-not-found -o name")?;
        let (label, tests) = MADE_BY_TESTS;
        let made =
            self.kubectl(rack, &format!("get namespaces --field-selector metadata.name=athanor-system -o name -l {label}={tests}"))?;
        let system = self.kubectl(rack, "get namespace athanor-system --ignore-not-found -o name")?;
        if (!crd.is_empty() || !system.is_empty()) && made.is_empty() {
            bail!("this cluster has an Athanor that no test made; tests remove it, so name a cluster that is there for tests");
        }
        Ok(())
    }

    /// Removes Athanor, and Secrets of its types. Nobody runs who would let finalizers go.
    pub(crate) fn remove_ours(&self, rack: &Rack) -> anyhow::Result<()> {
        let kinds = self.kubectl(rack, "api-resources --api-group=metal.athanor.dev -o name")?;
        for kind in kinds.lines() {
            let list: Value = serde_json::from_str(&self.kubectl(rack, &format!("get {kind} -A -o json"))?)?;
            for object in list["items"].as_array().into_iter().flatten().filter(|object| !object["metadata"]["finalizers"].is_null()) {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or("default").to_owned();
                let patch = r#"{"metadata":{"finalizers":null}}"#;
                self.kubectl(rack, &format!("patch {kind} {} -n {} --type=merge -p {patch}", text("name"), text("namespace")))?;
            }
        }
        let crds = plane::crds();
        for folder in [crds.join("policy"), crds.join("rbac"), crds] {
            plane::kubectl(rack, &self.kubeconfig, "delete --ignore-not-found --timeout=60s -f", Some(&folder))?;
        }
        for type_ in [names::USER_DATA_TYPE, names::HTTP_HEADERS_TYPE] {
            self.kubectl(rack, &format!("delete secrets -n default --field-selector type={type_}"))?;
        }
        let (label, tests) = MADE_BY_TESTS;
        self.kubectl(rack, &format!("delete nodes -l {label}={tests}"))?;
        self.kubectl(rack, "delete --ignore-not-found --timeout=60s namespace athanor-system athanor-plans").map(|_| ())
    }
}

/// A program on the host that dies with us, also when we are killed.
fn on_host(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// The current context of a kubeconfig, by way of the rack; and where its server is.
fn redirected(kubeconfig: &Path) -> anyhow::Result<(Value, String)> {
    let what = || format!("ATHANOR_API={}: it is embedded, cluster, or the path of a kubeconfig", kubeconfig.display());
    let config = serde_json::to_value(Kubeconfig::read_from(kubeconfig).with_context(what)?)?;
    let named = |list: &str, name: &Value, field: &str| {
        let found = config[list].as_array().into_iter().flatten().find(|one| one["name"] == *name);
        found.map(|one| one[field].clone()).with_context(|| format!("{}: no {field} {name}", kubeconfig.display()))
    };
    let context = named("contexts", &config["current-context"], "context")?;
    let (mut cluster, user) = (named("clusters", &context["cluster"], "cluster")?, named("users", &context["user"], "user")?);
    let url: http::Uri = cluster["server"].as_str().unwrap_or_default().parse().with_context(what)?;
    let host = url.host().with_context(|| format!("{}: its server has no host", kubeconfig.display()))?;
    let server = format!("{host}:{}", url.port_u16().unwrap_or(443));
    if cluster["tls-server-name"].is_null() {
        cluster["tls-server-name"] = json!(host.trim_matches(['[', ']']));
    }
    cluster["server"] = json!(format!("https://{HERE}"));
    Ok((plane::kubeconfig(cluster, user), server))
}
