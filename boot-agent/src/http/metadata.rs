//! The metadata service: what an operating system may ask for while it runs, and where cloud-init says that it is done.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use athanor_plan::{BootPlan, Snapshot, metadata::Metadata};
use athanor_wire::{
    GuestOutcome, GuestReport,
    metadata::{METADATA_FOLDER, PHONE_HOME, RELEASE, RESTART},
};
use hyper::body::Incoming;

use super::{Body, guest, not_allowed, tell_of, text};
use crate::{shared::Shared, text::plain};

/// How long after its firmware asked a machine is told what its boot script points to. Whoever has its MAC address gets that script, and cloud-init
/// reads its data while the system starts, which takes the slowest firmware and the largest image no longer.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// The longest SSH host key that is shown: those on elliptic curves are.
const MAX_KEY: usize = 256;

/// What is asked below a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    token: &'a str,
    path: &'a str,
}

impl<'a> Asked<'a> {
    /// Understands a path; `None` where it is none of the service's.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix('/')?.strip_prefix(METADATA_FOLDER)?.strip_prefix('/')?;
        let (token, path) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Self { token, path })
    }
}

/// Answers what is asked of an agent at `agent` (`192.168.10.1:7481`).
pub(super) async fn answer(shared: &Shared, asked: Asked<'_>, peer: SocketAddr, agent: &str, request: Request<Incoming>) -> Response<Body> {
    let snapshot = shared.snapshot();
    let Some((plan, metadata)) = snapshot.by_metadata_token(asked.token).and_then(|plan| Some((plan, plan.metadata.as_ref()?))) else {
        // cloud-init asks again where nobody knows yet, and goes on without where nothing is.
        return match shared.is_fresh() {
            true => text(StatusCode::NOT_FOUND, "this token belongs to no instance\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "the API was silent too long; ask again\n"),
        };
    };
    if metadata.hook.as_deref() == Some(asked.token) {
        return match asked.path {
            RELEASE => release(shared, plan, metadata),
            _ => text(StatusCode::NOT_FOUND, "this token is the release hook's\n"),
        };
    }
    let phones = asked.path == PHONE_HOME;
    let wanted = if phones { request.method() == Method::POST } else { [Method::GET, Method::HEAD].contains(request.method()) };
    if !wanted {
        return if phones { not_allowed("POST", "phone home with POST\n") } else { not_allowed("GET, HEAD", "ask with GET\n") };
    }
    // What it says is worth what a report is, which whoever has the boot script may send.
    if phones {
        let body = match guest::body_of(request).await {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        return guest::note(shared, plan, &metadata.attempt, phoned_home(&body)).await;
    }
    if let Some(refused) = refusal(shared, &snapshot, plan, metadata, peer) {
        note(shared, plan, asked.path, "403: ".to_owned() + refused.trim_end());
        return text(StatusCode::FORBIDDEN, refused);
    }
    let Some(found) = metadata.text(asked.path, plan, &snapshot.servers(agent)) else {
        return text(StatusCode::NOT_FOUND, "no such metadata\n");
    };
    note(shared, plan, asked.path, format!("{} bytes", found.len()));
    let mut response = text(StatusCode::OK, if request.method() == Method::HEAD { "" } else { &found });
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(found.len()));
    // It is for this machine, now.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The release hook asks every 20 s, and is answered at once: a connection for each machine that runs would leave none for those that boot.
fn release(shared: &Shared, plan: &BootPlan, metadata: &Metadata) -> Response<Body> {
    if !metadata.released || !shared.is_fresh() {
        shared.reporter.hooked(plan, &metadata.attempt);
        return text(StatusCode::OK, "");
    }
    tracing::info!(machine = %plan.machine, "release hook told to restart");
    note(shared, plan, RELEASE, "its Deployment was deleted: it is to restart".to_owned());
    text(StatusCode::OK, RESTART)
}

/// Why a token does not do. One on a disk that only its machine can read does; one in a boot script is what anybody may have seen.
fn refusal(shared: &Shared, snapshot: &Snapshot, plan: &BootPlan, metadata: &Metadata, peer: SocketAddr) -> Option<&'static str> {
    if !metadata.in_script {
        return None;
    }
    let itself = snapshot.mac_of(peer.ip()).is_some_and(|mac| plan.interface(mac).is_some());
    if !itself && !snapshot.gives_no_addresses() {
        return Some("this is told to the machine itself, at its own address\n");
    }
    let late = shared.reporter.since_boot(plan) >= WINDOW;
    late.then_some("this is told for a quarter of an hour after a boot; restart the machine\n")
}

/// What cloud-init posts when it is done: a form, with the host's name and its SSH keys.
fn phoned_home(body: &[u8]) -> GuestReport {
    let form: HashMap<_, _> = form_urlencoded::parse(body).collect();
    let host = form.get("hostname").or(form.get("fqdn")).map_or("the machine", |name| name.as_ref());
    // Short enough to be shown, and as known_hosts has it.
    let key = ["pub_key_ed25519", "pub_key_ecdsa"].iter().filter_map(|name| form.get(*name)).find_map(|key| host_key(key));
    let key = key.map(|key| format!(", whose SSH host key is {key}")).unwrap_or_default();
    GuestReport { outcome: GuestOutcome::Success, message: format!("cloud-init is done on {}{key}", plain(host, 253)) }
}

/// A public key without its comment.
fn host_key(text: &str) -> Option<String> {
    let mut words = text.split_ascii_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let is_key = |word: &str| word.len() <= MAX_KEY && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=-@.".contains(&byte));
    (is_key(kind) && is_key(key)).then(|| format!("{kind} {key}"))
}

fn note(shared: &Shared, plan: &BootPlan, path: &str, answer: String) {
    tell_of(shared, plan, "HTTP", &format!("metadata {}", plain(path, 128)), answer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_phoned_home_is_known_by_its_name_and_key() {
        for (form, message) in [
            (
                "pub_key_rsa=ssh-rsa+AAAA&pub_key_ed25519=ssh-ed25519+AAAAC3Nz%2Ba%3D+root%40web-1%0A&instance_id=i-1&hostname=web-1",
                "cloud-init is done on web-1, whose SSH host key is ssh-ed25519 AAAAC3Nz+a=",
            ),
            ("pub_key_ed25519=N%2FA&fqdn=web-1.example.com", "cloud-init is done on web-1.example.com"),
            ("pub_key_ed25519=%1b%5b2J+AAAA&hostname=%1b%5b2J", "cloud-init is done on \\u{1b}[2J"),
            ("", "cloud-init is done on the machine"),
            ("\u{fffd}&&==", "cloud-init is done on the machine"),
        ] {
            assert_eq!(phoned_home(form.as_bytes()), GuestReport { outcome: GuestOutcome::Success, message: message.into() });
        }
    }

    #[test]
    fn a_path_is_a_token_and_what_is_asked_below_it() {
        let asked = |path| Asked::of(path).map(|asked| (asked.token, asked.path));
        assert_eq!(asked("/v1/metadata/t-1/latest/meta-data/"), Some(("t-1", "latest/meta-data/")));
        assert_eq!(asked("/v1/metadata/t-1"), Some(("t-1", "")));
        assert_eq!(asked("/v1/metadata"), None);
        assert_eq!(asked("/v1/metadatas/t-1/x"), None);
    }
}
