//! The one thing that clients do not send as JSON: `kubectl create secret`, `configmap` and `namespace` write Kubernetes' protobuf,
//! whatever the server says that it takes.
//!
//! The messages are those of k8s.io/api/core/v1 and k8s.io/apimachinery, with the fields that these commands fill; the field numbers are
//! part of Kubernetes' API and never change. Answers are JSON, which every client takes.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1 as core, apimachinery::pkg::apis::meta::v1 as meta};
use prost::Message;
use serde_json::Value;

use crate::error::{ApiError, Result};

/// The content type of these bodies.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What clients accept that want an OpenAPI description of version 2 as protobuf.
pub(crate) const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// `runtime.Unknown`: what the bytes are, and the bytes.
#[derive(Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

/// `openapi.v2.Document` of gnostic, as far as it says that it describes nothing.
#[derive(Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
}

/// The protobuf of an OpenAPI description of version 2 without any kind.
pub(crate) fn openapi_v2() -> Vec<u8> {
    Document { swagger: "2.0".to_owned() }.encode_to_vec()
}

#[derive(Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "14")]
    finalizers: Vec<String>,
}

#[derive(Message)]
struct Secret {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    data: BTreeMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    type_: String,
    #[prost(btree_map = "string, string", tag = "4")]
    string_data: BTreeMap<String, String>,
    #[prost(bool, optional, tag = "5")]
    immutable: Option<bool>,
}

#[derive(Message)]
struct ConfigMap {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, string", tag = "2")]
    data: BTreeMap<String, String>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    binary_data: BTreeMap<String, Vec<u8>>,
    #[prost(bool, optional, tag = "4")]
    immutable: Option<bool>,
}

#[derive(Message)]
struct Namespace {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

/// Reads a body as the JSON object that it stands for.
///
/// # Errors
/// 400 when it is cut or no such body; 415 for a kind that clients can send as JSON.
pub(crate) fn object(body: &[u8]) -> Result<Value> {
    let broken = |error: prost::DecodeError| ApiError::bad_request(format!("the protobuf body cannot be read: {error}"));
    let envelope =
        body.strip_prefix(MAGIC).ok_or_else(|| ApiError::bad_request("the body is no Kubernetes protobuf: it does not begin with k8s"))?;
    let envelope = Unknown::decode(envelope).map_err(broken)?;
    let about = envelope.type_meta.unwrap_or_default();
    let raw = envelope.raw.as_slice();
    let object = match (about.api_version.as_str(), about.kind.as_str()) {
        ("v1", "Secret") => serde_json::to_value(core::Secret::from(Secret::decode(raw).map_err(broken)?)),
        ("v1", "ConfigMap") => serde_json::to_value(core::ConfigMap::from(ConfigMap::decode(raw).map_err(broken)?)),
        ("v1", "Namespace") => {
            let metadata = Namespace::decode(raw).map_err(broken)?.metadata.map(Into::into).unwrap_or_default();
            serde_json::to_value(core::Namespace { metadata, ..Default::default() })
        }
        (version, kind) => {
            let message = format!("{kind} of {version} is not read as protobuf; send JSON or YAML (kubectl apply does)");
            return Err(ApiError::new(http::StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message));
        }
    };
    object.map_err(|error| ApiError::internal(error.to_string()))
}

/// Empty is absent: protobuf cannot tell the two apart.
fn some<T: Default + PartialEq>(value: T) -> Option<T> {
    Some(value).filter(|value| *value != T::default())
}

fn bytes(map: BTreeMap<String, Vec<u8>>) -> Option<BTreeMap<String, ByteString>> {
    some(map.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect())
}

impl From<ObjectMeta> for meta::ObjectMeta {
    fn from(read: ObjectMeta) -> Self {
        Self {
            name: some(read.name),
            generate_name: some(read.generate_name),
            namespace: some(read.namespace),
            labels: some(read.labels),
            annotations: some(read.annotations),
            finalizers: some(read.finalizers),
            ..Self::default()
        }
    }
}

impl From<Secret> for core::Secret {
    fn from(read: Secret) -> Self {
        Self {
            metadata: read.metadata.map(Into::into).unwrap_or_default(),
            data: bytes(read.data),
            string_data: some(read.string_data),
            type_: some(read.type_),
            immutable: read.immutable,
        }
    }
}

impl From<ConfigMap> for core::ConfigMap {
    fn from(read: ConfigMap) -> Self {
        Self {
            metadata: read.metadata.map(Into::into).unwrap_or_default(),
            data: some(read.data),
            binary_data: bytes(read.binary_data),
            immutable: read.immutable,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(kind: &str, raw: &impl Message) -> Vec<u8> {
        let type_meta = Some(TypeMeta { api_version: "v1".into(), kind: kind.into() });
        [MAGIC, &Unknown { type_meta, raw: raw.encode_to_vec() }.encode_to_vec()].concat()
    }

    #[test]
    fn a_secret_arrives_as_its_json() {
        let secret = Secret {
            metadata: Some(ObjectMeta { name: "bmc".into(), ..Default::default() }),
            data: [("password".to_owned(), b"\xff\x00".to_vec())].into(),
            type_: "Opaque".into(),
            ..Default::default()
        };
        let read = object(&body("Secret", &secret)).unwrap();
        assert_eq!(
            read,
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "bmc" }, "type": "Opaque", "data": { "password": "/wA=" } })
        );
    }

    #[test]
    fn what_is_cut_or_unknown_is_refused_in_words() {
        let whole = body("Secret", &Secret { type_: "Opaque".into(), ..Default::default() });
        assert_eq!(object(&whole[..whole.len() - 2]).unwrap_err().code, 400);
        assert_eq!(object(b"{}").unwrap_err().code, 400);
        let pod = object(&body("Pod", &Namespace::default())).unwrap_err();
        assert_eq!(
            (pod.code.as_u16(), pod.message.as_str()),
            (415, "Pod of v1 is not read as protobuf; send JSON or YAML (kubectl apply does)")
        );
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        proptest::proptest!(|(bytes: Vec<u8>)| { let _ = object(&[MAGIC, &bytes].concat()); });
    }
}
