//! What names this installation, and the key with which it signs: one Secret, made once.

use std::collections::BTreeMap;

use athanor_crds::names;
use athanor_wire::hex;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::ObjectMeta;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::{Cluster, Ids, PortError};

/// An installation's key.
pub(crate) struct Installation {
    key: Ed25519KeyPair,
}

impl Installation {
    /// Reads the key, or draws it where there is none.
    pub(crate) async fn load(cluster: &impl Cluster, ids: &impl Ids) -> Result<Self, PortError> {
        let get = || cluster.get::<Secret>(Some(names::SYSTEM_NAMESPACE), names::INSTALLATION_SECRET);
        let secret = match get().await? {
            Some(secret) => secret,
            None => match cluster.create(&drawn(ids)?).await {
                Ok(secret) => secret,
                // Another operator was first.
                Err(PortError::AlreadyExists(_)) => {
                    get().await?.ok_or_else(|| PortError::Conflict("the installation's key came and went".to_owned()))?
                }
                Err(error) => return Err(error),
            },
        };
        Self::of(&secret)
    }

    fn of(secret: &Secret) -> Result<Self, PortError> {
        let seed = secret.data.as_ref().and_then(|data| data.get(names::INSTALLATION_SEED));
        let key = seed.and_then(|seed| Ed25519KeyPair::from_seed_unchecked(&seed.0).ok());
        let unusable = || {
            PortError::Refused(format!("the Secret {} in {} holds no key; restore it", names::INSTALLATION_SECRET, names::SYSTEM_NAMESPACE))
        };
        Ok(Self { key: key.ok_or_else(unusable)? })
    }

    /// What names the installation: the beginning of its public key.
    pub(crate) fn id(&self) -> String {
        hex::encode(&self.key.public_key().as_ref()[..8])
    }

    /// Signs.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.key.sign(bytes).as_ref().to_vec()
    }
}

/// The id, where there is a key.
pub(crate) async fn known_id(cluster: &impl Cluster) -> Result<Option<String>, PortError> {
    let secret = cluster.get::<Secret>(Some(names::SYSTEM_NAMESPACE), names::INSTALLATION_SECRET).await?;
    Ok(secret.and_then(|secret| Installation::of(&secret).ok()).map(|installation| installation.id()))
}

fn drawn(ids: &impl Ids) -> Result<Secret, PortError> {
    let seed = ring::digest::digest(&ring::digest::SHA256, format!("{}{}", ids.token(), ids.token()).as_bytes());
    let key = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(|_| PortError::Refused("a drawn seed is no key".to_owned()))?;
    let data = BTreeMap::from([
        (names::INSTALLATION_SEED.to_owned(), ByteString(seed.as_ref().to_vec())),
        (names::INSTALLATION_PUBLIC.to_owned(), ByteString(hex::encode(key.public_key().as_ref()).into_bytes())),
    ]);
    let metadata = ObjectMeta {
        name: Some(names::INSTALLATION_SECRET.to_owned()),
        namespace: Some(names::SYSTEM_NAMESPACE.to_owned()),
        ..ObjectMeta::default()
    };
    Ok(Secret { metadata, type_: Some("Opaque".to_owned()), data: Some(data), ..Secret::default() })
}
