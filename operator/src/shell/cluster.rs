//! The port over a Kubernetes API. Lists come from reflectors, so that a thousand reconcilers cost one watch a kind.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use athanor_crds::{Address, Deployment, Machine, MachineInventory, Subnet};
use futures::StreamExt as _;
use kube::{
    Api, Client,
    api::{GetParams, ListParams, Patch, PatchParams, PostParams},
    core::{ObjectList, Request},
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store},
        watcher,
    },
};
use serde_json::{Value, json};

use crate::{Cluster, PortError, port::Object};

/// Who writes, in `managedFields`.
const MANAGER: &str = "athanor-operator";

/// What reconcilers list, kept by reflectors.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) machines: Store<Machine>,
    pub(crate) deployments: Store<Deployment>,
}

/// A Kubernetes API as reconcilers see it.
pub struct KubeCluster {
    client: Client,
    stores: Stores,
    kept: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl KubeCluster {
    /// Starts the reflectors and waits for their first lists.
    ///
    /// # Errors
    /// A reflector ended before it had one.
    pub async fn start(client: Client) -> Result<Self, PortError> {
        let mut kept: HashMap<TypeId, Box<dyn Any + Send + Sync>> = HashMap::new();
        let machines = keep::<Machine>(&client, &mut kept).await?;
        let deployments = keep::<Deployment>(&client, &mut kept).await?;
        keep::<Subnet>(&client, &mut kept).await?;
        keep::<Address>(&client, &mut kept).await?;
        keep::<MachineInventory>(&client, &mut kept).await?;
        Ok(Self { client, stores: Stores { machines, deployments }, kept })
    }

    pub(crate) fn stores(&self) -> Stores {
        self.stores.clone()
    }

    async fn send<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, PortError> {
        let request = request.map_err(|error| PortError::Refused(error.to_string()))?;
        self.client.request(request).await.map_err(|error| translate(&error))
    }
}

async fn keep<K>(client: &Client, kept: &mut HashMap<TypeId, Box<dyn Any + Send + Sync>>) -> Result<Store<K>, PortError>
where
    K: Object,
{
    let (store, writer) = reflector::store::<K>();
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        // Nobody reads who manages which field; it is a third of an object.
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer);
    tokio::spawn(stream.for_each(|event| async move {
        if let Err(error) = event {
            tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted");
        }
    }));
    store.wait_until_ready().await.map_err(|error| PortError::Unavailable(error.to_string()))?;
    kept.insert(TypeId::of::<K>(), Box::new(store.clone()));
    Ok(store)
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
        if let Some(store) = self.kept.get(&TypeId::of::<K>()).and_then(|store| store.downcast_ref::<Store<K>>()) {
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

    async fn delete<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<(), PortError> {
        match self.send::<Value>(path::<K>(namespace).delete(name, &kube::api::DeleteParams::default())).await {
            Ok(_) | Err(PortError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
