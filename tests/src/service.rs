//! The real binary, run in a rack.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    Rack,
    rack::{HOST, Process},
    tools, wait_for,
};

/// `athanor start services` and the way to it.
pub struct Service<'a> {
    rack: &'a Rack,
    process: Option<Process>,
    /// How long the last start took, until the banner.
    pub started_in: Duration,
}

/// The binary under test: the one that Cargo built beside this program.
///
/// # Errors
/// It is not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ATHANOR_BIN") {
        return Ok(path.into());
    }
    let me = std::env::current_exe()?;
    let found = me.ancestors().skip(1).take(3).map(|folder| folder.join("athanor")).find(|path| path.is_file());
    found.context("the binary athanor is not built; `cargo build -p athanor` first, as `make test` does")
}

impl<'a> Service<'a> {
    /// Writes the default configuration (mode dhcp, newcomers wait) and starts the services.
    ///
    /// # Errors
    /// They do not become ready.
    pub fn start(rack: &'a Rack) -> anyhow::Result<Self> {
        Self::start_with(rack, |config| config)
    }

    /// Like [`Self::start`], with a changed configuration.
    ///
    /// # Errors
    /// They do not become ready.
    pub fn start_with(rack: &'a Rack, change: impl FnOnce(String) -> String) -> anyhow::Result<Self> {
        let folder = rack.folder().display();
        let config = format!(
            "dataDir: {folder}/data\nmediaDirs: [{folder}/media]\nsubnets:\n  lab:\n    cidr: 192.168.10.0/24\n    mode: dhcp\n    \
             reserved: [{HOST}]\n    ranges: [{{from: 192.168.10.100, to: 192.168.10.199}}]\n    newcomers: {{whileUnaccepted: Wait}}\n"
        );
        fs::create_dir_all(rack.file("media"))?;
        fs::write(rack.file("athanor.yaml"), change(config))?;
        let mut this = Self { rack, process: None, started_in: Duration::ZERO };
        this.restart()?;
        Ok(this)
    }

    /// The command that starts the services, for tests of how they refuse to.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn start_command(rack: &Rack) -> anyhow::Result<Command> {
        let mut command = rack.command(binary()?);
        command.args(["start", "services", "--log", "athanor_boot_agent=debug,info", "--config"]).arg(rack.file("athanor.yaml"));
        Ok(command)
    }

    /// Starts the services (again).
    ///
    /// # Errors
    /// They do not become ready.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process = None;
        let began = Instant::now();
        let (out, log) = (self.rack.file("banner.txt"), File::options().create(true).append(true).open(self.rack.file("athanor.log"))?);
        let mut command = Self::start_command(self.rack)?;
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(log);
        let mut process = Process(command.spawn()?);
        let ready = wait_for("services ready", Duration::from_secs(30), || {
            if let Ok(Some(status)) = process.0.try_wait() {
                return Ok(Err(format!("ended with {status}")));
            }
            let text = fs::read_to_string(&out).unwrap_or_default();
            if text.contains("ready in") { Ok(Ok(())) } else { Err("no banner yet".to_owned()) }
        })?;
        if let Err(why) = ready {
            bail!("the services {why}:\n{}", self.log());
        }
        self.started_in = began.elapsed();
        self.process = Some(process);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The services' process id: that of the binary itself, since every wrapper before it replaced itself.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.0.id())
    }

    /// What the services logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.rack.file("athanor.log")).unwrap_or_default()
    }

    /// What the services printed when they were ready.
    pub fn banner(&self) -> String {
        fs::read_to_string(self.rack.file("banner.txt")).unwrap_or_default()
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.rack.file("data/admin.kubeconfig")
    }

    /// A line of `athanorctl`, not yet run.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn ctl_command(&self, line: &str) -> anyhow::Result<Command> {
        let mut command = self.rack.command(binary()?);
        command.env("KUBECONFIG", self.kubeconfig()).args(line.split_whitespace());
        Ok(command)
    }

    /// What a line of `athanorctl` prints.
    ///
    /// # Errors
    /// It failed; the message is its own.
    pub fn ctl(&self, line: &str) -> anyhow::Result<String> {
        tools::run(&mut self.ctl_command(line)?)
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// It does not exist.
    pub fn get(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.ctl(&format!("get {kind} {name} -o json"))?)?)
    }

    /// Waits until an object looks right; what it looks like is the error.
    ///
    /// # Errors
    /// Time is up.
    pub fn wait(&self, kind: &str, name: &str, seconds: u64, right: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait_for(&format!("{kind}/{name}"), Duration::from_secs(seconds), || match self.get(kind, name) {
            Ok(object) if right(&object) => Ok(object),
            Ok(object) => Err(object["status"].to_string()),
            Err(error) => Err(error.to_string()),
        })
        .with_context(|| format!("log:\n{}", self.log()))
    }

    /// Waits until an object has a state.
    ///
    /// # Errors
    /// Time is up.
    pub fn wait_state(&self, kind: &str, name: &str, state: &str, seconds: u64) -> anyhow::Result<Value> {
        self.wait(kind, name, seconds, |object| object["status"]["state"] == state)
    }

    /// Puts a file where the services may read ISOs.
    ///
    /// # Errors
    /// It cannot be linked or copied.
    pub fn add_media(&self, name: &str, from: &Path) -> anyhow::Result<PathBuf> {
        let to = self.rack.file("media").join(name);
        let _ = fs::remove_file(&to);
        if fs::hard_link(from, &to).is_err() {
            fs::copy(from, &to)?;
        }
        Ok(to)
    }
}
