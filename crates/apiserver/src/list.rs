//! Lists, page by page, written as text while the store is read.

use std::ops::ControlFlow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    error::{ApiError, Result},
    events,
    path::Target,
    selector::Selector,
    store::{Store, decode},
    table::View,
};

/// Where a list goes on. The revision is that of the first page: who watches from there misses nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Continue {
    revision: u64,
    after: String,
}

impl Continue {
    /// From the `continue` of a query.
    pub(crate) fn parse(token: &str) -> Result<Self> {
        let read = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        read.ok_or_else(|| ApiError::bad_request("continue: this is no token of an earlier answer; list from the beginning"))
    }

    fn token(&self) -> Result<String> {
        Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).map_err(|error| ApiError::internal(error.to_string()))?))
    }
}

/// What is listed, and how.
pub(crate) struct List {
    pub(crate) target: Target,
    pub(crate) selector: Selector,
    pub(crate) view: View,
    /// The most items of this page.
    pub(crate) limit: Option<usize>,
    pub(crate) from: Option<Continue>,
}

/// The list as JSON.
pub(crate) fn write(store: &Store, list: &List, now: Timestamp) -> Result<Vec<u8>> {
    let kind = &list.target.kind;
    let (frame, field) = list.view.frame(kind);
    let mut out = frame.to_string().into_bytes();
    out.pop();
    out.extend(format!(",\"{field}\":[").into_bytes());
    let as_stored = list.view == View::Object && list.selector.takes_all() && !events::is_event(kind);
    let (mut count, mut last, mut more) = (0, None, false);
    let after = list.from.as_ref().map(|from| from.after.as_str());
    let revision = store.scan(&kind.storage, list.target.namespace.as_deref(), after, |key, bytes| {
        if list.limit.is_some_and(|limit| count >= limit) {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        let begin = out.len();
        if count > 0 {
            out.push(b',');
        }
        if as_stored {
            out.extend_from_slice(bytes);
        } else {
            let object = events::from_stored(kind, decode(bytes)?);
            if !list.selector.matches(&object) {
                out.truncate(begin);
                return Ok(ControlFlow::Continue(()));
            }
            serde_json::to_writer(&mut out, &list.view.item(kind, object, now)).map_err(|error| ApiError::internal(error.to_string()))?;
        }
        count += 1;
        last = Some(key.to_owned());
        Ok(ControlFlow::Continue(()))
    })?;
    let revision = list.from.as_ref().map_or(revision, |from| from.revision);
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if let (true, Some(after)) = (more, last) {
        metadata["continue"] = Continue { revision, after }.token()?.into();
    }
    out.extend(format!("],\"metadata\":{metadata}}}").into_bytes());
    Ok(out)
}
