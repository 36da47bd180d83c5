//! The port over a Kubernetes API. What is looked at comes from one watch a kind, so that a thousand reconcilers ask the API for nothing but
//! their writes.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
    time::Duration,
};

use kube::{
    Client,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ObjectList, Request},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::feed::{Feed, Kept, key};
use crate::{
    Cluster, PortError,
    port::Object,
    term::{Indexed, Term},
};

/// How long one call may take: half a minute more than an API server gives itself for it is nobody's answer.
const CALL: Duration = Duration::from_secs(90);
/// Who writes, in `managedFields`.
const MANAGER: &str = "athanor-operator";

/// A Kubernetes API as reconcilers see it.
pub(crate) struct KubeCluster {
    client: Client,
    kept: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    turn: Mutex<()>,
}

impl KubeCluster {
    /// An API of which nothing is kept yet.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, kept: HashMap::new(), turn: Mutex::new(()) }
    }

    /// What a feed covers is looked at there from now on.
    pub(crate) fn keep<K: Indexed>(&mut self, feed: &Feed<K>) {
        self.kept.insert(TypeId::of::<K>(), Box::new(feed.kept()));
    }

    /// What is kept of a kind, where a namespace is covered.
    fn kept<K: Object>(&self, namespace: Option<&str>) -> Option<&Kept<K>> {
        self.kept.get(&TypeId::of::<K>())?.downcast_ref::<Kept<K>>().filter(|kept| kept.covers(namespace))
    }

    /// A write was answered: it is remembered, or it is not known what the API has.
    fn wrote<K: Object>(&self, read: &K, answer: Result<K, PortError>) -> Result<K, PortError> {
        let namespace = read.meta().namespace.as_deref();
        if let Some(kept) = self.kept::<K>(namespace) {
            match &answer {
                Ok(written) => kept.wrote(written),
                Err(PortError::Refused(_)) => {}
                Err(_) => kept.own.doubt(key(namespace, read.meta().name.as_deref().unwrap_or_default())),
            }
        }
        answer
    }

    /// An object is gone, or about to be.
    fn deleted<K: Object>(&self, namespace: Option<&str>, name: &str) {
        if let Some(kept) = self.kept::<K>(namespace) {
            kept.own.deleted(&key(namespace, name));
        }
    }

    async fn send<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, PortError> {
        let request = request.map_err(|error| PortError::Refused(error.to_string()))?;
        let answer = tokio::time::timeout(CALL, self.client.request(request)).await;
        answer.map_err(|_| PortError::Unavailable(format!("the API did not answer within {CALL:?}")))?.map_err(|error| translate(&error))
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
        kube::Error::SerdeError(error) => PortError::Unreadable(error.to_string()),
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

    async fn look<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<Option<Arc<K>>, PortError> {
        match self.kept::<K>(namespace) {
            Some(kept) => {
                kept.ready().await?;
                let key = key(namespace, name);
                if !kept.own.is_doubtful(&key) {
                    return Ok(kept.one(&key));
                }
                let live = self.get::<K>(namespace, name).await?;
                kept.answered(&key, live.as_ref());
                Ok(live.map(Arc::new))
            }
            None => Ok(self.get(namespace, name).await?.map(Arc::new)),
        }
    }

    async fn list<K: Object>(&self, namespace: Option<&str>) -> Result<Vec<Arc<K>>, PortError> {
        if let Some(kept) = self.kept::<K>(namespace) {
            kept.ready().await?;
            return Ok(kept.all(namespace));
        }
        let list: ObjectList<K> = self.send(path::<K>(namespace).list(&ListParams::default())).await?;
        Ok(list.items.into_iter().map(Arc::new).collect())
    }

    async fn about<K: Indexed>(&self, terms: &[Term]) -> Result<Vec<Arc<K>>, PortError> {
        if let Some(kept) = self.kept::<K>(None) {
            kept.ready().await?;
            return Ok(kept.about(terms));
        }
        let mut all = self.list::<K>(None).await?;
        all.retain(|object| object.is_about(terms));
        Ok(all)
    }

    async fn turn(&self) -> impl Send {
        self.turn.lock().await
    }

    async fn create<K: Object>(&self, object: &K) -> Result<K, PortError> {
        let bytes = serde_json::to_vec(object).map_err(|error| PortError::Refused(error.to_string()))?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let answer = self.send(path::<K>(object.meta().namespace.as_deref()).create(&params, bytes)).await;
        self.wrote(object, answer)
    }

    async fn patch<K: Object>(&self, read: &K, patch: Value) -> Result<K, PortError> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let name = read.meta().name.clone().unwrap_or_default();
        let answer = self.send(path::<K>(read.meta().namespace.as_deref()).patch(&name, &params, &guarded(read, patch))).await;
        self.wrote(read, answer)
    }

    async fn patch_status<K: Object>(&self, read: &K, patch: Value) -> Result<K, PortError> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let name = read.meta().name.clone().unwrap_or_default();
        let path = path::<K>(read.meta().namespace.as_deref());
        let answer = self.send(path.patch_subresource("status", &name, &params, &guarded(read, patch))).await;
        self.wrote(read, answer)
    }

    async fn delete_read<K: Object>(&self, read: &K) -> Result<(), PortError> {
        let name = read.meta().name.clone().unwrap_or_default();
        let (uid, resource_version) = (read.meta().uid.clone(), read.meta().resource_version.clone());
        let preconditions = Some(Preconditions { uid, resource_version });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.send::<Value>(path::<K>(read.meta().namespace.as_deref()).delete(&name, &params)).await {
            Ok(_) | Err(PortError::NotFound(_)) => {
                self.deleted::<K>(read.meta().namespace.as_deref(), &name);
                Ok(())
            }
            Err(PortError::Conflict(why)) => {
                match self.get::<K>(read.meta().namespace.as_deref(), &name).await {
                    Ok(now) if now.as_ref().is_none_or(|now| now.meta().uid != read.meta().uid) => Ok(()),
                    // One that cannot be read by now is not what was read.
                    Ok(_) | Err(PortError::Unreadable(_)) => Err(PortError::Conflict(why)),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn delete<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<(), PortError> {
        match self.send::<Value>(path::<K>(namespace).delete(name, &DeleteParams::default())).await {
            Ok(_) | Err(PortError::NotFound(_)) => {
                self.deleted::<K>(namespace, name);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
