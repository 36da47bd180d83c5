//! Failures as Kubernetes tells them: a `Status` with a reason and a message that names the field.

use http::StatusCode;
use serde_json::{Value, json};

use crate::kinds::Kind;

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store {0} is used by another athanor process; stop that one first")]
    InUse(std::path::PathBuf),
    /// The file or its folder cannot be used.
    #[error("the store {path} cannot be opened: {source}; put a copy of it back, or move the data folder away to begin anew (machines register again)", path = .path.display())]
    Store {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
}

/// A cause of an invalid object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// A request that failed.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) code: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Option<Value>,
}

pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    pub(crate) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// Server-side apply met fields of others.
    pub(crate) fn apply_conflict(causes: &[Cause]) -> Self {
        let lines: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
        let many = if causes.len() == 1 { "conflict" } else { "conflicts" };
        let message = format!("Apply failed with {} {many}: {}", causes.len(), lines.join("; "));
        let mut this = Self::new(StatusCode::CONFLICT, "Conflict", message);
        this.details = Some(json!({ "causes": causes_json(causes) }));
        this
    }

    pub(crate) fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let lines: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let list = if let [one] = lines.as_slice() { one.clone() } else { format!("[{}]", lines.join(", ")) };
        let group = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut this = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("{group} {name:?} is invalid: {list}"));
        this.details = Some(json!({ "name": name, "group": kind.group, "kind": kind.kind, "causes": causes_json(causes) }));
        this
    }

    /// Options of a request that cannot be, in Kubernetes' words.
    pub(crate) fn invalid_options(kind: &str, why: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("{kind}.meta.k8s.io \"\" is invalid: {why}"))
    }

    pub(crate) fn gone(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    pub(crate) fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(json!({ "name": name, "group": kind.group, "kind": kind.plural }));
        self
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16()
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

fn causes_json(causes: &[Cause]) -> Value {
    causes.iter().map(|cause| json!({ "reason": cause.reason, "message": cause.message, "field": cause.field })).collect()
}

impl<E: Into<redb::Error>> From<E> for ApiError {
    fn from(error: E) -> Self {
        let error: redb::Error = error.into();
        Self::internal(format!("{STORE_FAILED}: {error}; look at the disk that holds the data folder"))
    }
}

/// How the message of an error of the store begins.
const STORE_FAILED: &str = "the store failed";

impl ApiError {
    /// Whether the disk failed, rather than the request.
    pub(crate) fn is_of_store(&self) -> bool {
        self.message.starts_with(STORE_FAILED)
    }
}
