//! Boot HTTP: scripts, loaders, files out of ISOs; and the guests' reports.

mod agent;
mod body;
mod places;
mod wanted;

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header, response::Builder};
use athanor_crds::conditions::reasons;
use athanor_plan::BootPlan;
use athanor_wire::{GuestOutcome, GuestReport, Inventory, MacAddr};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
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
/// The longest report of a guest.
const MAX_REPORT: usize = 16 << 10;

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
        return guest(&shared, token, request).await;
    }
    if path.starts_with("/v1/agent/") {
        return agent::answer(&shared, &path, request).await;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return not_allowed("GET, HEAD", "only GET and HEAD are served here\n");
    }
    let agent = format!("{}:{}", local.ip(), local.port());
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

/// `POST /v1/report/<token>`: the guest of an attempt says how it fares.
async fn guest(shared: &Shared, token: &str, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST {
        return not_allowed("POST", "report with POST\n");
    }
    let snapshot = shared.snapshot();
    let Some(plan) = snapshot.by_report_token(token).cloned() else {
        // A guest reports once: whoever knows too little does not send it away.
        if !shared.is_fresh() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the API was silent too long; report again\n");
        }
        return text(StatusCode::FORBIDDEN, "this token belongs to no attempt that is under way\n");
    };
    let reading = Limited::new(request.into_body(), MAX_REPORT).collect();
    let Ok(Ok(body)) = tokio::time::timeout(PATIENCE, reading).await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the report is too long, or did not come whole\n");
    };
    let report = match read_report(&body.to_bytes()) {
        Ok(report) => report,
        Err(error) => {
            let message =
                format!("the report cannot be read: {error}; send {{\"outcome\": \"Success\" or \"Failure\", \"message\": \"…\"}}\n");
            return text(StatusCode::BAD_REQUEST, &message);
        }
    };
    let report = GuestReport { message: text::plain(&report.message, 512), ..report };
    let _under_way = shared.under_way.begin();
    let what = outcome(&report);
    let stands = shared.reporter.guest(&plan, report.clone());
    let contradicted = stands.as_ref().filter(|stands| stands.outcome != report.outcome).map(outcome);
    let answer = match (contradicted, &stands) {
        (Some(first), _) => format!("refused: this boot has reported {first} already"),
        (None, Some(_)) => "noted already".to_owned(),
        (None, None) => "noted".to_owned(),
    };
    tracing::info!(machine = %plan.machine, outcome = what, answer, "guest reported");
    if let Some(interface) = plan.boot_interface() {
        let asked = format!("{what}: {}", report.message).chars().take(200).collect();
        shared.reporter.saw(interface.mac, Seen { protocol: "GUEST", asked, answer: answer.clone(), row: None, subnet: None });
    }
    // What is acknowledged is stored: a guest reports once.
    match contradicted {
        Some(_) => text(StatusCode::CONFLICT, &format!("{answer}; restart the machine to report anew\n")),
        None if shared.reporter.all_stored(&plan).await => text(StatusCode::OK, &format!("{answer}\n")),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "the API did not store the report yet; report again\n"),
    }
}

/// What a guest says. A word that means nothing here is somebody's mistake, and what it holds would be lost.
fn read_report(body: &[u8]) -> Result<GuestReport, String> {
    let value: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let unknown = value.as_object().and_then(|fields| fields.keys().find(|key| !["outcome", "message"].contains(&key.as_str())));
    match unknown {
        Some(key) => Err(format!("unknown key {:?}", text::plain(key, 64))),
        None => serde_json::from_value(value).map_err(|error| error.to_string()),
    }
}

fn outcome(report: &GuestReport) -> &'static str {
    match report.outcome {
        GuestOutcome::Success => "success",
        GuestOutcome::Failure => "failure",
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
