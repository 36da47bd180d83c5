//! A whole cluster on the rack's bridge, and the chart on it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;

use crate::{ControlPlane, Node, Rack, tools, wait_for};

/// A control plane and its nodes.
pub struct Cluster<'a> {
    rack: &'a Rack,
    /// The control plane.
    pub plane: ControlPlane,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

/// The image that `make image` built.
///
/// # Errors
/// It is not built.
pub fn image() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("ATHANOR_IMAGE").map(|path| Ok(PathBuf::from(path)));
    named.unwrap_or_else(|| tools::built("image/athanor.tar", "`make image` first, as `make test-cluster` does"))
}

/// The same program as another image, with this tag.
fn another_image(rack: &Rack, tag: &str) -> anyhow::Result<PathBuf> {
    let builder = tools::built("athanor-image", "`make build` first")?;
    let program = tools::built("x86_64-unknown-linux-gnu/release/athanor", "`make image` first")?;
    let out = rack.file(&format!("{tag}.tar"));
    let name = format!("localhost/athanor:{tag}");
    let mut command = std::process::Command::new(builder);
    // The bill of materials comes from the workspace.
    let command = command.current_dir(tools::source("tests")).arg("--binary").arg(program).args(["--name", &name]).arg("--out").arg(&out);
    tools::run(command)?;
    Ok(out)
}

/// The tag of the newer image that nodes have.
pub const NEXT: &str = "next";

/// The chart.
pub fn chart() -> PathBuf {
    tools::source("charts/athanor")
}

impl<'a> Cluster<'a> {
    /// Starts a control plane and so many nodes, which have the image and a newer one, [`NEXT`].
    ///
    /// # Errors
    /// Something of it does not become ready.
    pub fn up(rack: &'a Rack, nodes: usize) -> anyhow::Result<Self> {
        let images = [image()?, another_image(rack, NEXT)?];
        let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        let plane = ControlPlane::for_nodes(rack)?;
        let mut this = Self { rack, plane, nodes: Vec::new() };
        for number in 0..nodes {
            this.nodes.push(Node::start(rack, &this.plane, number, &images)?);
        }
        Ok(this)
    }

    /// What a line of kubectl prints.
    ///
    /// # Errors
    /// It failed; the message is its own.
    pub fn kubectl(&self, line: &str) -> anyhow::Result<String> {
        self.plane.kubectl(self.rack, line, None)
    }

    /// `kubectl apply` of one object, as a person does it.
    ///
    /// # Errors
    /// It is refused.
    pub fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let file = self.rack.file("object.json");
        std::fs::write(&file, object.to_string())?;
        self.plane.kubectl(self.rack, "apply -f", Some(&file)).map(|_| ())
    }

    /// Waits until an object looks right; what it looks like, and what the cluster says, is the error.
    ///
    /// # Errors
    /// Time is up.
    pub fn wait(&self, kind: &str, name: &str, seconds: u64, right: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait_for(&format!("{kind}/{name}"), Duration::from_secs(seconds), || {
            let text = self.kubectl(&format!("get {kind}.metal.athanor.dev {name} -o json")).map_err(|error| error.to_string())?;
            let object: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            if right(&object) { Ok(object) } else { Err(object["status"].to_string()) }
        })
        .with_context(|| self.story())
    }

    /// Waits until an object has a state.
    ///
    /// # Errors
    /// Time is up.
    pub fn wait_state(&self, kind: &str, name: &str, state: &str, seconds: u64) -> anyhow::Result<Value> {
        self.wait(kind, name, seconds, |object| object["status"]["state"] == state)
    }

    /// Kills the operator that leads, without a moment to resign; returns its pod.
    ///
    /// # Errors
    /// Nobody leads.
    pub fn kill_leader(&self) -> anyhow::Result<String> {
        let holder = self.kubectl("-n athanor-system get lease athanor-operator -o jsonpath={.spec.holderIdentity}")?;
        let pod = holder.split('_').next().unwrap_or_default().to_owned();
        self.kubectl(&format!("-n athanor-system delete pod {pod} --grace-period=0 --force"))?;
        Ok(pod)
    }

    /// The node, by number, whose agent told last what a machine asked.
    ///
    /// # Errors
    /// Nobody did.
    pub fn serving(&self, machine: &str, word: &str, seconds: u64) -> anyhow::Result<usize> {
        let report = self.wait("bootreport", machine, seconds, |report| report["spec"].to_string().contains(word))?;
        let parts = report["spec"]["nodes"].as_array().into_iter().flatten();
        let part = parts
            .filter(|part| part.to_string().contains(word))
            .max_by_key(|part| part["events"].as_array().and_then(|events| events.last().map(|event| event["time"].to_string())));
        let name = part.and_then(|part| part["node"].as_str()).context("no node reported")?.to_owned();
        self.nodes.iter().position(|node| node.name() == name).context("an unknown node reported")
    }

    /// What a line of helm prints, with more arguments that may have spaces.
    ///
    /// # Errors
    /// It failed; the message is its own.
    pub fn helm_with(&self, line: &str, more: &[&str]) -> anyhow::Result<String> {
        let mut command = self.rack.command(self.plane.program("helm"));
        command.env("KUBECONFIG", self.plane.kubeconfig()).env("HOME", self.rack.folder());
        tools::run(command.args(["--namespace", "athanor-system"]).args(line.split_whitespace()).args(more))
    }

    /// What a line of helm prints.
    ///
    /// # Errors
    /// It failed; the message is its own.
    pub fn helm(&self, line: &str) -> anyhow::Result<String> {
        self.helm_with(line, &[])
    }

    /// `helm install`, and waits until operator and agents are ready.
    ///
    /// # Errors
    /// They do not become ready.
    pub fn install(&self, more: &[&str]) -> anyhow::Result<()> {
        let (chart, media) = (chart(), self.rack.file("media"));
        let media = format!("agent.mediaDirs={{{}}}", media.display());
        let mut arguments =
            vec![chart.to_str().unwrap_or_default(), "--set", &media, "--set", "image.repository=localhost/athanor,image.pullPolicy=Never"];
        arguments.extend(more);
        self.helm_with("install athanor --create-namespace --wait --timeout 120s", &arguments).with_context(|| self.story())?;
        self.rolled_out(env!("CARGO_PKG_VERSION")).with_context(|| self.story())
    }

    /// What the cluster says about itself, for a test that fails.
    pub fn story(&self) -> String {
        let say = |line: &str| self.kubectl(line).unwrap_or_else(|error| error.to_string());
        let lines = [
            "get nodes -o wide",
            "get pods -A -o wide",
            "get events -A --sort-by=.lastTimestamp",
            "-n athanor-system logs --prefix --tail=40 -l app.kubernetes.io/component=operator",
            "-n athanor-system logs --prefix --tail=60 -l app.kubernetes.io/component=boot-agent",
        ];
        let nodes: String = self.nodes.iter().map(|node| format!("kubelet of {}:\n{}\n", node.name(), node.log())).collect();
        lines.map(|line| format!("$ kubectl {line}\n{}\n", say(line))).concat() + &self.reports().unwrap_or_default() + &nodes
    }

    /// What machines asked and were answered, by node.
    fn reports(&self) -> anyhow::Result<String> {
        let list: Value = serde_json::from_str(&self.kubectl("get bootreports -A -o json")?)?;
        let mut out = String::new();
        for report in list["items"].as_array().into_iter().flatten() {
            for part in report["spec"]["nodes"].as_array().into_iter().flatten() {
                out.push_str(&format!("{} as {} saw it\n", report["spec"]["mac"], part["node"]));
                for event in part["events"].as_array().into_iter().flatten() {
                    let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                    out.push_str(&format!(
                        "  {} {} {} ({}): {}\n",
                        text("time"),
                        text("protocol"),
                        text("asked"),
                        text("row"),
                        text("answer")
                    ));
                }
            }
        }
        Ok(out)
    }

    /// Waits until every agent has the image with this tag, and is ready.
    ///
    /// # Errors
    /// Time is up.
    pub fn rolled_out(&self, tag: &str) -> anyhow::Result<()> {
        let there = || {
            let wanted = format!("localhost/athanor:{tag}");
            let line = "-n athanor-system get daemonset athanor-boot-agent -o jsonpath={.spec.template.spec.containers[0].image}";
            let image = self.kubectl(line).map_err(|error| error.to_string())?;
            if image == wanted { Ok(()) } else { Err(image) }
        };
        wait_for("the agents' DaemonSet", Duration::from_secs(60), there)?;
        self.kubectl("-n athanor-system rollout status daemonset athanor-boot-agent --timeout=180s")?;
        Ok(())
    }
}
