//! A real control plane in a rack: etcd, kube-apiserver and controller-manager, on the rack's own loopback, so that several stand side by
//! side. It ends with its owner, like everything in a rack.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::bail;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::Value;

use crate::{
    Rack,
    rack::{HOST, Process},
    tools, wait_for,
};

/// How long the API server may take until it is ready: 4 s on two idle cores.
const READY: Duration = Duration::from_secs(60);
const API: &str = "https://127.0.0.1:6443";

/// A control plane.
pub struct ControlPlane {
    kubeconfig: PathBuf,
    // In the order in which they must end: an API server whose etcd is gone waits for it.
    _processes: Vec<Process>,
}

impl ControlPlane {
    /// Starts one and installs our CRDs and namespaces.
    ///
    /// # Errors
    /// It was not built, or does not become ready.
    pub fn start(rack: &Rack) -> anyhow::Result<Self> {
        let programs = programs()?;
        let folder = rack.file("plane");
        fs::create_dir_all(&folder)?;
        certificates(&folder)?;
        let kubeconfig = folder.join("admin.kubeconfig");
        let start = |program: &str, line: &str| -> anyhow::Result<Process> {
            let log = File::create(folder.join(format!("{program}.log")))?;
            let mut command = rack.command(programs.join(program));
            command.current_dir(&folder).args(line.split_whitespace()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            Ok(Process(command.spawn()?))
        };
        let etcd = start(
            "etcd",
            "--data-dir etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
             --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync=true",
        )?;
        let mut server = start(
            "kube-apiserver",
            &format!(
                "--etcd-servers http://127.0.0.1:2379 --bind-address 127.0.0.1 --advertise-address {HOST} --secure-port 6443 --tls-cert-file server.crt \
                 --tls-private-key-file server.key --client-ca-file ca.crt --service-account-issuer {API} --service-account-key-file \
                 accounts.pub --service-account-signing-key-file accounts.key --service-cluster-ip-range 10.96.0.0/16 \
                 --authorization-mode RBAC --endpoint-reconciler-type=none"
            ),
        )?;
        let this = Self { kubeconfig, _processes: Vec::new() };
        let log = || fs::read_to_string(folder.join("kube-apiserver.log")).unwrap_or_default();
        wait_for("kube-apiserver", READY, || match server.0.try_wait() {
            Ok(Some(status)) => Ok(Err(format!("kube-apiserver ended with {status}"))),
            _ => this.kubectl(rack, "get --raw /readyz", None).map(Ok).map_err(|error| error.to_string()),
        })?
        .map_err(|why| anyhow::anyhow!("{why}: {}", log().lines().rev().take(5).collect::<Vec<_>>().join("\n")))?;
        let manager = start(
            "kube-controller-manager",
            "--kubeconfig admin.kubeconfig --service-account-private-key-file accounts.key --root-ca-file ca.crt --leader-elect=false \
             --bind-address=127.0.0.1",
        )?;
        this.install(rack)?;
        Ok(Self { _processes: vec![manager, server, etcd], ..this })
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
        let mut command = rack.command(tools::kubectl()?);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", rack.folder()).args(line.split_whitespace()).args(file);
        tools::run(&mut command)
    }

    fn install(&self, rack: &Rack) -> anyhow::Result<()> {
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/generated");
        self.kubectl(rack, "apply --server-side -f", Some(&crds))?;
        self.kubectl(rack, "wait --for=condition=Established --timeout=30s crd --all", None)?;
        for namespace in ["athanor-system", "athanor-plans"] {
            self.kubectl(rack, &format!("create namespace {namespace}"), None)?;
        }
        self.kubectl(rack, "apply --server-side -f", Some(&crds.join("rbac")))?;
        Ok(())
    }

    /// A kubeconfig of a component's own service account, with the rights of the table and no others.
    ///
    /// # Errors
    /// There is no such account.
    pub fn account(&self, rack: &Rack, name: &str) -> anyhow::Result<PathBuf> {
        let token = self.kubectl(rack, &format!("create token {name} -n athanor-system --duration 24h"), None)?;
        let file = rack.file(&format!("plane/{name}.kubeconfig"));
        let ca = rack.file("plane/ca.crt").display().to_string();
        fs::write(&file, kubeconfig(&ca, serde_json::json!({ "token": token.trim() })))?;
        Ok(file)
    }
}

/// The programs, built once into the cache.
fn programs() -> anyhow::Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/cluster.sh");
    let output = Command::new("sh").arg(script).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        bail!("the test control plane cannot be built: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// One authority signs the server and the admin; service accounts are signed with a key of their own.
fn certificates(folder: &Path) -> anyhow::Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test control plane");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(folder.join("ca.crt"), authority.pem())?;
    let sign = |name: &str, organization: Option<&str>, usage| -> anyhow::Result<()> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()])?;
        params.subject_alt_names.push(rcgen::SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        fs::write(folder.join(format!("{name}.crt")), params.signed_by(&key, &authority)?.pem())?;
        Ok(fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?)
    };
    sign("server", None, ExtendedKeyUsagePurpose::ServerAuth)?;
    sign("admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth)?;
    let accounts = KeyPair::generate()?;
    fs::write(folder.join("accounts.key"), accounts.serialize_pem())?;
    fs::write(folder.join("accounts.pub"), accounts.public_key_pem())?;
    let path = |name: &str| folder.join(name).display().to_string();
    let admin = serde_json::json!({ "client-certificate": path("admin.crt"), "client-key": path("admin.key") });
    Ok(fs::write(folder.join("admin.kubeconfig"), kubeconfig(&path("ca.crt"), admin))?)
}

fn kubeconfig(ca: &str, user: Value) -> String {
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": API, "certificate-authority": ca } }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }]
    });
    config.to_string()
}
