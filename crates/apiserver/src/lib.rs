//! The embedded API server: so that there is one code path. Controllers talk to it exactly as they talk to a kube-apiserver.
//!
//! ```text
//!   in-process client ─ identity ─┐
//!   TLS + bearer token ───────────┴─► router ─► auth (crds::rights) ─► verb
//!                                                                      │
//!        patch, ssa ─► admission (schema, CEL, defaults) ─► store (redb) ─► watch log ─► watchers
//! ```
//!
//! Discovery, get/list/watch, create/replace/delete with preconditions, merge, JSON and strategic patch, server-side apply, the status
//! subresource, finalizers, tables. An acknowledged write is on disk.
//!
//! Never here: what the objects mean. The one place that knows our kinds is [`kinds`], and it reads them from the generated CRDs.

mod admission;
mod auth;
mod body;
mod discovery;
mod error;
mod events;
mod fields;
mod kinds;
mod list;
mod patch;
mod path;
mod protobuf;
mod router;
mod schema;
mod selector;
mod ssa;
mod store;
mod table;
mod tls;
mod verbs;
mod watch;

pub use admission::is_name;
pub use auth::{Identity, Tokens, write_private};
pub use error::OpenError;
pub use router::{ApiServer, ApiService, Changed, Effect};
pub use tls::{Pki, TlsError};
