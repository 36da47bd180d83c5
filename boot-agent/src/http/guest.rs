//! What guests say of themselves: with the token of their attempt, or through cloud-init (`metadata.rs`).

use ::http::{Method, Request, Response, StatusCode};
use athanor_plan::BootPlan;
use athanor_wire::{GuestOutcome, GuestReport};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::{Body, PATIENCE, not_allowed, tell_of, text};
use crate::{shared::Shared, text::plain};

/// The longest report of a guest.
const MAX_REPORT: usize = 16 << 10;
/// What whoever reports too late is told.
const OVER: &str = "this token belongs to no attempt that is under way\n";

/// The body of a report.
pub(super) async fn body_of(request: Request<Incoming>) -> Result<Bytes, Response<Body>> {
    let reading = Limited::new(request.into_body(), MAX_REPORT).collect();
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        _ => Err(text(StatusCode::PAYLOAD_TOO_LARGE, "the report is too long, or did not come whole\n")),
    }
}

/// `POST /v1/report/<token>`: the guest of an attempt says how it fares.
pub(super) async fn report(shared: &Shared, token: &str, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST {
        return not_allowed("POST", "report with POST\n");
    }
    let snapshot = shared.snapshot();
    let Some(plan) = snapshot.by_report_token(token).cloned() else {
        // A guest reports once: whoever knows too little does not send it away.
        if !shared.is_fresh() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the API was silent too long; report again\n");
        }
        return text(StatusCode::FORBIDDEN, OVER);
    };
    let body = match body_of(request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let report = match read_report(&body) {
        Ok(report) => report,
        Err(error) => {
            let message =
                format!("the report cannot be read: {error}; send {{\"outcome\": \"Success\" or \"Failure\", \"message\": \"…\"}}\n");
            return text(StatusCode::BAD_REQUEST, &message);
        }
    };
    let Some(order) = &plan.order else { return text(StatusCode::FORBIDDEN, OVER) };
    note(shared, &plan, &order.attempt, report).await
}

/// What a guest said is noted, and acknowledged when it is stored.
pub(super) async fn note(shared: &Shared, plan: &BootPlan, attempt: &str, report: GuestReport) -> Response<Body> {
    let report = GuestReport { message: plain(&report.message, 512), ..report };
    let _under_way = shared.under_way.begin();
    let what = outcome(&report);
    let stands = shared.reporter.guest(plan, attempt, report.clone());
    let contradicted = stands.as_ref().filter(|stands| stands.outcome != report.outcome).map(outcome);
    let answer = match (contradicted, &stands) {
        (Some(first), _) => format!("refused: this boot has reported {first} already"),
        (None, Some(_)) => "noted already".to_owned(),
        (None, None) => "noted".to_owned(),
    };
    tracing::info!(machine = %plan.machine, outcome = what, answer, "guest reported");
    tell_of(shared, plan, "GUEST", &format!("{what}: {}", report.message), answer.clone());
    // What is acknowledged is stored: a guest reports once.
    match contradicted {
        Some(_) => text(StatusCode::CONFLICT, &format!("{answer}; restart the machine to report anew\n")),
        None if shared.reporter.all_stored(plan).await => text(StatusCode::OK, &format!("{answer}\n")),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "the API did not store the report yet; report again\n"),
    }
}

/// What a guest says. A word that means nothing here is somebody's mistake, and what it holds would be lost.
fn read_report(body: &[u8]) -> Result<GuestReport, String> {
    let value: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let unknown = value.as_object().and_then(|fields| fields.keys().find(|key| !["outcome", "message"].contains(&key.as_str())));
    match unknown {
        Some(key) => Err(format!("unknown key {:?}", plain(key, 64))),
        None => serde_json::from_value(value).map_err(|error| error.to_string()),
    }
}

fn outcome(report: &GuestReport) -> &'static str {
    match report.outcome {
        GuestOutcome::Success => "success",
        GuestOutcome::Failure => "failure",
    }
}
