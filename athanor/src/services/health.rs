//! Health and metrics of a component in a cluster: `/livez`, `/readyz`, `/metrics`, on a port for Prometheus and kubelets, and on a socket
//! of the pod's own for agents, whose ports belong to the node: a successor's probe must not ask its predecessor.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use futures::{Stream, StreamExt as _, stream::poll_fn};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
};

/// How long somebody who asks may take for the head of a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many may ask at once: a few Prometheus servers and one kubelet.
const MOST: usize = 32;

/// Where health is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct HealthArgs {
    /// Tell health and metrics over HTTP here [example: 0.0.0.0:7483]
    #[arg(long, value_name = "ADDRESS", env = "ATHANOR_HEALTH_LISTEN")]
    health_listen: Option<SocketAddr>,
    /// Tell health over this Unix socket, too; `athanor health` asks there
    #[arg(long, value_name = "FILE", env = "ATHANOR_HEALTH_SOCKET")]
    health_socket: Option<PathBuf>,
}

/// Arguments of `health`.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Where the component tells
    #[arg(long, value_name = "FILE", env = "ATHANOR_HEALTH_SOCKET", default_value = "/tmp/health.sock")]
    health_socket: PathBuf,
    /// Whether it runs at all, rather than whether it is ready
    #[arg(long)]
    live: bool,
}

impl HealthArgs {
    /// On a port alone.
    pub(crate) fn on(listen: SocketAddr) -> Self {
        Self { health_listen: Some(listen), health_socket: None }
    }
}

struct Health {
    registry: Registry,
    ready: watch::Receiver<bool>,
    places: Arc<Semaphore>,
}

/// Tells health in the background.
///
/// # Errors
/// The port or the socket cannot be had.
pub(crate) fn tell(args: &HealthArgs, registry: Registry, ready: watch::Receiver<bool>) -> anyhow::Result<()> {
    let health = Arc::new(Health { registry, ready, places: Arc::new(Semaphore::new(MOST)) });
    if let Some(address) = args.health_listen {
        let listener = athanor_boot_agent::shared_listener("health", address)?;
        let connections = poll_fn(move |task| listener.poll_accept(task).map_ok(|(stream, _)| stream).map(Some));
        tokio::spawn(serve(health.clone(), connections));
    }
    if let Some(path) = &args.health_socket {
        // One that is left over belongs to nobody: the folder is the pod's own.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        let connections = poll_fn(move |task| listener.poll_accept(task).map_ok(|(stream, _)| stream).map(Some));
        tokio::spawn(serve(health, connections));
    }
    Ok(())
}

/// Serves whoever connects.
async fn serve<S>(health: Arc<Health>, connections: impl Stream<Item = io::Result<S>>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut connections = pin!(connections);
    while let Some(connection) = connections.next().await {
        match connection {
            Ok(stream) => accept(&health, stream).await,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Serves one who asks, when there is a place.
async fn accept(health: &Arc<Health>, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let Ok(place) = health.places.clone().acquire_owned().await else { return };
    let health = health.clone();
    tokio::spawn(async move {
        let _place = place;
        let service = service_fn(move |request| {
            let health = health.clone();
            async move { Ok::<_, Infallible>(health.answer(&request)) }
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        // A place is for one question: whoever keeps a connection would keep others out.
        server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    });
}

impl Health {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (code, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/livez" | "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/readyz") if *self.ready.borrow() => (StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/readyz") => (StatusCode::SERVICE_UNAVAILABLE, "not ready yet\n".to_owned()),
            (&Method::GET, "/metrics") => {
                let mut text = String::new();
                match encode(&mut text, &self.registry) {
                    Ok(()) => (StatusCode::OK, text),
                    Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
                }
            }
            _ => (StatusCode::NOT_FOUND, "GET /livez, /readyz or /metrics\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = code;
        let kind = http::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// Asks a component over its socket: what a kubelet's exec probe runs.
///
/// # Errors
/// It does not answer, or is not ready.
pub(crate) async fn ask(args: &AskArgs) -> anyhow::Result<()> {
    let path = if args.live { "/livez" } else { "/readyz" };
    let answer = tokio::time::timeout(PATIENCE, get(&args.health_socket, path)).await.context("no answer in time")??;
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    bail!("{}", answer.lines().last().unwrap_or("no answer").trim())
}

async fn get(socket: &Path, path: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket).await.with_context(|| socket.display().to_string())?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_component_is_live_before_it_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("health.sock");
        let (ready, told) = watch::channel(false);
        let args = HealthArgs { health_listen: None, health_socket: Some(socket.clone()) };
        tell(&args, Registry::default(), told).unwrap();
        let question = |live| AskArgs { health_socket: socket.clone(), live };
        ask(&question(true)).await.unwrap();
        assert_eq!(ask(&question(false)).await.unwrap_err().to_string(), "not ready yet");
        ready.send_replace(true);
        ask(&question(false)).await.unwrap();
        assert!(get(&socket, "/metrics").await.unwrap().contains("# EOF"));
        assert!(get(&socket, "/secrets").await.unwrap().starts_with("HTTP/1.1 404"));
    }
}
