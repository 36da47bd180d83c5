//! The BootProfile controller: says whether this installation can run it.

use std::{sync::Arc, time::Duration};

use athanor_crds::{
    BootProfile,
    bootprofile::BootProfileStatus,
    conditions::{self, reasons, types},
    names,
};
use athanor_plan::{compile, ipxe, support};
use athanor_wire::agent::{self, Looked};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Resource as _, ResourceExt as _};

use crate::{
    Clock, Cluster, PortError, alive,
    status::{self, Seen},
};

/// How soon the agents' Leases are looked at again: that one is over is no event. Whose files went with it says the order of who boots it.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// How many nodes a condition names.
const MOST_TOLD: usize = 4;

/// The oldest profile with the same prefix, where it serves other media: a machine finds its own there, anybody else one of the two.
fn same_prefix(profile: &BootProfile, others: &[Arc<BootProfile>]) -> Option<String> {
    let tree = |profile: &BootProfile| Some((compile::prefix(&profile.name_any(), &profile.spec)?, profile.spec.media.clone()?.path));
    let age = |profile: &BootProfile| (profile.creation_timestamp().map(|time| time.0), profile.namespace(), profile.name_any());
    let (prefix, path) = tree(profile)?;
    // Whoever was there first is not to blame.
    let same = |other: &&Arc<BootProfile>| tree(other).is_some_and(|(theirs, _)| theirs == prefix);
    let first =
        others.iter().filter(same).min_by_key(|other| age(other)).filter(|first| tree(first).is_some_and(|(_, from)| from != path))?;
    let (namespace, name) = (first.namespace().unwrap_or_default(), first.name_any());
    Some(format!("spec.media.prefix: {prefix} is also where profile {namespace}/{name} serves another image; choose another prefix"))
}

/// What the agents that are alive say about a profile's files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Media {
    /// It has none that they could look for.
    Unneeded,
    /// Not all have spoken, and none has found them. Whose word is missing.
    Unknown(Vec<String>),
    /// Some agent can serve them. Who cannot, and why.
    Here(String),
    /// No agent can, and why.
    Nowhere(String),
    /// There are more profiles than agents look after.
    TooMany,
}

fn media(profile: &BootProfile, leases: &[Arc<Lease>], now: Timestamp) -> Media {
    let sources = compile::sources(&profile.spec);
    if sources.is_empty() {
        return Media::Unneeded;
    }
    let (key, files) = (format!("{}/{}", profile.namespace().unwrap_or_default(), profile.name_any()), compile::digest(&sources));
    let (serving, idle): (Vec<_>, Vec<_>) = alive::agents(leases, now).partition(alive::Agent::serves);
    let (mut is_here, mut too_many, mut problems, mut silent) = (false, false, Vec::new(), Vec::new());
    for agent in if serving.is_empty() { idle } else { serving } {
        let said: Option<agent::Media> = agent.says(agent::MEDIA_ANNOTATION);
        let looked = said.as_ref().and_then(|said| said.profiles.get(&key)).filter(|looked| looked.files == files);
        match looked {
            Some(Looked { problem: Some(problem), .. }) => problems.push((agent.node, problem.clone())),
            Some(Looked { problem: None, .. }) => is_here = true,
            None => {
                too_many |= said.is_some_and(|said| said.more);
                silent.push(agent.node.to_owned());
            }
        }
    }
    // A list has no order: every look says the same.
    problems.sort();
    silent.sort();
    match problems.as_slice() {
        [] if is_here => Media::Here(String::new()),
        some if is_here => Media::Here(format!("; not on {}", by_node(some))),
        [] if too_many => Media::TooMany,
        all if all.is_empty() || !silent.is_empty() => Media::Unknown(silent),
        [(_, one), rest @ ..] if rest.iter().all(|(_, other)| other == one) => Media::Nowhere(one.clone()),
        all => Media::Nowhere(by_node(all)),
    }
}

/// What was said of the files of this generation before: a word that is missing changes nothing.
fn said_before(old: &BootProfileStatus, profile: &BootProfile) -> Option<(bool, &'static str, String)> {
    let ready = conditions::find(&old.conditions, types::READY).filter(|_| old.observed_generation == profile.metadata.generation)?;
    let known = [reasons::SUPPORTED, reasons::CONTENT_UNAVAILABLE].into_iter().find(|reason| *reason == ready.reason)?;
    Some((ready.status == "True", known, ready.message.clone()))
}

/// That nobody has looked for its files, and what to do.
fn unknown(silent: &[String]) -> String {
    match silent {
        [] => "no server runs that could look for its files; athanorctl get subnets".to_owned(),
        some => {
            let more = if some.len() > MOST_TOLD { format!(" and {} more", some.len() - MOST_TOLD) } else { String::new() };
            format!("not looked for its files yet: {}{more}", some[..some.len().min(MOST_TOLD)].join(", "))
        }
    }
}

/// Problems with the nodes that have them.
fn by_node(problems: &[(&str, String)]) -> String {
    let more = if problems.len() > MOST_TOLD { format!("; and on {} more", problems.len() - MOST_TOLD) } else { String::new() };
    let told: Vec<String> = problems.iter().take(MOST_TOLD).map(|(node, problem)| format!("{node}: {problem}")).collect();
    format!("{}{more}", told.join("; "))
}

/// Writes a profile's conditions. Returns when to look again, if nothing happens before.
///
/// # Errors
/// A call failed; the caller tries again later.
pub async fn reconcile(namespace: &str, name: &str, cluster: &impl Cluster, clock: &impl Clock) -> Result<Option<Duration>, PortError> {
    let Some(profile) = cluster.look::<BootProfile>(Some(namespace), name).await? else { return Ok(None) };
    let support = support::of(&profile.spec);
    let old = profile.status.clone().unwrap_or_default();
    let mut new = BootProfileStatus {
        observed_generation: profile.meta().generation,
        type_: Some(profile.spec.type_name()),
        conditions: old.conditions.clone(),
    };
    let now = clock.now();
    conditions::set(&mut new.conditions, now, types::SUPPORTED, support.supported, support.reason, support.message.clone());
    let fault = ipxe::words("spec.cmdline", profile.spec.cmdline.as_deref().unwrap_or_default()).err();
    let others = cluster.list::<BootProfile>(None).await?;
    let leases = cluster.list::<Lease>(Some(names::SYSTEM_NAMESPACE)).await?;
    let media = media(&profile, &leases, now);
    let again = (media != Media::Unneeded).then_some(LOOK_AGAIN);
    let (ready, reason, message) = match (fault, same_prefix(&profile, &others), media) {
        (Some(fault), ..) => (false, reasons::INVALID, fault.to_string()),
        (None, Some(conflict), _) => (false, reasons::PREFIX_TAKEN, conflict),
        (None, None, _) if !support.supported => (false, support.reason, support.message),
        (None, None, Media::Nowhere(problem)) => (false, reasons::CONTENT_UNAVAILABLE, problem),
        (None, None, Media::Unknown(silent)) => {
            said_before(&old, &profile).unwrap_or_else(|| (false, reasons::CONTENT_UNKNOWN, unknown(&silent)))
        }
        (None, None, Media::Here(but)) => (true, support.reason, format!("{}{but}", support.message)),
        (None, None, Media::TooMany) => {
            (true, support.reason, format!("{}; there are too many profiles to look for the files of each", support.message))
        }
        (None, None, Media::Unneeded) => (true, support.reason, support.message),
    };
    conditions::set(&mut new.conditions, now, types::READY, ready, reason, message);
    conditions::observe(&mut new.conditions, new.observed_generation);
    let (old, new) = (Seen { status: &old, conditions: &old.conditions }, Seen { status: &new, conditions: &new.conditions });
    status::write(&*profile, old, new, cluster, clock).await?;
    Ok(again)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use athanor_crds::{BootProfileSpec, bootprofile::Live};
    use k8s_openapi::{
        api::coordination::v1::LeaseSpec,
        apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    };

    use super::*;

    const NOW: i64 = 1_000;

    fn profile() -> BootProfile {
        let media = athanor_crds::bootprofile::Media { path: Some("x.iso".to_owned()), ..Default::default() };
        let spec = BootProfileSpec { live: Some(Live {}), media: Some(media), kernel: Some("k".to_owned()), ..BootProfileSpec::default() };
        let mut profile = BootProfile::new("live", spec);
        profile.metadata.namespace = Some("lab".to_owned());
        profile
    }

    /// An agent that says this of profiles, or nothing as older ones do.
    fn agent(node: &str, serves: bool, renewed: i64, says: Option<&agent::Media>) -> Arc<Lease> {
        let subnet = r#"[{"subnet":"lab","interface":"eth0","address":"10.0.0.1","authority":"Alone"}]"#;
        let served = (agent::SERVED_ANNOTATION.to_owned(), if serves { subnet } else { "[]" }.to_owned());
        let media = says.map(|media| (agent::MEDIA_ANNOTATION.to_owned(), serde_json::to_string(media).unwrap()));
        let spec = LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(30),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta {
            labels: Some([(agent::LABEL.to_owned(), "true".to_owned())].into()),
            annotations: Some([served].into_iter().chain(media).collect()),
            ..ObjectMeta::default()
        };
        Arc::new(Lease { metadata, spec: Some(spec) })
    }

    fn says(problem: Option<&str>) -> agent::Media {
        let looked = Looked { files: compile::digest(&compile::sources(&profile().spec)), problem: problem.map(str::to_owned) };
        agent::Media { profiles: BTreeMap::from([("lab/live".to_owned(), looked)]), more: false }
    }

    fn verdict(agents: &[Arc<Lease>]) -> Media {
        media(&profile(), agents, Timestamp::from_second(NOW).unwrap())
    }

    #[test]
    fn a_profile_is_where_some_agent_that_serves_has_found_it() {
        let (fine, gone) = (says(None), says(Some("x.iso does not exist")));
        let old = agent::Media {
            profiles: BTreeMap::from([("lab/live".to_owned(), Looked { files: "other".to_owned(), problem: None })]),
            more: false,
        };
        let full = agent::Media { profiles: BTreeMap::new(), more: true };
        let unknown = |nodes: &[&str]| Media::Unknown(nodes.iter().map(|node| (*node).to_owned()).collect());
        let nowhere = |why: &str| Media::Nowhere(why.to_owned());
        let table = [
            (vec![], unknown(&[])),
            (vec![agent("a", true, NOW, Some(&fine))], Media::Here(String::new())),
            (vec![agent("a", true, NOW - 60, Some(&fine))], unknown(&[])),
            (vec![agent("a", true, NOW, None)], unknown(&["a"])),
            (vec![agent("a", true, NOW, Some(&old))], unknown(&["a"])),
            (vec![agent("a", true, NOW, Some(&full))], Media::TooMany),
            (vec![agent("a", true, NOW, Some(&full)), agent("b", true, NOW, Some(&gone))], unknown(&["a"])),
            (vec![agent("a", true, NOW, Some(&gone))], nowhere("x.iso does not exist")),
            (vec![agent("a", true, NOW, Some(&gone)), agent("b", true, NOW, Some(&gone))], nowhere("x.iso does not exist")),
            (
                vec![agent("b", true, NOW, Some(&says(Some("no k")))), agent("a", true, NOW, Some(&gone))],
                nowhere("a: x.iso does not exist; b: no k"),
            ),
            (vec![agent("a", true, NOW, Some(&gone)), agent("b", true, NOW, None)], unknown(&["b"])),
            (
                vec![agent("a", true, NOW, Some(&gone)), agent("b", true, NOW, Some(&fine))],
                Media::Here("; not on a: x.iso does not exist".to_owned()),
            ),
            (vec![agent("a", true, NOW, Some(&fine)), agent("b", false, NOW, Some(&gone))], Media::Here(String::new())),
            (vec![agent("a", true, NOW, Some(&gone)), agent("b", false, NOW, Some(&fine))], nowhere("x.iso does not exist")),
            (vec![agent("b", false, NOW, Some(&fine))], Media::Here(String::new())),
        ];
        for (index, (agents, wanted)) in table.into_iter().enumerate() {
            assert_eq!(verdict(&agents), wanted, "row {index}");
        }
    }

    #[test]
    fn a_word_that_is_missing_changes_no_verdict_of_the_same_generation() {
        let mut profile = profile();
        profile.metadata.generation = Some(2);
        let mut old = BootProfileStatus { observed_generation: Some(2), ..BootProfileStatus::default() };
        assert_eq!(said_before(&old, &profile), None);
        conditions::set(&mut old.conditions, Timestamp::UNIX_EPOCH, types::READY, false, reasons::CONTENT_UNKNOWN, "not yet");
        assert_eq!(said_before(&old, &profile), None);
        conditions::set(&mut old.conditions, Timestamp::UNIX_EPOCH, types::READY, true, reasons::SUPPORTED, "it is run");
        assert_eq!(said_before(&old, &profile), Some((true, reasons::SUPPORTED, "it is run".to_owned())));
        old.observed_generation = Some(1);
        assert_eq!(said_before(&old, &profile), None);
    }
}
