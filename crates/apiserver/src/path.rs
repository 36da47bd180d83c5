//! Kubernetes' URL shapes.

use std::sync::Arc;

use crate::{error::ApiError, kinds::Kind};

/// What a URL names.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) kind: Arc<Kind>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) status: bool,
}

impl Target {
    /// The resource as rights tables name it.
    pub(crate) fn resource(&self) -> String {
        if self.status { format!("{}/status", self.kind.plural) } else { self.kind.plural.clone() }
    }
}

/// Parses `/api/v1/…` and `/apis/GROUP/VERSION/…`. `None` when the path is not of that shape (discovery, health).
pub(crate) fn parse(path: &str, kinds: &[Arc<Kind>]) -> Option<Result<Target, ApiError>> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // `/namespaces/NAME` and `/namespaces/NAME/status` are the Namespace itself.
        ["namespaces", namespace, rest @ ..] if !matches!(rest, [] | ["status"]) => (Some(*namespace), rest),
        other => (None, other),
    };
    let [plural, rest @ ..] = rest else { return None };
    let find = |kind: &&Arc<Kind>| kind.group == group && kind.version == version && kind.plural == *plural;
    let Some(kind) = kinds.iter().find(find) else {
        return Some(Err(ApiError::new(
            http::StatusCode::NOT_FOUND,
            "NotFound",
            format!("the server has no resource {plural} in {group}/{version}"),
        )));
    };
    let (name, status) = match rest {
        [] => (None, false),
        [name] => (Some((*name).to_owned()), false),
        [name, "status"] if kind.status => (Some((*name).to_owned()), true),
        _ => return Some(Err(ApiError::new(http::StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource"))),
    };
    Some(Ok(Target { kind: kind.clone(), namespace: namespace.map(str::to_owned), name, status }))
}
