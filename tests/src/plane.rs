//! A real control plane in a rack: etcd, kube-apiserver, controller-manager and, where there are nodes, the scheduler; so that several stand
//! side by side, each in its rack. It ends with its owner, like everything in a rack. Or somebody's own cluster in its place.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::bail;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::Value;

use crate::{
    Rack,
    own_cluster::{MADE_BY_TESTS, OwnCluster},
    rack::{HOST, Process},
    tools, wait_for,
};

/// How long the API server may take until it is ready: 4 s on two idle cores.
const READY: Duration = Duration::from_secs(60);

/// Where the API server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On loopback: operator and agents are processes beside it.
    Loopback,
    /// On the bridge, at the address of the Service `kubernetes`: pods reach it the ordinary way, without a kube-proxy.
    Service,
}

/// The nodes that there may be.
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The node that agents run on where they are processes beside the control plane.
pub const AGENT_NODE: &str = "node-1";
/// The address of the Service `kubernetes`.
pub(crate) const SERVICE: &str = "10.96.0.1";

impl Place {
    fn address(self) -> &'static str {
        match self {
            Self::Loopback => "127.0.0.1",
            Self::Service => SERVICE,
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Loopback => 6443,
            Self::Service => 443,
        }
    }

    fn url(self) -> String {
        format!("https://{}:{}", self.address(), self.port())
    }
}

/// A control plane.
pub struct ControlPlane {
    place: Place,
    programs: PathBuf,
    folder: PathBuf,
    kubeconfig: PathBuf,
    own: Option<OwnCluster>,
    /// Where accounts find the API: the server itself, unless a test puts something between.
    pub accounts_go_to: String,
    // In the order in which they must end: an API server whose etcd is gone waits for it.
    managers: Vec<Process>,
    server: Option<Process>,
    etcd: Option<Process>,
}

impl ControlPlane {
    /// Starts one and installs our CRDs, rights, policies and namespaces.
    ///
    /// # Errors
    /// It was not built, or does not become ready.
    pub fn start(rack: &Rack) -> anyhow::Result<Self> {
        let this = Self::bare(rack, Place::Loopback)?;
        this.install(rack)?;
        Ok(this)
    }

    /// Takes a cluster of one's own instead, until this is dropped: its kubeconfig, and the rack in which that is right if it is not the host.
    ///
    /// # Errors
    /// It is not reached, or has an Athanor that no test made.
    pub fn own(rack: &Rack, kubeconfig: &Path, from: Option<&Rack>) -> anyhow::Result<Self> {
        let own = OwnCluster::open(rack, kubeconfig, from)?;
        let place = Place::Loopback;
        let (kubeconfig, accounts_go_to) = (own.kubeconfig().to_owned(), place.url());
        let this = Self {
            place,
            accounts_go_to,
            programs: PathBuf::new(),
            folder: rack.file("plane"),
            kubeconfig,
            own: Some(own),
            managers: Vec::new(),
            server: None,
            etcd: None,
        };
        this.install(rack)?;
        Ok(this)
    }

    /// Leaves a cluster of one's own as it was; does nothing to one that ends with its rack.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn leave(&self, rack: &Rack) -> anyhow::Result<()> {
        self.own.as_ref().map_or(Ok(()), |own| own.remove_ours(rack))
    }

    fn is_its_own(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.own.is_none(),
            "this test stops the API or reads its log, which only a control plane of the test's own allows"
        );
        Ok(())
    }

    /// Starts one for nodes, with nothing of ours on it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn for_nodes(rack: &Rack) -> anyhow::Result<Self> {
        // A bridge takes the MAC of its lowest port: with each machine that is plugged in, nodes would lose the API for half a minute.
        rack.ip("link set br0 address 52:54:00:00:00:01")?;
        rack.ip(&format!("addr add {SERVICE}/32 dev br0"))?;
        let mut this = Self::bare(rack, Place::Service)?;
        let scheduler =
            this.spawn(rack, "kube-scheduler", "--kubeconfig admin.kubeconfig --leader-elect=false --bind-address=127.0.0.1")?;
        this.managers.push(scheduler);
        Ok(this)
    }

    fn bare(rack: &Rack, place: Place) -> anyhow::Result<Self> {
        let programs = programs()?;
        let folder = rack.file("plane");
        fs::create_dir_all(&folder)?;
        certificates(&folder, place)?;
        let kubeconfig = folder.join("admin.kubeconfig");
        let accounts_go_to = place.url();
        let mut this =
            Self { place, accounts_go_to, programs, folder, kubeconfig, own: None, managers: Vec::new(), server: None, etcd: None };
        this.start_store(rack)?;
        this.start_api(rack)?;
        let manager = this.spawn(
            rack,
            "kube-controller-manager",
            // A node that is gone is noticed within seconds, and its pods are given up soon after.
            "--kubeconfig admin.kubeconfig --service-account-private-key-file accounts.key --root-ca-file ca.crt --leader-elect=false \
             --bind-address=127.0.0.1 --node-monitor-period=2s --node-monitor-grace-period=20s",
        )?;
        this.managers.push(manager);
        Ok(this)
    }

    fn spawn(&self, rack: &Rack, program: &str, line: &str) -> anyhow::Result<Process> {
        let log = File::options().create(true).append(true).open(self.folder.join(format!("{program}.log")))?;
        let mut command = rack.command(self.programs.join(program));
        command.current_dir(&self.folder).args(line.split_whitespace()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process(command.spawn()?))
    }

    /// Starts the API server (again) and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready; the message is the end of its log.
    pub fn start_api(&mut self, rack: &Rack) -> anyhow::Result<()> {
        self.is_its_own()?;
        let (address, port, url) = (self.place.address(), self.place.port(), self.place.url());
        // Who asked for what, without the what: the test of rights reads it.
        fs::write(
            self.folder.join("audit.yaml"),
            r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}"#,
        )?;
        let mut server = self.spawn(
            rack,
            "kube-apiserver",
            &format!(
                "--audit-policy-file audit.yaml --audit-log-path audit.log --etcd-servers http://127.0.0.1:2379 --bind-address {address} --advertise-address {HOST} --secure-port {port} --tls-cert-file \
                 server.crt --tls-private-key-file server.key --client-ca-file ca.crt --service-account-issuer {url} \
                 --service-account-key-file accounts.pub --service-account-signing-key-file accounts.key --service-cluster-ip-range \
                 10.96.0.0/16 --authorization-mode Node,RBAC --endpoint-reconciler-type=none --allow-privileged=true \
                 --kubelet-preferred-address-types=InternalIP"
            ),
        )?;
        let log = || fs::read_to_string(self.folder.join("kube-apiserver.log")).unwrap_or_default();
        wait_for("kube-apiserver", READY, || match server.0.try_wait() {
            Ok(Some(status)) => Ok(Err(format!("kube-apiserver ended with {status}"))),
            _ => self.kubectl(rack, "get --raw /readyz", None).map(Ok).map_err(|error| error.to_string()),
        })?
        .map_err(|why| anyhow::anyhow!("{why}: {}", log().lines().rev().take(5).collect::<Vec<_>>().join("\n")))?;
        self.server = Some(server);
        Ok(())
    }

    fn start_store(&mut self, rack: &Rack) -> anyhow::Result<()> {
        self.etcd = Some(self.spawn(
            rack,
            "etcd",
            "--data-dir etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
             --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync=true",
        )?);
        Ok(())
    }

    /// Stops the API with its store, does something with the store's folder, and starts both again.
    fn with_store_at_rest(&mut self, rack: &Rack, change: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.is_its_own()?;
        (self.server, self.etcd) = (None, None);
        change(&self.folder.join("etcd"))?;
        self.start_store(rack)?;
        self.start_api(rack)
    }

    /// Keeps a copy of all the API's data.
    ///
    /// # Errors
    /// It cannot be copied, or the API does not come back.
    pub fn save(&mut self, rack: &Rack, name: &str) -> anyhow::Result<()> {
        let copy = self.folder.join(name);
        self.with_store_at_rest(rack, |store| tools::run(Command::new("cp").arg("-a").arg(store).arg(copy)).map(|_| ()))
    }

    /// Puts the API's data back as they were when the copy was made.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn restore(&mut self, rack: &Rack, name: &str) -> anyhow::Result<()> {
        let copy = self.folder.join(name);
        self.with_store_at_rest(rack, |store| {
            fs::remove_dir_all(store)?;
            Ok(fs::rename(copy, store)?)
        })
    }

    /// What an account of ours was allowed and did, so far: verb, group, resource with its subresource, namespace.
    ///
    /// # Errors
    /// There is no log of it.
    pub fn did(&self, account: &str) -> anyhow::Result<BTreeSet<(String, String, String, String)>> {
        let what = |line: Value| {
            let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (resource, subresource) = (text("/objectRef/resource"), text("/objectRef/subresource"));
            let resource = if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
            (text("/verb"), text("/objectRef/apiGroup"), resource, text("/objectRef/namespace"))
        };
        Ok(self.asked(account)?.map(what).collect())
    }

    /// How many requests of an account of ours were answered so far.
    ///
    /// # Errors
    /// There is no log of it.
    pub fn calls(&self, account: &str) -> anyhow::Result<usize> {
        Ok(self.asked(account)?.count())
    }

    fn asked(&self, account: &str) -> anyhow::Result<impl Iterator<Item = Value> + use<>> {
        self.is_its_own()?;
        let user = format!("system:serviceaccount:athanor-system:{account}");
        let log = BufReader::new(File::open(self.folder.join("audit.log"))?);
        // A line that is cut is being written.
        let lines = log.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        Ok(lines.filter(move |line| line["user"]["username"] == user.as_str() && line["responseStatus"]["code"] != 403))
    }

    /// Kills the API server.
    pub fn stop_api(&mut self) {
        self.server = None;
    }

    /// A program of the test control plane, for tests that need no more than that.
    ///
    /// # Errors
    /// It is not built and cannot be.
    pub fn built(name: &str) -> anyhow::Result<PathBuf> {
        Ok(programs()?.join(name))
    }

    /// The programs that it runs: nodes take theirs from the same place.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The folder with its certificates and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kubeconfig of a node's kubelet, one of [`NODES`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn node_kubeconfig(&self, node: &str) -> anyhow::Result<PathBuf> {
        let path = |name: String| self.folder.join(name).display().to_string();
        let file = self.folder.join(format!("{node}.kubeconfig"));
        let user = serde_json::json!({ "client-certificate": path(format!("{node}.crt")), "client-key": path(format!("{node}.key")) });
        fs::write(&file, kubeconfig(cluster(&path("ca.crt".to_owned()), &self.place.url()), user).to_string())?;
        Ok(file)
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// What a line of kubectl prints.
    ///
    /// # Errors
    /// It failed; the message is its own.
    pub fn kubectl(&self, rack: &Rack, line: &str, file: Option<&Path>) -> anyhow::Result<String> {
        kubectl(rack, &self.kubeconfig, line, file)
    }

    fn install(&self, rack: &Rack) -> anyhow::Result<()> {
        let crds = crds();
        self.kubectl(rack, "apply --server-side -f", Some(&crds))?;
        self.kubectl(rack, "wait --for=condition=Established --timeout=30s crd --all", None)?;
        for namespace in ["athanor-system", "athanor-plans"] {
            self.make(rack, "Namespace", namespace)?;
        }
        self.kubectl(rack, "apply --server-side -f", Some(&crds.join("rbac")))?;
        self.kubectl(rack, "apply --server-side -f", Some(&crds.join("policy")))?;
        // The node that agents' tokens are bound to; a kubelet has registered it where there is one.
        self.make(rack, "Node", AGENT_NODE)
    }

    /// Makes what is known as the tests' own.
    fn make(&self, rack: &Rack, kind: &str, name: &str) -> anyhow::Result<()> {
        let file = rack.file("made.json");
        let labels = serde_json::json!({ MADE_BY_TESTS.0: MADE_BY_TESTS.1 });
        fs::write(
            &file,
            serde_json::json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name, "labels": labels } }).to_string(),
        )?;
        self.kubectl(rack, "create -f", Some(&file)).map(|_| ())
    }

    /// A kubeconfig of a component's own service account, with the rights of the table and no others.
    ///
    /// # Errors
    /// There is no such account.
    pub fn account(&self, rack: &Rack, name: &str) -> anyhow::Result<PathBuf> {
        let bound = format!("--bound-object-kind Node --bound-object-name {AGENT_NODE}");
        let token = self.kubectl(rack, &format!("create token {name} -n athanor-system --duration 24h {bound}"), None)?;
        let file = rack.file(&format!("plane/{name}.kubeconfig"));
        let ca = rack.file("plane/ca.crt").display().to_string();
        let cluster = self.own.as_ref().map_or_else(|| cluster(&ca, &self.accounts_go_to), |own| own.cluster.clone());
        fs::write(&file, kubeconfig(cluster, serde_json::json!({ "token": token.trim() })).to_string())?;
        Ok(file)
    }
}

/// The folder of our CRDs.
pub fn crds() -> PathBuf {
    tools::source("crds/generated")
}

/// The programs, built once into the cache.
fn programs() -> anyhow::Result<PathBuf> {
    let script = tools::source("scripts/cluster.sh");
    let output = Command::new("sh").arg(script).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        bail!("the test control plane cannot be built: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// One authority signs the server and the admin; service accounts are signed with a key of their own.
fn certificates(folder: &Path, place: Place) -> anyhow::Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test control plane");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(folder.join("ca.crt"), authority.pem())?;
    let sign = |name: &str, common: &str, organization: Option<&str>, usage| -> anyhow::Result<()> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()])?;
        for address in [Place::Loopback, Place::Service] {
            params.subject_alt_names.push(rcgen::SanType::IpAddress(address.address().parse()?));
        }
        params.distinguished_name.push(DnType::CommonName, common);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        fs::write(folder.join(format!("{name}.crt")), params.signed_by(&key, &authority)?.pem())?;
        Ok(fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?)
    };
    sign("server", "kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth)?;
    sign("admin", "admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth)?;
    for node in NODES {
        sign(node, &format!("system:node:{node}"), Some("system:nodes"), ExtendedKeyUsagePurpose::ClientAuth)?;
    }
    let accounts = KeyPair::generate()?;
    fs::write(folder.join("accounts.key"), accounts.serialize_pem())?;
    fs::write(folder.join("accounts.pub"), accounts.public_key_pem())?;
    let path = |name: &str| folder.join(name).display().to_string();
    let admin = serde_json::json!({ "client-certificate": path("admin.crt"), "client-key": path("admin.key") });
    Ok(fs::write(folder.join("admin.kubeconfig"), kubeconfig(cluster(&path("ca.crt"), &place.url()), admin).to_string())?)
}

fn cluster(ca: &str, url: &str) -> Value {
    serde_json::json!({ "server": url, "certificate-authority": ca })
}

/// What a line of kubectl prints.
pub(crate) fn kubectl(rack: &Rack, kubeconfig: &Path, line: &str, file: Option<&Path>) -> anyhow::Result<String> {
    let mut command = rack.command(tools::kubectl()?);
    command.env("KUBECONFIG", kubeconfig).env("HOME", rack.folder()).args(line.split_whitespace()).args(file);
    tools::run(&mut command)
}

/// A kubeconfig of one cluster and one user.
pub(crate) fn kubeconfig(cluster: Value, user: Value) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }]
    })
}
