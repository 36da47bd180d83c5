//! The real binary, run in a rack: all of it in one process with the embedded API, or, with `ATHANOR_API=cluster`, operator and agent as
//! processes of their own against a real control plane, or, with `ATHANOR_API=FILE`, against the cluster of a kubeconfig. The tests are the same.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::{
    ControlPlane, Rack,
    rack::{HOST, Process},
    tools, wait_for,
};

/// How often it is looked whether something was written.
const LOOK: Duration = Duration::from_secs(5);
/// How much of the log a failed test shows.
const LAST_LINES: usize = 40;
/// What the services log.
const LOG: &str = "athanor_boot_agent=debug,info";

/// The level that the environment names, for who measures; else one that tells a failed test's story.
fn log_level() -> String {
    std::env::var("ATHANOR_TEST_LOG").unwrap_or_else(|_| LOG.to_owned())
}

/// Mode dhcp on the rack's bridge; newcomers wait.
fn write_config(rack: &Rack, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
    let folder = rack.folder().display();
    let config = format!(
        "dataDir: {folder}/data\nmediaDirs: [{folder}/media]\nramdiskDir: {folder}/ramdisk\nsubnets:\n  lab:\n    cidr: 192.168.10.0/24\n    mode: dhcp\n    \
         reserved: [{HOST}]\n    ranges: [{{from: 192.168.10.100, to: 192.168.10.199}}]\n    newcomers: {{whileUnaccepted: Wait}}\n"
    );
    fs::create_dir_all(rack.file("media"))?;
    Ok(fs::write(rack.file("athanor.yaml"), change(config))?)
}

/// The Subnets of the configuration file, as objects: a cluster has no such file.
fn apply_subnets(rack: &Rack, plane: &ControlPlane) -> anyhow::Result<()> {
    let config: Value = serde_saphyr::from_str(&fs::read_to_string(rack.file("athanor.yaml"))?)?;
    for (name, spec) in config["subnets"].as_object().into_iter().flatten() {
        let object = json!({ "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "Subnet", "metadata": { "name": name }, "spec": spec });
        let file = rack.file("subnet.json");
        fs::write(&file, object.to_string())?;
        plane.kubectl(rack, "apply --server-side -f", Some(&file))?;
    }
    Ok(())
}

/// `athanor start services` and the way to it.
pub struct Service<'a> {
    rack: &'a Rack,
    processes: Vec<Process>,
    plane: Option<ControlPlane>,
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
    tools::built("athanor", "`cargo build -p athanor` first, as `make test` does")
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
        match std::env::var("ATHANOR_API").as_deref() {
            Ok("cluster") => Self::start_on(rack, change, true),
            Ok("embedded") | Err(_) => Self::start_on(rack, change, false),
            Ok(kubeconfig) => Self::start_on_own(rack, change, Path::new(kubeconfig), None),
        }
    }

    /// Like [`Self::start_with`], on a control plane or on the embedded API, whatever the environment says.
    ///
    /// # Errors
    /// They do not become ready.
    pub fn start_on(rack: &'a Rack, change: impl FnOnce(String) -> String, clustered: bool) -> anyhow::Result<Self> {
        write_config(rack, change)?;
        let plane = if clustered { Some(ControlPlane::start(rack)?) } else { None };
        Self::start_beside(rack, plane)
    }

    /// Like [`Self::start_with`], on the cluster of a kubeconfig, which is right in another rack or on the host.
    ///
    /// # Errors
    /// The cluster is somebody's, or the services do not become ready.
    pub fn start_on_own(
        rack: &'a Rack,
        change: impl FnOnce(String) -> String,
        kubeconfig: &Path,
        from: Option<&Rack>,
    ) -> anyhow::Result<Self> {
        write_config(rack, change)?;
        Self::start_beside(rack, Some(ControlPlane::own(rack, kubeconfig, from)?))
    }

    /// On a control plane whose accounts reach it through something else, with the default configuration.
    ///
    /// # Errors
    /// The services do not become ready.
    pub fn start_through(rack: &'a Rack, plane: ControlPlane) -> anyhow::Result<Self> {
        write_config(rack, |config| config)?;
        Self::start_beside(rack, Some(plane))
    }

    fn start_beside(rack: &'a Rack, plane: Option<ControlPlane>) -> anyhow::Result<Self> {
        let mut this = Self { rack, processes: Vec::new(), plane, started_in: Duration::ZERO };
        if let Some(plane) = &this.plane {
            apply_subnets(rack, plane)?;
        }
        this.restart()?;
        Ok(this)
    }

    /// The command that starts the services, for tests of how they refuse to.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn start_command(rack: &Rack) -> anyhow::Result<Command> {
        let mut command = rack.command(binary()?);
        command.args(["start", "services", "--log", &log_level(), "--config"]).arg(rack.file("athanor.yaml"));
        Ok(command)
    }

    /// Starts the services (again).
    ///
    /// # Errors
    /// They do not become ready.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let began = Instant::now();
        let logged = self.log().len();
        let (out, log) = (self.rack.file("banner.txt"), File::options().create(true).append(true).open(self.rack.file("athanor.log"))?);
        for mut command in self.commands()? {
            command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(log.try_clone()?);
            self.processes.push(Process(command.spawn()?));
        }
        let processes = &mut self.processes;
        let (log, clustered) = (self.rack.file("athanor.log"), self.plane.is_some());
        let ready = wait_for("services ready", Duration::from_secs(30), || {
            for process in processes.iter_mut() {
                if let Ok(Some(status)) = process.0.try_wait() {
                    return Ok(Err(format!("ended with {status}")));
                }
            }
            let text = fs::read_to_string(if clustered { &log } else { &out }).unwrap_or_default();
            let said =
                if clustered { text.get(logged..).unwrap_or_default().contains("serving interface=") } else { text.contains("ready in") };
            if said { Ok(Ok(())) } else { Err("not ready".to_owned()) }
        })?;
        if let Err(why) = ready {
            bail!("the services {why}:\n{}", self.log());
        }
        self.started_in = began.elapsed();
        Ok(())
    }

    /// The programs that are the services.
    fn commands(&self) -> anyhow::Result<Vec<Command>> {
        let Some(plane) = &self.plane else { return Ok(vec![Self::start_command(self.rack)?]) };
        let start = |account: &str, what: &[&str]| -> anyhow::Result<Command> {
            let mut command = self.rack.command(binary()?);
            command.env("KUBECONFIG", plane.account(self.rack, account)?).arg("start").args(what).args(["--log", &log_level()]);
            Ok(command)
        };
        let mut agent = start("athanor-boot-agent", &["agent", "--node", crate::plane::AGENT_NODE, "--installation", "test"])?;
        agent.arg("--data-dir").arg(self.rack.file("data")).arg("--media-dir").arg(self.rack.file("media"));
        agent.arg("--ramdisk-dir").arg(self.rack.file("ramdisk"));
        Ok(vec![start("athanor-operator", &["operator"])?, agent])
    }

    /// One more operator beside the one that runs: it waits until it leads.
    ///
    /// # Errors
    /// There is no control plane.
    pub fn another_operator(&mut self) -> anyhow::Result<()> {
        let log = File::options().append(true).open(self.rack.file("athanor.log"))?;
        let mut operator = self.commands()?.swap_remove(0);
        self.processes.push(Process(operator.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?));
        Ok(())
    }

    /// `kill -9` for the first operator.
    pub fn kill_operator(&mut self) {
        drop(self.processes.remove(0));
    }

    /// That the first operator ended by itself.
    ///
    /// # Errors
    /// It runs.
    pub fn operator_ended(&mut self) -> anyhow::Result<()> {
        let ended = self.processes.first_mut().is_some_and(|process| matches!(process.0.try_wait(), Ok(Some(_))));
        anyhow::ensure!(ended, "it runs");
        self.kill_operator();
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.processes.clear();
    }

    /// Ends one of the services with `kill -9`, starts it again, and waits until it says something in its log; how long that took.
    ///
    /// # Errors
    /// It does not say so in time.
    pub fn restart_one(&mut self, index: usize, says: &str, within: Duration) -> anyhow::Result<Duration> {
        drop(self.processes.remove(index));
        let (began, logged) = (Instant::now(), self.log().len());
        let log = File::options().append(true).open(self.rack.file("athanor.log"))?;
        let mut command = self.commands()?.swap_remove(index);
        let process = Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        self.processes.insert(index, process);
        wait_for("a service that is started anew", within, || {
            if self.log().get(logged..).is_some_and(|text| text.contains(says)) { Ok(()) } else { Err("not ready".to_owned()) }
        })?;
        Ok(began.elapsed())
    }

    /// The process ids of all services: operator and agent where they are two.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.0.id()).collect()
    }

    /// The services' process id: that of the binary itself, since every wrapper before it replaced itself.
    pub fn pid(&self) -> Option<u32> {
        self.processes.first().map(|process| process.0.id())
    }

    /// The control plane that it runs on.
    ///
    /// # Errors
    /// It runs on the embedded API.
    pub fn plane(&mut self) -> anyhow::Result<&mut ControlPlane> {
        self.plane.as_mut().context("there is no control plane")
    }

    /// Whether the API is our own.
    pub fn is_embedded(&self) -> bool {
        self.plane.is_none()
    }

    /// What the services logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.rack.file("athanor.log")).unwrap_or_default()
    }

    /// What kubectl says to a line.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, line: &str) -> anyhow::Result<String> {
        let mut command = self.rack.command(tools::kubectl()?);
        tools::run(command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.rack.folder()).args(line.split_whitespace()))
    }

    /// What the services printed when they were ready.
    pub fn banner(&self) -> String {
        fs::read_to_string(self.rack.file("banner.txt")).unwrap_or_default()
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.plane.as_ref().map_or_else(|| self.rack.file("data/admin.kubeconfig"), |plane| plane.kubeconfig().to_owned())
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

    /// Applies objects, written as YAML or JSON.
    ///
    /// # Errors
    /// They were refused; the message is the command's own.
    pub fn apply(&self, objects: &str) -> anyhow::Result<()> {
        let file = self.rack.file("applied.yaml");
        fs::write(&file, objects)?;
        self.ctl(&format!("apply -f {}", file.display())).map(|_| ())
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// It does not exist.
    pub fn get(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.ctl(&format!("get {kind} {name} -o json"))?)?)
    }

    /// Every object of a kind in the default namespace, as JSON.
    ///
    /// # Errors
    /// The API cannot be asked.
    pub fn list(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.ctl(&format!("get {kind} -o json"))?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The versions of all objects of some kinds.
    ///
    /// # Errors
    /// The API cannot be asked.
    pub fn versions(&self, kinds: &[&str]) -> anyhow::Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for kind in kinds {
            for object in self.list(kind)? {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                all.insert(format!("{kind}/{}", text("name")), text("resourceVersion"));
            }
        }
        Ok(all)
    }

    /// Waits, so long at the most, until nothing was written to these kinds for a while.
    ///
    /// # Errors
    /// Something is still written to.
    pub fn becomes_quiet(&self, kinds: &[&str], within: Duration, quiet: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let (mut known, mut since) = (self.versions(kinds)?, Instant::now());
        while since.elapsed() < quiet {
            std::thread::sleep(LOOK);
            let now = self.versions(kinds)?;
            if now != known {
                let changed: Vec<&String> =
                    now.iter().filter(|(key, version)| known.get(*key) != Some(*version)).map(|(key, _)| key).collect();
                anyhow::ensure!(began.elapsed() < within, "after {:?} still written to: {changed:?}\n{}", began.elapsed(), self.log());
                (known, since) = (now, Instant::now());
            }
        }
        Ok(())
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

impl Drop for Service<'_> {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the services said last:\n{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
        }
        if let Some(Err(error)) = self.plane.as_ref().map(|plane| plane.leave(self.rack)) {
            eprintln!("the cluster is not as it was before the test: {error:#}");
        }
    }
}
