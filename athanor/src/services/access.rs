//! The data folder: who may read it, the installation's id, and the admin's way to the API.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use athanor_apiserver::{Pki, Tokens, write_private};
use athanor_crds::rights::Role;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// The admin's kubeconfig in the data folder.
const KUBECONFIG: &str = "admin.kubeconfig";
/// The installation's id in the data folder.
const INSTALLATION: &str = "installation";

/// From now on, what this process creates is for its owner only.
pub(crate) fn keep_private() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Takes as many open files as the system allows: each transfer has one, and the usual soft limit of 1024 is a rack row.
pub(crate) fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Makes the data folder, for its owner only. One that is there already, with whatever is in it, is closed to others.
pub(crate) fn make_folder(data: &Path) -> anyhow::Result<()> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(data) {
        Ok(()) => fs::set_permissions(data, fs::Permissions::from_mode(0o700)).with_context(|| {
            format!("dataDir: {} cannot be closed to others; it must belong to the user that runs athanor", data.display())
        }),
        Err(_) if data.exists() => bail!("dataDir: {} is no folder; name one", data.display()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("dataDir: {} cannot be made ({error}); run as root, or set dataDir to a folder of yours", data.display())
        }
        Err(error) => Err(error).with_context(|| format!("dataDir: {} cannot be made", data.display())),
    }
}

/// The store's file.
pub(crate) fn store(data: &Path) -> PathBuf {
    data.join("store.redb")
}

/// Refuses a folder that an installation lived in and that has lost its objects: what began anew there would take the disks of its machines for
/// strangers', and nobody would have been told.
pub(crate) fn refuse_a_lost_store(data: &Path) -> anyhow::Result<()> {
    let store = store(data);
    let lost = match fs::metadata(&store) {
        Ok(meta) if meta.len() == 0 => "is empty",
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is gone",
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", store.display())),
    };
    // Written when the store was there: a first start that was cut off has none of them.
    if !data.join(INSTALLATION).exists() && !data.join(KUBECONFIG).exists() {
        return Ok(());
    }
    bail!(
        "dataDir: {} {lost}, but an installation lived in {}: put a copy of the file back. To begin anew, without its machines and unable to wipe \
         what it wrote to their disks, move the folder away",
        store.display(),
        data.display()
    );
}

/// Tells what is about to be made anew in a folder that was lived in: who has the old one is turned away.
pub(crate) fn tell_what_is_lost(data: &Path) {
    // A first start that failed before it listened has handed out no kubeconfig.
    if ![INSTALLATION, KUBECONFIG].iter().all(|file| data.join(file).exists()) {
        return;
    }
    // A certificate alone is made again by its key; a key alone that is gone is refused.
    for (paths, what) in [(&["pki/ca.key", "pki/ca.crt"][..], "certificate authority"), (&["tokens.json"], "tokens")] {
        if !paths.iter().any(|path| data.join(path).exists()) {
            tracing::warn!(what, "gone from the data folder and made anew: kubeconfigs that were handed out before are turned away");
        }
    }
}

/// The installation's id, drawn once, after the store was made.
pub(crate) fn installation(data: &Path) -> anyhow::Result<String> {
    let file = data.join(INSTALLATION);
    match fs::read_to_string(&file) {
        Ok(text) if uuid::Uuid::parse_str(text.trim()).is_ok() => return Ok(text.trim().to_owned()),
        Ok(_) => {
            tracing::warn!(file = %file.display(), "the installation's id is blank or damaged and drawn anew: agents elsewhere that have the old one take this one for a stranger")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
    }
    let id = uuid::Uuid::new_v4().to_string();
    write_private(&file, id.as_bytes()).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(id)
}

/// The tokens that the API honours. The admin's is drawn when there is none, or when its kubeconfig is gone.
pub(crate) fn ensure_admin(data: &Path, pki: &Pki, listen: SocketAddr) -> anyhow::Result<Tokens> {
    let file = data.join("tokens.json");
    let mut tokens =
        Tokens::load(&file).with_context(|| format!("{} cannot be read; remove it to have a new admin token drawn", file.display()))?;
    let kubeconfig = data.join(KUBECONFIG);
    let known = fs::read_to_string(&kubeconfig).ok().and_then(|text| token_of(&text)).filter(|token| tokens.holds(Role::Admin, token));
    let token = match known {
        Some(token) => token,
        None => tokens.issue(Role::Admin, &file).with_context(|| format!("{} cannot be written", file.display()))?,
    };
    // The address may have changed. What is right already is left: a disk that is full stops no start.
    let document = document(pki, listen, &token);
    if fs::read(&kubeconfig).ok().as_deref() != Some(document.as_bytes()) {
        write_private(&kubeconfig, document.as_bytes()).with_context(|| format!("{} cannot be written", kubeconfig.display()))?;
    }
    Ok(tokens)
}

fn token_of(text: &str) -> Option<String> {
    let document: Value = serde_json::from_str(text).ok()?;
    document["users"][0]["user"]["token"].as_str().map(str::to_owned)
}

/// JSON is YAML, and kubectl reads both.
fn document(pki: &Pki, listen: SocketAddr, token: &str) -> String {
    let host = if listen.ip().is_unspecified() { format!("127.0.0.1:{}", listen.port()) } else { listen.to_string() };
    let value = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context_name(), "preferences": {},
        "clusters": [{ "name": context_name(), "cluster": { "server": format!("https://{host}"), "certificate-authority-data": STANDARD.encode(&pki.ca_pem) } }],
        "users": [{ "name": "athanor-admin", "user": { "token": token } }],
        "contexts": [{ "name": context_name(), "context": { "cluster": context_name(), "user": "athanor-admin", "namespace": "default" } }]
    });
    format!("{value:#}\n")
}

/// The name of our context in a kubeconfig.
pub(crate) fn context_name() -> &'static str {
    "athanor"
}

/// Where the admin's kubeconfig is, if it is there.
pub(crate) fn admin_kubeconfig(data: &Path) -> Option<PathBuf> {
    Some(data.join(KUBECONFIG)).filter(|path| path.exists())
}
