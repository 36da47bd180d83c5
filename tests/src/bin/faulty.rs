//! A bad road to an API server: `faulty FOLDER LISTEN UPSTREAM SEED`. It terminates TLS with the certificates of a control plane's folder and
//! passes requests on, but refuses some, forgets the answers of some, and cuts watches short. What it did it prints when its input ends.
//!
//! Which requests suffer depends on the seed and their order alone.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Read as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Of so many watches one is told that it is too old, and half are cut.
const WATCH_TURNS: u64 = 8;

type Body = BoxBody<Bytes, std::io::Error>;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    None,
    /// It comes late.
    Slow,
    TooManyRequests,
    Broken,
    Unauthorized,
    Conflict,
    /// It is done, and nobody hears of it.
    AnswerLost,
    /// A watch is told that its version is too old.
    Expired,
    /// A watch is cut in the middle.
    Cut,
}

struct Road {
    connector: TlsConnector,
    upstream: String,
    seed: u64,
    requests: AtomicU64,
    /// There are few watches, and each kind of end must come: they have turns, not dice.
    watches: AtomicU64,
    done: Mutex<BTreeMap<String, u64>>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, listen, upstream, seed] = &args[..] else { anyhow::bail!("faulty FOLDER LISTEN UPSTREAM SEED") };
    let folder = Path::new(folder);
    let certificates = |name: &str| CertificateDer::pem_file_iter(folder.join(name))?.collect::<Result<Vec<_>, _>>();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.crt")?);
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates("server.crt")?, key)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let road = Arc::new(Road {
        connector: TlsConnector::from(Arc::new(client)),
        upstream: upstream.clone(),
        seed: seed.parse()?,
        requests: AtomicU64::new(0),
        watches: AtomicU64::new(0),
        done: Mutex::default(),
    });
    let (listener, acceptor) = (TcpListener::bind(listen).await?, TlsAcceptor::from(Arc::new(server)));
    println!("open");
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        _ = ended => {}
        never = accept(&road, &listener, &acceptor) => never?,
    }
    for (what, count) in road.done.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{what} {count}");
    }
    Ok(())
}

async fn accept(road: &Arc<Road>, listener: &TcpListener, acceptor: &TlsAcceptor) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let (road, acceptor) = (road.clone(), acceptor.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let road = road.clone();
                async move { road.pass(request).await }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            let _ = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Road {
    /// A number between 0 and 99 that the request's place in the order decides.
    fn dice(&self) -> u64 {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        // SplitMix64.
        let mut z = self.seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % 100
    }

    fn fault(&self, request: &Request<Incoming>) -> Fault {
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true") || query.contains("watch=1"));
        let dice = self.dice();
        let turn = if watch { self.watches.fetch_add(1, Ordering::Relaxed) % WATCH_TURNS } else { 0 };
        let fault = match dice {
            0..2 => Fault::TooManyRequests,
            2..4 => Fault::Broken,
            4..5 => Fault::Unauthorized,
            _ if watch && turn == WATCH_TURNS / 2 => Fault::Expired,
            _ if watch && turn % 2 == 1 => Fault::Cut,
            12..17 if request.method() != Method::GET => Fault::Conflict,
            17..22 if request.method() != Method::GET => Fault::AnswerLost,
            22..40 => Fault::Slow,
            _ => Fault::None,
        };
        let written = request.method() != Method::GET && !request.uri().path().contains("/leases");
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done.entry(format!("{fault:?}")).or_default() += 1;
        *done.entry(if written { "writes" } else { "others" }.to_owned()).or_default() += 1;
        fault
    }

    async fn pass(&self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let fault = self.fault(&request);
        match fault {
            Fault::TooManyRequests => return Ok(refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests")),
            Fault::Broken => return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            Fault::Unauthorized => return Ok(refusal(StatusCode::UNAUTHORIZED, "Unauthorized")),
            Fault::Conflict => return Ok(refusal(StatusCode::CONFLICT, "Conflict")),
            Fault::Expired => return Ok(refusal(StatusCode::GONE, "Expired")),
            Fault::Slow => tokio::time::sleep(Duration::from_millis(400)).await,
            Fault::None | Fault::AnswerLost | Fault::Cut => {}
        }
        let response = self.send(request).await.map_err(|error| std::io::Error::other(error.to_string()))?;
        if fault == Fault::AnswerLost {
            let _ = response.into_body().collect().await;
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let (head, body) = response.into_parts();
        let frames = body.into_data_stream().map(|data| data.map(hyper::body::Frame::data).map_err(std::io::Error::other));
        let body = if fault == Fault::Cut {
            // In the middle of whatever is under way.
            BodyExt::boxed(StreamBody::new(frames.take_until(tokio::time::sleep(Duration::from_millis(1500)))))
        } else {
            BodyExt::boxed(StreamBody::new(frames))
        };
        Ok(Response::from_parts(head, body))
    }

    async fn send(&self, request: Request<Incoming>) -> anyhow::Result<Response<Incoming>> {
        let stream = TcpStream::connect(&self.upstream).await?;
        let name = ServerName::try_from(self.upstream.split(':').next().context("upstream is host:port")?.to_owned())?;
        let stream = self.connector.connect(name, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

/// An error as an API server says it.
fn refusal(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": format!("injected: {reason}"), "reason": reason,
        "code": code.as_u16()
    });
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
