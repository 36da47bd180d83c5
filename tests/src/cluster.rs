//! A whole cluster on the rack's bridge, and the chart on it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{ControlPlane, Node, Rack, tools};

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
    let me = std::env::current_exe()?;
    let named = std::env::var_os("ATHANOR_IMAGE").map(PathBuf::from);
    let built = || me.ancestors().map(|folder| folder.join("image/athanor.tar")).find(|path| path.is_file());
    named.or_else(built).context("the image is not built; `make image` first, as `make test-cluster` does")
}

/// The chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/athanor")
}

impl<'a> Cluster<'a> {
    /// Starts a control plane and so many nodes, which have the image.
    ///
    /// # Errors
    /// Something of it does not become ready.
    pub fn up(rack: &'a Rack, nodes: usize) -> anyhow::Result<Self> {
        let image = image()?;
        let plane = ControlPlane::for_nodes(rack)?;
        let mut this = Self { rack, plane, nodes: Vec::new() };
        for number in 0..nodes {
            this.nodes.push(Node::start(rack, &this.plane, number, &[&image])?);
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
        let mut arguments = vec![chart.to_str().unwrap_or_default(), "--set", &media, "--set", "image.repository=localhost/athanor,image.pullPolicy=Never"];
        arguments.extend(more);
        self.helm_with("install athanor --create-namespace --wait --timeout 120s", &arguments).with_context(|| self.story())?;
        self.rolled_out().with_context(|| self.story())
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
        lines.map(|line| format!("$ kubectl {line}\n{}\n", say(line))).concat() + &nodes
    }

    /// Waits until every agent is the newest one, and ready.
    ///
    /// # Errors
    /// Time is up.
    pub fn rolled_out(&self) -> anyhow::Result<()> {
        let there = || self.kubectl("-n athanor-system get daemonset athanor-boot-agent").map(|_| ()).map_err(|error| error.to_string());
        crate::wait_for("the agents' DaemonSet", std::time::Duration::from_secs(60), there)?;
        self.kubectl("-n athanor-system rollout status daemonset athanor-boot-agent --timeout=180s")?;
        Ok(())
    }
}
