//! From an HTTP request to a verb, for in-process callers and over TLS alike.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use athanor_crds::names;
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::Service;

use crate::{
    admission::Unknown,
    auth::{Identity, Tokens},
    body, discovery,
    error::{ApiError, OpenError, Result},
    kinds::{self, Kind},
    list::{self, Continue, List},
    path::{self, Target},
    protobuf,
    selector::Selector,
    store::Store,
    table::View,
    tls::Pki,
    verbs::{self, DeleteOptions, Patch, WriteOptions},
    watch::{self, Watch},
};

/// The largest request body; etcd's limit is half of it.
const MAX_BODY: usize = 3 << 20;
/// Connections at once: every kubectl holds one or two, every controller a few.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may take for its TLS handshake, its request's head, or its body.
const PATIENCE: Duration = Duration::from_secs(15);

/// What may become of dependents; nothing here has any but by its finalizer.
const PROPAGATION: [&str; 3] = ["Background", "Foreground", "Orphan"];

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An object, or its status, that a caller changed.
#[derive(Debug, Clone)]
pub struct Changed {
    /// Its kind.
    pub kind: String,
    /// Its namespace, if its kind has any.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Only its status.
    pub status: bool,
}

/// What an outside caller waits for after a change that was taken: that it is in effect.
pub type Effect = Arc<dyn Fn(&Changed) -> BoxFuture<'static, ()> + Send + Sync>;

/// The embedded API server.
pub struct ApiServer {
    store: Arc<Store>,
    kinds: Vec<Arc<Kind>>,
}

/// A request, read whole.
struct Call {
    method: Method,
    path: String,
    query: HashMap<String, String>,
    accept: String,
    content_type: String,
    agent: String,
    body: Bytes,
}

impl ApiServer {
    /// Opens the store and makes the namespaces that always exist.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub fn open(store: &Path) -> Result<Arc<Self>, OpenError> {
        let this = Self { store: Arc::new(Store::open(store)?), kinds: kinds::all().into_iter().map(Arc::new).collect() };
        for name in [names::DEFAULT_NAMESPACE, names::SYSTEM_NAMESPACE, names::PLANS_NAMESPACE] {
            this.ensure_namespace(name);
        }
        Ok(Arc::new(this))
    }

    fn ensure_namespace(&self, name: &str) {
        let Some(kind) = self.kinds.iter().find(|kind| kind.kind == "Namespace") else { return };
        let target = Target { kind: kind.clone(), namespace: None, name: None, status: false };
        let options = WriteOptions { manager: "athanor", force: false, dry_run: false, unknown: Unknown::Ignore, now: now() };
        // AlreadyExists is the usual answer.
        let _ = verbs::create(&self.store, &target, json!({ "metadata": { "name": name } }), &options);
    }

    /// The server as a service for callers in this process, who are who we say.
    pub fn service(self: &Arc<Self>, identity: Identity) -> ApiService {
        ApiService { server: self.clone(), identity: Caller::Known(identity) }
    }

    /// Serves on a listener over TLS, for callers who prove who they are with a token, and answers their changes once these are in effect. Ends
    /// when `stop` does.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        pki: &Pki,
        tokens: Arc<Tokens>,
        effect: Effect,
        stop: impl Future<Output = ()>,
    ) {
        let acceptor = tokio_rustls::TlsAcceptor::from(pki.server.clone());
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stop => return,
            };
            let Ok((stream, peer)) = accepted else { continue };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(%peer, "API connection refused: too many connections");
                continue;
            };
            let service = ApiService { server: self.clone(), identity: Caller::ByToken(tokens.clone(), effect.clone()) };
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _place = place;
                let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
                serve_connection(TokioIo::new(stream), service, peer).await;
            });
        }
    }

    async fn answer(
        self: Arc<Self>,
        caller: Caller,
        request: Request<impl http_body::Body<Data = Bytes> + Send + 'static>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let text = |name: header::HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        // A probe of health has no token, as with kube-apiserver, and learns nothing but that somebody is there.
        if matches!(parts.uri.path(), "/healthz" | "/readyz" | "/livez") {
            return plain("ok");
        }
        // Who may not ask is not listened to.
        let identity = match caller.identify(&text(header::AUTHORIZATION)) {
            Ok(identity) => identity,
            Err(error) => return failure(&error),
        };
        // Taken for oneself where somebody else was meant would be a right too many.
        if parts.headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            let message = "this server knows no impersonation; ask as yourself, without --as";
            return failure(&ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message));
        }
        let reading = Limited::new(body.map_err(|_| io::Error::other("the body was cut off")), MAX_BODY).collect();
        let body = match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let message = format!("the body is larger than {MAX_BODY} bytes");
                return failure(&ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message));
            }
            Ok(Err(error)) => return failure(&ApiError::bad_request(error.to_string())),
            Err(_) => {
                let message = format!("the body did not come whole within {} s", PATIENCE.as_secs());
                return failure(&ApiError::new(StatusCode::REQUEST_TIMEOUT, "Timeout", message));
            }
        };
        let call = Call {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect(),
            accept: text(header::ACCEPT),
            content_type: text(header::CONTENT_TYPE),
            agent: text(header::USER_AGENT),
            body: body.to_bytes(),
        };
        // Store and CEL are synchronous; a write waits for the disk.
        let answered = tokio::task::spawn_blocking(move || self.dispatch(identity, call)).await;
        match answered {
            Ok(Ok(response)) => {
                // Callers within this process bring the effect about, and wait for nothing.
                if let (Caller::ByToken(_, effect), Some(changed)) = (&caller, response.extensions().get()) {
                    effect(changed).await;
                }
                response
            }
            Ok(Err(error)) => failure(&error),
            Err(error) => failure(&ApiError::internal(format!("the request failed inside the server: {error}"))),
        }
    }

    fn dispatch(self: Arc<Self>, identity: Identity, call: Call) -> Result<Response<Body>> {
        if call.path == "/openapi/v2" {
            return Ok(openapi_v2(&call));
        }
        let Some(target) = path::parse(&call.path, &self.kinds) else {
            let found = discovery::answer(&call.path, &self.kinds);
            let document = found
                .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource"))?;
            return Ok(reply(StatusCode::OK, &document, &[]));
        };
        let target = target?;
        if target.kind.namespaced && target.namespace.is_none() && (target.name.is_some() || call.method == Method::POST) {
            return Err(ApiError::bad_request("an empty namespace may not be set during this request"));
        }
        if !target.kind.namespaced && target.namespace.is_some() {
            return Err(ApiError::new(StatusCode::NOT_FOUND, "NotFound", format!("{} have no namespace", target.kind.resource())));
        }
        let watching = call.method == Method::GET && matches!(call.query.get("watch").map(String::as_str), Some("true" | "1"));
        let verb = verb(&call.method, target.name.is_some(), watching).filter(|verb| !(target.status && verb.starts_with("delete")));
        let verb = verb.ok_or_else(|| {
            let message = format!("{} is not possible on {}", call.method, call.path);
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
        })?;
        identity.allow(verb, &target)?;
        match (verb, target.name.clone()) {
            ("watch", _) => self.watch(&call, target),
            ("list", None) => self.list(&call, &target),
            ("get", Some(name)) => {
                let object = verbs::get(&self.store, &target, &name)?;
                Ok(reply(StatusCode::OK, &call.view().one(&target.kind, object, Timestamp::now()), &[]))
            }
            ("delete", Some(name)) => self.delete(&call, &target, &name),
            ("deletecollection", None) => self.delete_collection(&call, &target),
            (_, name) => self.write(&call, &target, name.as_deref()),
        }
    }

    fn list(&self, call: &Call, target: &Target) -> Result<Response<Body>> {
        let get = |name: &str| call.query.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let limit = match get("limit").map(str::parse::<usize>) {
            None | Some(Ok(0)) => None,
            Some(Ok(limit)) => Some(limit),
            Some(Err(_)) => return Err(ApiError::bad_request("limit: must be a number of objects")),
        };
        let from = get("continue").map(Continue::parse).transpose()?;
        call.check_revision(self.store.revision())?;
        let list = List { target: target.clone(), selector: call.selector(&target.kind, None)?, view: call.view(), limit, from };
        Ok(written(StatusCode::OK, list::write(&self.store, &list, Timestamp::now())?, &[]))
    }

    fn watch(&self, call: &Call, target: Target) -> Result<Response<Body>> {
        if call.query.contains_key("sendInitialEvents") {
            let why = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            return Err(ApiError::invalid_options("ListOptions", why));
        }
        let after = match call.query.get("resourceVersion").map(String::as_str) {
            None | Some("" | "0") => None,
            Some(text) => {
                Some(text.parse().map_err(|_| ApiError::bad_request(format!("resourceVersion: {text:?} is no revision of this server")))?)
            }
        };
        let selector = call.selector(&target.kind, target.name.as_deref())?;
        let watch = Watch {
            selector,
            view: call.view(),
            bookmarks: call.flag("allowWatchBookmarks"),
            timeout: call.query.get("timeoutSeconds").and_then(|text| text.parse().ok()).map(Duration::from_secs),
            target: Target { name: None, ..target },
        };
        let stream = watch::begin(self.store.clone(), watch, after)?;
        let mut response = Response::new(StreamBody::new(stream.boxed()).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    fn write(&self, call: &Call, target: &Target, name: Option<&str>) -> Result<Response<Body>> {
        let manager = call.manager();
        let unknown = match call.query.get("fieldValidation").map(String::as_str) {
            Some("Strict") => Unknown::Strict,
            Some("Ignore") => Unknown::Ignore,
            _ => Unknown::Warn,
        };
        let options = WriteOptions { manager: &manager, force: call.flag("force"), dry_run: call.dry_run()?, unknown, now: now() };
        // Which kind it is is said before anything is read: clients that know several types try the next one then.
        let patch = if call.method == Method::PATCH { Some(call.patch()?) } else { None };
        let read = if patch.is_some() { body::text(&call.body)? } else { body::object(&call.content_type, &call.body)? };
        if unknown == Unknown::Strict && !read.twice.is_empty() {
            let list: Vec<String> = read.twice.iter().map(|path| format!("duplicate field {path:?}")).collect();
            return Err(ApiError::bad_request(format!("strict decoding error: {}", list.join(", "))));
        }
        let written = match (call.method.as_str(), name, patch) {
            ("POST", None, _) => verbs::create(&self.store, target, read.value, &options)?,
            ("PUT", Some(name), _) => verbs::replace(&self.store, target, name, read.value, &options)?,
            (_, Some(name), Some(patch)) => verbs::patch(&self.store, target, name, patch(read.value), &options)?,
            (method, ..) => {
                return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", format!("{method} is not possible here")));
            }
        };
        let mut warnings = written.warnings;
        if options.unknown == Unknown::Warn {
            warnings.extend(read.twice.iter().map(|path| format!("duplicate field {path:?}")));
        }
        let seen = call.view().one(&target.kind, written.object, Timestamp::now());
        let mut response = reply(written.code, &seen, &warnings);
        if let Some(name) = name.filter(|_| !options.dry_run) {
            let (kind, namespace) = (target.kind.kind.clone(), target.namespace.clone());
            response.extensions_mut().insert(Changed { kind, namespace, name: name.to_owned(), status: target.status });
        }
        Ok(response)
    }

    fn delete(&self, call: &Call, target: &Target, name: &str) -> Result<Response<Body>> {
        let options = call.delete_options()?;
        Ok(reply(StatusCode::OK, &verbs::delete(&self.store, target, name, &options, &now())?, &[]))
    }

    fn delete_collection(&self, call: &Call, target: &Target) -> Result<Response<Body>> {
        let mut names = Vec::new();
        verbs::each(&self.store, target, &call.selector(&target.kind, None)?, |object| {
            let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
            names.push((text("namespace"), text("name").unwrap_or_default()));
        })?;
        let options = call.delete_options()?;
        for (namespace, name) in names {
            let here = Target { namespace, ..target.clone() };
            match verbs::delete(&self.store, &here, &name, &options, &now()) {
                Err(error) if error.code != StatusCode::NOT_FOUND => return Err(error),
                _ => {}
            }
        }
        Ok(reply(StatusCode::OK, &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }), &[]))
    }
}

impl Call {
    /// What a delete insists on: an option that cannot be read is not one that may be left out.
    fn delete_options(&self) -> Result<DeleteOptions> {
        let body = if self.body.is_empty() { json!({}) } else { body::object(&self.content_type, &self.body)?.value };
        let options: meta::DeleteOptions =
            serde_json::from_value(body).map_err(|error| ApiError::bad_request(format!("the DeleteOptions cannot be read: {error}")))?;
        let policy = options.propagation_policy.as_deref().or_else(|| self.query.get("propagationPolicy").map(String::as_str));
        if let Some(word) = policy.filter(|word| !PROPAGATION.contains(word)) {
            let why =
                format!("propagationPolicy: Unsupported value: {word:?}: supported values: \"Background\", \"Foreground\", \"Orphan\"");
            return Err(ApiError::invalid_options("DeleteOptions", &why));
        }
        let preconditions = options.preconditions.unwrap_or_default();
        let dry_run = self.dry_run()? || dry_run(options.dry_run.iter().flatten().map(String::as_str))?;
        Ok(DeleteOptions { uid: preconditions.uid, resource_version: preconditions.resource_version, dry_run })
    }

    fn dry_run(&self) -> Result<bool> {
        dry_run(self.query.get("dryRun").map(String::as_str).into_iter())
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.query.get(name).map(String::as_str), Some("true" | "1"))
    }

    fn selector(&self, kind: &Kind, name: Option<&str>) -> Result<Selector> {
        let get = |name: &str| self.query.get(name).map(String::as_str);
        let mut fields = get("fieldSelector").unwrap_or_default().to_owned();
        if let Some(name) = name {
            fields = format!("{fields},metadata.name={name}");
        }
        let selector = Selector::parse(get("labelSelector"), Some(&fields))?;
        selector.check_fields(kind)?;
        Ok(selector)
    }

    /// What makes a patch of a body, by the content type.
    fn patch(&self) -> Result<fn(Value) -> Patch> {
        match body::essence(&self.content_type) {
            "application/merge-patch+json" => Ok(Patch::Merge),
            "application/json-patch+json" => Ok(Patch::Json),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic),
            "application/apply-patch+yaml" if !self.query.contains_key("fieldManager") => Err(ApiError::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            )),
            "application/apply-patch+yaml" => Ok(Patch::Apply),
            other => Err(body::unknown(
                other,
                "application/merge-patch+json, application/json-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
            )),
        }
    }

    fn view(&self) -> View {
        View::of(&self.accept, self.query.get("includeObject").map(String::as_str))
    }

    /// The revision that a list is to be of, checked as kube-apiserver does it: this server has only the newest.
    fn check_revision(&self, newest: u64) -> Result<()> {
        let get = |name: &str| self.query.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let matching = get("resourceVersionMatch");
        if let Some(word) = matching.filter(|word| !matches!(*word, "Exact" | "NotOlderThan")) {
            let why = format!("resourceVersionMatch: Unsupported value: {word:?}: supported values: \"Exact\", \"NotOlderThan\"");
            return Err(ApiError::invalid_options("ListOptions", &why));
        }
        let Some(text) = get("resourceVersion") else {
            let why = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
            return if matching.is_some() { Err(ApiError::invalid_options("ListOptions", why)) } else { Ok(()) };
        };
        let wanted: u64 = text
            .parse()
            .map_err(|_| ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a revision of this server")))?;
        if wanted > newest {
            let message = format!("Too large resource version: {wanted}, current: {newest}");
            let mut error = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
            // Informers look for the cause: they list again from the beginning then.
            let cause = json!({ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" });
            error.details = Some(json!({ "causes": [cause], "retryAfterSeconds": 1 }));
            return Err(error);
        }
        if matching == Some("Exact") && wanted != newest {
            return Err(ApiError::gone(format!(
                "The resourceVersion for the provided list is too old: {wanted}; this server has only the newest, {newest}"
            )));
        }
        Ok(())
    }

    /// Who manages what is written: as the client says, else the first word of its user agent.
    fn manager(&self) -> String {
        let said = self.query.get("fieldManager").filter(|name| !name.is_empty());
        let manager = said.map_or_else(|| self.agent.split(['/', ' ']).next().unwrap_or_default().to_owned(), Clone::clone);
        if manager.is_empty() { "unknown".to_owned() } else { manager.chars().take(128).collect() }
    }
}

/// The verb of a method; one that is none here does nothing at all.
fn verb(method: &Method, named: bool, watching: bool) -> Option<&'static str> {
    Some(match (method.as_str(), named) {
        ("GET" | "HEAD", _) if watching => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", false) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return None,
    })
}

/// Whether a write is only rehearsed. A word that is none is not taken for either.
fn dry_run<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<bool> {
    let Some(word) = words.next() else { return Ok(false) };
    if word == "All" && words.all(|word| word == "All") {
        return Ok(true);
    }
    let message = format!("dryRun: Unsupported value: {word:?}: supported values: \"All\"");
    Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message))
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The older description, for `kubectl apply` of a List: it must be there, and who finds no kind in it has the server validate.
fn openapi_v2(call: &Call) -> Response<Body> {
    if !call.accept.contains(protobuf::OPENAPI_V2) {
        return reply(StatusCode::OK, &discovery::openapi_v2(), &[]);
    }
    let mut response = written(StatusCode::OK, protobuf::openapi_v2(), &[]);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

fn reply(code: StatusCode, document: &Value, warnings: &[String]) -> Response<Body> {
    written(code, document.to_string().into_bytes(), warnings)
}

fn written(code: StatusCode, body: Vec<u8>, warnings: &[String]) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for warning in warnings {
        let text = format!("299 - {:?}", warning.replace(|c: char| c.is_control(), " "));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(header::WARNING, value);
        }
    }
    response
}

fn plain(text: &'static str) -> Response<Body> {
    Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync())
}

fn failure(error: &ApiError) -> Response<Body> {
    reply(error.code, &error.status(), &[])
}

async fn serve_connection<S>(io: TokioIo<S>, service: ApiService, peer: SocketAddr)
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let service = hyper_util::service::TowerToHyperService::new(service);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = builder.serve_connection(io, service).await {
        tracing::debug!(%peer, %error, "API connection ended");
    }
}

#[derive(Clone)]
enum Caller {
    Known(Identity),
    ByToken(Arc<Tokens>, Effect),
}

impl Caller {
    fn identify(&self, authorization: &str) -> Result<Identity> {
        match self {
            Self::Known(identity) => Ok(*identity),
            Self::ByToken(tokens, _) => {
                // RFC 9110 section 11.1: the scheme's name is written in any case.
                let token = authorization.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                token.and_then(|(_, token)| tokens.identify(token.trim())).ok_or_else(|| {
                    ApiError::new(
                        StatusCode::UNAUTHORIZED,
                        "Unauthorized",
                        "Unauthorized: use the kubeconfig that `athanor kubeconfig` prints",
                    )
                })
            }
        }
    }
}

/// The server for one kind of caller, as `kube::Client::new` takes it.
#[derive(Clone)]
pub struct ApiService {
    server: Arc<ApiServer>,
    identity: Caller,
}

impl<B> Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, identity) = (self.server.clone(), self.identity.clone());
        Box::pin(async move { Ok(server.answer(identity, request).await) })
    }
}
