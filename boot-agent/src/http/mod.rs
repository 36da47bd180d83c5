//! Boot HTTP: scripts, loaders, files out of ISOs; and the guests' reports.

mod agent;
mod body;
mod guest;
mod metadata;
mod places;
mod wanted;

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header, response::Builder};
use athanor_crds::conditions::reasons;
use athanor_plan::BootPlan;
use athanor_wire::{Inventory, MacAddr};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;

use self::{places::Places, wanted::Wanted};
use crate::{
    content::{self, Found, Missing},
    handover::Transfer,
    report::Seen,
    shared::Shared,
    text,
};

/// How long a client may take for its request's head.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may neither take nor send a byte. Firmware that unpacks an initrd pauses for seconds.
const STALL: Duration = Duration::from_secs(60);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Serves until another agent does.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let places = Arc::new(Places::default());
    let mut closed = pin!(shared.closed());
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut closed => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (Some(place), Ok(local)) = (places.take(peer.ip()), stream.local_addr()) else {
            tracing::debug!(%peer, "HTTP connection refused: too many");
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(connection(shared.clone(), stream, peer, local, place));
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, local: SocketAddr, _place: places::Place) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL));
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move {
            let response = answer(shared.clone(), request, peer, local).await;
            shared.metrics.http(response.status().as_u16());
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = builder.serve_connection(TokioIo::new(Box::pin(stream)), service).await {
        tracing::debug!(%peer, %error, "HTTP connection ended");
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>, peer: SocketAddr, local: SocketAddr) -> Response<Body> {
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    if path == "/healthz" {
        return text(StatusCode::OK, "ok\n");
    }
    if let Some(token) = path.strip_prefix("/v1/report/") {
        return guest::report(&shared, token, request).await;
    }
    let agent = format!("{}:{}", local.ip(), local.port());
    if path.starts_with("/v1/agent/") {
        return agent::answer(&shared, &path, &agent, request).await;
    }
    if let Some(asked) = metadata::Asked::of(&path) {
        return metadata::answer(&shared, asked, peer, &agent, request).await;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return not_allowed("GET, HEAD", "only GET and HEAD are served here\n");
    }
    let snapshot = shared.snapshot();
    let asks = snapshot.mac_of(peer.ip());
    let told_as = asks.map(|mac| snapshot.told_as(mac));
    let found = match content::script(&shared, &snapshot, content::Asker { mac: asks, agent: &agent }, &path) {
        Some(found) => found,
        None => {
            let (inside, path) = (shared.clone(), path.clone());
            shared.on_disk(move || content::file(&inside, &snapshot, asks, &path)).await.unwrap_or(Err(Missing::Hangs))
        }
    };
    let by_token = || Some(found.as_ref().ok()?.plan.as_ref()?.boot_interface()?.mac);
    let mac = told_as.or_else(by_token);
    match found {
        Ok(found) => serve(&shared, &request, &path, found, mac),
        Err(missing) => {
            let code = if missing.is_absent() { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR };
            tell(&shared, mac, &path, format!("{}: {missing}", code.as_u16()), None);
            text(code, &format!("{}\n", missing.to_client()))
        }
    }
}

fn tell(shared: &Shared, mac: Option<MacAddr>, path: &str, answer: String, row: Option<String>) {
    let asked: String = text::redact(path).chars().take(200).collect();
    let boot = mac.and_then(|mac| shared.reporter.boot(mac));
    tracing::debug!(boot, asked, answer, "HTTP");
    if let Some(mac) = mac {
        shared.reporter.saw(mac, Seen { protocol: "HTTP", asked, answer, row, subnet: None });
    }
}

/// What was asked in a machine's name, by whom we know by a token, is part of its story.
fn tell_of(shared: &Shared, plan: &BootPlan, protocol: &'static str, asked: &str, answer: String) {
    if let Some(interface) = plan.boot_interface() {
        let asked = asked.chars().take(200).collect();
        shared.reporter.saw(interface.mac, Seen { protocol, asked, answer, row: None, subnet: None });
    }
}

/// Answers with what was found: whole, a range of it, or the news that nothing changed.
fn serve(shared: &Arc<Shared>, request: &Request<Incoming>, path: &str, found: Found, mac: Option<MacAddr>) -> Response<Body> {
    // Who only looks has not booted.
    if found.script && request.method() == Method::GET {
        note_script(shared, request, path, &found, mac);
    }
    let size = found.content.size();
    let etag = format!("\"{}\"", found.etag);
    let mut response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, content_type(path));
    let nothing = |response: Builder, code| response.status(code).body(empty()).unwrap_or_else(|_| broken());
    let range = match Wanted::of(request.method(), request.headers(), &etag, size) {
        Wanted::NotModified => return nothing(response, StatusCode::NOT_MODIFIED),
        Wanted::PreconditionFailed => return nothing(response, StatusCode::PRECONDITION_FAILED),
        Wanted::Unsatisfiable => {
            return nothing(response.header(header::CONTENT_RANGE, format!("bytes */{size}")), StatusCode::RANGE_NOT_SATISFIABLE);
        }
        Wanted::Part(first, last) => {
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
            first..last + 1
        }
        Wanted::Whole => 0..size,
    };
    let length = range.end - range.start;
    response = response.header(header::CONTENT_LENGTH, length);
    if request.method() == Method::HEAD {
        return response.body(empty()).unwrap_or_else(|_| broken());
    }
    let delivery = Delivery {
        shared: shared.clone(),
        plan: found.plan,
        file: found.file,
        tree: found.tree,
        mac,
        path: path.to_owned(),
        script: found.script,
        sent: length,
        size,
        started: std::time::Instant::now(),
        _transfer: shared.under_way.begin(),
    };
    response.body(body::of(found.content, range, delivery)).unwrap_or_else(|_| broken())
}

/// A machine asked what to do: what it told about itself, and what it was told.
fn note_script(shared: &Shared, request: &Request<Incoming>, path: &str, found: &Found, mac: Option<MacAddr>) {
    let Some(plan) = &found.plan else { return };
    // iPXE writes a plus as it is and a blank as %20 (RFC 3986), which is not how forms are written.
    let query = request.uri().query().unwrap_or_default().replace('+', "%2B");
    let query: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
    let fact = |name: &str| query.get(name).map(|text| text::plain(text.trim(), 128)).filter(|text| !text.is_empty());
    let facts = Inventory {
        vendor: fact("vendor"),
        product: fact("product"),
        serial: fact("serial"),
        uuid: fact("uuid").map(|uuid| uuid.to_lowercase().chars().take(36).collect()),
        ..Inventory::default()
    };
    shared.reporter.script(plan, found.acting, Some(facts).filter(|facts| *facts != Inventory::default()));
    let (what, reason) = match &plan.order {
        Some(order) if found.acting => (format!("boot script of {}", order.deployment), "Order".to_owned()),
        Some(order) if shared.reporter.has_problem(plan) => {
            let what = format!("boot script \"parked\": a file of {} cannot be served now", order.deployment);
            (what, reasons::CONTENT_UNAVAILABLE.to_owned())
        }
        Some(_) => ("boot script \"parked\": the API was silent too long to start anything".to_owned(), "Stale".to_owned()),
        None => (format!("boot script \"{}\"", if plan.leaves_to_disk() { "local disk" } else { "parked" }), plan.safe.reason().to_owned()),
    };
    tell(shared, mac, path, what, Some(reason));
}

/// Who gets a body, to be told when it went out whole.
struct Delivery {
    shared: Arc<Shared>,
    plan: Option<Arc<BootPlan>>,
    file: Option<String>,
    tree: Option<String>,
    mac: Option<MacAddr>,
    path: String,
    script: bool,
    sent: u64,
    size: u64,
    started: std::time::Instant,
    _transfer: Transfer,
}

impl Delivery {
    fn finished(&self, whole: bool) {
        if let (true, Some(plan), Some(file)) = (whole, &self.plan, &self.file) {
            self.shared.reporter.served(plan, file);
        }
        if let (true, Some(mac)) = (whole && self.shared.begins_chain(&self.path), self.mac) {
            self.shared.reporter.loader_fetched(mac);
        }
        // What a script said was told when it was asked for.
        if !self.script {
            let of = if whole { String::new() } else { format!(" of {}", self.size) };
            let answer = format!("{}{of} bytes in {:.2} s", self.sent, self.started.elapsed().as_secs_f64());
            match (&self.tree, self.mac) {
                (Some(tree), Some(mac)) => self.shared.reporter.saw_of_tree(mac, tree, &self.path, self.sent),
                _ => tell(&self.shared, self.mac, &self.path, answer, None),
            }
        }
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "ipxe" | "cfg" | "txt" => "text/plain; charset=utf-8",
        // UEFI HTTP Boot takes a file for a loader by this type, or by its name.
        "efi" => "application/efi",
        "iso" => "application/x-iso9660-image",
        _ if path.ends_with("/poll") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn text(code: StatusCode, message: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(message.to_owned())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn not_allowed(methods: &'static str, message: &str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, message);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync()
}

fn broken() -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, "the answer has a header that cannot be sent\n")
}
