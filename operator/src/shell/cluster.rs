//! The port over a Kubernetes API. Lists come from reflectors, so that a thousand reconcilers cost one watch a kind.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use kube::{
    Client,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ObjectList, Request},
    runtime::reflector::Store,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::feed::Feed;
use crate::{Cluster, PortError, port::Object};

/// Who writes, in `managedFields`.
const MANAGER: &str = "athanor-operator";

/// A store, and whether its first list is whole.
struct Kept<K: Object> {
    store: Store<K>,
    whole: watch::Receiver<bool>,
}

/// A Kubernetes API as reconcilers see it.
pub(crate) struct KubeCluster {
    client: Client,
    kept: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl KubeCluster {
    /// An API of which nothing is kept yet.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, kept: HashMap::new() }
    }

    /// Lists of a kind come from its feed from now on.
    pub(crate) fn keep<K: Object>(&mut self, feed: &Feed<K>) {
        self.kept.insert(TypeId::of::<K>(), Box::new(Kept { store: feed.store(), whole: feed.whole() }));
    }

    async fn send<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, PortError> {
        let request = request.map_err(|error| PortError::Refused(error.to_string()))?;
        self.client.request(request).await.map_err(|error| translate(&error))
    }
}

fn translate(error: &kube::Error) -> PortError {
    match error {
        kube::Error::Api(status) => {
            let message = status.message.clone();
            match status.code {
                404 => PortError::NotFound(message),
                409 if status.reason == "AlreadyExists" => PortError::AlreadyExists(message),
                409 => PortError::Conflict(message),
                429 | 500..=599 => PortError::Unavailable(message),
                _ => PortError::Refused(message),
            }
        }
        other => PortError::Unavailable(other.to_string()),
    }
}

fn path<K: Object>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

fn guarded<K: Object>(read: &K, mut patch: Value) -> Patch<Value> {
    patch["metadata"]["resourceVersion"] = json!(read.meta().resource_version);
    patch["metadata"]["uid"] = json!(read.meta().uid);
    Patch::Merge(patch)
}

impl Cluster for KubeCluster {
    async fn get<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>, PortError> {
        match self.send(path::<K>(namespace).get(name, &GetParams::default())).await {
            Ok(object) => Ok(Some(object)),
            Err(PortError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list<K: Object>(&self, namespace: Option<&str>) -> Result<Vec<Arc<K>>, PortError> {
        if let Some(Kept { store, whole }) = self.kept.get(&TypeId::of::<K>()).and_then(|kept| kept.downcast_ref::<Kept<K>>()) {
            whole.clone().wait_for(|whole| *whole).await.map_err(|error| PortError::Unavailable(error.to_string()))?;
            let inside = |object: &Arc<K>| namespace.is_none() || object.meta().namespace.as_deref() == namespace;
            return Ok(store.state().into_iter().filter(inside).collect());
        }
        let list: ObjectList<K> = self.send(path::<K>(namespace).list(&ListParams::default())).await?;
        Ok(list.items.into_iter().map(Arc::new).collect())
    }

    async fn create<K: Object>(&self, object: &K) -> Result<K, PortError> {
        let bytes = serde_json::to_vec(object).map_err(|error| PortError::Refused(error.to_string()))?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        self.send(path::<K>(object.meta().namespace.as_deref()).create(&params, bytes)).await
    }

    async fn patch<K: Object>(&self, read: &K, patch: Value) -> Result<K, PortError> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let name = read.meta().name.clone().unwrap_or_default();
        self.send(path::<K>(read.meta().namespace.as_deref()).patch(&name, &params, &guarded(read, patch))).await
    }

    async fn patch_status<K: Object>(&self, read: &K, patch: Value) -> Result<K, PortError> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let name = read.meta().name.clone().unwrap_or_default();
        self.send(path::<K>(read.meta().namespace.as_deref()).patch_subresource("status", &name, &params, &guarded(read, patch))).await
    }

    async fn delete_read<K: Object>(&self, read: &K) -> Result<(), PortError> {
        let name = read.meta().name.clone().unwrap_or_default();
        let preconditions = Some(Preconditions { uid: read.meta().uid.clone(), ..Preconditions::default() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.send::<Value>(path::<K>(read.meta().namespace.as_deref()).delete(&name, &params)).await {
            Ok(_) | Err(PortError::NotFound(_) | PortError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<(), PortError> {
        match self.send::<Value>(path::<K>(namespace).delete(name, &DeleteParams::default())).await {
            Ok(_) | Err(PortError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
