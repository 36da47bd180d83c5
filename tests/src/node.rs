//! A Kubernetes node on the bridge: containerd and a kubelet, in namespaces of their own. Its pods see a node as any other; when its first
//! process ends, so does every container, and its mounts are gone.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use athanor_image::{Image, Layer};

use crate::{
    ControlPlane, Neighbour, Rack,
    plane::NODES,
    rack::{HOST, Process},
    wait_for,
};

/// How long a node may take until it is ready: 3 s on two idle cores.
const READY: Duration = Duration::from_secs(90);
/// The image of the container that holds a pod's namespaces.
const PAUSE: &str = "localhost/pause:1";

/// A node.
pub struct Node {
    name: &'static str,
    folder: PathBuf,
    process: Option<Process>,
    neighbour: Neighbour,
}

impl Node {
    /// Starts the node of that number, from 0, with images that its pods may use, and waits until it is ready.
    ///
    /// # Errors
    /// A program is missing, or it does not become ready.
    pub fn start(rack: &Rack, plane: &ControlPlane, number: usize, images: &[&Path]) -> anyhow::Result<Self> {
        let name = NODES[number];
        let address = format!("192.168.10.{}", 2 + number);
        let neighbour = rack.neighbour(&format!("{address}/24"))?;
        neighbour.ip("link set lo up")?;
        neighbour.ip(&format!("route add default via {HOST}"))?;
        crate::tools::run(neighbour.command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))?;
        rack.ip(&format!("route add {}/24 via {address}", pods(number)))?;
        let folder = rack.file(name);
        fs::create_dir_all(folder.join("cni"))?;
        let mut this = Self { name, folder, process: None, neighbour };
        this.configure(number)?;
        let pause = this.folder.join("pause.tar");
        pause_image().write(&pause)?;
        let kubeconfig = plane.node_kubeconfig(name)?;
        let images: Vec<String> = [pause.as_path()].iter().chain(images).map(|path| path.display().to_string()).collect();
        // A node has /run for itself: sockets of shims, network namespaces of pods, what an agent keeps.
        let script = format!(
            "mount -t tmpfs run /run && mkdir -p /run/lock\n\
             containerd -c containerd.toml >containerd.log 2>&1 &\n\
             until ctr -a containerd.sock version >/dev/null 2>&1; do sleep 0.1; done\n\
             for image in {}; do ctr -a containerd.sock -n k8s.io image import --snapshotter native $image || exit 1; done\n\
             exec {} --config kubelet.yaml --kubeconfig {} --hostname-override {name} --node-ip {address} --root-dir $PWD/kubelet \
             --cert-dir $PWD/pki",
            images.join(" "),
            plane.program("kubelet").display(),
            kubeconfig.display(),
        );
        let log = File::create(this.folder.join("kubelet.log"))?;
        let mut command = this.neighbour.command("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c", &script]).current_dir(&this.folder);
        this.process = Some(Process(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?));
        wait_for(&format!("node {name}"), READY, || {
            let ready = format!("get node {name} -o jsonpath={{.status.conditions[?(@.type==\"Ready\")].status}}");
            match plane.kubectl(rack, &ready, None) {
                Ok(text) if text == "True" => Ok(()),
                Ok(text) => Err(format!("Ready={text:?}; {}", this.log())),
                Err(error) => Err(format!("{error}; {}", this.log())),
            }
        })?;
        Ok(this)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The last lines of its kubelet.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("kubelet.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Pulls its plug: every process of it is killed, and its cable is out.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn die(&mut self) -> anyhow::Result<()> {
        self.process = None;
        self.neighbour.ip("link set eth0 down")
    }

    /// Waits until an agent of it listens for DHCP: what can be seen without an API.
    ///
    /// # Errors
    /// None does.
    pub fn wait_for_agent(&self) -> anyhow::Result<()> {
        // A kubelet waits ten seconds and more before it starts a container once again.
        wait_for(&format!("an agent on {}", self.name), Duration::from_secs(60), || {
            let sockets = crate::tools::run(self.neighbour.command("cat").arg("/proc/net/udp")).map_err(|error| error.to_string())?;
            if sockets.contains(":0043 ") { Ok(()) } else { Err("port 67 is closed".to_owned()) }
        })
    }

    /// `kill -9` for its boot-agent; its kubelet starts another one.
    ///
    /// # Errors
    /// It runs none.
    pub fn kill_agent(&self) -> anyhow::Result<()> {
        let here = self.neighbour.network()?;
        let mut killed = false;
        for entry in fs::read_dir("/proc")?.flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if command.starts_with(b"/usr/bin/athanor\0start\0agent\0")
                && fs::read_link(entry.path().join("ns/net")).ok() == Some(here.clone())
            {
                crate::tools::run(Command::new("kill").arg("-9").arg(entry.file_name()))?;
                killed = true;
            }
        }
        anyhow::ensure!(killed, "no boot-agent runs on {}", self.name);
        Ok(())
    }

    /// A host on the bridge that it is.
    pub fn host(&self) -> &Neighbour {
        &self.neighbour
    }

    fn configure(&self, number: usize) -> anyhow::Result<()> {
        let (folder, name) = (self.folder.display(), self.name);
        let network = serde_json::json!({
            "cniVersion": "0.4.0", "name": "pods", "plugins": [{
                "type": "bridge", "bridge": format!("pods-{name}"), "isGateway": true, "ipMasq": false,
                "ipam": {
                    "type": "host-local", "dataDir": format!("{folder}/ipam"), "ranges": [[{ "subnet": format!("{}/24", pods(number)) }]],
                    "routes": [{ "dst": "0.0.0.0/0" }]
                }
            }]
        });
        fs::write(self.folder.join("cni/10-pods.conflist"), network.to_string())?;
        let containerd = format!(
            r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"
"#
        );
        fs::write(self.folder.join("containerd.toml"), containerd)?;
        let kubelet = serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } }, "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
            "containerRuntimeEndpoint": format!("unix://{folder}/containerd.sock"), "address": "0.0.0.0", "port": 10250, "readOnlyPort": 0,
            "healthzPort": 0, "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local", "podLogsDir": format!("{folder}/logs"), "makeIPTablesUtilChains": false, "nodeStatusUpdateFrequency": "4s",
            // Renewed every three seconds: a node that is gone is to be noticed soon, and a busy one is not gone.
            "nodeLeaseDurationSeconds": 12,
            "evictionHard": { "nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "10Mi" }
        });
        Ok(fs::write(self.folder.join("kubelet.yaml"), kubelet.to_string())?)
    }
}

/// The network of a node's pods.
fn pods(number: usize) -> String {
    format!("10.99.{number}.0")
}

/// Something that waits.
fn pause_image() -> Image {
    let mut layer = Layer::default();
    layer.file("/pause", fs::read("/bin/busybox").unwrap_or_default(), 0o755);
    layer.link("/sleep", "pause");
    let entrypoint = ["/sleep", "2147483647"].map(str::to_owned).to_vec();
    Image { name: PAUSE.to_owned(), entrypoint, layers: vec![layer] }
}
