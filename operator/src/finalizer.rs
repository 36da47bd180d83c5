//! The finalizer: an object that was deleted stays until what was made for it is undone.

use athanor_crds::FINALIZER;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::{Cluster, PortError, port::Object};

/// Whether the finalizer is on an object.
pub(crate) fn is_on(object: &impl Object) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// The finalizers of an object with ours among them.
pub(crate) fn added(object: &impl Object) -> Value {
    let others = object.finalizers().iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER);
    others.chain([FINALIZER]).collect()
}

/// Lets a deleted object go. That it is gone already is no error.
///
/// # Errors
/// The write failed.
pub(crate) async fn take_off<K: Object>(object: &K, cluster: &impl Cluster) -> Result<(), PortError> {
    if !is_on(object) {
        return Ok(());
    }
    let rest: Vec<&String> = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    match cluster.patch(object, json!({ "metadata": { "finalizers": rest } })).await {
        Ok(_) | Err(PortError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
