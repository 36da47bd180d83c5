//! The machine-agent's endpoint: signed questions, one step at a time.

use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use athanor_plan::agent::{self, Reply};
use athanor_wire::{
    StepReport, hex,
    work::{KEY_HEADER, Next, PATIENCE_SECONDS, SIGNATURE_HEADER, signed},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Body, PATIENCE, not_allowed, tell_of, text};
use crate::{shared::Shared, text::plain};

/// The longest report: an inventory of 256 disks is a tenth of it.
const MAX_BODY: usize = 1 << 20;
/// The longest key or signature: Ed25519's signatures have 128 digits.
const MAX_HEADER: usize = 256;
/// The most disks of a machine that are told.
const MAX_DISKS: usize = 256;
/// How long an answer waits for another change when a step could not be told yet.
const WAIT: Duration = Duration::from_secs(PATIENCE_SECONDS);

/// `POST /v1/agent/<token>/next` and `…/tell`, asked of an agent at `agent` (`192.168.10.1:7481`).
pub(super) async fn answer(shared: &Shared, path: &str, agent: &str, request: Request<Incoming>) -> Response<Body> {
    if request.method() != ::http::Method::POST {
        return not_allowed("POST", "ask with POST\n");
    }
    let Some((token, verb)) = path.strip_prefix("/v1/agent/").and_then(|rest| rest.split_once('/')) else {
        return text(StatusCode::NOT_FOUND, "no such file\n");
    };
    let header = |name: &str| hex::decode(request.headers().get(name)?.to_str().ok().filter(|text| text.len() <= MAX_HEADER)?);
    let (key, signature) = (header(KEY_HEADER), header(SIGNATURE_HEADER));
    let reading = Limited::new(request.into_body(), MAX_BODY).collect();
    let Ok(Ok(body)) = tokio::time::timeout(PATIENCE, reading).await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the question is too long, or did not come whole\n");
    };
    let body = body.to_bytes();
    let (Some(key), Some(signature)) = (key, signature) else {
        return text(StatusCode::UNAUTHORIZED, "the headers athanor-key and athanor-signature are missing, or no hexadecimal\n");
    };
    if UnparsedPublicKey::new(&ED25519, &key).verify(&signed(path, &body), &signature).is_err() {
        return text(StatusCode::UNAUTHORIZED, "the signature is not of this question and this key\n");
    }
    let key = hex::encode(&key);
    match verb {
        "next" => match read(&body) {
            Ok(next) => next_step(shared, agent, token, &key, &next).await,
            Err(why) => text(StatusCode::BAD_REQUEST, &why),
        },
        "tell" => match read(&body) {
            Ok(report) => tell(shared, token, &key, report).await,
            Err(why) => text(StatusCode::BAD_REQUEST, &why),
        },
        _ => text(StatusCode::NOT_FOUND, "ask for next, or tell\n"),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the question cannot be read: {error}\n"))
}

/// The next step, as soon as there is one; nothing after a while.
async fn next_step(shared: &Shared, agent: &str, token: &str, key: &str, next: &Next) -> Response<Body> {
    let until = Instant::now() + WAIT;
    let mut changes = shared.changes();
    let mut closed = std::pin::pin!(shared.closed());
    loop {
        let snapshot = shared.snapshot();
        let Some(plan) = snapshot.by_token(token) else { return unknown(shared) };
        match agent::reply(plan, &snapshot.servers(agent), token, key, next, shared.is_fresh()) {
            Reply::Do(assignment) => {
                let what = assignment.step.name();
                tell_of(shared, plan, "AGENT", &format!("a step, having done {}", next.done), format!("{what} of {}", assignment.work));
                let body = serde_json::to_vec(&*assignment).unwrap_or_default();
                return Response::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync());
            }
            Reply::Stranger => {
                shared.reporter.agent_asked(plan, key);
                return text(StatusCode::FORBIDDEN, "another machine-agent does this work\n");
            }
            Reply::Unbound => shared.reporter.agent_asked(plan, key),
            Reply::Nothing => {}
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(until) => return nothing(),
            // Another agent takes over: ask that one.
            () = &mut closed => return nothing(),
        }
    }
}

/// Who hears that its token names no machine leaves after a while: whoever knows too little does not say so.
fn unknown(shared: &Shared) -> Response<Body> {
    if shared.is_fresh() {
        text(StatusCode::NOT_FOUND, "this token names no machine\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "the API was silent too long; ask again\n")
    }
}

/// How a step goes. Its end is acknowledged when it is stored.
async fn tell(shared: &Shared, token: &str, key: &str, report: StepReport) -> Response<Body> {
    let snapshot = shared.snapshot();
    let Some(plan) = snapshot.by_token(token) else { return unknown(shared) };
    if !shared.is_fresh() {
        // What this agent knows may be old, and what is refused is never told again.
        return text(StatusCode::SERVICE_UNAVAILABLE, "the API was silent too long; tell again\n");
    }
    let Some(work) = plan.work.as_ref().filter(|work| work.work.id == report.work && (report.index as usize) < work.work.steps.len())
    else {
        return text(StatusCode::GONE, "this work is over\n");
    };
    if work.key.as_deref() != Some(key) {
        shared.reporter.agent_asked(plan, key);
        return match work.key {
            Some(_) => text(StatusCode::FORBIDDEN, "another machine-agent does this work\n"),
            // Nobody else does it either: what was told before the API's data went back, say.
            None => text(StatusCode::SERVICE_UNAVAILABLE, "nobody is bound to this work yet; tell again\n"),
        };
    }
    let report = bounded(report);
    let ended = report.outcome.is_some();
    if ended {
        let step = work.work.steps.get(report.index as usize).map_or("step", |step| step.name());
        let how = if report.is_done() { "done" } else { "failed" };
        tracing::info!(machine = %plan.machine, step, how, work = report.work, "machine-agent told");
        tell_of(shared, plan, "AGENT", &format!("{step} {how}: {}", report.message), "noted".to_owned());
    }
    let _under_way = shared.under_way.begin();
    shared.reporter.agent_told(plan, key, report);
    if ended && !shared.reporter.all_stored(plan).await {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the API did not store the report yet; tell again\n");
    }
    nothing()
}

/// Within what the API stores: one report that it refuses would keep all others of the machine from it.
fn bounded(report: StepReport) -> StepReport {
    let short = |mut list: Vec<String>, most: usize| {
        list.truncate(most);
        list
    };
    StepReport {
        phase: plain(&report.phase, 63),
        message: plain(&report.message, 1024),
        percent: report.percent.map(|percent| percent.min(100)),
        bytes_per_second: report.bytes_per_second.map(|speed| speed.max(0)),
        wiped: report.wiped.into_iter().take(MAX_DISKS).collect(),
        missing: short(report.missing, MAX_DISKS),
        inventory: report.inventory.map(|mut facts| {
            facts.disks.truncate(MAX_DISKS);
            facts.nics.truncate(64);
            facts.cpu_flags = short(facts.cpu_flags, 512);
            facts.gpus = short(facts.gpus, 64);
            facts
        }),
        ..report
    }
}

fn nothing() -> Response<Body> {
    let mut response = text(StatusCode::NO_CONTENT, "");
    response.headers_mut().remove(::http::header::CONTENT_TYPE);
    response
}
