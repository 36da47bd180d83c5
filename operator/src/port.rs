//! What reconcilers ask of the world.

use std::{fmt::Debug, sync::Arc};

use jiff::Timestamp;
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::term::{Indexed, Term};

/// An object of a kind that reconcilers use.
pub trait Object: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {}
impl<K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static> Object for K {}

/// Why a call failed, as far as a reconciler cares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Somebody else was faster; look again.
    #[error("{0}")]
    Conflict(String),
    /// The name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// It is gone.
    #[error("{0}")]
    NotFound(String),
    /// The API refused it; asking again will not help until something changes.
    #[error("{0}")]
    Refused(String),
    /// What the API has cannot be read by this version: it is left alone until somebody corrects it.
    #[error("{0}")]
    Unreadable(String),
    /// The API did not answer.
    #[error("{0}")]
    Unavailable(String),
}

impl PortError {
    /// A word for metrics and logs.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "conflict",
            Self::AlreadyExists(_) => "already-exists",
            Self::NotFound(_) => "not-found",
            Self::Refused(_) => "refused",
            Self::Unreadable(_) => "unreadable",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// A Kubernetes API, as small as reconcilers need it. Namespaces are `None` for cluster-scoped kinds and for lists over all.
pub trait Cluster: Send + Sync {
    /// One object, as the API has it now.
    fn get<K: Object>(&self, namespace: Option<&str>, name: &str) -> impl Future<Output = Result<Option<K>, PortError>> + Send;

    /// One object as it is known here, with all that was written through this port. Like a list it may be a moment old.
    fn look<K: Object>(&self, namespace: Option<&str>, name: &str) -> impl Future<Output = Result<Option<Arc<K>>, PortError>> + Send;

    /// All objects of a kind. They may be a moment old: what is decided on them is guarded by a write with a `resourceVersion`, by the
    /// uniqueness of a name, or by a second look with [`Self::get`].
    fn list<K: Object>(&self, namespace: Option<&str>) -> impl Future<Output = Result<Vec<Arc<K>>, PortError>> + Send;

    /// The objects of a kind, in all namespaces, of which one of some terms is true; as old as a list may be. What a list finds, and this finds
    /// without a look at all of a fleet.
    fn about<K: Indexed>(&self, terms: &[Term]) -> impl Future<Output = Result<Vec<Arc<K>>, PortError>> + Send;

    /// Waits for the only turn there is: of two that look for something free at once, both would take the same. It is over when what is
    /// returned is dropped.
    fn turn(&self) -> impl Future<Output = impl Send> + Send;

    /// Creates an object.
    fn create<K: Object>(&self, object: &K) -> impl Future<Output = Result<K, PortError>> + Send;

    /// Merge-patches the object that was read, and only that: its `resourceVersion` is a precondition.
    fn patch<K: Object>(&self, read: &K, patch: Value) -> impl Future<Output = Result<K, PortError>> + Send;

    /// Like [`Self::patch`], on the status subresource.
    fn patch_status<K: Object>(&self, read: &K, patch: Value) -> impl Future<Output = Result<K, PortError>> + Send;

    /// Deletes the object that was read, as it was read: its uid and its `resourceVersion` are preconditions. That it is gone, or another
    /// one by now, is no error; that it changed is a conflict.
    fn delete_read<K: Object>(&self, read: &K) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Deletes an object by name; that it is gone already is no error.
    fn delete<K: Object>(&self, namespace: Option<&str>, name: &str) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// The same API without anything that is only remembered: what is looked at is as the API has it now.
pub(crate) struct Live<'a, C>(pub(crate) &'a C);

impl<C: Cluster> Cluster for Live<'_, C> {
    async fn get<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>, PortError> {
        self.0.get(namespace, name).await
    }

    async fn look<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<Option<Arc<K>>, PortError> {
        Ok(self.0.get(namespace, name).await?.map(Arc::new))
    }

    async fn list<K: Object>(&self, namespace: Option<&str>) -> Result<Vec<Arc<K>>, PortError> {
        self.0.list(namespace).await
    }

    async fn about<K: Indexed>(&self, terms: &[Term]) -> Result<Vec<Arc<K>>, PortError> {
        self.0.about(terms).await
    }

    async fn turn(&self) -> impl Send {
        self.0.turn().await
    }

    async fn create<K: Object>(&self, object: &K) -> Result<K, PortError> {
        self.0.create(object).await
    }

    async fn patch<K: Object>(&self, read: &K, patch: Value) -> Result<K, PortError> {
        self.0.patch(read, patch).await
    }

    async fn patch_status<K: Object>(&self, read: &K, patch: Value) -> Result<K, PortError> {
        self.0.patch_status(read, patch).await
    }

    async fn delete_read<K: Object>(&self, read: &K) -> Result<(), PortError> {
        self.0.delete_read(read).await
    }

    async fn delete<K: Object>(&self, namespace: Option<&str>, name: &str) -> Result<(), PortError> {
        self.0.delete::<K>(namespace, name).await
    }
}

/// The time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Ids and tokens that nobody can guess.
pub trait Ids: Send + Sync + 'static {
    /// The name of an attempt or an instance: unique.
    fn id(&self, prefix: &str) -> String;
    /// A token: unguessable, and safe in a URL.
    fn token(&self) -> String;
}
