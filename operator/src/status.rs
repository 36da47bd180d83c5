//! How every status is written: only what changed, against the object that was read, and told as an Event when the reason of `Ready` changed.

use athanor_crds::conditions::{self, types};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta},
};
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::json;

use crate::{Clock, Cluster, PortError, diff, port::Object};

/// Who tells, in Events.
const CONTROLLER: &str = "athanor-operator";
/// The longest note of an Event that Kubernetes takes, in bytes.
const MAX_NOTE: usize = 1024;

/// A status and the conditions in it.
pub(crate) struct Seen<'a, S> {
    pub(crate) status: &'a S,
    pub(crate) conditions: &'a [Condition],
}

/// Writes a status, if it differs from the one that was read. Returns whether it did.
///
/// # Errors
/// The write failed. An Event that could not be written is none: it is only news.
pub(crate) async fn write<K: Object, S: Serialize + Sync>(
    read: &K,
    old: Seen<'_, S>,
    new: Seen<'_, S>,
    cluster: &impl Cluster,
    clock: &impl Clock,
) -> Result<bool, PortError> {
    let Some(patch) = diff::merge_patch(&json!(old.status), &json!(new.status)) else { return Ok(false) };
    let written = cluster.patch_status(read, json!({ "status": patch })).await?;
    if let Some(ready) = news(old.conditions, new.conditions) {
        let trouble = ready.status != "True" && conditions::is_trouble(&ready.reason);
        let news = News { trouble, reason: &ready.reason, message: &ready.message };
        if let Err(error) = cluster.create(&event::<K>(written.meta(), news, clock.now())).await {
            tracing::debug!(object = %read.name_any(), %error, "event not written");
        }
    }
    Ok(true)
}

/// The `Ready` condition, if it says something else than before.
fn news<'a>(old: &[Condition], new: &'a [Condition]) -> Option<&'a Condition> {
    let (before, now) = (conditions::find(old, types::READY), conditions::find(new, types::READY)?);
    let same = before.is_some_and(|before| before.status == now.status && before.reason == now.reason);
    (!same).then_some(now)
}

/// News about an object.
pub(crate) struct News<'a> {
    pub(crate) trouble: bool,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

/// Named by the revision of the object that it tells of: telling it twice is one Event.
pub(crate) fn event<K: Object>(meta: &ObjectMeta, news: News<'_>, now: Timestamp) -> Event {
    let (name, revision) = (meta.name.clone().unwrap_or_default(), meta.resource_version.clone().unwrap_or_default());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{revision}")),
            // Events of cluster-scoped objects are in `default`, as everywhere in Kubernetes.
            namespace: Some(meta.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        action: Some("Reconcile".to_owned()),
        reason: Some(news.reason.to_owned()),
        note: Some(cut(news.message)),
        type_: Some(if news.trouble { "Warning" } else { "Normal" }.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: Some(revision),
            field_path: None,
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(CONTROLLER.to_owned()),
        ..Event::default()
    }
}

fn cut(message: &str) -> String {
    let end = (0..=MAX_NOTE.min(message.len())).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use athanor_crds::conditions::{reasons, set};

    use super::*;

    #[test]
    fn a_new_reason_is_news_and_a_new_message_is_not() {
        let mut old = Vec::new();
        set(&mut old, Timestamp::UNIX_EPOCH, types::READY, false, reasons::NO_ADDRESS, "no address");
        let mut new = old.clone();
        assert!(news(&[], &new).is_some());
        set(&mut new, Timestamp::UNIX_EPOCH, types::READY, false, reasons::NO_ADDRESS, "still none");
        assert_eq!(news(&old, &new), None);
        set(&mut new, Timestamp::UNIX_EPOCH, types::READY, true, reasons::AVAILABLE, "free");
        assert_eq!(news(&old, &new).unwrap().reason, reasons::AVAILABLE);
    }

    #[test]
    fn a_note_is_cut_between_letters() {
        assert_eq!(cut(&"é".repeat(600)).len(), 1024);
        assert_eq!(cut("short"), "short");
    }
}
