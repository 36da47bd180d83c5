//! Whether the files of profiles are here: looked for before any machine asks for them, and told in the Lease.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use athanor_crds::BootProfile;
use athanor_plan::{Source, compile};
use athanor_wire::agent::{Looked, MOST_LETTERS, MOST_PROFILES, Media};
use futures::{StreamExt as _, stream};
use kube::{ResourceExt as _, core::DeserializeGuard};

use super::CONTENT_AT_ONCE;
use crate::{content, shared::Shared};

/// How often all of them are looked for: images come, go and change without telling anybody. A look costs microseconds while an image stays the
/// same.
const LOOK: Duration = Duration::from_secs(5);

/// The files of a generation of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    generation: i64,
    files: Vec<Source>,
}

/// The profiles that have files here, by `namespace/name`.
pub(crate) type Profiles = BTreeMap<String, Files>;

/// What a profile is called, and its files; none where it has none here, or cannot be read.
pub(super) fn files(profile: &DeserializeGuard<BootProfile>) -> (String, Option<Files>) {
    let key = format!("{}/{}", profile.namespace().unwrap_or_default(), profile.name_any());
    let read = profile.0.as_ref().ok();
    let files =
        read.map(|profile| Files { generation: profile.metadata.generation.unwrap_or_default(), files: compile::sources(&profile.spec) });
    (key, files.filter(|files| !files.files.is_empty()))
}

/// Looks for the files of all profiles when one changes, and every few seconds. A disk that hangs holds up what is told of the others, but nobody
/// who boots.
pub(super) async fn look(shared: Arc<Shared>) {
    let mut changes = shared.profiles();
    loop {
        let profiles = changes.borrow_and_update().clone();
        let found = Mutex::new(Media::new());
        let first = stream::iter(profiles.iter().take(MOST_PROFILES));
        first
            .for_each_concurrent(CONTENT_AT_ONCE, async |(key, files)| {
                let looked = Looked { generation: files.generation, problem: problem(&shared, files).await };
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), looked);
            })
            .await;
        shared.looked_for(&found.into_inner().unwrap_or_else(PoisonError::into_inner));
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn problem(shared: &Arc<Shared>, files: &Files) -> Option<String> {
    let (inside, files) = (shared.clone(), files.files.clone());
    let problems = shared.on_disk(move || content::problems(&inside, &files)).await;
    let first = problems.map_or_else(|| Some(content::Missing::Hangs.to_string()), |all| all.into_iter().next());
    first.map(|problem| problem.chars().take(MOST_LETTERS).collect())
}
