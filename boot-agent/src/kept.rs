//! What an agent keeps beside itself, on the host's tmpfs: enough to serve on when it is started anew and the API is away.
//!
//! An agent that lives on this alone starts nothing new on a machine; what had begun is let finish.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use athanor_plan::{BootPlan, boot_plan::FORMAT, snapshot::NamedSubnet};
use athanor_wire::MacAddr;
use serde::{Deserialize, Serialize};

use crate::shared::Shared;

/// The file's name in the data folder.
const FILE: &str = "snapshot.json";
/// It is written at most this often: a fleet that changes all the time is kept a few seconds late.
const PAUSE: Duration = Duration::from_secs(5);

/// What is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    format: u32,
    /// Another installation's plans are nobody's here.
    installation: String,
    pub(crate) subnets: Vec<NamedSubnet>,
    pub(crate) plans: Vec<Arc<BootPlan>>,
    /// The attempts that machines have begun.
    pub(crate) started: BTreeMap<MacAddr, String>,
}

/// What this installation's agent kept here, if anything can be read.
pub(crate) fn load(data_dir: &Path, installation: &str) -> Option<Kept> {
    let path = data_dir.join(FILE);
    let bytes = fs::read(&path).ok()?;
    match serde_json::from_slice::<Kept>(&bytes) {
        Ok(kept) if kept.format == FORMAT && kept.installation == installation => Some(kept),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what an earlier agent kept cannot be read");
            None
        }
    }
}

/// Keeps what is known, whenever it changes.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut changes = shared.changes();
    // The attempts that are on disk with the snapshot; none before it is written.
    let mut kept = None;
    loop {
        // Attempts begin without a change of the snapshot.
        let changed = tokio::time::timeout(PAUSE, changes.changed()).await.is_ok();
        let now = now(&shared);
        if changed || kept.as_ref() != Some(&now.started) {
            kept = None;
            let (folder, started) = (shared.options.data_dir.clone(), now.started.clone());
            match tokio::task::spawn_blocking(move || write(&folder, &now)).await {
                Ok(Ok(())) => kept = Some(started),
                Ok(Err(error)) => tracing::warn!(%error, "the snapshot is not kept"),
                Err(_) => {}
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn now(shared: &Shared) -> Kept {
    let snapshot = shared.snapshot();
    Kept {
        format: FORMAT,
        installation: shared.options.installation.clone(),
        subnets: snapshot.subnets().to_vec(),
        plans: snapshot.plans().to_vec(),
        started: shared.reporter.started(),
    }
}

/// Whole or not at all, and for its owner only: plans have tokens.
fn write(folder: &Path, kept: &Kept) -> io::Result<()> {
    write_whole(&folder.join(FILE), &serde_json::to_vec(kept)?)
}

/// Writes a file whole or not at all, for its owner only.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_is_the_owners_and_this_installations() {
        let folder = tempfile::tempdir().unwrap();
        let started = [("52:54:00:aa:00:01".parse().unwrap(), "a-1".to_owned())].into();
        let kept = Kept { format: FORMAT, installation: "here".to_owned(), started, ..Kept::default() };
        write(folder.path(), &kept).unwrap();
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load(folder.path(), "here").unwrap().started, kept.started);
        assert!(load(folder.path(), "elsewhere").is_none());
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(load(folder.path(), "here").is_none(), "a torn file is no snapshot");
    }
}
