//! Whether the files of profiles are here: looked for before any machine asks for them, and told in the Lease.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use athanor_crds::BootProfile;
use athanor_media::Stamp;
use athanor_plan::{Source, compile};
use athanor_wire::agent::{Looked, Media};
use futures::{StreamExt as _, stream};
use kube::{ResourceExt as _, core::DeserializeGuard};
use tokio::time::Instant;

use super::{CONTENT_AT_ONCE, image};
use crate::{
    content,
    shared::{Look, Shared},
};

/// How often all of them are looked for: images come, go and change without telling anybody.
const LOOK: Duration = Duration::from_secs(5);
/// How often at the most it is told: each time is a write of the Lease.
const TELL: Duration = Duration::from_secs(1);
/// How many profiles are looked after, the first by their names: more than have room in the Lease.
const MOST_PROFILES: usize = 1024;
/// How many bytes are told in all: the annotations of an object together may have 256 KiB, and people write profiles.
const MOST_BYTES: usize = 64 * 1024;
/// How many bytes of a problem are told.
const MOST_PROBLEM_BYTES: usize = 256;

/// The profiles that have files here, by `namespace/name`.
pub(crate) type Profiles = BTreeMap<String, Vec<Source>>;

/// What was found of a profile's files.
struct Found {
    looked: Looked,
    /// The image as it was then.
    stamp: Option<Stamp>,
}

type All = Mutex<BTreeMap<String, Found>>;

/// What a profile is called, and its files; none where it has none here, or cannot be read.
pub(super) fn files(profile: &DeserializeGuard<BootProfile>) -> (String, Vec<Source>) {
    let key = format!("{}/{}", profile.namespace().unwrap_or_default(), profile.name_any());
    (key, profile.0.as_ref().map(|profile| compile::sources(&profile.spec)).unwrap_or_default())
}

/// Looks for the files of all profiles when one changes, and every few seconds. One on a disk that hangs is waited for once.
pub(super) async fn look(shared: Arc<Shared>) {
    let (mut changes, all) = (shared.profiles(), All::default());
    let Ok(_) = changes.wait_for(Option::is_some).await else { return };
    loop {
        let profiles = changes.borrow_and_update().clone().unwrap_or_default();
        let more = profiles.len() > MOST_PROFILES;
        let first: Profiles = profiles.into_iter().take(MOST_PROFILES).collect();
        all.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| first.contains_key(key));
        let round = stream::iter(&first).for_each_concurrent(CONTENT_AT_ONCE, |(key, files)| look_at(&shared, &all, key, files));
        tokio::pin!(round);
        while tokio::time::timeout(TELL, &mut round).await.is_err() {
            tell(&shared, &all, more);
        }
        let told = tell(&shared, &all, more);
        let ended = Instant::now();
        let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        if told {
            tokio::time::sleep_until(ended + TELL).await;
        }
    }
}

async fn look_at(shared: &Arc<Shared>, all: &All, key: &str, files: &[Source]) {
    let (digest, Some(iso)) = (compile::digest(files), image(files)) else { return };
    let sound = {
        let all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).filter(|found| found.looked.files == digest && found.looked.problem.is_none()).and_then(|found| found.stamp)
    };
    let (inside, path, sources) = (shared.clone(), iso.clone(), files.to_vec());
    let look = shared.on_image(&iso, move || {
        let stamp = inside.library.stamp(Path::new(&path)).ok();
        // An image that was in order, and is the same, is.
        let problems = if stamp.is_some() && stamp == sound { Vec::new() } else { content::problems(&inside, &sources) };
        (stamp, problems.into_iter().next())
    });
    let (stamp, problem) = match look.await {
        Look::Done(found) => found,
        Look::Hangs => (None, Some(content::Missing::Hangs.to_string())),
        Look::Postponed => return,
    };
    let looked = Looked { files: digest, problem: problem.map(|text| cut(&text)) };
    all.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), Found { looked, stamp });
}

/// Tells what was found; returns whether that is news.
fn tell(shared: &Shared, all: &All, more: bool) -> bool {
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let found = all.iter().map(|(key, found)| (key.clone(), found.looked.clone()));
    shared.looked_for(Media { profiles: found.collect(), more })
}

/// As much of a text as is told.
fn cut(text: &str) -> String {
    let end = (0..=MOST_PROBLEM_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text[..end].to_owned()
}

/// The annotation: the first profiles by their names, as many as have room.
pub(super) fn text(media: &Media) -> String {
    let mut told = Media { more: media.more, ..Media::default() };
    let mut bytes = 0;
    for (name, looked) in &media.profiles {
        bytes += serde_json::to_string(&(name, looked)).unwrap_or_default().len();
        if bytes > MOST_BYTES {
            told.more = true;
            break;
        }
        told.profiles.insert(name.clone(), looked.clone());
    }
    serde_json::to_string(&told).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_into_profiles_never_makes_a_lease_too_big() {
        let looked = Looked { files: "0".repeat(16), problem: Some(cut(&"\"\u{1f4be}".repeat(100))) };
        let profiles: BTreeMap<String, Looked> = (0..5000).map(|number| (format!("default/p{number:04}"), looked.clone())).collect();
        let all = Media { profiles, more: false };
        let annotation = text(&all);
        assert!(annotation.len() < 80 * 1024, "{}", annotation.len());
        let told: Media = serde_json::from_str(&annotation).unwrap();
        assert!(told.more && told.profiles.len() > 50 && told.profiles.contains_key("default/p0000"));
        let few = Media { profiles: all.profiles.into_iter().take(3).collect(), more: false };
        assert_eq!(serde_json::from_str::<Media>(&text(&few)).unwrap(), few);
        assert!(cut(&"ä".repeat(300)).len() <= MOST_PROBLEM_BYTES);
    }
}
